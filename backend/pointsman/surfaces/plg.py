"""Seed 004's `POST /api/chat/stream` (`contracts/seeds.md` 5.1, 5.2 and 5.4).

A client resends its whole conversation, and its session is no more than a name that comes back. Whatever is
wrong with a body is a 400. Errors are a string in `detail`, and in `error` within a stream, which always ends
with `[DONE]`.
"""

import re
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Protocol

import msgspec

from pointsman.apis.fields import Table, ignored, sort_out, translated
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import RouterError
from pointsman.generation import Finish, Message, Said, Shape, Wish
from pointsman.keys import Need
from pointsman.language import Language, language_named, language_of
from pointsman.sse import frame
from pointsman.surfaces.backend_api import detail_body, detail_frame
from pointsman.surfaces.base import flag, invalid, model_name, number, text

ROLES = ("system", "user", "assistant")
TOKENS_MAX = 1_000_000
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DONE = frame(b"[DONE]")
FIELDS: Table = {
    "language": translated("chooses the system prompt, where the messages have none"),
    "max_tokens": translated("lowered to what fits, and told"),
    "messages": translated(),
    "model": translated(),
    "session_id": translated(),
    "stream": translated(),
    "temperature": translated("0 is the likeliest token each time"),
    "use_mcp": ignored("tools are not called"),
}
SYSTEM_PROMPTS = {
    Language.HEBREW: (
        "אתה עוזר אדיב ובקיא. ענה בעברית ברורה, טבעית ותקינה, אלא אם מבקשים ממך שפה אחרת. "
        "פתח בעיקר, היה מדויק, וכשאינך יודע דבר אמור זאת ואל תמציא."
    ),
    Language.ENGLISH: (
        "You are a kind and knowledgeable assistant. Answer in clear, natural English unless another "
        "language is asked for. Begin with what matters, be precise, and say so where you do not know."
    ),
}


@dataclass(frozen=True, slots=True)
class PlgConfig:
    """What a call that says nothing gets, and how long a conversation may be."""

    max_tokens: int = 2048
    temperature: float = 0.7
    top_p: float = 0.9
    max_context_tokens: int | None = None  # None: what the engine takes
    response_reserve_tokens: int = 2048


DEFAULTS = PlgConfig()


class Ear(Protocol):
    """Who counts sessions."""

    def note(self, name: str, now: float) -> object:
        """Something was said in a session. `now` is in monotonic seconds."""


class _Turn(msgspec.Struct):
    role: str
    content: str


_turns = msgspec.json.Decoder(list[_Turn])


class PlgErrors:
    """How this API says that something went wrong; its services say it alike."""

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        status = 400 if error.status == 422 else error.status
        return status, msgspec.json.encode(detail_body(error, request_id))

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return detail_frame(error, request_id) + _DONE


class Plg(PlgErrors):
    """The chat. `ear` hears of each good call."""

    name = "plg"
    prefers_chat = True
    need = Need.NEVER

    def __init__(self, config: PlgConfig = DEFAULTS, ear: Ear | None = None) -> None:
        self._config = config
        self._ear = ear

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        config = self._config
        told = sort_out(fields, FIELDS)
        turns = _messages(fields)
        given = len(turns)
        name = text(fields, "language")
        language = None if name is None else language_named(name)
        if all(turn.role != "system" for turn in turns):
            wanted = language or language_of(turns[-1].content)
            turns = (Message("system", SYSTEM_PROMPTS[wanted]), *turns)
        if name is not None and (language is None or len(turns) == given):
            told = (*told, "language")
        temperature = number(fields, "temperature", 0, 2, config.temperature)
        wish = Wish(
            messages=turns,
            max_new=int(number(fields, "max_tokens", 1, TOKENS_MAX, config.max_tokens, whole=True)),
            length_name="max_tokens",
            sampling=temperature > 0,
            temperature=temperature or None,
            top_p=config.top_p if config.top_p < 1 else None,
            clamps=True,
            reserve=config.response_reserve_tokens,
            window=config.max_context_tokens,
            ignored=told,
        )
        session = text(fields, "session_id") or f"chat_{secrets.token_hex(6)}"
        streams = "stream" not in fields or bytes(fields["stream"]) == b"null" or flag(fields, "stream")
        shape = _ended(session) if streams else _answered(session)
        lines = f"x-session-id: {safe(session)}\r\n".encode("ascii")
        call = Call(
            Api.PLAIN, Operation.CHAT, model_name(fields), streams, wish=wish, shape=shape, lines=lines
        )
        if self._ear is not None:
            self._ear.note(session, monotonic())
        return call


def safe(session: str) -> str:
    """A session's name in a form that a header can hold: itself, or else its digest."""
    if _SAFE_ID.fullmatch(session):
        return session
    return "id_" + blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _messages(fields: Fields) -> tuple[Message, ...]:
    try:
        turns = _turns.decode(fields.get("messages", b"null"))
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid("messages", "be a list of objects with `role` and `content`, both strings") from None
    if not turns:
        raise invalid("messages", "hold at least one message")
    for place, turn in enumerate(turns):
        if turn.role not in ROLES:
            raise invalid(f"messages[{place}].role", "be system, user or assistant")
        if not turn.content or turn.content.isspace():
            raise invalid(f"messages[{place}].content", "be a string that is not blank")
    if turns[-1].role != "user":
        raise invalid("messages", "end with a message of the user")
    return tuple([Message(turn.role, turn.content) for turn in turns])


def _ended(session: str) -> Shape:
    """What the last frame of a stream tells."""
    return lambda said: {"session_id": session}


def _answered(session: str) -> Shape:
    def shape(said: Said) -> dict[str, object]:
        finish = "length" if said.finish is Finish.LENGTH else "stop"
        message = {"role": "assistant", "content": said.text}
        prompt, completion = said.tokens.prompt, said.tokens.completion
        return {
            "session_id": session,
            "content": said.text,
            "model": said.model_id,
            "finish_reason": finish,
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        }

    return shape
