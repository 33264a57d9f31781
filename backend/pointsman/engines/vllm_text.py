"""vLLM's `/v1/completions` for calls in another API's words. Source: `contracts/vllm.md` 2.1, 3 and 4."""

import msgspec

from pointsman import attempt
from pointsman.apis.tgi import Writer
from pointsman.attempt import AttemptFailed
from pointsman.call import Call
from pointsman.engines.base import Seen
from pointsman.engines.openai import OpenAIReader
from pointsman.generation import Delta, Finish, Token, Wish
from pointsman.replica import Replica

PATH = "/v1/completions"
_INT64_MAX = 2**63 - 1
_SPECIAL = 8  # tokens that an engine may put around a prompt


class _Logprobs(msgspec.Struct):
    tokens: list[str | None] | None = None
    token_logprobs: list[float | None] | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []


_answers = msgspec.json.Decoder(_Answer)


def encode(wish: Wish, replica: Replica, *, stream: bool) -> bytes:
    """Ask vLLM for a wish.

    A stop sequence stays in the text, as TGI leaves it there. Without a length vLLM makes 16 tokens; TGI goes
    on to the end of its context, which is met as far as is certain: no prompt has more tokens than bytes.
    """
    asked: dict[str, object] = {
        "prompt": wish.prompt,
        "temperature": (wish.temperature or 1.0) if wish.sampling else 0,
        "stream": stream,
    }
    if replica.own_name is not None:
        asked["model"] = replica.own_name
    room = (replica.facts.max_total_tokens or 0) - len(wish.prompt.encode()) - _SPECIAL
    if wish.max_new is not None or room > 0:
        asked["max_tokens"] = wish.max_new or room
    for name in ("top_p", "top_k", "repetition_penalty", "frequency_penalty"):
        value = getattr(wish, name)
        if value is not None:
            asked[name] = value
    if wish.seed is not None:
        asked["seed"] = wish.seed & _INT64_MAX
    if wish.stop:
        asked |= {"stop": wish.stop, "include_stop_str_in_output": True}
    if wish.last_tokens is not None:
        asked["truncate_prompt_tokens"] = wish.last_tokens
    if wish.grammar is not None:
        asked["structured_outputs"] = {"regex" if wish.grammar_is_regex else "json": wish.grammar}
    if wish.tells_tokens:
        asked |= {"logprobs": 0, "return_token_ids": True}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(asked)


class TextReader(OpenAIReader):
    """Reads completions and has them written in the words of the call's API."""

    mends = True

    def __init__(self, call: Call, writer: Writer) -> None:
        super().__init__(call)
        self._writer = writer

    def look(self, data: bytes) -> Seen:
        return Seen.FINAL if data == b"[DONE]" and self._writer.begun else super().look(data)

    def mend(self, data: bytes) -> bytes:
        if data == b"[DONE]":
            return self._writer.end(self.tokens)
        delta = _read(data)
        return b"" if delta is None else self._writer.write(delta)

    def whole(self, body: bytes) -> bytes:
        delta = _read(super().whole(body))
        if delta is None:
            raise AttemptFailed(attempt.JUNK, "no choices")
        return self._writer.whole(delta, self.tokens)


def _read(data: bytes) -> Delta | None:
    """The first choice of an answer or an event; None: it has none."""
    try:
        answer = _answers.decode(data)
    except msgspec.DecodeError:
        raise AttemptFailed(attempt.JUNK, "no completion") from None
    if not answer.choices:
        return None
    choice = answer.choices[0]
    return Delta(choice.text, _tokens(choice), _finish(choice))


def _finish(choice: _Choice) -> Finish | None:
    if choice.finish_reason is None:
        return None
    if choice.finish_reason == "length":
        return Finish.LENGTH
    return Finish.STOP if isinstance(choice.stop_reason, str) else Finish.END


def _tokens(choice: _Choice) -> list[Token]:
    """The tokens with their texts, which together are the choice's text.

    A character of several tokens belongs to the last of them. The token by which the model ends is special.
    """
    ids = choice.token_ids or []
    logprobs = choice.logprobs or _Logprobs()
    shown = [text or "" for text in logprobs.tokens or []]
    told = [value or 0.0 for value in logprobs.token_logprobs or []]
    shown += [""] * (len(ids) - len(shown))
    told += [0.0] * (len(ids) - len(told))
    tokens = [Token(one, text, value) for one, text, value in zip(ids, shown, told, strict=False)]
    if tokens and _finish(choice) is Finish.END and "".join(shown[:-1]) == choice.text:
        tokens[-1].special = True
    elif "".join(shown[: len(ids)]) != choice.text:
        for token in tokens:
            token.text = ""
        if tokens:
            tokens[-1].text = choice.text
    return tokens
