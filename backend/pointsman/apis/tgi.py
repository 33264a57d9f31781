"""TGI's own words: what `/generate` asks for, and how it answers. Source: `contracts/tgi.md` 3 and 4.1."""

import msgspec

from pointsman.apis.base import decode
from pointsman.apis.fields import Table, ignored, refused, sort_out, translated
from pointsman.call import Call, Fields, Operation
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Delta, Finish, Token, Tokens, Wish
from pointsman.sse import frame

# What TGI calls wrong about a number: least, whether the least itself is refused, most, and its sentence.
_BOUNDS: dict[str, tuple[float, bool, float, str]] = {
    "temperature": (0, False, float("inf"), "must be strictly positive"),
    "repetition_penalty": (0, True, float("inf"), "must be strictly positive"),
    "frequency_penalty": (-2, False, 2, "must be >= -2.0 and <= 2.0"),
    "top_k": (0, True, float("inf"), "must be strictly positive"),
    "top_p": (0, True, 1, "must be > 0.0 and < 1.0"),
    "typical_p": (0, True, 1, "must be > 0.0 and < 1.0"),
    "max_new_tokens": (0, True, float("inf"), "must be strictly positive"),
    "truncate": (0, True, float("inf"), "must be strictly positive"),
    "top_n_tokens": (0, False, 5, "must be >= 0 and <= 5"),
}
_SAMPLING = ("temperature", "top_k", "top_p", "typical_p")
_STOPS_MAX = 4
_FINISH = {Finish.END: "eos_token", Finish.LENGTH: "length", Finish.STOP: "stop_sequence"}

# TGI's parameters before an engine that is not TGI.
FIELDS: Table = {
    "adapter_id": refused("is not offered by this model's engine; name the adapter as the model"),
    "best_of": refused("other than 1 is not offered by this model's engine", b"1"),
    "decoder_input_details": ignored("the prompt's tokens are not told"),
    "details": translated(),
    "do_sample": translated("to temperature"),
    "frequency_penalty": translated(),
    "grammar": translated("to `structured_outputs`"),
    "max_new_tokens": translated("to `max_tokens`; without it as many as fit, as TGI has it"),
    "repetition_penalty": translated(),
    "return_full_text": translated(),
    "seed": translated("lowered to 63 bits"),
    "stop": translated("at most 4; the sequence stays in the text, as TGI has it"),
    "temperature": translated(),
    "top_k": translated(),
    "top_n_tokens": ignored("", b"0"),
    "top_p": translated(),
    "truncate": translated("to `truncate_prompt_tokens`"),
    "typical_p": ignored("", b"1", b"1.0"),
    "watermark": ignored(),
}


class _Parameters(msgspec.Struct):
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: int | None = None
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: msgspec.Raw = msgspec.Raw(b"null")


class _Dice(msgspec.Struct):
    """Of the parameters what decides whether a text is the same each time."""

    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False


class _Grammar(msgspec.Struct):
    type: str
    value: msgspec.Raw


def read(call: Call) -> Wish:
    """What a call of `/generate` asks for.

    Temperature 0 means the likeliest token, and a top_p of 1 means none, as clients of others say it.

    Raises:
        RouterError: INVALID_PARAMETER, with TGI's own sentence.
    """
    prompt = decode(call.fields, "inputs", str)
    if not prompt:
        raise _invalid("inputs", "cannot be empty")
    asked = _parameters(call)
    for name, (least, exclusive, most, sentence) in _BOUNDS.items():
        value = getattr(asked, name)
        if value is not None and not (least < value <= most or (value == least and not exclusive)):
            raise _invalid(name, f"{sentence}. Given: {value:g}")
    told = sort_out(_given(call), FIELDS)
    _refuse_what_cannot_be(asked, streams=call.stream)
    grammar, is_regex = _grammar(asked)
    return Wish(
        prompt=prompt,
        max_new=asked.max_new_tokens,
        sampling=asked.temperature != 0
        and (asked.do_sample or any(getattr(asked, name) is not None for name in _SAMPLING)),
        temperature=asked.temperature or None,
        top_p=asked.top_p if asked.top_p != 1 else None,
        top_k=asked.top_k,
        repetition_penalty=asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty,
        seed=asked.seed,
        stop=tuple(asked.stop),
        keeps_stop=True,
        last_tokens=asked.truncate,
        tells_tokens=call.stream or asked.details or asked.decoder_input_details,
        grammar=grammar,
        grammar_is_regex=is_regex,
        ignored=told,
    )


