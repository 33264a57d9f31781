"""OpenAI's chat before an engine that can only continue a text. Sources: `contracts/vllm.md` 2 to 4.

What an engine's own chat route takes passes untouched; this is for models without a chat template.
"""

import msgspec

from pointsman.apis.base import Reply, decode
from pointsman.apis.fields import Table, ignored, refused, sort_out, translated
from pointsman.call import Call, Fields
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Delta, Finish, Message, Tokens, Wish
from pointsman.sse import frame

_NO_TEMPLATE = "is not possible, since this model has no chat template"
_NO_LOGPROBS = "is not offered where a conversation is continued as a text"
# OpenAI's and vLLM's chat fields before a model that only continues a text.
FIELDS: Table = {
    "best_of": refused("above 1 is not possible with this model", b"1", b"0"),
    "continue_final_message": refused(_NO_TEMPLATE),
    "frequency_penalty": translated(),
    "function_call": refused(_NO_TEMPLATE, b'"none"', b'"auto"'),
    "functions": refused(_NO_TEMPLATE, b"[]"),
    "guided_choice": refused("is not possible with this model; `guided_json` with an `enum` is"),
    "guided_grammar": refused("is not possible with this model"),
    "guided_json": translated("to a grammar"),
    "guided_regex": translated("to a grammar"),
    "logit_bias": ignored("", b"{}"),
    "logprobs": refused(_NO_LOGPROBS),
    "max_completion_tokens": translated(),
    "max_tokens": translated("lowered to what fits, and told"),
    "messages": translated("to `System:`, `User:` and `Assistant:` lines; texts only"),
    "metadata": ignored(),
    "min_p": translated("on vLLM; ignored on TGI"),
    "model": translated(),
    "n": refused("above 1 is not possible on this engine", b"1"),
    "parallel_tool_calls": ignored("", b"true"),
    "presence_penalty": translated("on vLLM; ignored on TGI"),
    "prompt_logprobs": refused(_NO_LOGPROBS),
    "repetition_penalty": translated(),
    "response_format": translated("to a grammar"),
    "seed": translated(),
    "service_tier": ignored("", b'"auto"'),
    "stop": translated("at most 4; with ours at most 4 go to the engine, and the router ends at the others"),
    "store": ignored(),
    "stream": translated(),
    "stream_options": translated(),
    "structured_outputs": translated("`json`, `regex` and `json_object`; others are refused"),
    "temperature": translated(),
    "tool_choice": refused(_NO_TEMPLATE, b'"none"', b'"auto"'),
    "tools": refused(_NO_TEMPLATE, b"[]"),
    "top_k": translated(),
    "top_logprobs": refused(_NO_LOGPROBS, b"0"),
    "top_p": translated(),
    "user": ignored(),
}
_STOPS_MAX = 4
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
# Least, most.
_BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "top_k": (-1, 2**31),
    "repetition_penalty": (0.01, 100),
    "max_tokens": (1, 2**31),
    "max_completion_tokens": (1, 2**31),
    "seed": (-(2**63), 2**63 - 1),
}
_WHOLE = frozenset({"top_k", "max_tokens", "max_completion_tokens", "seed"})
_FINISH = {Finish.END: b'"stop"', Finish.STOP: b'"stop"', Finish.LENGTH: b'"length"'}
_GREETING = b'{"index":0,"delta":{"role":"assistant","content":'
_CONTENT = b'{"index":0,"delta":{"content":'
_NO_SEED = -1  # as engines of this API have it
_ANY_OBJECT = msgspec.Raw(b'{"type":"object"}')


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Options(msgspec.Struct):
    include_usage: bool | None = None


def read(call: Call) -> Wish:
    """What a chat asks for.

    Raises:
        RouterError: INVALID_PARAMETER, naming the field.
    """
    fields = {name: raw for name, raw in call.fields.items() if bytes(raw) != b"null"}
    told = sort_out(fields, FIELDS)
    numbers = {name: _number(fields, name) for name in _BOUNDS if name in fields}
    temperature, top_p, top_k = (numbers.get(name) for name in ("temperature", "top_p", "top_k"))
    most = numbers.get("max_completion_tokens", numbers.get("max_tokens"))
    structure, is_regex = grammar(fields)
    seed = numbers.get("seed")
    return Wish(
        messages=_messages(fields),
        max_new=None if most is None else int(most),
        length_name="max_completion_tokens" if "max_completion_tokens" in numbers else "max_tokens",
        sampling=temperature != 0 and top_p != 0,
        temperature=temperature or None,
        top_p=top_p if top_p not in (0, 1) else None,
        top_k=int(top_k) if top_k is not None and top_k > 0 else None,
        min_p=numbers.get("min_p") or None,
        repetition_penalty=numbers.get("repetition_penalty"),
        frequency_penalty=numbers.get("frequency_penalty") or None,
        presence_penalty=numbers.get("presence_penalty") or None,
        seed=None if seed is None else int(seed) % 2**64,
        stop=_stop(fields),
        clamps=True,
        grammar=structure,
        grammar_is_regex=is_regex,
        ignored=told,
    )


def repeatable(fields: Fields) -> bool:
    """Whether equal bodies get equal texts: temperature 0, or a seed. Where nothing is said they sample."""
    try:
        temperature = msgspec.json.decode(fields.get("temperature", b"null"), type=float | None)
        seed = msgspec.json.decode(fields.get("seed", b"null"), type=int | None)
    except msgspec.DecodeError:
        return False
    return temperature == 0 or (seed is not None and seed != _NO_SEED)


