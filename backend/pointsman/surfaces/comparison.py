"""One model's part in `POST /models/compare`: a text or a conversation in, an answer with its figures out.

The same body goes to each of the models that it names, as a call of its own.
"""

import msgspec

from pointsman.apis.fields import Table, sort_out, translated
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import RouterError
from pointsman.generation import Finish, Message, Said, Wish
from pointsman.keys import Need
from pointsman.sse import frame
from pointsman.surfaces.base import (
    MODEL_NAME_MAX,
    error_object,
    invalid,
    number,
    text,
)

MODELS_MAX = 4
TOKENS_MAX = 4096
FIELDS: Table = {
    "max_tokens": translated("lowered to what fits, and told"),
    "messages": translated("in place of `prompt`"),
    "models": translated("each is asked"),
    "prompt": translated(),
    "temperature": translated("0 is the likeliest token each time"),
}
_ROLES = ("system", "user", "assistant")


class _Turn(msgspec.Struct):
    role: str
    content: str


class Comparison:
    """Errors are part of a larger answer, so they bring their status and `Retry-After` with them."""

    name = "compare"
    prefers_chat = False
    need = Need.IF_ANY

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        prompt, messages = text(fields, "prompt"), _messages(fields)
        if bool(prompt) == bool(messages):
            raise invalid("prompt", "be a text that is not empty, or `messages` be given in its place")
        temperature = number(fields, "temperature", 0, 2, 0.7)
        wish = Wish(
            prompt=prompt or "",
            messages=messages,
            max_new=int(number(fields, "max_tokens", 1, TOKENS_MAX, 200, whole=True)),
            length_name="max_tokens",
            sampling=temperature > 0,
            temperature=temperature or None,
            clamps=True,
            ignored=sort_out(fields, FIELDS),
        )
        operation = Operation.CHAT if messages else Operation.GENERATE
        return Call(Api.PLAIN, operation, None, wish=wish, shape=_answer)

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        return error.status, msgspec.json.encode({"error": told(error, request_id)})

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return frame(self.error(error, request_id)[1])


def models_in(fields: Fields) -> list[str]:
    """The names of the models that are compared.

    Raises:
        RouterError: INVALID_PARAMETER, where it is no list of one to four names.
    """
    must = f"be a list of 1 to {MODELS_MAX} names of models"
    try:
        names = msgspec.json.decode(fields.get("models", b"null"), type=list[str])
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid("models", must) from None
    if not 1 <= len(names) <= MODELS_MAX or any(len(name) > MODEL_NAME_MAX for name in names):
        raise invalid("models", must)
    return names


def told(error: RouterError, request_id: str) -> dict[str, object]:
    """An error within an answer."""
    facts = {"status": error.status, "message": error.message, **error_object(error, request_id)}
    return facts if error.retry_after_s is None else {**facts, "retry_after": error.retry_after_s}


def _messages(fields: Fields) -> tuple[Message, ...]:
    if bytes(fields.get("messages", b"null")) == b"null":
        return ()
    try:
        turns = msgspec.json.decode(fields["messages"], type=list[_Turn])
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid("messages", "be a list of objects with `role` and `content`") from None
    if not turns or any(turn.role not in _ROLES or not turn.content for turn in turns):
        raise invalid("messages", "hold system, user and assistant messages with `content`")
    return tuple([Message(turn.role, turn.content) for turn in turns])


def _answer(said: Said) -> dict[str, object]:
    return {
        "text": said.text,
        "finish_reason": "length" if said.finish is Finish.LENGTH else "stop",
        "prompt_tokens": said.tokens.prompt,
        "completion_tokens": said.tokens.completion,
        "seconds": round(said.seconds, 3),
    }