def repeatable(fields: Fields) -> bool:
    """Whether equal bodies get equal texts: a seed is given, or nothing that samples (tgi.md 3.1).

    A temperature of 0 is refused by the engine of this API, and means the likeliest token elsewhere.
    """
    try:
        dice = msgspec.json.decode(fields.get("parameters", b"null"), type=_Dice | None)
    except msgspec.DecodeError:
        return False
    if dice is None:  # then it samples
        return False
    sampled = dice.do_sample or any(getattr(dice, name) is not None for name in _SAMPLING)
    return dice.seed is not None or dice.temperature == 0 or not sampled


def form(call: Call) -> "Form":
    """The form in which a call that `read` found good is to be answered."""
    asked = _parameters(call)
    full = asked.return_full_text
    wraps = call.operation is Operation.COMPAT
    return Form(
        prefix=decode(call.fields, "inputs", str) if (wraps if full is None else full) else "",
        details=asked.details or asked.decoder_input_details,
        listed=wraps,
        seed=asked.seed,
    )


def _parameters(call: Call) -> _Parameters:
    if "parameters" in call.fields and bytes(call.fields["parameters"]) != b"null":
        return decode(call.fields, "parameters", _Parameters)
    return _Parameters(do_sample=True)  # without any parameters TGI samples


def _given(call: Call) -> Fields:
    raw = call.fields.get("parameters", msgspec.Raw(b"{}"))
    return {} if bytes(raw) == b"null" else msgspec.json.decode(raw, type=Fields)


def _refuse_what_cannot_be(asked: _Parameters, *, streams: bool) -> None:
    if len(asked.stop) > _STOPS_MAX:
        raise _invalid("stop", f"supports up to {_STOPS_MAX} stop sequences. Given: {len(asked.stop)}")
    if asked.decoder_input_details and streams:
        raise _invalid("decoder_input_details", "== true is not supported when streaming tokens")
    if asked.seed is not None and not 0 <= asked.seed < 2**64:
        raise _invalid("seed", "must fit into 64 bits")


def _grammar(asked: _Parameters) -> tuple[msgspec.Raw | None, bool]:
    if bytes(asked.grammar) == b"null":
        return None, False
    try:
        told = msgspec.json.decode(asked.grammar, type=_Grammar)
    except msgspec.DecodeError:
        raise _invalid("grammar", "must be an object with `type` and `value`") from None
    if told.type not in ("json", "json_schema", "regex"):
        raise _invalid("grammar", "must have the type json, json_schema or regex")
    return told.value, told.type == "regex"


def _invalid(name: str, sentence: str) -> RouterError:
    return RouterError(INVALID_PARAMETER, f"Input validation error: `{name}` {sentence}", param=name)


class Form(msgspec.Struct, frozen=True):
    """How an answer is to be written.

    `prefix` comes before the whole text; `listed`: a whole answer is wrapped into a list.
    """

    prefix: str = ""
    details: bool = False
    listed: bool = False
    seed: int | None = None


class Writer:
    """Writes one answer as `/generate` and `/generate_stream` do.

    The last token waits for the counts that the engine tells after it.
    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self._index = 0
        self._texts: list[str] = []
        self._last: tuple[Token, Finish] | None = None

    def write(self, delta: Delta) -> bytes:
        """The events of one delta: one for each token."""
        self._texts.append(delta.text)
        tokens = delta.tokens
        if delta.finish is not None:
            # An engine that ends a text without a token for it (a stop it noticed) leaves the event to us.
            self._last = (tokens[-1] if tokens else Token(0, "", 0.0, special=True), delta.finish)
            tokens = tokens[:-1]
        return b"".join([self._event(token) for token in tokens])

    def end(self, tokens: Tokens) -> bytes:
        """The last event."""
        if self._last is None:
            return b""
        token, finish = self._last
        text = self._form.prefix + "".join(self._texts)
        details = (
            {**self._ended(finish, tokens), "input_length": tokens.prompt} if self._form.details else None
        )
        return self._event(token, text, details)

    def whole(self, delta: Delta, tokens: Tokens) -> bytes:
        """A whole answer."""
        answer: dict[str, object] = {"generated_text": self._form.prefix + delta.text}
        if self._form.details:
            told = self._ended(delta.finish or Finish.END, tokens)
            answer["details"] = {**told, "prefill": [], "tokens": delta.tokens}
        return msgspec.json.encode([answer] if self._form.listed else answer)

    def _ended(self, finish: Finish, tokens: Tokens) -> dict[str, object]:
        made = tokens.completion or self._index + 1
        return {"finish_reason": _FINISH[finish], "generated_tokens": made, "seed": self._form.seed}

    def _event(self, token: Token, text: str | None = None, details: object = None) -> bytes:
        self._index += 1
        event = {"index": self._index, "token": token, "generated_text": text, "details": details}
        return frame(msgspec.json.encode(event))
