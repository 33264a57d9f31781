"""OpenAI's API: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`."""

import msgspec

from pointsman.call import Api, Call, Fields, Operation
from pointsman.engines.vllm import CONTROL_FIELDS
from pointsman.errors import RouterError
from pointsman.keys import Need
from pointsman.sse import frame
from pointsman.surfaces.base import (
    check_count,
    check_numbers,
    error_object,
    flag,
    invalid,
    model_name,
    names_in,
)
from pointsman.surfaces.media import refuse_remote

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETION: "prompt", Operation.EMBEDDING: "input"}
CHOICES_MAX = 16


class OpenAI:
    """Bodies pass through; only what is routed on, or could steer the engine, is read."""

    name = "openai"
    prefers_chat = False
    need = Need.IF_ANY

    def __init__(self, media_hosts: tuple[str, ...] = ()) -> None:
        self._media_hosts = media_hosts

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        required = _REQUIRED[operation]
        if required not in fields:
            raise invalid(required, "be given")
        for name in ("n", "best_of"):
            if name in fields:
                check_count(fields, name, CHOICES_MAX)
        check_numbers(fields)
        if "messages" in fields:  # engines read them on any of these routes
            refuse_remote(fields["messages"], body, self._media_hosts)
        return Call(
            Api.OPENAI,
            operation,
            model_name(fields),
            operation is not Operation.EMBEDDING and flag(fields, "stream"),
            body,
            fields,
            steers=_control_field(fields, body),
        )

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        return error.status, msgspec.json.encode({"error": _error(error, request_id)})

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return frame(msgspec.json.encode({"error": _error(error, request_id)}))


def _control_field(fields: Fields, body: bytes) -> str | None:
    """The first field that steers the engine rather than the answer."""
    for name in () if CONTROL_FIELDS.isdisjoint(fields) else sorted(fields.keys() & CONTROL_FIELDS):
        if bytes(fields[name]) != b"null":  # some clients send every field they know
            return name
    outputs = fields.get("structured_outputs")
    if outputs is not None and (b'"_' in body or b"\\u" in body):
        for name in names_in(fields, "structured_outputs"):
            if name.startswith("_"):  # vLLM's own notes, such as which backend is to run
                return f"structured_outputs.{name}"
    return None


def _error(error: RouterError, request_id: str) -> dict[str, object]:
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "message": error.message,
        "type": _TYPES.get(error.status, fallback),
        "param": error.param,
        **error_object(error, request_id),
    }
