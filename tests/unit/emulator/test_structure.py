"""Minimal JSON for schemas."""

import json
from typing import Any

import jsonschema
import pytest

from emulator.structure import minimal_json

_SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 12}, "age": {"type": "integer"}},
    },
    {
        "type": "object",
        "properties": {"n": {"type": "number", "minimum": 3, "multipleOf": 2}},
        "required": ["n"],
    },
    {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2},
    {"anyOf": [{"type": "null"}, {"type": "string"}]},
    {
        "$ref": "#/$defs/point",
        "$defs": {"point": {"type": "object", "properties": {"x": {"const": 4}}, "required": ["x"]}},
    },
    {"allOf": [{"properties": {"a": {"type": "boolean"}}, "required": ["a"]}, {"required": ["b"]}]},
    {"type": "integer", "exclusiveMaximum": 0},
    {"type": ["string", "null"], "maxLength": 3},
]


@pytest.mark.parametrize("schema", _SCHEMAS)
def test_the_text_satisfies_its_schema(schema: dict[str, Any]) -> None:
    """A validator accepts it."""
    jsonschema.validate(json.loads(minimal_json(schema)), schema)


def test_no_schema_gives_an_object() -> None:
    """`json_object` without schema."""
    assert isinstance(json.loads(minimal_json(None)), dict)


def test_a_recursive_schema_ends() -> None:
    """It is cut at a depth instead of running for ever."""
    schema = {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
    }
    assert json.loads(minimal_json(schema))
