"""Make the schemas under data/ from what the engines' projects publish.

    $(scripts/vllm-cpu path) tests/contract/trim.py vllm
    python tests/contract/trim.py tgi OPENAPI_JSON

vLLM's own openapi.json leaves its answers out, so they come from the models of its package. TGI's come from
`docs/openapi.json` of its repository (OpenAPI 3.0), of which only what answers need is kept.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
DEFS = "#/$defs/"

# Name here: module under vllm.entrypoints, class, and whether all fields are sent, nulls included. Chunks
# leave out what is not set.
VLLM = {
    "ChatCompletion": ("openai.chat_completion.protocol", "ChatCompletionResponse", True),
    "ChatCompletionChunk": ("openai.chat_completion.protocol", "ChatCompletionStreamResponse", False),
    "Completion": ("openai.completion.protocol", "CompletionResponse", True),
    "CompletionChunk": ("openai.completion.protocol", "CompletionStreamResponse", False),
    "Error": ("serve.engine.protocol", "ErrorResponse", True),
    "Models": ("serve.engine.protocol", "ModelList", True),
    "Tokens": ("serve.tokenize.protocol", "TokenizeResponse", True),
    "Text": ("serve.tokenize.protocol", "DetokenizeResponse", True),
}
TGI = (
    "GenerateResponse",
    "StreamResponse",
    "ErrorResponse",
    "Info",
    "ModelInfo",
    "TokenizeResponse",
    "ChatTokenizeResponse",
    "ChatCompletion",
    "ChatCompletionChunk",
    "CompletionFinal",
    "Chunk",
)


def plain(node: Any) -> Any:
    """The schema without prose, with JSON Schema's way to say null and `$defs` for references."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    prose = {
        "description",
        "example",
        "title",
        "deprecated",
        "nullable",
        "format",
        "default",
        "discriminator",
    }
    kept: dict[str, Any] = {
        key: {name: plain(inner) for name, inner in value.items()} if key == "properties" else plain(value)
        for key, value in node.items()
        if key not in prose
    }
    if "$ref" in kept:
        kept["$ref"] = DEFS + kept["$ref"].rpartition("/")[2]
    if node.get("nullable"):
        return {"anyOf": [kept, {"type": "null"}]}
    return kept


def references(node: Any) -> set[str]:
    """Names of all schemas that this one refers to."""
    if isinstance(node, list):
        return {name for item in node for name in references(item)}
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].removeprefix(DEFS)} if "$ref" in node else set()
    return own.union(*(references(value) for value in node.values()))


def closure(schemas: dict[str, Any], roots: tuple[str, ...]) -> dict[str, Any]:
    """The roots and all they need, in order of name."""
    wanted, todo = set[str](), list(roots)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo.extend(references(schemas[name]))
    return {name: schemas[name] for name in sorted(wanted)}


def require_all(schema: dict[str, Any]) -> None:
    """Make every property required; `tool_calls` is the one that vLLM leaves out of a message when empty."""
    names = [name for name in schema.get("properties", {}) if name != "tool_calls"]
    if names:
        schema["required"] = names


def vllm() -> dict[str, Any]:
    """Schemas of the answers, from the installed package."""
    schemas: dict[str, Any] = {}
    for name, (module, cls, whole) in VLLM.items():
        model = getattr(importlib.import_module(f"vllm.entrypoints.{module}"), cls)
        schema = model.model_json_schema(mode="serialization")
        # A class may be whole in one answer and not in another, so each root keeps its own definitions.
        inner = {f"{name}.{key}": value for key, value in schema.pop("$defs", {}).items()}
        text = json.dumps({name: schema} | inner).replace(f'"{DEFS}', f'"{DEFS}{name}.')
        own = json.loads(text)
        if whole:
            for definition in own.values():
                require_all(definition)
        schemas |= own
    return closure({name: plain(schema) for name, schema in schemas.items()}, tuple(VLLM))


def tgi(openapi: Path) -> dict[str, Any]:
    """Schemas of the answers, from the published description."""
    schemas = json.loads(openapi.read_text())["components"]["schemas"]
    return closure({name: plain(schema) for name, schema in schemas.items()}, TGI)


def main(arguments: list[str]) -> None:
    """Write one of the two files."""
    match arguments:
        case ["vllm"]:
            name, found = "vllm-schemas.json", vllm()
        case ["tgi", openapi]:
            name, found = "tgi-schemas.json", tgi(Path(openapi))
        case _:
            raise SystemExit((__doc__ or "").strip())
    (DATA / name).write_text(json.dumps({"$defs": found}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
