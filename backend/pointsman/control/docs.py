"""Shows the data plane's routes in `/openapi.json` and `/docs`, with schemas and examples.

The routes stand in FastAPI's table for the documentation and for its 404 and 405 answers; requests that
match them never get there.
"""

from typing import Any

from fastapi import FastAPI

from pointsman.call import Operation
from pointsman.errors import INTERNAL, RouterError
from pointsman.routes import Route, Routes

_MESSAGES = [{"role": "user", "content": "Say hello."}]
_EXAMPLES: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {"model": "gemma-3-12b", "messages": _MESSAGES, "max_tokens": 64, "stream": False},
    Operation.COMPLETION: {"model": "distilgpt2", "prompt": "Once upon a time", "max_tokens": 32},
    Operation.EMBEDDING: {"model": "my-embedder", "input": ["one text", "another"]},
    Operation.GENERATE: {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 32}},
    Operation.COMPAT: {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 32}, "stream": False},
    Operation.TOKENIZE: {"inputs": "Once upon a time"},
    Operation.CHAT_TOKENIZE: {"messages": _MESSAGES},
}
_GENERATE_FORMS = {
    "tgi": {"summary": "TGI", "value": _EXAMPLES[Operation.GENERATE]},
    "model_id": {
        "summary": "with model_id",
        "value": {"model_id": "distilgpt2", "prompt": "Once upon a time", "max_new_tokens": 32},
    },
    "prompt": {
        "summary": "prompt alone; the text includes it",
        "value": {"prompt": "Once upon a time", "max_length": 32},
    },
}
_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1}
_PROPERTIES: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {
        "model": _TEXT,
        "messages": {"type": "array", "items": {"type": "object"}},
        "stream": {"type": "boolean"},
        "max_tokens": _COUNT,
        "temperature": {"type": "number", "minimum": 0},
    },
    Operation.COMPLETION: {
        "model": _TEXT,
        "prompt": {"oneOf": [_TEXT, {"type": "array"}]},
        "stream": {"type": "boolean"},
        "max_tokens": _COUNT,
    },
    Operation.EMBEDDING: {"model": _TEXT, "input": {"oneOf": [_TEXT, {"type": "array"}]}},
    Operation.GENERATE: {"inputs": _TEXT, "parameters": {"type": "object"}},
    Operation.COMPAT: {"inputs": _TEXT, "parameters": {"type": "object"}, "stream": {"type": "boolean"}},
    Operation.TOKENIZE: {"inputs": _TEXT},
    Operation.CHAT_TOKENIZE: {"messages": {"type": "array", "items": {"type": "object"}}},
}
_REQUIRED = {Operation.CHAT: ["messages"], Operation.COMPLETION: ["prompt"], Operation.EMBEDDING: ["input"]}
_ERRORS = {
    400: "A field is wrong or not accepted",
    403: "Address or origin refused",
    404: "Unknown model; the known ones are named",
    413: "Body too large",
    415: "Not application/json",
    422: "A field is wrong (TGI's shape and those with `detail`)",
    502: "The engine failed",
    503: "No replica is up, or all are full; see Retry-After",
    504: "The engine was silent too long",
}


def install(app: FastAPI, routes: Routes) -> None:
    """Add every generation route to the app's table."""
    for route in routes.table:
        app.add_api_route(
            route.template,
            _unreached,
            methods=[route.method],
            tags=["generate"],
            summary=_summary(route),
            operation_id=f"{route.method.lower()} {route.template}",
            openapi_extra=_describe(route),
            responses={status: {"description": text} for status, text in _ERRORS.items()},
        )


async def _unreached() -> None:
    raise RouterError(INTERNAL)


def _summary(route: Route) -> str:
    what = route.operation.value.replace("_", " ") + (" (stream)" if route.stream else "")
    return f"{what} on one model" if "{model_id}" in route.template else what


def _describe(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if "{model_id}" in route.template:
        described["parameters"] = [{"name": "model_id", "in": "path", "required": True, "schema": _TEXT}]
    if route.operation is Operation.INFO:
        return described
    schema: dict[str, Any] = {"type": "object", "properties": _PROPERTIES[route.operation]}
    content: dict[str, Any] = {"schema": schema, "example": _EXAMPLES[route.operation]}
    if route.path == "/generate":
        content = {"schema": schema, "examples": _GENERATE_FORMS}
        schema["properties"] = {**schema["properties"], "model_id": _TEXT, "prompt": _TEXT}
    else:
        schema["required"] = _REQUIRED.get(
            route.operation, ["messages"] if route.operation is Operation.CHAT_TOKENIZE else ["inputs"]
        )
    described["requestBody"] = {"required": True, "content": {"application/json": content}}
    return described
