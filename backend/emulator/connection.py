"""One HTTP/1.1 connection: parsing with httptools, one request at a time, disconnects noticed at once."""

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import httptools

from emulator.message import Request

_PIPELINE = 32  # requests read ahead; reading pauses above


class Owner(Protocol):
    """What a connection needs of its server."""

    keep_alive_s: float | None
    body_limit: int
    malformed: bytes  # the whole answer to bytes that are no HTTP

    def opened(self, connection: "Connection") -> bool:
        """A new connection; false resets it."""

    def closed(self, connection: "Connection") -> None:
        """It is gone."""

    def rested(self) -> None:
        """A connection has answered what it was asked."""

    @property
    def closing(self) -> bool:
        """No further request on idle connections."""


Serve = Callable[[Request, "Connection"], Awaitable[bool]]


class Connection(asyncio.Protocol):
    """Calls `serve(request, connection)` for each request; it returns whether to keep the connection.

    `gone_at` is the loop time at which the peer was seen to have left, `None` before.
    """

    def __init__(self, owner: Owner, serve: Serve) -> None:
        """One per accepted socket."""
        self._owner = owner
        self._serve = serve
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[bool] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._count = 0
        self.number = 0
        self.gone_at: float | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type of asyncio's own callback
        self._transport = transport
        if not self._owner.opened(self):
            self.reset()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # neither engine upgrades: the request was answered as usual, the next one follows it
            self._parser = httptools.HttpRequestParser(self)
            rest = data[upgrade.args[0] :]
            if rest:
                self.data_received(rest)
        except httptools.HttpParserError:
            if self._task is None:
                self.write(self._owner.malformed)
            self.close()

    def eof_received(self) -> bool | None:
        """A half-closed peer counts as gone, as in hyper and uvicorn."""
        self._leave()
        return None

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        self._leave()
        if self._idle is not None:
            self._idle.cancel()
        self.resume_writing()
        self._owner.closed(self)

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A new request."""
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line."""
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """The body follows."""
        if any(key.lower() == "expect" and "100-continue" in value.lower() for key, value in self._headers):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """A part of the body; what is beyond the limit is read and thrown away."""
        self._size += len(data)
        if self._size <= self._owner.body_limit:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        target = self._target.decode("latin-1")
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            target=target,
            path=target.partition("?")[0],
            headers=tuple(self._headers),
            body=b"".join(self._body),
            version=self._parser.get_http_version(),
            keep_alive=self._parser.should_keep_alive(),
            reused=self._count > 0,
            oversized=self._size > self._owner.body_limit,
            arrived_at=asyncio.get_running_loop().time(),
        )
        self._count += 1
        self._queue.append(request)
        if len(self._queue) > _PIPELINE and self._transport is not None:
            self._transport.pause_reading()
        self._next()

    # for the answer

    def write(self, data: bytes) -> None:
        """Queue bytes; nothing happens when the peer has left."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self) -> None:
        """Wait while the peer reads slowly."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    def reset(self) -> None:
        """Close with RST."""
        if self._transport is None:
            return
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close(self) -> None:
        """Close after what was written."""
        if self._transport is not None:
            self._transport.close()

    @property
    def busy(self) -> bool:
        """A request is being answered or waits for it."""
        return self._task is not None or bool(self._queue)

    # turns

    def _next(self) -> None:
        if self._task is not None or not self._queue or self.gone_at is not None:
            return
        request = self._queue.popleft()
        if self._transport is not None and len(self._queue) == _PIPELINE:
            self._transport.resume_reading()
        self._task = asyncio.get_running_loop().create_task(self._answer(request))
        self._task.add_done_callback(self._answered)

    async def _answer(self, request: Request) -> bool:
        return await self._serve(request, self)

    def _answered(self, task: asyncio.Task[bool]) -> None:
        self._task = None
        self._owner.rested()
        if task.cancelled():
            self.close()
            return
        error = task.exception()
        if error is not None:
            print(f"emulator: a bug: {error!r}", file=sys.stderr, flush=True)
            self.reset()
            return
        if not task.result() or (self._owner.closing and not self._queue):
            self.close()
            return
        self._next()
        if self._task is None and self.gone_at is None and self._owner.keep_alive_s is not None:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self._owner.keep_alive_s, self.close)

    def _leave(self) -> None:
        if self.gone_at is None:
            self.gone_at = asyncio.get_running_loop().time()
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()
