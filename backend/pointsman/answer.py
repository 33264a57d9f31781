"""The client's side of an exchange over ASGI: whole answers, streams, errors, each with our headers.

Unopened: nothing sent. Opened: status, headers and comments of a stream. Committed: content was sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol

from pointsman import attempt, browser, sse
from pointsman.attempt import SLOW_CLIENT, AttemptFailed
from pointsman.call import Call
from pointsman.errors import ClientGone, ErrorKind, RouterError
from pointsman.exchange import Exchange
from pointsman.forward import client_error
from pointsman.surfaces.base import ErrorShape, Surface

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = b"content-type: application/json\r\n" + browser.LINES
_ERROR = b"content-type: application/json\r\n" + browser.ERROR_LINES
_STREAM = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\n"
    + browser.LINES
)


class Wire(Protocol):
    """What carries one answer. Ours is `cycle.Cycle`; `AsgiWire` stands in before other servers."""

    loop: asyncio.AbstractEventLoop
    disconnected: bool  # the client has left
    on_disconnect: Callable[[], None] | None  # called when it does
    refused: ErrorKind | None  # what the server told the client itself, in the middle of its request

    def take(self) -> bytes | None:
        """The request's body, if all of it has come; None: receive it. To be asked once."""

    def begin(self, status: int, lines: bytes, length: int | None, *, close: bool = False) -> None:
        """Take status and headers, each of them ended by CR LF; they leave with the first bytes."""

    async def put(self, block: bytes, *, last: bool) -> None:
        """Send bytes of the begun answer."""

    def abort(self) -> None:
        """Close the client's connection at once."""


class AsgiWire:
    """Any ASGI server: it tells of a disconnect only to who asks, and closes no connection for us."""

    disconnected = False
    on_disconnect: Callable[[], None] | None = None
    refused: ErrorKind | None = None

    def __init__(self, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self._send = send
        self._start: dict[str, Any] | None = None

    def take(self) -> bytes | None:
        return None

    def begin(self, status: int, lines: bytes, length: int | None, *, close: bool = False) -> None:
        told = [line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1]]
        headers = [(name, value) for name, value in told]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        if close:
            headers.append((b"connection", b"close"))
        self._start = {"type": "http.response.start", "status": status, "headers": headers}

    async def put(self, block: bytes, *, last: bool) -> None:
        start, self._start = self._start, None
        try:
            if start is not None:
                await self._send(start)
            await self._send({"type": "http.response.body", "body": block, "more_body": not last})
        except OSError:  # by which ASGI 2.4 says that the client has left
            raise ClientGone from None

    def abort(self) -> None:
        """There is no way to."""


