"""One HTTP/1.1 connection to an engine: writes a request, reads the answer as it comes.

Our own protocol on httptools because the data path needs what general clients hide: whether the connection
was used before, whether a byte came, back-pressure, and a close that is a close.
"""

import asyncio
import socket
import ssl
from typing import cast

import httptools
import msgspec

HIGH_WATER_BYTES = 16 * 1024  # unread answer bytes above which reading pauses
_PIECES_MAX = 16  # of a body that wait to be read
KERNEL_BYTES = 24 * 1024  # of an answer; Linux takes twice that
HEAD_MAX_BYTES = 32 * 1024


class Broken(Exception):
    """The connection ended or spoke nonsense before the answer was whole.

    Args:
        junk: it was nonsense rather than an end.
        silent: no byte of an answer had come.
        reused: the connection had served an answer before.
        unheard: the other side never read the request.
    """

    def __init__(
        self,
        what: str,
        *,
        junk: bool = False,
        silent: bool = False,
        reused: bool = False,
        unheard: bool = False,
    ) -> None:
        super().__init__(what)
        self.unheard = unheard
        self.junk = junk
        self.silent = silent
        self.reused = reused


class Head(msgspec.Struct, frozen=True):
    """Status and headers of an answer; names in lower case, the last of equal names wins."""

    status: int
    headers: dict[bytes, bytes]


class Connection(asyncio.Protocol):
    """Serves one request at a time. Not safe for two readers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []  # of the body, not read yet
        self.on_body = self._chunks.append  # the parser's callback; called for each event of a stream
        self._parser = httptools.HttpResponseParser(self)
        self._head: Head | None = None
        self._headers: dict[bytes, bytes] = {}
        self._unread = 0  # bytes, framing included
        self._paused = False
        self._ended = True  # no answer is being read
        self._error: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._head_bytes = 0
        self._fed_bytes = 0
        self._until_close = False
        self._keep_alive = False
        self._got_byte = False
        self.served = 0  # whole answers read
        self.idle_since = 0.0  # monotonic seconds; set by the pool
        self.closed = False

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        one = transport.get_extra_info("socket")
        if one is not None:  # else the kernel takes megabytes of an answer that its client does not read
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._ended:  # nothing was asked: whatever this is, it is no answer
            self.close()
            return
        self._got_byte = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Broken("no HTTP answer", junk=True))
            return
        if len(self._chunks) > _PIECES_MAX:  # an object for each event takes more than its bytes
            self._chunks[:] = (b"".join(self._chunks),)
        self._unread += len(data)
        if self._head is None:  # a header line without end is seen by no callback
            self._fed_bytes += len(data)
            if self._fed_bytes > 2 * HEAD_MAX_BYTES:
                self._fail(Broken("headers too large", junk=True))
                return
        full = self._unread > HIGH_WATER_BYTES and self._head is not None  # a head is read to its end
        if full and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        return False  # close: engines never half-close

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._ended:
            return
        if self._until_close and exc is None:
            self._ended = True
        elif self._error is None and isinstance(exc, ssl.SSLError) and not self._got_byte:
            self._error = Broken("TLS refused", unheard=True)  # by an alert, which TLS 1.3 sends that late
        elif self._error is None:
            self._error = Broken("connection closed", silent=not self._got_byte, reused=self.served > 0)
        self._wake()

    # --- httptools callbacks; what they raise comes out of feed_data as HttpParserCallbackError

    def on_message_begin(self) -> None:
        if self._head is not None:
            raise Broken("bytes after the answer", junk=True)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            return  # a trailer
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_MAX_BYTES:
            raise Broken("headers too large", junk=True)
        name = name.lower()
        if name == b"content-length" and name in self._headers:
            raise Broken("two content-lengths", junk=True)
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers = {}
            return  # an interim answer; 101 was not asked for and leaves nothing to read
        headers = self._headers
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise Broken("content-length with transfer-encoding", junk=True)
        self._until_close = (
            b"content-length" not in headers
            and b"transfer-encoding" not in headers
            and status not in (204, 304)
        )
        self._head = Head(status, headers)

    def on_message_complete(self) -> None:
        if self._head is None:
            return  # of an interim answer
        self._keep_alive = self._parser.should_keep_alive()  # meaningful only within this callback
        self._ended = True
        self.served += 1

    # --- for the pool and the forwarder

    def send(self, head: bytes, body: bytes) -> None:
        """Write a request. The answer is then read with `head()` and `read()`.

        Raises:
            Broken: the connection had closed meanwhile.
        """
        transport = self._transport
        if self.closed or transport is None or transport.is_closing():
            raise Broken("closed while idle", silent=True, reused=self.served > 0)
        self._head = None
        self._headers = {}
        self._head_bytes = 0
        self._fed_bytes = 0
        self._got_byte = False
        self._until_close = False
        self._ended = False
        if len(body) <= HIGH_WATER_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def head(self) -> Head:
        """Wait for status and headers.

        Raises:
            Broken: the connection ended, or what came is no HTTP answer.
        """
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._head

    async def read(self) -> bytes:
        """Wait for the next bytes of the body; empty at its end.

        Raises:
            Broken: the body was cut short.
        """
        while not self._chunks:
            if self._ended:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._unread = 0
        if self._paused and self._transport is not None and not self.closed:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def reusable(self) -> bool:
        """Whether the answer was read whole and the engine keeps the connection open."""
        if not self._ended or self.closed or self._until_close or self._chunks or self._head is None:
            return False
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        return self._keep_alive

    @property
    def ended(self) -> bool:
        """Whether nothing of an answer is to come, or to be read, any more."""
        return self._ended and not self._chunks

    @property
    def open(self) -> bool:
        return not self.closed and self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close at once; the engine stops generating when it sees that."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: Broken) -> None:
        self._error = error
        self.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
