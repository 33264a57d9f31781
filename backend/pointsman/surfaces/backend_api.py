"""Seed 003's `POST /generate` with `model_id` and `prompt` (`contracts/seeds.md` section 4).

The answer is the engine's raw continuation; errors carry a string in `detail`.
"""

import msgspec

from pointsman import errors
from pointsman.apis.fields import Table, sort_out, translated
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import RouterError
from pointsman.generation import Said, Wish
from pointsman.keys import Need
from pointsman.sse import frame
from pointsman.surfaces.base import error_object, flag, invalid, model_name, number, text

FIELDS: Table = {
    "max_new_tokens": translated("lowered to what fits, and told"),
    "model": translated("where `model_id` is not given"),
    "model_id": translated(),
    "prompt": translated(),
    "repetition_penalty": translated(),
    "stream": translated(),
    "temperature": translated("0 is the likeliest token each time"),
    "top_p": translated("0 is the likeliest token each time, 1 is none"),
}
_UNPROCESSABLE = {errors.INVALID_PARAMETER, errors.MALFORMED_JSON, errors.UNSUPPORTED, errors.ENGINE_REJECTED}


class BackendApi:
    """Its schema and bounds."""

    name = "backend_api"
    prefers_chat = False
    need = Need.NEVER

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        prompt = text(fields, "prompt")
        if not prompt:
            raise invalid("prompt", "be a string that is not empty")
        temperature = number(fields, "temperature", 0, 2, 0.7)
        top_p = number(fields, "top_p", 0, 1, 0.95)
        wish = Wish(
            prompt=prompt,
            max_new=int(number(fields, "max_new_tokens", 1, 2048, 200, whole=True)),
            sampling=temperature > 0 and top_p > 0,
            temperature=temperature or None,
            top_p=top_p if 0 < top_p < 1 else None,
            repetition_penalty=number(fields, "repetition_penalty", 1, 2, 1.0),
            clamps=True,
            ignored=sort_out(fields, FIELDS),
        )
        model = model_name(fields, "model_id") or model_name(fields)
        return Call(Api.PLAIN, Operation.GENERATE, model, flag(fields, "stream"), wish=wish, shape=_generated)

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        return detail_status(error), msgspec.json.encode(detail_body(error, request_id))

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return detail_frame(error, request_id)


def _generated(said: Said) -> dict[str, object]:
    return {"generated_text": said.text, "model_id": said.model_id}


def detail_status(error: RouterError) -> int:
    """Bad fields and bad JSON are a 422."""
    return 422 if error.kind in _UNPROCESSABLE and error.status == error.kind.status else error.status


def detail_body(error: RouterError, request_id: str) -> dict[str, object]:
    """A string in `detail`, which clients of seeds 000 and 003 show as it is; ours beside it."""
    return {"detail": error.message, **error_object(error, request_id)}


def detail_frame(error: RouterError, request_id: str) -> bytes:
    """The same within a stream, where readers look for a string in `error` (`contracts/seeds.md` 5.4)."""
    return frame(msgspec.json.encode({"error": error.message, **detail_body(error, request_id)}))