class Answer:
    """Implements `conversation.Sink` on a wire."""

    def __init__(self, wire: Wire, exchange: Exchange, shape: ErrorShape, headers: Headers) -> None:
        self.committed = False
        self.opened = False
        self.finished = False  # the last byte was handed to the server
        self.shape = shape
        self.abort_streams = False  # STREAM_ERROR_TERMINATION=abort
        self.exchange = exchange
        self._wire = wire
        self._headers = headers  # CORS
        self._lines = b""  # headers of the call's own
        self._otherwise: bytes | None = None
        self._streaming = False
        self._opener: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy: asyncio.Lock | None = None  # held between what must not be parted

    def expect(self, surface: Surface, call: Call, open_after_s: float) -> None:
        """Say what is to be answered; a silent stream is opened after `open_after_s` (0: never)."""
        self.shape = surface
        self._lines, self._otherwise = call.lines, call.otherwise
        if call.stream and open_after_s > 0:
            self._timer = self._wire.loop.call_later(open_after_s, self._start_opener, open_after_s)

    def add(self, lines: bytes) -> None:
        """Add headers to an answer that is expected, each ended by CR LF."""
        self._lines += lines

    async def whole(self, body: bytes, lines: bytes) -> None:
        self.committed = True
        self._begin(200, _JSON + lines, len(body))
        await self._wire.put(body, last=True)
        self.finished = True

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self.committed = True
        self._begin(200, _JSON, length)
        await self._wire.put(first, last=False)

    async def begin(self) -> None:
        await self.close()
        self.committed = True
        self._streaming = True
        if not self.opened:
            self.opened = True
            self._begin(200, _STREAM, None)

    async def write(self, block: bytes, *, last: bool = False) -> None:
        await self._wire.put(block, last=last)
        if last:
            self.finished = True

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        if failure.end is SLOW_CLIENT:  # who would read a frame?
            self.cut()
            return
        error = client_error(failure)
        self.exchange.error_code = error.kind.code
        if not self._streaming:
            self.cut()
            return
        await self._end_frame(error, b"\n\n" if mid_event else b"")

    async def refuse(self, error: RouterError, *, close: bool = False) -> None:
        """Answer an error before anything was committed; `close` ends the connection after it."""
        await self.close()
        self.exchange.error_code = error.kind.code
        if self.opened:
            await self._end_frame(error)
            return
        if self._otherwise is not None and error.status >= 500:
            self._begin(200, _JSON, len(self._otherwise), close=close, asks=False)
            await self.write(self._otherwise, last=True)
            return
        status, body = self.shape.error(error, self.exchange.request_id)
        lines = _ERROR
        if error.retry_after_s is not None:
            lines += b"retry-after: %d\r\n" % error.retry_after_s
        self._begin(status, lines, len(body), close=close)
        await self.write(body, last=True)

    async def close(self) -> None:
        """Stop the comments of an opened stream; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._opener is not None and self._busy is not None:
            async with self._busy:  # never in the middle of a comment
                self._opener.cancel()
                self._opener = None

    def leave(self) -> None:
        """Note that the client has left, or that the server has refused the rest of its request."""
        refused, exchange = self._wire.refused, self.exchange
        exchange.end, exchange.status = attempt.CLIENT_ABORT, 499
        if refused is not None:
            exchange.end, exchange.status = attempt.REJECTED, refused.status
            exchange.error_code = refused.code
        self.drop()

    def drop(self) -> None:
        """Forget the client, who has left or does not read."""
        self.stop()
        self.cut()

    def stop(self) -> None:
        """End the comments wherever they are; nothing is to be sent after it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._opener is not None:
            self._opener.cancel()

    def cut(self) -> None:
        """End the client's connection at once; what was sent stays visibly unfinished."""
        self._wire.abort()

    async def _end_frame(self, error: RouterError, before: bytes = b"") -> None:
        frame = before + self.shape.error_frame(error, self.exchange.request_id)
        await self.write(frame, last=not self.abort_streams)
        if self.abort_streams:
            self.cut()

    def _start_opener(self, every_s: float) -> None:
        self._busy = asyncio.Lock()
        self._opener = self._wire.loop.create_task(self._keep_open(self._busy, every_s))

    async def _keep_open(self, busy: asyncio.Lock, every_s: float) -> None:
        while True:
            async with busy:
                if not self.opened:
                    self.opened = True
                    self._begin(200, _STREAM, None)
                place = self.exchange.place
                told = "waiting for the engine" if place is None else f"queued {place()}"
                await self.write(sse.comment(told))
            await asyncio.sleep(every_s)

    def _begin(
        self, status: int, lines: bytes, length: int | None, *, close: bool = False, asks: bool = True
    ) -> None:
        """Send the head; `asks`: an attempt is still under way."""
        exchange = self.exchange
        exchange.status = status
        elapsed_s = monotonic() - exchange.started_at
        own = f"x-request-id: {exchange.request_id}\r\nx-process-time: {elapsed_s:.3f}\r\n"
        if exchange.model_id:
            own += f"x-pointsman-model: {exchange.model_id}\r\n"
        if exchange.replica_id:
            tries = len(exchange.attempts) + (status == 200 and asks)
            own += f"x-pointsman-replica: {exchange.replica_id}\r\nx-pointsman-attempts: {tries}\r\n"
        if exchange.ignored:
            own += f"x-pointsman-ignored: {', '.join(exchange.ignored)}\r\n"
        if exchange.cache:
            own += f"x-pointsman-cache: {exchange.cache}\r\n"
        if exchange.trimmed:
            own += f"x-pointsman-trimmed: {exchange.trimmed}\r\n"
        lines += own.encode("ascii") + self._lines
        for name, value in self._headers:
            lines += name + b": " + value + b"\r\n"
        self._wire.begin(status, lines, length, close=close)
