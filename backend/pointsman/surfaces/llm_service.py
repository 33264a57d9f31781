"""Seed 002's `POST /v1/generate` and `POST /v1/chat` (`contracts/seeds.md` 3.1 to 3.3).

The text of an answer does not hold the prompt; tokens are counted by the engine. Errors have the seed's
bodies, with ours beside: 401 for a missing key and 403 for a wrong one, FastAPI's list for bad fields.
"""

from dataclasses import dataclass

import msgspec

from pointsman import errors
from pointsman.apis.fields import Table, ignored, sort_out, translated
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import ErrorKind, Owner, RouterError
from pointsman.generation import Message, Said, Shape, Wish
from pointsman.keys import Need
from pointsman.screening import SecurityConfig
from pointsman.sse import frame
from pointsman.surfaces.base import error_object, flag, invalid, model_name, number, text

TOKENS_MAX = 2048
TOP_K_MAX = 2**31 - 1
_SESSION_MAX = 1024  # characters of a session's name
_ROLES = ("system", "user", "assistant")
_OF_BOTH: Table = {
    "max_tokens": translated("lowered to what fits, and told"),
    "model": translated(),
    "stream": translated(),
    "temperature": translated("0 is the likeliest token each time"),
    "top_k": translated(),
    "top_p": translated("0 is the likeliest token each time, 1 is none"),
}
_OF_TEXT: Table = {**_OF_BOTH, "prompt": translated("of `/v1/generate`")}
_OF_CHAT: Table = {
    **_OF_BOTH,
    "messages": translated("of `/v1/chat`; the last from the user"),
    "session_id": translated("of `/v1/chat`"),
}
FIELDS: Table = {**_OF_TEXT, **_OF_CHAT}
_TITLES = {
    errors.KEY_MISSING: "Missing API key",
    errors.KEY_WRONG: "Invalid API key",
    errors.RATE_LIMITED: "Rate limit exceeded",
    errors.PROMPT_TOO_LONG: "Prompt too long",
    errors.PII_FOUND: "PII detected",
}
_STATUSES = {errors.KEY_WRONG: 403}
_UNPROCESSABLE = (errors.INVALID_PARAMETER, errors.MALFORMED_JSON)
_BARE = (errors.MODEL_NOT_FOUND, errors.ROUTE_NOT_FOUND, errors.METHOD_NOT_ALLOWED)


@dataclass(frozen=True, slots=True)
class LlmServiceConfig:
    """What a call that says nothing gets."""

    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50


class _Turn(msgspec.Struct):
    role: str
    content: str


