"""TGI's `/generate` and `/generate_stream` for a text to be continued. Source: `contracts/tgi.md` 3, 4.1."""

import msgspec

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.call import Operation
from pointsman.engines.base import Outgoing, judge_error
from pointsman.engines.openai import ABSENT, decode_object, given
from pointsman.generation import Delta, Finish, Tokens, Wish

_STOPS_MAX = 4  # --max-stop-sequences
_SAME_NAME = ("temperature", "top_p", "top_k")
_PENALTIES = ("repetition_penalty", "frequency_penalty")
_UNKNOWN = ("presence_penalty", "min_p")
_FINISH = {"length": Finish.LENGTH, "eos_token": Finish.END, "stop_sequence": Finish.STOP}


class _Details(msgspec.Struct):
    finish_reason: str = ""
    generated_tokens: int = 0
    input_length: int = 0


class _Token(msgspec.Struct):
    text: str = ""
    special: bool = False


class _Event(msgspec.Struct):
    index: int = 0  # counts tokens from 1
    token: _Token | None = None
    generated_text: str | None = None
    details: _Details | None = None
    error: msgspec.Raw = ABSENT


_events = msgspec.json.Decoder(_Event)


def ask(wish: Wish, *, stream: bool) -> Outgoing:
    """Ask TGI for a wish that has a prompt."""
    asked: dict[str, object] = {"do_sample": wish.sampling, "details": True}
    for name in (*_SAME_NAME, *_PENALTIES) if wish.sampling else _PENALTIES:
        value = getattr(wish, name)
        if value is not None:
            asked[name] = value
    if wish.max_new is not None:
        asked["max_new_tokens"] = wish.max_new
    if wish.seed is not None:
        asked["seed"] = wish.seed
    if wish.last_tokens is not None:
        asked["truncate"] = wish.last_tokens
    if wish.stop:
        asked["stop"] = wish.stop[:_STOPS_MAX]
    if wish.grammar is not None:
        asked["grammar"] = {"type": "regex" if wish.grammar_is_regex else "json", "value": wish.grammar}
    body = msgspec.json.encode({"inputs": wish.prompt, "parameters": asked})
    ignored = wish.ignored + tuple([name for name in _UNKNOWN if getattr(wish, name) is not None])
    return Outgoing("POST", "/generate_stream" if stream else "/generate", body, ignored)


class GenerateSource:
    """Reads TGI's native answers. TGI leaves a stop sequence in its text."""

    def __init__(self, wish: Wish) -> None:
        self.tokens = Tokens()
        self.leaves = wish.stop

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """The counts come in `details`, but for those of a whole answer's prompt."""
        told = headers.get(b"x-prompt-tokens", b"")
        self.tokens.prompt = int(told) if told.isdigit() and len(told) < 10 else 0

    def read(self, data: bytes) -> Delta | None:
        event = self._read(data)
        if event.token is None:
            return None
        self.tokens.completion = event.index
        text = "" if event.token.special else event.token.text
        if event.generated_text is None:
            return Delta(text)
        return Delta(text, finish=self._finish(event.details), last=True)

    def whole(self, body: bytes) -> Delta:
        event = self._read(body)
        if event.generated_text is None:
            raise AttemptFailed(attempt.JUNK, "no generated_text")
        return Delta(event.generated_text, finish=self._finish(event.details))

    def _read(self, data: bytes) -> _Event:
        try:
            event = _events.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AttemptFailed(attempt.JUNK, "no such JSON") from None
        if given(event.error):
            raise judge_error(decode_object(data), Operation.GENERATE)
        return event

    def _finish(self, details: _Details | None) -> Finish:
        if details is None:
            return Finish.END
        self.tokens.completion = details.generated_tokens or self.tokens.completion
        self.tokens.prompt = details.input_length or self.tokens.prompt
        return _FINISH.get(details.finish_reason, Finish.END)
