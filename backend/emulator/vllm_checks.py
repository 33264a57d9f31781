"""What vLLM refuses, and in which words: validation (`Bad Request`), then meaning (`BadRequestError`).

Source: contracts of vLLM 0.33, entrypoints/openai/*/protocol.py, entrypoints/serve/exception_handling.
"""

import json
from dataclasses import dataclass
from typing import Any

from emulator.structure import minimal_json
from emulator.vllm_refusals import bad, invalid

_MAX_STOP, _MAX_N, _MAX_PROMPTS = 4, 16384, 1024


@dataclass(frozen=True, slots=True)
class Ask:
    """One checked request, before its prompts are counted. `wanted`: text forced by structured output."""

    max_tokens: int | None
    min_tokens: int
    stop: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    seed: int | None
    n: int
    stream: bool
    usage: bool
    every_usage: bool
    token_ids: bool
    logprobs: int | None
    salt: str
    wanted: str | None
    echo: bool


def check(value: dict[str, Any], *, chat: bool, auto_tools: bool, force_usage: bool) -> Ask:
    """Types and ranges of a chat or completion request."""
    if chat:
        check_messages(value)
    _no_nulls(value, chat)
    _numbers(value)
    _ranges(value)
    if not chat:
        _prompts(value)
    stream = bool(value.get("stream"))
    options = value.get("stream_options")
    if options is not None and not stream:
        raise bad("Stream options can only be defined when `stream=True`.", "stream_options")
    options = options or {}
    if value.get("chat_template") is not None:
        message = "Chat template is passed with request, but --trust-request-chat-template is not set."
        raise bad(f"{message} Refused request with untrusted chat template.")
    _tools(value, auto_tools)
    stop = value.get("stop") or []
    limit = value.get("max_tokens")
    if chat and value.get("max_completion_tokens") is not None:
        limit = value["max_completion_tokens"]
    return Ask(
        max_tokens=limit if chat or limit is not None else 16,
        min_tokens=value.get("min_tokens") or 0,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        keep_stop=bool(value.get("include_stop_str_in_output")),
        ignore_eos=bool(value.get("ignore_eos")),
        seed=value.get("seed"),
        n=value.get("n") or 1,
        stream=stream,
        usage=stream and (bool(options.get("include_usage")) or force_usage),
        every_usage=bool(options.get("include_usage")) and bool(options.get("continuous_usage_stats")),
        token_ids=bool(value.get("return_token_ids")),
        logprobs=_logprobs(value, chat),
        salt=value.get("cache_salt") or "",
        wanted=_wanted(value),
        echo=not chat and bool(value.get("echo")),
    )


def forced_tool(value: dict[str, Any]) -> dict[str, Any] | None:
    """The function that `tool_choice` forces."""
    choice = value.get("tool_choice")
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    for tool in value.get("tools") or []:
        function: dict[str, Any] = tool.get("function", {})
        if choice == "required" or (named is not None and function.get("name") == named):
            return function
    return None


def check_messages(value: dict[str, Any]) -> None:
    """Types of a conversation."""
    if "messages" not in value:
        raise invalid("body.messages", "missing", "Field required", value)
    messages = value["messages"]
    if not isinstance(messages, list):
        raise invalid("body.messages", "list_type", "Input should be a valid list", messages)
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid(
                f"body.messages.{place}", "dict_type", "Input should be a valid dictionary", message
            )
        if not isinstance(message.get("role"), str):
            raise invalid(f"body.messages.{place}.role", "missing", "Field required", message)
        if "name" in message and not isinstance(message["name"], str):
            where = f"body.messages.{place}.ChatCompletionUserMessageParam.name"
            raise invalid(where, "string_type", "Input should be a valid string", message["name"])
        if message.get("content") is None and message["role"] in ("user", "system"):
            where = f"body.messages.{place}.ChatCompletionUserMessageParam.content"
            raise invalid(where, "missing", "Field required", message)
    if not messages:
        raise bad("list index out of range")


def _prompts(value: dict[str, Any]) -> None:
    prompt = value.get("prompt")
    if prompt is not None and not isinstance(prompt, (str, list)):
        raise invalid("body.prompt", "string_type", "Input should be a valid string", prompt)
    if value.get("suffix"):
        raise bad("suffix is not currently supported", "suffix")
    if prompt in (None, "", []):
        raise bad("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, list) and len(prompt) > _MAX_PROMPTS and not isinstance(prompt[0], int):
        raise bad(f"At most {_MAX_PROMPTS} prompts are allowed.", "prompt")


_RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0.0, float("inf"), "temperature must be non-negative, got {}."),
    "presence_penalty": (-2.0, 2.0, "presence_penalty must be in [-2, 2], got {}."),
    "frequency_penalty": (-2.0, 2.0, "frequency_penalty must be in [-2, 2], got {}."),
    "min_p": (0.0, 1.0, "min_p must be in [0, 1], got {}."),
    "top_k": (-1, float("inf"), "top_k must be 0 (disable), or at least 1, got {}."),
    "min_tokens": (0, float("inf"), "min_tokens must be greater than or equal to 0, got {}."),
    "max_tokens": (1, float("inf"), "max_tokens must be at least 1, got {}."),
    "max_completion_tokens": (1, float("inf"), "max_tokens must be at least 1, got {}."),
    "n": (1, _MAX_N, "n must be at least 1, got {}."),
}
_WHOLE = ("top_k", "min_tokens", "max_tokens", "max_completion_tokens", "n", "seed")
_NUMBERS = (*_RANGES, "top_p", "repetition_penalty", "seed")


