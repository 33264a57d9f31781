"""The HTTP server: uvicorn with our protocol, which refuses what it must and tells of disconnects at once.

Source of the rules: `reliability.md` section 11; RFC 9112 for the syntax. uvicorn is pinned to a minor
version: `tests/unit/test_server.py` names each private attribute that is used here.
"""

import asyncio
import gc
import re
import socket
from typing import Any
from typing import Protocol as Protocol_

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pointsman.cycle import Cycle
from pointsman.errors import BAD_REQUEST, HEADERS_TOO_LARGE, URL_TOO_LONG, ErrorKind
from pointsman.front import FrontConfig
from pointsman.plane import EXTENSION, request_id
from pointsman.sockets import listen, shown

HEADERS_MAX = 100
HEADER_BYTES_MAX = 32 * 1024
URL_BYTES_MAX = 8 * 1024
_HEAD_BYTES_MAX = HEADER_BYTES_MAX + URL_BYTES_MAX + 1024  # unparsed bytes before the headers are complete
_FRAMING_MAX = 10  # bytes on the wire per byte of body: a client may send chunks of one byte
_GC_THRESHOLDS = (20_000, 20, 50)  # a request's own objects go without the collector
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]{0,5})?")


class Refused(Exception):
    """Raised within the parser: the request is not taken."""

    def __init__(self, kind: ErrorKind, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


class Pipelined(Exception):
    """Raised within the parser: a second message began while the first is being answered."""


class Hook:
    """Lets the data plane hear of a disconnect without a task of its own, and cut a connection."""

    __slots__ = ("_protocol", "gone", "loop", "on_disconnect")

    def __init__(self, protocol: "Protocol") -> None:
        self._protocol = protocol
        self.loop: asyncio.AbstractEventLoop = protocol.loop
        self.gone = False
        self.on_disconnect: Any = None

    def abort(self) -> None:
        """Close the connection without ending the answer."""
        if not self.gone:
            self._protocol.cycle.disconnected = True  # else uvicorn logs that the answer was not ended
        self._protocol.transport.abort()


class Protocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with header limits, one Host, no trailers, no pipelining and a hook."""

    _hook: Hook | None = None
    _head_done = False
    _fed_bytes = 0  # of the current message, as they came
    _body_bytes = 0  # of them, body
    _deaf = False  # nothing more is read from this connection
    _skips_body = False  # the parser takes the body for another protocol

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.access_log = False  # one line per request is enough, and it is ours
        if self.client is None and transport.get_extra_info("socket").family != socket.AF_UNIX:
            self.client = ("", 0)  # gone already; None would mean a unix socket, which is trusted

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._fed_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._fed_bytes > _HEAD_BYTES_MAX + _FRAMING_MAX * self._body_bytes:
                raise Refused(HEADERS_TOO_LARGE, "head or trailers too large")
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            self._stop(error.__context__)
        except (httptools.HttpParserError, Refused) as error:
            self._stop(error)

    def on_message_begin(self) -> None:
        if self._answering:
            raise Pipelined
        super().on_message_begin()
        self._head_done = False
        self._header_bytes = 0
        self._hosts = 0
        self._codings = 0
        self._hook = Hook(self)
        extensions: dict[str, Any] = {EXTENSION: self._hook}
        self.scope["extensions"] = extensions

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            raise Refused(URL_TOO_LONG, "URL too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer: uvicorn would put it among the headers
        super().on_header(name, value)
        if len(name) == 17 and name.lower() == b"transfer-encoding":
            self._codings += 1
            if value.lower() != b"chunked":
                raise Refused(BAD_REQUEST, "a transfer coding other than chunked")
        self._header_bytes += len(name) + len(value) + 4
        if len(self.headers) > HEADERS_MAX or self._header_bytes > HEADER_BYTES_MAX:
            raise Refused(HEADERS_TOO_LARGE, "headers too large")
        if len(name) == 4 and name.lower() == b"host":
            self._hosts += 1
            if not _HOST.fullmatch(value):
                raise Refused(BAD_REQUEST, "bad Host")

    def on_headers_complete(self) -> None:
        self._head_done = True
        old = self.parser.get_http_version() == "1.0"
        if self._hosts != 1 and (self._hosts or not old):
            raise Refused(BAD_REQUEST, "a request needs exactly one Host")
        if self._codings > (0 if old else 1):
            raise Refused(BAD_REQUEST, "a transfer coding too many")
        super().on_headers_complete()
        self.cycle.__class__ = Cycle  # uvicorn names its class itself; nothing of it has run yet
        self._skips_body = self.parser.should_upgrade() and bool(_framing(self.headers))

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._skips_body:
            return
        super().on_message_complete()
        self._head_done = False
        self._fed_bytes = self._body_bytes = 0

    def eof_received(self) -> None:
        self._tell_gone()  # a half-closed client counts as gone, even while it still has to read

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_gone()
        super().connection_lost(exc)

    def _should_upgrade(self) -> bool:
        return False

    def _decline(self, rest: bytes) -> None:
        """Answer a request that asks for an upgrade as it stands, and read nothing beyond it.

        httptools takes all after the headers for the new protocol, also a body (Java's client asks for h2c
        with each POST), so that another parser has to read it.
        """
        self.cycle.keep_alive = False
        if not self._skips_body:
            self._deaf = True
            return
        self._skips_body = False
        self.parser = httptools.HttpRequestParser(_BodyOnly(self))
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + _framing(self.headers) + b"\r\n")
        if rest:
            self._fed_bytes = 0
            self.data_received(rest)

    def leave_off(self) -> None:
        """Read no more: the body is whole, and what follows is nobody's."""
        self.on_message_complete()
        self._deaf = True

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _tell_gone(self) -> None:
        hook = self._hook
        if hook is None or not self._answering:
            return
        self.cycle.disconnected = True  # before the app may end: uvicorn would take it for a bug of the app
        self.cycle.message_event.set()
        hook.gone = True
        if hook.on_disconnect is not None:
            hook.on_disconnect()

    def _stop(self, cause: BaseException | None) -> None:
        """Read no more from this connection: let a running answer end, or refuse at once."""
        self._deaf = True
        if self._answering and not self.cycle.more_body:
            # What follows a message that is being answered is not read: the client must ask again on a
            # new connection (RFC 9112 9.3.2), and this one closes when the answer is whole.
            self.cycle.keep_alive = False
            return
        if self._answering and self.cycle.response_started:
            self.transport.close()
            return
        if self._answering:  # its body turned out to be malformed: nobody is to answer it any more
            self._tell_gone()
        kind = cause.kind if isinstance(cause, Refused) else BAD_REQUEST
        self._refuse(kind, cause.why if isinstance(cause, Refused) else None)

    def _refuse(self, kind: ErrorKind, why: str | None) -> None:
        own_id = request_id(dict(self.headers or ()).get(b"x-request-id"))
        error = {
            "message": kind.message,
            "type": "invalid_request_error",
            "code": kind.code,
            "owner": kind.owner.value,
            "retryable": kind.retryable,
            "request_id": own_id,
        }
        body = msgspec.json.encode({"error": error, "detail": why or kind.message})
        head = (
            f"content-type: application/json\r\nconnection: close\r\nx-request-id: {own_id}\r\n"
            f"x-process-time: 0.000\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[kind.status] + head.encode("ascii") + body)
        self.transport.close()


class _BodyOnly:
    """Parser callbacks for a body whose headers another parser has read."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._whole = False

    def on_body(self, body: bytes) -> None:
        if not self._whole:
            self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        if not self._whole:
            self._whole = True
            self._protocol.leave_off()


def _framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The header lines that say how long a body is; empty without body."""
    lines = [
        name + b": " + value + b"\r\n"
        for name, value in headers
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
    ]
    return b"".join(lines)


class Served(Protocol_):
    """An app that wants to know where our protocol serves it."""

    addresses: list[str]


def config_for(app: Any, front: FrontConfig) -> uvicorn.Config:
    """uvicorn's configuration; also for other runners of our protocol."""
    return uvicorn.Config(
        app,
        http=Protocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(front.keep_alive_s),
        timeout_graceful_shutdown=int(front.drain_s),
    )


def serve(app: Served, front: FrontConfig) -> None:
    """Run until SIGTERM or SIGINT, then finish what runs.

    Raises:
        OSError: an address cannot be bound.
    """
    sockets = listen(front)
    gc.collect()
    gc.freeze()  # what the start made stays; only what requests make is looked through
    gc.set_threshold(*_GC_THRESHOLDS)
    app.addresses = [shown(one) for one in sockets]
    uvicorn.Server(config_for(app, front)).run(sockets=sockets)
