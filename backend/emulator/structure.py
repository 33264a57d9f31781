"""The smallest JSON text that satisfies a JSON schema: what constrained decoding would be allowed to say."""

import json
from typing import Any

_DEPTH = 12  # deeper schemas (recursive `$ref`) get null


def minimal_json(schema: object) -> str:
    """JSON text for `schema`; a schema that is no object is met by `{"emulated":true}`."""
    if not isinstance(schema, dict) or not schema:
        return '{"emulated":true}'
    return json.dumps(_value(schema, schema, 0), ensure_ascii=False, separators=(",", ":"))


def _value(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if depth > _DEPTH or not isinstance(schema, dict):
        return None
    if "$ref" in schema:
        return _value(_lookup(str(schema["$ref"]), root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            return _value(schema[word][0], root, depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged = _merge(merged, _lookup(part["$ref"], root) if "$ref" in part else part)
        return _value(merged, root, depth + 1)
    return _typed(schema, root, depth)


def _typed(schema: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        known = schema.get("properties", {})
        names = schema.get("required", list(known))
        return {name: _value(known.get(name, {"type": "string"}), root, depth + 1) for name in names}
    if kind == "array":
        item = schema.get("items", {"type": "string"})
        return [_value(item, root, depth + 1) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        return _number(schema, kind)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    text = "emulated".ljust(int(schema.get("minLength", 0)), "x")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _number(schema: dict[str, Any], kind: str) -> float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + step
    high = schema.get("maximum")
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - step
    value = 0 if low is None or low <= 0 else -(-low // step) * step
    if high is not None and value > high:
        value = high // step * step
    return int(value) if kind == "integer" else value


def _lookup(reference: str, root: dict[str, Any]) -> Any:
    place: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            place = place.get(step) if isinstance(place, dict) else None
    return place


def _merge(left: dict[str, Any], right: Any) -> dict[str, Any]:
    if not isinstance(right, dict):
        return left
    merged = left | right
    merged["properties"] = left.get("properties", {}) | right.get("properties", {})
    merged["required"] = [*left.get("required", []), *right.get("required", [])]
    return merged
