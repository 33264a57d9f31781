"""What a body and its answer are, as `/openapi.json` shows it: JSON schemas with examples."""

from collections.abc import Sequence
from typing import Any

import msgspec

Schema = dict[str, Any]


class Form(msgspec.Struct, frozen=True):
    """One form of a body and of its answer. `frames` is an example of a stream; empty: there is none."""

    title: str
    takes: dict[str, Schema]
    needs: tuple[str, ...]
    example: dict[str, Any]
    gives: Schema
    answer: Any
    frames: str = ""


def whole(low: int, high: int | None = None, usual: int | None = None) -> Schema:
    """A whole number within bounds; `usual` where none is given."""
    return _bounds("integer", low, high, usual)


def number(low: float, high: float | None = None, usual: float | None = None) -> Schema:
    """A number within bounds."""
    return _bounds("number", low, high, usual)


def _bounds(kind: str, low: float, high: float | None, usual: float | None) -> Schema:
    told = {"type": kind, "minimum": low, "maximum": high, "default": usual}
    return {name: value for name, value in told.items() if value is not None}


def record(**fields: Schema) -> Schema:
    """An object with these fields, and perhaps others."""
    return {"type": "object", "properties": fields}


def list_of(of: Schema) -> Schema:
    """A list, each entry of which is that."""
    return {"type": "array", "items": of}


def frames(*data: str) -> str:
    """A stream of events with these data."""
    return "".join([f"data: {frame}\n\n" for frame in data])


def described(form: Form, parameters: Sequence[Schema] = ()) -> dict[str, Any]:
    """What `/openapi.json` tells of a control route's body and answer, and of headers that it heeds."""
    answer = {"schema": form.gives, "example": form.answer}
    told: dict[str, Any] = {"responses": {"200": {"content": {"application/json": answer}}}}
    if form.takes:
        body = {"type": "object", "properties": form.takes, "required": list(form.needs)}
        content = {"application/json": {"schema": body, "example": form.example}}
        told["requestBody"] = {"required": True, "content": content}
    if parameters:
        told["parameters"] = list(parameters)
    return told


TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"oneOf": [TEXT, list_of(TEXT)]}
FLAG: Schema = {"type": "boolean", "default": False}
COUNT: Schema = {"type": "integer"}
MESSAGE = record(role=TEXT, content=TEXT)
ASK = [{"role": "user", "content": "Say hello."}]
ONCE = "Once upon a time"
