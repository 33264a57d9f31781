"""What TGI refuses, and in which words: types first (plain text), then ranges (`Input validation error`).

Source: contracts of TGI 3.3.7, router/src/lib.rs and validation.rs.
"""

import json
from dataclasses import dataclass
from typing import Any

from emulator.dialect import Whole
from emulator.structure import minimal_json

_CHUNK = 1024  # DEFAULT_GENERATION_LENGTH: the sum check clamps max_new_tokens to it
_TEXT = "text/plain; charset=utf-8"

_FLOAT, _INT, _BOOL, _STR, _LIST = "f32", "u32", "a boolean", "a string", "a sequence"
_HIGHEST = {_INT: (1 << 32) - 1, "u64": (1 << 64) - 1}
_PARAMETERS = {
    "best_of": (_INT, True), "temperature": (_FLOAT, True), "repetition_penalty": (_FLOAT, True),
    "frequency_penalty": (_FLOAT, True), "top_k": (_INT, True), "top_p": (_FLOAT, True),
    "typical_p": (_FLOAT, True), "do_sample": (_BOOL, False), "max_new_tokens": (_INT, True),
    "return_full_text": (_BOOL, True), "stop": (_LIST, False), "truncate": (_INT, True),
    "watermark": (_BOOL, False), "details": (_BOOL, False), "decoder_input_details": (_BOOL, False),
    "seed": ("u64", True), "top_n_tokens": (_INT, True), "adapter_id": (_STR, True),
}  # fmt: skip
_CHAT = {
    "messages": (_LIST, False), "model": (_STR, True), "max_tokens": (_INT, True),
    "max_completion_tokens": (_INT, True), "temperature": (_FLOAT, True), "top_p": (_FLOAT, True),
    "stop": (_LIST, True), "seed": ("u64", True), "stream": (_BOOL, False), "logprobs": (_BOOL, True),
    "top_logprobs": (_INT, True), "frequency_penalty": (_FLOAT, True), "presence_penalty": (_FLOAT, True),
    "n": (_INT, True), "tools": (_LIST, True), "tool_prompt": (_STR, True),
}  # fmt: skip
_COMPLETION = {
    "model": (_STR, True), "max_tokens": (_INT, True), "temperature": (_FLOAT, True), "top_p": (_FLOAT, True),
    "stop": (_LIST, True), "seed": ("u64", True), "stream": (_BOOL, False), "suffix": (_STR, True),
    "repetition_penalty": (_FLOAT, True), "frequency_penalty": (_FLOAT, True),
}  # fmt: skip
_PYTHON = {
    _FLOAT: (int, float),
    _INT: (int,),
    "u64": (int,),
    _BOOL: (bool,),
    _STR: (str,),
    _LIST: (list,),
}


class Refused(Exception):
    """An answer other than 200, `kind` naming the `error_type`; `whole` when it is no JSON error."""

    def __init__(self, status: int, kind: str, message: str, whole: Whole | None = None) -> None:
        """`message` is what the client reads."""
        super().__init__(message)
        self.status, self.kind, self.message, self.whole = status, kind, message, whole


def invalid(message: str) -> Refused:
    """A semantic refusal."""
    return Refused(422, "validation", f"Input validation error: {message}")


