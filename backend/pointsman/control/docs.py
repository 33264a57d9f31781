"""Shows each route in `/openapi.json` and `/docs`, with schemas, examples and errors.

The data plane's routes stand in FastAPI's table for the documentation and for its 404 and 405 answers;
requests that match them never get there.
"""

from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Response
from fastapi.routing import APIRoute

from pointsman import errors
from pointsman.control.forms import FORMS, headers
from pointsman.control.forms.schema import Form
from pointsman.control.forms.told import EXAMPLES, METRICS
from pointsman.control.front import shape_of
from pointsman.errors import RouterError
from pointsman.guard_classes import CONTROL, OPEN_PATHS
from pointsman.keys import Need
from pointsman.routes import Route, Routes
from pointsman.surfaces.base import ErrorShape

_TEXT = {"type": "string"}
_KINDS = (
    *(errors.BAD_REQUEST, errors.MALFORMED_JSON),  # first: of equal statuses, the last is the example
    *(errors.INVALID_PARAMETER, errors.ADDRESS_FORBIDDEN, errors.MODEL_NOT_FOUND, errors.BODY_TOO_LARGE),
    *(errors.UNSUPPORTED_MEDIA_TYPE, errors.RATE_LIMITED, errors.ENGINE_FAILED, errors.NO_REPLICA),
    errors.FIRST_EVENT_TIMEOUT,
)
_MEASURED = ("/v1/generate", "/v1/chat")  # whose prompts have a greatest length, in characters
_ENGINES_OWN = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")  # TGI's 422 is passed on there
# Of the control plane's routes, beside what follows from their templates and bodies.
_CONTROL_KINDS = {
    "GET /ready": (errors.NO_REPLICA,),
    "GET /model-info": (errors.NO_REPLICA,),
    "GET /usage": (errors.KEY_MISSING, errors.STORE_AWAY),
    "POST /models/{model_id}/warm": (errors.BAD_REQUEST,),
    "GET /cache": (errors.KEY_MISSING,),
    "DELETE /cache": (errors.KEY_MISSING, errors.STORE_AWAY),
}
_OTHERS = {"description": "Any other error, in the same shape", "content": {}}


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
            response_class=Response,  # which says nothing of its own
            openapi_extra=_describe(route),
        )


def completed(routes: APIRouter) -> APIRouter:
    """The same routes of the control plane, each with its example, where it had none, and its errors."""
    for route in routes.routes:
        if isinstance(route, APIRoute):
            _complete(route)
    return routes


def _complete(route: APIRoute) -> None:
    told = dict(route.responses)
    if route.path_format in EXAMPLES and 200 not in told and "GET" in (route.methods or ()):
        told[200] = {"content": {"application/json": {"example": EXAMPLES[route.path_format]}}}
    if route.path == "/metrics":
        told[200] = {"content": {"text/plain": {"schema": _TEXT, "example": METRICS}}}
    for kind in _kinds_of(route):
        told.setdefault(str(kind.status), _told(shape_of(route.path), kind))
    told.setdefault("default", _OTHERS)  # in place of FastAPI's 422, which no route of ours answers
    route.responses = told


def _kinds_of(route: APIRoute) -> list[errors.ErrorKind]:
    method = next(iter(route.methods or ()), "")
    kinds = list(_CONTROL_KINDS.get(f"{method} {route.path}", ()))
    if route.path not in OPEN_PATHS:
        kinds.append(errors.ADDRESS_FORBIDDEN)
    if "admin" in route.tags or CONTROL.get(f"{method} {route.path_format}") is Need.IF_ANY:
        kinds.append(errors.KEY_MISSING)
    if "{model_id}" in route.path or "{name}" in route.path_format:
        kinds.append(errors.MODEL_NOT_FOUND)
    if "requestBody" in (route.openapi_extra or {}):
        kinds += [errors.INVALID_PARAMETER, errors.BODY_TOO_LARGE, errors.UNSUPPORTED_MEDIA_TYPE]
    return kinds


async def _unreached() -> Response:
    raise RouterError(errors.INTERNAL)


def _summary(route: Route) -> str:
    what = " or ".join([form.title for form in FORMS[route.path]])
    return f"{what}, of one model" if "{model_id}" in route.template else what


def _describe(route: Route) -> dict[str, Any]:
    forms = FORMS[route.path]
    answer = {**_answer(forms), "headers": headers.of_answer()}
    described: dict[str, Any] = {"responses": {"200": answer, **_errors(route)}}
    described["parameters"] = headers.parameters()
    if "{model_id}" in route.template:
        model = {"name": "model_id", "in": "path", "required": True, "schema": _TEXT}
        described["parameters"].insert(0, model)
    if route.method == "POST":
        asked = _content([_asked(form) for form in forms], {form.title: form.example for form in forms})
        described["requestBody"] = {"required": True, "content": {"application/json": asked}}
    return described


def _asked(form: Form) -> dict[str, Any]:
    return {"title": form.title, "type": "object", "properties": form.takes, "required": list(form.needs)}


def _answer(forms: tuple[Form, ...]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    whole = [form for form in forms if form.answer]
    if whole:
        schemas = [{"title": form.title, **form.gives} for form in whole]
        content["application/json"] = _content(schemas, {form.title: form.answer for form in whole})
    streams = {form.title: form.frames for form in forms if form.frames}
    if streams:
        content["text/event-stream"] = _content([_TEXT], streams)
    return {"description": "The answer; a stream where it is asked for", "content": content}


def _content(schemas: list[dict[str, Any]], examples: dict[str, Any]) -> dict[str, Any]:
    """One media type: several schemas are alternatives."""
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    if len(examples) == 1:
        return {"schema": schema, "example": next(iter(examples.values()))}
    return {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}


def _errors(route: Route) -> dict[str, Any]:
    """What can go wrong, in the words of the route's own API."""
    kinds = [*_KINDS]
    if len(FORMS[route.path]) > 1:
        kinds.append(errors.UNKNOWN_FORM)
    if route.need is not Need.NEVER:
        kinds.append(errors.KEY_MISSING)
    if route.path in _MEASURED:
        kinds.append(errors.PROMPT_TOO_LONG)
    told = {}
    for kind in kinds:
        status = route.shape.error(RouterError(kind), "")[0]
        told[str(status)] = _told(route.shape, kind)
    if route.path in _ENGINES_OWN:
        told["422"] = _told(route.shape, errors.ENGINE_REJECTED)
    return told


def _told(shape: ErrorShape, kind: errors.ErrorKind) -> dict[str, Any]:
    """An error in the words of an API."""
    retry_after_s = 1 if kind is errors.RATE_LIMITED else None
    _, body = shape.error(RouterError(kind, retry_after_s=retry_after_s), "1a2b3c")
    example = {"schema": {"type": "object"}, "example": msgspec.json.decode(body)}
    told = {"description": kind.message, "content": {"application/json": example}}
    lines = headers.of_error(kind.status)
    return {**told, "headers": lines} if lines else told
