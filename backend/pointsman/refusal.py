"""The answer to what is no request: written by the server itself, for no surface was reached."""

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pointsman import browser
from pointsman.errors import ErrorKind, RouterError
from pointsman.surfaces.base import error_object


def refusal(kind: ErrorKind, why: str | None, request_id: str) -> bytes:
    """An answer as it goes over the wire; the connection ends with it.

    Args:
        why: what is wrong, more precisely than the kind says.
    """
    told = error_object(RouterError(kind), request_id)
    error = {"message": kind.message, "type": "invalid_request_error", **told}
    body = msgspec.json.encode({"error": error, "detail": why or kind.message})
    head = (
        f"content-type: application/json\r\nconnection: close\r\nx-request-id: {request_id}\r\n"
        f"x-process-time: 0.000\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return STATUS_LINE[kind.status] + browser.ERROR_LINES + head.encode("ascii") + body
