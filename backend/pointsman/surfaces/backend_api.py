"""Seed 003's `POST /generate` with `model_id` and `prompt` (`contracts/seeds.md` section 4).

The answer is the engine's raw continuation; errors carry a string in `detail`.
"""

import msgspec

from pointsman import errors
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import RouterError
from pointsman.sse import frame
from pointsman.surfaces.base import error_object, invalid, model_name, number, text

_UNPROCESSABLE = {errors.INVALID_PARAMETER, errors.MALFORMED_JSON, errors.UNSUPPORTED, errors.ENGINE_REJECTED}


class _Generated(msgspec.Struct):
    generated_text: str


class BackendApi:
    """Its schema and bounds, said in TGI's words."""

    name = "backend_api"
    prefers_chat = False

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        prompt = text(fields, "prompt")
        if prompt is None:
            raise invalid("prompt", "be a string")
        temperature = number(fields, "temperature", 0, 2, 0.7)
        parameters = {
            "max_new_tokens": int(number(fields, "max_new_tokens", 1, 2048, 200, whole=True)),
            "temperature": temperature,
            "top_p": number(fields, "top_p", 0, 1, 0.95),
            "repetition_penalty": number(fields, "repetition_penalty", 1, 2, 1.0),
            "do_sample": temperature > 0,
        }
        said = {"inputs": prompt, "parameters": parameters}
        call_fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in said.items()}
        model = model_name(fields, "model_id") or model_name(fields)
        return Call(Api.TGI, Operation.GENERATE, model, fields=call_fields)

    def answer(self, call: Call, model_id: str, body: bytes) -> bytes:
        generated = msgspec.json.decode(body, type=_Generated)  # checked by the reader before
        return msgspec.json.encode({"generated_text": generated.generated_text, "model_id": model_id})

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        status = error.status
        if error.kind in _UNPROCESSABLE and status == error.kind.status:
            status = 422
        return status, msgspec.json.encode(error_body(error, request_id))

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return frame(msgspec.json.encode(error_body(error, request_id)))


def error_body(error: RouterError, request_id: str) -> dict[str, object]:
    """A string in `detail`, which its clients show as it is; ours beside it."""
    return {"detail": error.message, **error_object(error, request_id)}
