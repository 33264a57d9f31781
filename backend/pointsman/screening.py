"""What the PII filter does to a call: refuse it, or take personal data out of it, and out of its answer.

A screened call is always translated, never passed on byte for byte, so what cannot be translated is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import structs

from pointsman.apis import wish_of
from pointsman.call import Api, Call, Operation
from pointsman.errors import INVALID_PARAMETER, PII_FOUND, UNSUPPORTED, RouterError
from pointsman.generation import Message, Wish
from pointsman.keys import Key
from pointsman.pii import PiiMode, find, redact

_TRANSLATED = (Operation.CHAT, Operation.GENERATE, Operation.COMPAT)
# Their answers hold none of the client's words, or tell places in them; so nothing in them can be replaced.
_MEASURED = (Operation.EMBEDDING, Operation.TOKENIZE, Operation.CHAT_TOKENIZE)


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """What seed 002 calls security; names are those of its settings."""

    api_key: Key | None = None  # beside those of the key file
    max_prompt_chars: int = 4000  # of a prompt, or of a conversation's new turn; on seed 002's routes
    enable_pii_filter: PiiMode = PiiMode.OFF

    @property
    def own_keys(self) -> tuple[Key, ...]:
        """The key, if there is one."""
        return () if self.api_key is None else (self.api_key,)


def screened(call: Call, mode: PiiMode) -> Call:
    """The call as it may go on.

    Raises:
        RouterError: PII_FOUND; UNSUPPORTED, naming what the filter rules out.
    """
    if mode is PiiMode.OFF or call.operation is Operation.INFO:
        return call
    if call.operation in _MEASURED:
        _refuse_any(_strings(msgspec.json.decode(call.body or b"null")))
        return call
    wish = _wish(call)
    if mode is PiiMode.REJECT:
        _refuse_any([wish.prompt, *[turn.content for turn in wish.messages]])
        return structs.replace(call, wish=structs.replace(wish, redacts=True))
    messages = tuple([Message(turn.role, redact(turn.content)) for turn in wish.messages])
    kept = structs.replace(wish, prompt=redact(wish.prompt), messages=messages, redacts=True)
    return structs.replace(call, wish=kept)


def _wish(call: Call) -> Wish:
    if call.api is not Api.PLAIN and call.operation not in _TRANSLATED:
        raise RouterError(UNSUPPORTED, "This route is closed while the PII filter is on; use a chat route.")
    try:
        wish = wish_of(call)
    except RouterError as error:
        if error.kind is not INVALID_PARAMETER or error.param is None:
            raise
        sentence = f"`{error.param}` cannot be used so while the PII filter is on."
        raise RouterError(UNSUPPORTED, sentence, param=error.param) from None
    if wish.tells_tokens:
        raise RouterError(UNSUPPORTED, "Tokens are not told one by one while the PII filter is on.")
    return wish


def _refuse_any(texts: "Iterator[str] | list[str]") -> None:
    if any(find(text) for text in texts):
        raise RouterError(PII_FOUND)


def _strings(value: Any) -> Iterator[str]:
    """All texts in a decoded JSON value, as deep as bodies may be nested."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
