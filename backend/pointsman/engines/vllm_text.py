"""vLLM's `/v1/completions` for a text to be continued. Source: `contracts/vllm.md` 2.1, 3 and 4."""

import msgspec

from pointsman.call import Operation
from pointsman.engines.base import Outgoing
from pointsman.engines.choices import Answer, ChoicesSource
from pointsman.generation import Delta, Finish, Token, Wish
from pointsman.replica import Replica

_PATH = "/v1/completions"
_INT64_MAX = 2**63 - 1
_STOPS_MAX = 4  # strings, VLLM_MAX_STOP_STRINGS
_SAME_NAME = ("top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")


class _Logprobs(msgspec.Struct):
    tokens: list[str | None] | None = None
    token_logprobs: list[float | None] | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


def ask(wish: Wish, replica: Replica, *, stream: bool) -> Outgoing:
    """Ask vLLM for a wish that has a prompt."""
    asked: dict[str, object] = {
        "prompt": wish.prompt,
        "temperature": (wish.temperature or 1.0) if wish.sampling else 0,
        "stream": stream,
    }
    if replica.own_name is not None:
        asked["model"] = replica.own_name
    if wish.max_new is not None:
        asked["max_tokens"] = wish.max_new
    for name in _SAME_NAME:
        value = getattr(wish, name)
        if value is not None:
            asked[name] = value
    if wish.seed is not None:
        asked["seed"] = wish.seed & _INT64_MAX
    if wish.stop:
        asked |= {"stop": wish.stop[:_STOPS_MAX], "include_stop_str_in_output": wish.keeps_stop}
    if wish.last_tokens is not None:
        asked["truncate_prompt_tokens"] = wish.last_tokens
    if wish.grammar is not None:
        asked["structured_outputs"] = {"regex" if wish.grammar_is_regex else "json": wish.grammar}
    if wish.tells_tokens:
        asked |= {"logprobs": 0, "return_token_ids": True}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    return Outgoing("POST", _PATH, msgspec.json.encode(asked), wish.ignored)


class CompletionSource(ChoicesSource[_Choice]):
    """Reads completions."""

    operation = Operation.COMPLETION
    answers = msgspec.json.Decoder(Answer[_Choice])

    def __init__(self, wish: Wish) -> None:
        super().__init__(wish.stop if len(wish.stop) > _STOPS_MAX else ())
        self._tells_tokens = wish.tells_tokens

    def delta(self, choice: _Choice) -> Delta:
        return Delta(choice.text, _tokens(choice) if self._tells_tokens else [], _finish(choice))


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