def plain(status: int, message: str) -> Refused:
    """A rejection by the HTTP framework: plain text."""
    return Refused(status, "", message, Whole(status, message.encode(), _TEXT))


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine accepts."""

    max_total: int
    max_best_of: int = 2
    max_stop: int = 4
    max_top_n: int = 5
    max_client_batch: int = 4


@dataclass(frozen=True, slots=True)
class Job:
    """One checked generation request. `wanted`: the JSON that a grammar forces, else `None`."""

    inputs: str
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    truncate: int | None = None
    details: bool = False
    decoder_input_details: bool = False
    return_full_text: bool | None = None
    top_n: int = 0
    best_of: int = 1
    wanted: str | None = None


def parse(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The body's JSON object, or the framework's rejection."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise plain(415, "Expected request with `Content-Type: application/json`")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = "expected value at line 1 column 1"
        raise plain(400, f"Failed to parse the request body as JSON: {text}") from None
    if not isinstance(value, dict):
        raise _schema("invalid type: sequence, expected a map", body)
    return value


def job_of(value: dict[str, Any], body: bytes) -> Job:
    """Read `{"inputs", "parameters"}`; types only."""
    if "inputs" not in value:
        raise _schema("missing field `inputs`", body)
    if not isinstance(value["inputs"], str):
        raise _schema(f"inputs: invalid type: {_shown(value['inputs'])}, expected a string", body)
    given = value.get("parameters")
    if given is None and "parameters" in value:
        raise _schema("parameters: invalid type: null, expected struct GenerateParameters", body)
    given = given or {}
    if not isinstance(given, dict):
        raise _schema(f"parameters: invalid type: {_shown(given)}, expected struct GenerateParameters", body)
    _types(given, _PARAMETERS, body, "parameters.")
    return Job(
        inputs=value["inputs"],
        max_new_tokens=given.get("max_new_tokens"),
        stop=tuple(given.get("stop", ())),
        seed=given.get("seed"),
        truncate=given.get("truncate"),
        details=given.get("details", False),
        decoder_input_details=given.get("decoder_input_details", False),
        return_full_text=given.get("return_full_text"),
        top_n=given.get("top_n_tokens") or 0,
        best_of=given.get("best_of") or (1 if given.get("best_of") is None else 0),
        wanted=wanted_of(given.get("grammar"), body),
    )


def chat_types(value: dict[str, Any], body: bytes) -> None:
    """Types of a chat request."""
    if "messages" not in value:
        raise _schema("missing field `messages`", body)
    _types(value, _CHAT, body)
    for message in value["messages"]:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _schema("messages[0]: missing field `role`", body)


def completion_types(value: dict[str, Any], body: bytes) -> None:
    """Types of a completion request."""
    if "prompt" not in value:
        raise _schema("missing field `prompt`", body)
    prompt = value["prompt"]
    texts = prompt if isinstance(prompt, list) else [prompt]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _schema("prompt: Empty Vec detected. Cannot be empty", body)
    _types(value, _COMPLETION, body)


def wanted_of(grammar: object, body: bytes) -> str | None:
    """The text a grammar forces."""
    if grammar is None:
        return None
    if not isinstance(grammar, dict) or "type" not in grammar:
        raise _schema("grammar: missing field `type`", body)
    value = grammar.get("value")
    match grammar["type"]:
        case "json" | "json_object":
            return minimal_json(json.loads(value) if isinstance(value, str) else value)
        case "json_schema":
            schema = value if value is not None else grammar.get("json_schema")
            return minimal_json(schema.get("schema", schema) if isinstance(schema, dict) else None)
        case "regex":
            return None
        case other:
            names = "`json`, `regex`, `json_schema`"
            raise _schema(f"grammar: unknown variant `{other}`, expected one of {names}", body)


def check_parameters(given: dict[str, Any], job: Job, limits: Limits, *, stream: bool) -> None:
    """Ranges, in the order of validation.rs."""
    if job.best_of > 1 and given.get("seed") is not None:
        raise invalid("`seed` must not be set when `best_of` > 1")
    if job.best_of > 1 and stream:
        raise invalid("`best_of` != 1 is not supported when streaming tokens")
    if not 0 < job.best_of <= limits.max_best_of:
        raise invalid(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {job.best_of}")
    _positive(given, "temperature")
    _positive(given, "repetition_penalty")
    frequency = given.get("frequency_penalty")
    if frequency is not None and not -2.0 <= frequency <= 2.0:
        raise invalid("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        share = given.get(name)
        if share is not None and not 0.0 < share < 1.0:
            raise invalid(f"`{name}` must be > 0.0 and < 1.0")
    _positive(given, "top_k")
    if job.max_new_tokens == 0:
        raise invalid("`max_new_tokens` must be strictly positive")
    if len(job.stop) > limits.max_stop:
        raise invalid(f"`stop` supports up to {limits.max_stop} stop sequences. Given: {len(job.stop)}")
    if job.top_n > limits.max_top_n:
        raise invalid(f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n}. Given: {job.top_n}")
    if job.decoder_input_details and stream:
        raise invalid("`decoder_input_details` == true is not supported when streaming tokens")
    if not job.inputs:
        raise invalid("`inputs` cannot be empty")
    top = limits.max_total - 1
    if job.truncate is not None and not 0 < job.truncate <= top:
        raise invalid(f"`truncate` must be strictly positive and less than {top}. Given: {job.truncate}")


def check_length(job: Job, tokens: int, limits: Limits) -> int:
    """The number of tokens to generate, or a refusal of too long a prompt."""
    rest = limits.max_total - tokens
    wanted = rest if job.max_new_tokens is None else job.max_new_tokens
    clamped = min(max(0, wanted), _CHUNK)
    if tokens + clamped > limits.max_total and job.max_new_tokens is not None:
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total}. "
            f"Given: {tokens} `inputs` tokens and {clamped} `max_new_tokens`"
        )
    if tokens > limits.max_total - 1:
        raise invalid(f"`inputs` must have less than {limits.max_total - 1} tokens. Given: {tokens}")
    return min(wanted, rest)


def _positive(given: dict[str, Any], name: str) -> None:
    value = given.get(name)
    if value is not None and value <= 0:
        raise invalid(f"`{name}` must be strictly positive")


def _types(given: dict[str, Any], table: dict[str, tuple[str, bool]], body: bytes, prefix: str = "") -> None:
    for name, value in given.items():
        wanted, nullable = table.get(name, ("", True))
        if not wanted or (value is None and nullable):
            continue
        fits = isinstance(value, _PYTHON[wanted]) and (wanted == _BOOL or not isinstance(value, bool))
        if fits and wanted in _HIGHEST and not 0 <= value <= _HIGHEST[wanted]:
            raise _schema(f"{prefix}{name}: invalid value: integer `{value}`, expected {wanted}", body)
        if fits and name == "stop":
            for one in value:
                if not isinstance(one, str):
                    raise _schema(f"{prefix}{name}: invalid type: {_shown(one)}, expected a string", body)
        if not fits:
            raise _schema(f"{prefix}{name}: invalid type: {_shown(value)}, expected {wanted}", body)


def _schema(message: str, body: bytes) -> Refused:
    where = f"at line {body.count(10) + 1} column {len(body) - body.rfind(10) - 1}"
    return plain(422, f"Failed to deserialize the JSON body into the target type: {message} {where}")


def _shown(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case list():
            return "sequence"
    return "map"
