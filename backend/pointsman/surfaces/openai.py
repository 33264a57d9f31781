"""OpenAI's API: `/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`."""

import msgspec

from pointsman.call import Api, Call, Fields, Operation
from pointsman.engines.vllm import CONTROL_FIELDS
from pointsman.errors import CONTROL_FIELD, REMOTE_MEDIA, RouterError
from pointsman.surfaces.base import check_count, check_integers, error_object, flag, invalid, model_name

_TYPES = {403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETION: "prompt", Operation.EMBEDDING: "input"}
CHOICES_MAX = 16


class OpenAI:
    """Bodies pass through; only what is routed on, or could steer the engine, is read."""

    name = "openai"

    def __init__(self, media_hosts: tuple[str, ...] = ()) -> None:
        self._media_hosts = media_hosts

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        for name in fields.keys() & CONTROL_FIELDS:
            raise RouterError(CONTROL_FIELD, f"`{name}` steers the engine and is not accepted.", param=name)
        required = _REQUIRED[operation]
        if required not in fields:
            raise invalid(required, "be given")
        check_count(fields, "n", CHOICES_MAX)
        check_count(fields, "best_of", CHOICES_MAX)
        check_integers(fields)
        if operation is Operation.CHAT and (b"_url" in body or b"\\u" in body):
            self._refuse_remote_media(fields["messages"])
        return Call(
            Api.OPENAI,
            operation,
            model_name(fields),
            operation is not Operation.EMBEDDING and flag(fields, "stream"),
            body,
            fields,
        )

    def answer(self, call: Call, model_id: str, body: bytes) -> bytes:
        return body

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        return error.status, msgspec.json.encode({"error": _error(error, request_id)})

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return b"data: " + msgspec.json.encode({"error": _error(error, request_id)}) + b"\n\n"

    def _refuse_remote_media(self, messages: msgspec.Raw) -> None:
        """Look through all messages for `…_url` parts: an engine would fetch what a stranger names."""
        todo: list[object] = [msgspec.json.decode(messages)]
        while todo:
            value = todo.pop()
            if isinstance(value, list):
                todo += value
            elif isinstance(value, dict):
                todo += value.values()
                for key, held in value.items():
                    if isinstance(key, str) and key.endswith("_url"):
                        self._check_url(held.get("url") if isinstance(held, dict) else held, key)

    def _check_url(self, url: object, key: str) -> None:
        if url is None or (isinstance(url, str) and url.startswith("data:")):
            return
        for host in self._media_hosts if isinstance(url, str) else ():
            if str(url).startswith((f"https://{host}/", f"http://{host}/")):
                return
        raise RouterError(REMOTE_MEDIA, param=key)


def _error(error: RouterError, request_id: str) -> dict[str, object]:
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "message": error.message,
        "type": _TYPES.get(error.status, fallback),
        "param": error.param,
        **error_object(error, request_id),
    }
