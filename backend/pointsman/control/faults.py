"""Errors of the control plane's routes, in the shapes that callers of their paths expect."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pointsman.control.front import shape_of
from pointsman.errors import (
    INTERNAL,
    INVALID_PARAMETER,
    METHOD_NOT_ALLOWED,
    OWN_TIMEOUT,
    ROUTE_NOT_FOUND,
    RouterError,
)

_KINDS = {404: ROUTE_NOT_FOUND, 405: METHOD_NOT_ALLOWED}


def install(app: FastAPI) -> None:
    """Have every failure of a route answered as JSON with the request id."""

    async def on_router_error(request: Request, error: Any) -> Response:
        return _answer(request, error)

    async def on_http(request: Request, error: Any) -> Response:
        answer = _answer(request, RouterError(_KINDS.get(error.status_code, INVALID_PARAMETER)))
        if error.headers and "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer

    async def on_validation(request: Request, error: Any) -> Response:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        return _answer(request, RouterError(INVALID_PARAMETER, f"`{where}` has a bad value.", param=where))

    async def on_bug(request: Request, error: Any) -> Response:
        return _answer(request, RouterError(INTERNAL))  # Starlette logs the traceback after it

    app.router.redirect_slashes = False  # another path is another route, so 404
    app.add_exception_handler(RouterError, on_router_error)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_bug)


def _answer(request: Request, error: RouterError) -> Response:
    status, body = shape_of(request.scope["path"]).error(error, request.state.request_id)
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.kind is OWN_TIMEOUT:  # its body has not come, and is waited for no longer
        headers["connection"] = "close"
    return Response(body, status, headers, media_type="application/json")