def _number(fields: Fields, name: str) -> float:
    low, high = _BOUNDS[name]
    value: float = decode(fields, name, int) if name in _WHOLE else decode(fields, name, float)
    if not low <= value <= high:
        raise _invalid(name, f"must be a number from {low:g} to {high:g}")
    return value


def _messages(fields: Fields) -> tuple[Message, ...]:
    turns = decode(fields, "messages", list[_Turn])
    if not turns:
        raise _invalid("messages", "must hold a message")
    return tuple([Message(_role(turn), _content(turn)) for turn in turns])


def _role(turn: _Turn) -> str:
    role = _ROLES.get(turn.role)
    if role is None:
        raise _invalid("messages", f"may have the roles {', '.join(_ROLES)} with this model")
    return role


def _content(turn: _Turn) -> str:
    if not isinstance(turn.content, list):
        return turn.content or ""
    if any(part.type != "text" or part.text is None for part in turn.content):
        raise _invalid("messages", "may hold nothing but text with this model")
    return "\n".join([part.text or "" for part in turn.content])


def _stop(fields: Fields) -> tuple[str, ...]:
    raw = bytes(fields.get("stop", b"[]"))
    stops = [decode(fields, "stop", str)] if raw.startswith(b'"') else []
    if "stop" in fields and not stops:
        stops = decode(fields, "stop", list[str])
    if len(stops) > _STOPS_MAX:
        raise _invalid("stop", f"may hold at most {_STOPS_MAX} sequences")
    return tuple([stop for stop in stops if stop])


def grammar(fields: Fields) -> tuple[msgspec.Raw | None, bool]:
    """The wanted structure, from any of the fields that can name one, and whether it is a regular expression.

    The first that names one counts.
    """
    if "structured_outputs" in fields:
        wanted = decode(fields, "structured_outputs", dict[str, msgspec.Raw])
        wanted = {name: raw for name, raw in wanted.items() if bytes(raw) not in (b"null", b"false")}
        for kind in ("json", "regex"):
            if kind in wanted:
                return _structure(wanted[kind], kind == "regex")
        if "json_object" in wanted:
            return _ANY_OBJECT, False
        raise _invalid("structured_outputs", "may hold json, json_object or regex with this model")
    for name, is_regex in (("guided_json", False), ("guided_regex", True)):
        if name in fields:
            return _structure(fields[name], is_regex)
    if "response_format" not in fields:
        return None, False
    return _response_format(decode(fields, "response_format", dict[str, msgspec.Raw])), False


def _structure(raw: msgspec.Raw, is_regex: bool) -> tuple[msgspec.Raw, bool]:
    """A schema may come as a JSON text in a string."""
    if not is_regex and bytes(raw).startswith(b'"'):
        return msgspec.Raw(msgspec.json.decode(raw, type=str).encode()), False
    return raw, is_regex


def _response_format(wanted: Fields) -> msgspec.Raw | None:
    kind = bytes(wanted.get("type", b""))
    if kind == b'"text"':
        return None
    if kind in (b'"json_object"', b'"json"'):
        return wanted.get("value", _ANY_OBJECT)
    if kind == b'"json_schema"' and "json_schema" in wanted:
        schema = decode(wanted, "json_schema", dict[str, msgspec.Raw]).get("schema")
        return _ANY_OBJECT if schema is None else schema
    raise _invalid("response_format", "must have the type text, json_object or json_schema")


def _invalid(name: str, sentence: str) -> RouterError:
    return RouterError(INVALID_PARAMETER, f"`{name}` {sentence}.", param=name)


class ChatWriter:
    """Writes one answer as `/v1/chat/completions` does."""

    def __init__(self, call: Call, reply: Reply) -> None:
        raw = call.fields.get("stream_options", msgspec.Raw(b"null"))
        asked = _Options() if bytes(raw) == b"null" else decode(call.fields, "stream_options", _Options)
        self._usage = bool(asked.include_usage) and not call.hides_usage
        name = msgspec.json.encode(reply.name)
        self._own = b'"id":"chatcmpl-%s","created":%d,"model":%s,"system_fingerprint":"pointsman",' % (
            reply.request_id.encode(),
            reply.unix_s,
            name,
        )
        self._chunk = b'{"object":"chat.completion.chunk",' + self._own + b'"choices":['
        self._head = _GREETING

    def write(self, delta: Delta) -> bytes:
        """One event; of a text, of the end, or of both."""
        if not delta.text and delta.finish is None:
            return b""
        finish = b"null" if delta.finish is None else _FINISH[delta.finish]
        head, self._head = self._head, _CONTENT
        text = msgspec.json.encode(delta.text)
        return frame(self._chunk + head + text + b'},"logprobs":null,"finish_reason":' + finish + b"}]}")

    def end(self, tokens: Tokens) -> bytes:
        told = self._usage and tokens.prompt  # not where the router ended the text before the engine did
        usage = frame(self._chunk + b'],"usage":' + _usage(tokens) + b"}") if told else b""
        return usage + frame(b"[DONE]")

    def whole(self, delta: Delta, tokens: Tokens) -> bytes:
        finish = _FINISH[delta.finish or Finish.END]
        choice = (
            b'{"index":0,"message":{"role":"assistant","content":%s},"logprobs":null,"finish_reason":%s}'
            % (msgspec.json.encode(delta.text), finish)
        )
        return (
            b'{"object":"chat.completion",'
            + self._own
            + b'"choices":[%s],"usage":%s}' % (choice, _usage(tokens))
        )


def _usage(tokens: Tokens) -> bytes:
    told = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
    }
    return msgspec.json.encode(told)
