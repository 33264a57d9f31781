"""Our HTTP protocol on uvicorn's: refuses what it must and tells of disconnects at once.

Source of the rules: `reliability.md` section 11; RFC 9112 for the syntax. uvicorn is pinned to a minor
version: `tests/unit/test_protocol.py` names each private attribute that is used here.
"""

import asyncio
import math
import re
import socket
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.cycle import Cycle
from pointsman.errors import BAD_REQUEST, HEADERS_TOO_LARGE, URL_TOO_LONG, ErrorKind
from pointsman.plane import EXTENSION, request_id
from pointsman.refusal import refusal
from pointsman.sockets import readable
from pointsman.upgrade import body_parser, framing

HEADERS_MAX = 100
HEADER_BYTES_MAX = 32 * 1024
URL_BYTES_MAX = 8 * 1024
_HEAD_BYTES_MAX = HEADER_BYTES_MAX + URL_BYTES_MAX + 1024  # unparsed bytes before the headers are complete
_LINGER_S = 2.0  # for a client that is still sending to read the answer
_FRESH_S = 2.0  # for who has just connected to ask, when the server ends
_FRAMING_MAX = 10  # bytes on the wire per byte of body: a client may send chunks of one byte
_WATCHED = frozenset((b"host", b"transfer-encoding", b"expect"))
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]*)(?::[0-9]{0,5})?")


