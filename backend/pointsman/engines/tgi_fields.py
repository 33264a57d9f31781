"""The fields of calls that TGI takes, in TGI's way. Source: `contracts/tgi.md` 3.1, 5.1 and 5.3."""

import msgspec

from pointsman.apis.fields import Table, ignored, refused, translated
from pointsman.apis.openai import grammar
from pointsman.call import Fields, Operation
from pointsman.engines.base import join
from pointsman.engines.response_format import for_tgi

_SAMPLING = ("temperature", "top_k", "top_p", "typical_p")

_NOT_HERE = "is not possible on this engine"
_BOTH: Table = {
    "best_of": refused("above 1 is not possible on this engine", b"1", b"0"),
    "frequency_penalty": translated("0 is left out"),
    "guided_choice": refused(_NOT_HERE),
    "guided_grammar": refused(_NOT_HERE),
    "logit_bias": ignored("", b"{}"),
    "max_tokens": translated(),
    "min_p": ignored("", b"0", b"0.0"),
    "model": translated("to `tgi`; any other name would be an adapter's"),
    "n": refused("above 1 is not possible on this engine", b"1", b"0"),
    "prompt_logprobs": refused(_NOT_HERE),
    "seed": translated(),
    "service_tier": ignored("", b'"auto"'),
    "stop": translated("to a list"),
    "store": ignored(),
    "stream": translated(),
    "stream_options": translated(),
    "temperature": translated(),
    "top_k": ignored("", b"0", b"-1"),
    "top_p": translated("0 becomes temperature 0, 1 is left out"),
    "user": ignored(),
}
# OpenAI's fields on TGI's own `/v1` routes (tgi.md 5.1 and 5.3); what the tables do not know is ignored.
CHAT_FIELDS: Table = {
    **_BOTH,
    "function_call": refused("is not possible on this engine; `tool_choice` is", b'"none"', b'"auto"'),
    "functions": refused("are not possible on this engine; `tools` are", b"[]"),
    "guided_json": translated("to a grammar"),
    "guided_regex": translated("to a grammar"),
    "logprobs": translated(),
    "max_completion_tokens": translated(),
    "messages": translated(),
    "metadata": ignored(),
    "parallel_tool_calls": ignored("", b"true"),
    "presence_penalty": translated("0 is left out, which TGI would take for a penalty of 2"),
    "repetition_penalty": ignored("", b"1", b"1.0"),
    "response_format": translated("to a grammar"),
    "structured_outputs": translated("`json`, `regex` and `json_object`, to a grammar; others are refused"),
    "tool_choice": translated(),
    "tool_prompt": translated(),
    "tools": translated(),
    "top_logprobs": translated(),
}
COMPLETION_FIELDS: Table = {
    **_BOTH,
    "echo": refused(_NOT_HERE),
    "guided_json": refused(_NOT_HERE),
    "guided_regex": refused(_NOT_HERE),
    "logprobs": refused("are not possible on this engine's completions"),
    "presence_penalty": ignored("", b"0", b"0.0"),
    "prompt": translated(),
    "repetition_penalty": translated(),
    "response_format": refused(_NOT_HERE, b'{"type":"text"}', b'{"type": "text"}'),
    "structured_outputs": refused(_NOT_HERE),
    "suffix": refused(_NOT_HERE, b'""'),
}
_STRUCTURES = frozenset({"structured_outputs", "guided_json", "guided_regex"})  # vLLM's names for one
TABLES = {Operation.CHAT: CHAT_FIELDS, Operation.COMPLETION: COMPLETION_FIELDS}


def _number(value: msgspec.Raw | None) -> float | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=float)
    except msgspec.DecodeError:
        return None  # not a number: TGI names the field


def native(fields: Fields) -> Fields:
    """Say temperature 0 as greedy and leave out a top_p or typical_p of 1, which TGI refuses.

    Naming any of these had turned sampling on; what is left must not turn it off (tgi.md 3.1).
    """
    try:
        given = msgspec.json.decode(fields["parameters"], type=Fields | None)
    except msgspec.DecodeError:
        return fields
    if given is None:
        return fields
    parameters = dict(given)
    for name in ("top_p", "typical_p"):
        number = _number(parameters.get(name))
        if number is not None and number >= 1.0 and number < 1.0 + 1e-6:
            del parameters[name]
            parameters.setdefault("do_sample", msgspec.Raw(b"true"))
    if _number(parameters.get("temperature")) == 0.0 or _number(parameters.get("top_p")) == 0.0:
        for name in _SAMPLING:
            parameters.pop(name, None)
        parameters["do_sample"] = msgspec.Raw(b"false")
    if parameters == given:
        return fields
    return {**fields, "parameters": msgspec.Raw(join(parameters))}


def _structure(fields: Fields) -> msgspec.Raw:
    wanted, is_regex = grammar(fields)
    told = {"type": "regex" if is_regex else "json", "value": wanted}
    return msgspec.Raw(msgspec.json.encode(told))


def openai(fields: Fields) -> Fields:
    """Name the model as TGI wants it; leave out what it refuses or takes for something else.

    Raises:
        RouterError: INVALID_PARAMETER, for a structure that it has no grammar for.
    """
    kept = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    kept["model"] = msgspec.Raw(b'"tgi"')  # any other name is taken for a LoRA adapter (tgi.md 5.1)
    for name in ("presence_penalty", "frequency_penalty"):
        if _number(kept.get(name)) == 0.0:
            del kept[name]  # TGI makes a repetition penalty of 2.0 of a presence penalty of 0
    top_p = _number(kept.get("top_p"))
    if top_p is not None and (top_p == 0.0 or 1.0 <= top_p < 1.0 + 1e-6):
        del kept["top_p"]
        if top_p == 0.0:
            kept["temperature"] = msgspec.Raw(b"0.0")
    wanted = for_tgi(kept.pop("response_format")) if "response_format" in kept else None
    if not _STRUCTURES.isdisjoint(kept):
        wanted = _structure({name: kept.pop(name) for name in _STRUCTURES if name in kept})
    if wanted is not None:
        kept["response_format"] = wanted
    if bytes(kept.get("stop", b"")).startswith(b'"'):
        kept["stop"] = msgspec.Raw(b"[" + bytes(kept["stop"]) + b"]")
    return kept
