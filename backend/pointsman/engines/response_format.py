"""`response_format`: each engine is told the wanted shape in its own way.

OpenAI and vLLM: `{"type":"json_schema","json_schema":{"name":…,"schema":…}}`, `json_object`, `text`.
TGI: a grammar, `{"type":"json","value":<schema>}` (tgi.md 3.1). huggingface_hub writes TGI's form with
`json_object` for its type; vLLM takes that and ignores the schema (clients.md 3).
"""

import msgspec

from pointsman.call import Fields
from pointsman.engines.base import join

_ANY_OBJECT = msgspec.Raw(b'{"type":"object"}')


def for_tgi(given: msgspec.Raw) -> msgspec.Raw | None:
    """Say it as a grammar; None: leave it out. What is not understood stays, for the engine to name."""
    told = _read(given)
    kind = bytes(told.get("type", b""))
    if kind == b'"text"':
        return None
    if kind == b'"json_schema"' and "json_schema" in told:
        schema = _read(told["json_schema"]).get("schema")
        return given if schema is None else _grammar(schema)
    if kind == b'"json_object"' and "value" not in told:
        return _grammar(_ANY_OBJECT)
    return given


def for_vllm(given: msgspec.Raw) -> msgspec.Raw:
    """Say a grammar of JSON as a schema, so that it is obeyed."""
    told = _read(given)
    if bytes(told.get("type", b"")) not in (b'"json_object"', b'"json"') or "value" not in told:
        return given
    schema = msgspec.Raw(join({"name": msgspec.Raw(b'"answer"'), "schema": told["value"]}))
    return msgspec.Raw(join({"type": msgspec.Raw(b'"json_schema"'), "json_schema": schema}))


def _grammar(schema: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(join({"type": msgspec.Raw(b'"json"'), "value": schema}))


def _read(raw: msgspec.Raw) -> Fields:
    try:
        return msgspec.json.decode(raw, type=Fields)
    except msgspec.DecodeError:
        return {}
