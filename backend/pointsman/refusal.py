"""What the front refuses by itself, before any route is known, and how it says so.

Source of the limits: `reliability.md` section 11; of the grammar: RFC 9110 section 7.2.
"""

import re

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from pointsman import browser
from pointsman.errors import BAD_REQUEST, HEADERS_TOO_LARGE, ErrorKind, RouterError
from pointsman.plane import request_id
from pointsman.surfaces.base import error_object

HEADERS_MAX = 100
HEADER_BYTES_MAX = 32 * 1024
URL_BYTES_MAX = 8 * 1024
HEAD_BYTES_MAX = HEADER_BYTES_MAX + URL_BYTES_MAX + 1024  # unparsed bytes before the headers are complete
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]{0,5})?")  # a name or an address
Headers = list[tuple[bytes, bytes]]


class Refused(Exception):
    """The request is not taken; also raised within the parser."""

    def __init__(self, kind: ErrorKind, why: str, retry_after_s: int | None = None) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why
        self.retry_after_s = retry_after_s


MALFORMED = Refused(BAD_REQUEST, BAD_REQUEST.message)


def check_head(headers: Headers, fed_bytes: int, hosts: int, codings: int, version: str) -> None:
    """Refuse a head that is too large, or can be understood in two ways.

    Args:
        fed_bytes: what came of the message so far, which is at least what its headers hold.
        hosts: how many Host headers there are.
        codings: how many Transfer-Encoding headers there are.
        version: of HTTP; llhttp takes 0.9 and 2.0 too.
    """
    if version not in ("1.0", "1.1"):
        raise Refused(BAD_REQUEST, "HTTP/1.1 is spoken here")
    old = version == "1.0"
    if len(headers) > HEADERS_MAX or (fed_bytes > HEADER_BYTES_MAX and _too_large(headers)):
        raise Refused(HEADERS_TOO_LARGE, "headers too large")
    if hosts != 1 and (hosts or not old):
        raise Refused(BAD_REQUEST, "a request needs exactly one Host")
    if codings > (0 if old else 1):
        raise Refused(BAD_REQUEST, "a transfer coding too many")


def refusal(refused: Refused, headers: Headers) -> bytes:
    """The whole answer, in a shape that the clients of every API can read; it ends the connection.

    Args:
        headers: those of the request that have come.
    """
    kind = refused.kind
    own_id = request_id(dict(headers).get(b"x-request-id"))
    told = error_object(RouterError(kind), own_id)
    error = {"message": kind.message, "type": "invalid_request_error", **told}
    body = msgspec.json.encode({"error": error, "detail": refused.why})
    head = (
        f"content-type: application/json\r\nconnection: close\r\nx-request-id: {own_id}\r\n"
        f"x-process-time: 0.000\r\ncontent-length: {len(body)}\r\n"
    )
    if refused.retry_after_s is not None:
        head += f"retry-after: {refused.retry_after_s}\r\n"
    return STATUS_LINE[kind.status] + browser.ERROR_LINES + head.encode("ascii") + b"\r\n" + body


def _too_large(headers: Headers) -> bool:
    return sum(len(name) + len(value) + 4 for name, value in headers) > HEADER_BYTES_MAX