class Refused(Exception):
    """Raised within the parser: the request is not taken."""

    def __init__(self, kind: ErrorKind, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


class Pipelined(Exception):
    """Raised within the parser: a second message began while the first is being answered."""


class Protocol(HttpToolsProtocol):
    """uvicorn's httptools protocol with header limits, one Host, no trailers, no pipelining and our cycle."""

    cycle: Cycle | None  # type: ignore[assignment] # uvicorn says it is always there
    _head_done = False
    _fed_bytes = 0  # of the current message, as they came
    _body_bytes = 0  # of them, body
    _deaf = False  # nothing more is read from this connection
    _skips_body = False  # the parser takes the body for another protocol
    _idle_since = math.inf  # loop's time of the last answer's end; infinite while a request is on its way
    _fresh_until = 0.0  # loop's time

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.access_log = False  # one line per request is enough, and it is ours
        self._fresh_until = self.loop.time() + _FRESH_S
        if self.client is None and transport.get_extra_info("socket").family != socket.AF_UNIX:
            self.client = ("", 0)  # gone already; None would mean a unix socket, which is trusted

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._idle_since = math.inf
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
        if self.cycle is not None and not self.cycle.response_complete:
            raise Pipelined
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_done = False
        self._hosts = 0
        self._codings = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > URL_BYTES_MAX:
            raise Refused(URL_TOO_LONG, "URL too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer: uvicorn would put it among the headers
        name = name.lower()
        self.headers.append((name, value))
        if name in _WATCHED:
            self._heed(name, value)

    def on_headers_complete(self) -> None:
        self._head_done = True
        parser, headers = self.parser, self.headers
        version = parser.get_http_version()
        old = version == "1.0"
        if len(headers) > HEADERS_MAX or (self._fed_bytes > HEADER_BYTES_MAX and _too_large(headers)):
            raise Refused(HEADERS_TOO_LARGE, "headers too large")
        if self._hosts != 1 and (self._hosts or not old):
            raise Refused(BAD_REQUEST, "a request needs exactly one Host")
        if self._codings > (0 if old else 1):
            raise Refused(BAD_REQUEST, "a transfer coding too many")
        self._skips_body = parser.should_upgrade() and bool(framing(headers))
        leaving = getattr(self.server_state, "leaving", False)  # under uvicorn's own server there is none
        keep_alive = not old and not leaving and parser.should_keep_alive()
        self._answer(self._scope(version), keep_alive=keep_alive)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        self._body_bytes += len(body)
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if self._skips_body or cycle is None:
            return
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
        self._head_done = False
        self._fed_bytes = self._body_bytes = 0

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._deaf:
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._await_next(self.timeout_keep_alive)

    def _linger(self) -> None:
        """Half-close, and drop what still comes of the body until the client has read the answer.

        Closing with bytes unread would reset the connection, and the answer may be lost with it: nginx, for
        one, then finds that it cannot write, and tells its client 502.
        """
        self._deaf = True
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def eof_received(self) -> None:
        self._tell_gone()  # a half-closed client counts as gone, even while it still has to read

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_gone()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def leave(self) -> None:
        """The server begins to end: an answer that has not begun is told to be this connection's last."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close if nothing is on its way; the server asks again and again while it ends.

        What has come already is answered, for to close with bytes unread would reset the connection; and who
        has just connected is about to ask.
        """
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        elif not (self._fed_bytes or self.transport.is_closing() or readable(self.transport)) and (
            cycle is not None or self.loop.time() >= self._fresh_until
        ):
            self.transport.close()

    def _heed(self, name: bytes, value: bytes) -> None:
        """Look at a header that says how the message is to be read."""
        if name == b"host":
            self._hosts += 1
            if not _HOST.fullmatch(value):
                raise Refused(BAD_REQUEST, "bad Host")
        elif name == b"transfer-encoding":
            self._codings += 1
            if value.lower() != b"chunked":
                raise Refused(BAD_REQUEST, "a transfer coding other than chunked")
        elif value.lower() == b"100-continue":
            self.expect_100_continue = True

    def _scope(self, version: str) -> dict[str, Any]:
        url = self.url
        path, query = url, b""
        if not url.startswith(b"/") or b"?" in url or b"#" in url:
            parsed = httptools.parse_url(url)
            path, query = parsed.path or b"", parsed.query or b""
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "method": self.parser.get_method().decode("ascii"),
            "path": self.root_path + (unquote(text) if "%" in text else text),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
        }

    def _answer(self, scope: dict[str, Any], *, keep_alive: bool) -> None:
        """Begin to answer; the body may follow."""
        self.scope = scope  # type: ignore[assignment] # a dict is what it is
        cycle = self.cycle = Cycle(
            scope=scope,  # type: ignore[arg-type]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.loop = self.loop
        cycle.linger = self._linger
        scope["extensions"] = {EXTENSION: cycle}
        task = self.loop.create_task(cycle.run_asgi(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _await_next(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._look_whether_idle)

    def _look_whether_idle(self) -> None:
        """Close the connection that was idle for long; one timer serves many requests."""
        self.timeout_keep_alive_task = None
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left == math.inf or self.transport.is_closing():
            return  # a request is on its way; the end of its answer sets the timer anew
        if left > 0:
            self._await_next(left)
        else:
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def _decline(self, rest: bytes) -> None:
        """Answer a request that asks for an upgrade as it stands, and read nothing beyond it.

        httptools takes all after the headers for the new protocol, also a body (Java's client asks for h2c
        with each POST), so that another parser has to read it.
        """
        if self.cycle is not None:
            self.cycle.keep_alive = False
        if not self._skips_body:
            self._deaf = True
            return
        self._skips_body = False
        self.parser = body_parser(self, self.headers)
        if rest:
            self._fed_bytes = 0
            self.data_received(rest)

    def leave_off(self) -> None:
        """Read no more: the body is whole, and what follows is nobody's."""
        self.on_message_complete()
        self._deaf = True

    def _tell_gone(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.gone()

    def _stop(self, cause: BaseException | None) -> None:
        """Read no more from this connection: let a running answer end, or refuse at once."""
        self._deaf = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                # What follows a message that is being answered is not read: the client must ask again on a
                # new connection (RFC 9112 9.3.2), and this one closes when the answer is whole.
                cycle.keep_alive = False
                return
            if cycle.response_started:
                self.transport.close()
                return
            cycle.gone()  # its body turned out to be malformed: nobody is to answer it any more
        kind = cause.kind if isinstance(cause, Refused) else BAD_REQUEST
        self._refuse(kind, cause.why if isinstance(cause, Refused) else None)

    def _refuse(self, kind: ErrorKind, why: str | None) -> None:
        own_id = request_id(dict(self.headers or ()).get(b"x-request-id"))
        self.transport.write(refusal(kind, why, own_id))
        self.transport.close()


def _too_large(headers: list[tuple[bytes, bytes]]) -> bool:
    return sum(len(name) + len(value) + 4 for name, value in headers) > HEADER_BYTES_MAX