def _numbers(value: dict[str, Any]) -> None:
    for name in _NUMBERS:
        given = value.get(name)
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            kind = "int_type" if name in _WHOLE else "float_type"
            noun = "integer" if name in _WHOLE else "number"
            raise invalid(f"body.{name}", kind, f"Input should be a valid {noun}", given)
        if name in _WHOLE and given != int(given):
            message = "Input should be a valid integer, got a number with a fractional part"
            raise invalid(f"body.{name}", "int_from_float", message, given)
    if "stream" in value and value["stream"] is not None and not isinstance(value["stream"], bool):
        raise invalid("body.stream", "bool_type", "Input should be a valid boolean", value["stream"])
    _stops(value)


_NEVER_NULL = (
    "ignore_eos",
    "min_tokens",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "length_penalty",
)


def _no_nulls(value: dict[str, Any], chat: bool) -> None:
    """Fields that have a default but may not be null; `n` is one of them on completions only."""
    for name in _NEVER_NULL if chat else (*_NEVER_NULL, "n"):
        if name in value and value[name] is None:
            kind, noun = ("int_type", "integer") if name in _WHOLE else ("bool_type", "boolean")
            raise invalid(f"body.{name}", kind, f"Input should be a valid {noun}", None)


def _ranges(value: dict[str, Any]) -> None:
    for name, (low, high, words) in _RANGES.items():
        given = value.get(name)
        if given is not None and not low <= given <= high:
            shown = given if name in _WHOLE else float(given)
            if name == "n":
                raise bad(words.format(shown))
            raise bad(words.format(shown), name, shown)
    if value.get("temperature") == 0 and (value.get("n") or 1) > 1:
        raise bad(f"n must be 1 when using greedy sampling, got {value['n']}.")
    top_p, repetition = value.get("top_p"), value.get("repetition_penalty")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise bad(f"top_p must be in (0, 1], got {float(top_p)}.", "top_p", float(top_p))
    if repetition is not None and repetition <= 0:
        raise bad(
            f"repetition_penalty must be greater than zero, got {repetition}.",
            "repetition_penalty",
            repetition,
        )


def _stops(value: dict[str, Any]) -> None:
    stop = value.get("stop")
    if stop is None or isinstance(stop, str):
        return
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise invalid("body.stop", "string_type", "Input should be a valid string", stop)
    if len(stop) > _MAX_STOP:
        message = f"List should have at most {_MAX_STOP} items after validation, not {len(stop)}"
        raise invalid("body.stop", "too_long", message, stop)
    if "" in stop:
        raise bad("stop cannot contain an empty string.", "stop")


def _tools(value: dict[str, Any], auto_tools: bool) -> None:
    tools = value.get("tools")
    if tools is None:
        return
    if not tools:
        raise bad("`tools` must not be an empty array.", "tools")
    choice = value.get("tool_choice", "auto")
    if choice != "none" and not auto_tools:
        name = f'"{choice}"' if isinstance(choice, str) else "named"
        raise bad(f"{name} tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set")


def _logprobs(value: dict[str, Any], chat: bool) -> int | None:
    given = value.get("logprobs")
    if chat:
        top = value.get("top_logprobs") or 0
        if top and not given:
            raise bad("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
        return int(top) if given else None
    if given is not None and given < 0:
        raise bad("`logprobs` must be a positive value.", "logprobs")
    return given if given is None else int(given)


def _wanted(value: dict[str, Any]) -> str | None:
    tool = forced_tool(value)
    if tool is not None:
        return minimal_json(tool.get("parameters") or {"type": "object"})
    given = value.get("structured_outputs")
    if isinstance(given, dict):
        if given.get("choice"):
            return str(given["choice"][0])
        if given.get("json") is not None:
            schema = given["json"]
            return minimal_json(json.loads(schema) if isinstance(schema, str) else schema)
        if given.get("json_object"):
            return minimal_json(None)
    form = value.get("response_format")
    if form is None:
        return None
    kind = form.get("type") if isinstance(form, dict) else None
    match kind:
        case "text" | "structural_tag":
            return None
        case "json_object":
            return minimal_json(None)
        case "json_schema":
            return minimal_json((form.get("json_schema") or {}).get("schema"))
    message = "Input should be 'text', 'json_object' or 'json_schema'"
    raise invalid("body.response_format.type", "literal_error", message, kind)