class LlmService:
    """One route of it.

    Args:
        path: what its errors call it, never with a query.
        max_chars: of the prompt, or of a conversation's new turn.
        remembers: whether sessions are kept; else clients are told that theirs is ignored.
    """

    name = "llm_service"
    prefers_chat = True
    need = Need.ALWAYS

    def __init__(
        self,
        path: str = "/v1/chat",
        config: LlmServiceConfig | None = None,
        max_chars: int = SecurityConfig().max_prompt_chars,
        *,
        remembers: bool = True,
    ) -> None:
        self._path = path
        self._config = config or LlmServiceConfig()
        self._max_chars = max_chars
        self._remembers = remembers
        self._of_chat = _OF_CHAT if remembers else _OF_CHAT | {"session_id": ignored()}

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        if operation is Operation.CHAT:
            messages = _messages(fields)
            wish = self._wish(fields, self._of_chat, messages=messages)
            shape: Shape = _chatted
            named = text(fields, "session_id", longest=_SESSION_MAX) or None
            session = named if self._remembers else None
            turn = messages[-1].content
        else:
            turn = text(fields, "prompt") or ""
            if not turn:
                raise invalid("prompt", "be a string that is not empty")
            wish = self._wish(fields, _OF_TEXT, prompt=turn)
            shape, session = _generated(turn), None
        stream = flag(fields, "stream")
        model = model_name(fields)
        self._check_length(turn)
        return Call(
            Api.PLAIN, operation, model, stream, wish=wish, shape=shape, session=session, repeats=True
        )

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        status = error.status
        if error.kind in _UNPROCESSABLE and status == error.kind.status:
            status = 422
        elif error.status == error.kind.status:
            status = _STATUSES.get(error.kind, status)
        body = {**self._told(error), **error_object(error, request_id)}
        return status, msgspec.json.encode(body)

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        told = {"error": error.message, "detail": error.message, **error_object(error, request_id)}
        return frame(msgspec.json.encode(told))

    def _wish(
        self, fields: Fields, table: Table, *, prompt: str = "", messages: tuple[Message, ...] = ()
    ) -> Wish:
        usual = self._config
        temperature = number(fields, "temperature", 0, 2, usual.temperature)
        top_p = number(fields, "top_p", 0, 1, usual.top_p)
        return Wish(
            prompt=prompt,
            messages=messages,
            max_new=int(number(fields, "max_tokens", 1, TOKENS_MAX, usual.max_tokens, whole=True)),
            length_name="max_tokens",
            sampling=temperature > 0 and top_p > 0,
            temperature=temperature or None,
            top_p=top_p if 0 < top_p < 1 else None,
            top_k=int(number(fields, "top_k", 1, TOP_K_MAX, usual.top_k, whole=True)),
            clamps=True,
            ignored=sort_out(fields, table),
        )

    def _check_length(self, turn: str) -> None:
        if len(turn) > self._max_chars:
            sentence = f"Prompt must be at most {self._max_chars} characters"
            raise RouterError(errors.PROMPT_TOO_LONG, sentence, more={"current_length": len(turn)})

    def _told(self, error: RouterError) -> dict[str, object]:
        """An error in the seed's words."""
        if error.kind in _UNPROCESSABLE:
            return {"detail": [_listed(error)]}
        if error.kind in _BARE:
            return {"detail": error.message}
        if error.kind.owner in (Owner.ENGINE, Owner.ROUTER) or error.kind is errors.OWN_TIMEOUT:
            return {
                "error": "Failed to generate text",
                "details": {"error": error.message},
                "path": self._path,
            }
        detail: dict[str, object] = {"error": _title(error.kind), "message": error.message, **error.more}
        if error.retry_after_s is not None:
            detail["retry_after"] = error.retry_after_s
        return {"error": "HTTP error", "detail": detail, "path": self._path}


def _title(kind: ErrorKind) -> str:
    return _TITLES.get(kind) or kind.code.replace("_", " ").capitalize()


def _listed(error: RouterError) -> dict[str, object]:
    """An item of the list that FastAPI answers bad bodies with; the field's value is not shown."""
    if error.kind is errors.MALFORMED_JSON:
        return {"type": "json_invalid", "loc": ["body"], "msg": error.message}
    where = (error.param or "").split(".") if error.param else []
    loc = ["body", *[int(part) if part.isdigit() else part for part in where]]
    return {"type": "value_error", "loc": loc, "msg": error.message}


def _messages(fields: Fields) -> tuple[Message, ...]:
    try:
        turns = msgspec.json.decode(fields.get("messages", b"null"), type=list[_Turn])
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid("messages", "be a list of objects with `role` and `content`") from None
    if not turns:
        raise invalid("messages", "hold a message")
    for place, turn in enumerate(turns):
        if turn.role not in _ROLES:
            raise invalid(f"messages.{place}.role", "be system, user or assistant")
        if not turn.content:
            raise invalid(f"messages.{place}.content", "be a string that is not empty")
    if turns[-1].role != "user":
        raise invalid("messages", "end with a message from the user")
    return tuple([Message(turn.role, turn.content) for turn in turns])


def _facts(said: Said) -> dict[str, object]:
    return {"model": said.model_id, "tokens_generated": said.tokens.completion, "cached": False}


def _generated(prompt: str) -> Shape:
    def shape(said: Said) -> dict[str, object]:
        return {"generated_text": said.text, "prompt": prompt, **_facts(said)}

    return shape


def _chatted(said: Said) -> dict[str, object]:
    return {"message": {"role": "assistant", "content": said.text}, **_facts(said)}
