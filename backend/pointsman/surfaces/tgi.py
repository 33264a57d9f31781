"""TGI's own API: `/generate`, `/generate_stream`, `/`, `/info`, `/tokenize`, `/chat_tokenize`."""

import msgspec

from pointsman import errors
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import RouterError
from pointsman.keys import Need
from pointsman.sse import frame as event
from pointsman.surfaces.base import check_count, check_numbers, error_object, flag, invalid
from pointsman.surfaces.media import refuse_remote

_OVERLOADED = {errors.NO_REPLICA, errors.ENGINE_OVERLOADED}
_UNPROCESSABLE = {errors.INVALID_PARAMETER, errors.UNSUPPORTED, errors.ENGINE_REJECTED}
BEST_OF_MAX = 16
_REQUIRED = {Operation.CHAT_TOKENIZE: "messages"}


class Tgi:
    """Bodies pass through; the model comes from the route."""

    name = "tgi"
    prefers_chat = False
    need = Need.IF_ANY

    def __init__(self, media_hosts: tuple[str, ...] = ()) -> None:
        self._media_hosts = media_hosts

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        required = _REQUIRED.get(operation, "inputs")
        if operation is not Operation.INFO and required not in fields:
            raise invalid(required, "be given")
        check_numbers(fields)
        if b"best_of" in body or b"\\u" in body:
            _check_best_of(fields)
        if operation is Operation.CHAT_TOKENIZE:
            refuse_remote(fields["messages"], body, self._media_hosts)
        streams = stream or (operation is Operation.COMPAT and flag(fields, "stream"))
        return Call(Api.TGI, operation, None, streams, body, fields)

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        status = error.status
        if error.kind in _UNPROCESSABLE and status == error.kind.status:
            status = 422
        return status, msgspec.json.encode(error_body(error, request_id))

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return event(msgspec.json.encode(error_body(error, request_id, frame=True)))


def _check_best_of(fields: Fields) -> None:
    """TGI makes as many copies of a request as it is told to, before it looks whether that is allowed."""
    try:
        parameters = msgspec.json.decode(fields.get("parameters", b"{}"), type=Fields)
    except msgspec.DecodeError:
        return  # no object: the engine says so better
    if "best_of" in parameters:
        check_count(parameters, "best_of", BEST_OF_MAX)


def error_body(error: RouterError, request_id: str, *, frame: bool = False) -> dict[str, object]:
    """TGI's `error` and `error_type`, ours beside them.

    A 404 has no `error_type`: it would change which exception huggingface_hub raises (clients.md 5).
    """
    body: dict[str, object] = {"error": error.message}
    if error.status != 404:
        body["error_type"] = _error_type(error, frame=frame)
    return {**body, **error_object(error, request_id)}


def _error_type(error: RouterError, *, frame: bool) -> str:
    if error.kind in _OVERLOADED or error.status == 429:
        return "overloaded"
    if error.status >= 500:
        return "incomplete_generation_stream" if frame and error.kind is errors.ENGINE_CUT else "generation"
    return "validation"
