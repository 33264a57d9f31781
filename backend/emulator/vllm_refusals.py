"""vLLM's refusals: the error they become, and reading a body. Wording recorded from 0.32."""

import json
from typing import Any

# What transformers says within vLLM, from 0.6 on (vllm-project/vllm issues 7978 and 39279).
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
    "template if the tokenizer does not define one."
)


class Refused(Exception):
    """An answer other than 200 with vLLM's error body."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        """`kind` is the body's `type`."""
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param


def bad(message: str, param: str | None = None, value: object = None) -> Refused:
    """A semantic refusal; vLLM adds the parameter and its value to the message."""
    if param is not None:
        shown = "" if value is None else f", value={value}"
        message = f"{message} (parameter={param}{shown})"
    return Refused(400, "BadRequestError", message, param)


def invalid(place: str, kind: str, message: str, given: object, **context: object) -> Refused:
    """A validation error in pydantic's words; `place` like `body.messages`."""
    entry: dict[str, object] = {"type": kind, "loc": place, "msg": message, "input": _shown(given)}
    if context:
        entry["ctx"] = context
    return Refused(400, "Bad Request", f"1 validation error:\n  {entry}", place)


def _shown(given: object) -> str:
    match given:
        case dict():
            return f"<dict of {len(given)} items>"
        case list():
            return f"<list of {len(given)} items>"
    return str(given)


def parse(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The body's JSON object."""
    media = (content_type or "").partition(";")[0].strip().lower()
    if media != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refused(400, "Bad Request", message)
    if not body:
        raise invalid("body", "missing", "Field required", None)
    try:
        value = json.loads(body.decode())
    except UnicodeDecodeError:
        raise Refused(400, "", "There was an error parsing the body") from None
    except json.JSONDecodeError as error:
        place = f"body.{error.pos}"
        raise invalid(place, "json_invalid", "JSON decode error", {}, error=error.msg) from None
    except RecursionError:
        raise Refused(400, "", "There was an error parsing the body") from None
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise invalid("body", "model_attributes_type", message, value)
    return value
