"""Shows the data plane's routes in `/openapi.json` and `/docs`, with schemas and examples.

The routes stand in FastAPI's table for the documentation and for its 404 and 405 answers; requests that
match them never get there.
"""

from typing import Any

import msgspec
from fastapi import FastAPI, Response

from pointsman import errors
from pointsman.control.forms import FORMS
from pointsman.control.forms.schema import Form
from pointsman.errors import RouterError
from pointsman.keys import Need
from pointsman.routes import Route, Routes

_TEXT = {"type": "string"}
_KINDS = (
    *(errors.INVALID_PARAMETER, errors.ADDRESS_FORBIDDEN, errors.MODEL_NOT_FOUND, errors.BODY_TOO_LARGE),
    *(errors.UNSUPPORTED_MEDIA_TYPE, errors.ENGINE_FAILED, errors.NO_REPLICA, errors.FIRST_EVENT_TIMEOUT),
)

_KEY_KINDS = (errors.KEY_MISSING, errors.RATE_LIMITED)


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


async def _unreached() -> Response:
    raise RouterError(errors.INTERNAL)


def _summary(route: Route) -> str:
    what = " or ".join([form.title for form in FORMS[route.path]])
    return f"{what}, of one model" if "{model_id}" in route.template else what


def _describe(route: Route) -> dict[str, Any]:
    forms = FORMS[route.path]
    described: dict[str, Any] = {"responses": {"200": _answer(forms), **_errors(route)}}
    if "{model_id}" in route.template:
        described["parameters"] = [{"name": "model_id", "in": "path", "required": True, "schema": _TEXT}]
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
    told = {}
    several = [errors.UNKNOWN_FORM] if len(FORMS[route.path]) > 1 else []
    for kind in (*_KINDS, *several, *(_KEY_KINDS if route.need is not Need.NEVER else ())):
        status, body = route.shape.error(RouterError(kind), "1a2b3c")
        example = {"schema": {"type": "object"}, "example": msgspec.json.decode(body)}
        told[str(status)] = {"description": kind.message, "content": {"application/json": example}}
    return told
