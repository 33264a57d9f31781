"""Our HTTP protocol on uvicorn's: refuses what it must and tells of disconnects at once.

Source of the rules: `reliability.md` section 11; RFC 9112 for the syntax. uvicorn is pinned to a minor
version: `tests/unit/test_protocol.py` names each private attribute that is used here.
"""

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from pointsman.client import ClientConnection
from pointsman.cycle import Cycle
from pointsman.errors import BAD_REQUEST, HEADERS_TOO_LARGE, URL_TOO_LONG
from pointsman.pace import Phase
from pointsman.plane import EXTENSION
from pointsman.refusal import (
    HEAD_BYTES_MAX,
    HEADER_BYTES_MAX,
    HEADERS_MAX,
    HOST,
    URL_BYTES_MAX,
    Refused,
    check_head,
)
from pointsman.upgrade import body_parser, framing

_FRAMING_MAX = 10  # bytes on the wire per byte of body: a client may send chunks of one byte
_WATCHED = frozenset((b"host", b"transfer-encoding", b"expect"))


class Pipelined(Exception):
    """Raised within the parser: a second message began while the first is being answered."""


class Protocol(ClientConnection):
    """uvicorn's httptools protocol with header limits, one Host, no trailers, no pipelining and our cycle."""

    _head_done = False
    _skips_body = False  # the parser takes the body for another protocol
    _begun = False  # a message has begun, and has not ended
    _hosts = _codings = 0  # headers of the current message
    _host = b""  # of this connection's last message, which was well formed
    _trailer_bytes = 0

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            if self._surplus:
                self._turn_away(data)
            return
        self._fed_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._fed_bytes > HEAD_BYTES_MAX + _FRAMING_MAX * self._body_bytes:
                raise Refused(HEADERS_TOO_LARGE, "head or trailers too large")
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            self._stop(error.__context__)
        except (httptools.HttpParserError, Refused) as error:
            self._stop(error)
        if self._begun and not self._deaf:
            phase = Phase.BODY if self._head_done else Phase.HEAD
            if self.pace.phase is not phase:
                self.pace.expect(phase)

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            raise Pipelined
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._begun = True
        self._head_done = False
        self._hosts = self._codings = self._trailer_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > URL_BYTES_MAX:
            raise Refused(URL_TOO_LONG, "URL too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:  # a trailer: uvicorn would put it among the headers
            self._trailer_bytes += len(name) + len(value) + 4
            if self._trailer_bytes > HEADER_BYTES_MAX:
                raise Refused(HEADERS_TOO_LARGE, "trailers too large")
            return
        name = name.lower()
        self.headers.append((name, value))
        if name in _WATCHED:
            self._heed(name, value)

    def on_headers_complete(self) -> None:
        self._head_done = True
        parser, headers = self.parser, self.headers
        version = parser.get_http_version()
        old = version != "1.1"
        large = len(headers) > HEADERS_MAX or self._fed_bytes > HEADER_BYTES_MAX
        if large or old or self._hosts != 1 or self._codings:  # not so for nearly all heads
            check_head(headers, self._fed_bytes, self._hosts, self._codings, version)
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
            if self.flow.read_paused:
                self.flow.resume_reading()  # else nobody would notice the client leave
        self._head_done = self._begun = False
        self._fed_bytes = self._body_bytes = 0
        self.pace.phase = Phase.BUSY

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.transport.is_closing():
            self._close()
        elif not (self._deaf or self.flow.write_paused):
            self.pace.idle()

    def _heed(self, name: bytes, value: bytes) -> None:
        """Look at a header that says how the message is to be read."""
        if name == b"host":
            self._hosts += 1
            if value != self._host:
                if not HOST.fullmatch(value):
                    raise Refused(BAD_REQUEST, "bad Host")
                self._host = value
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
        cycle.loop, cycle.linger = self.loop, self._linger
        scope["extensions"] = {EXTENSION: cycle}
        cycle.start(self.app, self.tasks)

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
