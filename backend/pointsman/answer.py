"""The client's side of an exchange over ASGI: whole answers, streams, errors, each with our headers.

Unopened: nothing sent. Opened: status, headers and comments of a stream. Committed: content was sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from pointsman import sse
from pointsman.attempt import SLOW_CLIENT, AttemptFailed
from pointsman.call import Call
from pointsman.errors import RouterError
from pointsman.exchange import Exchange
from pointsman.forward import client_error
from pointsman.surfaces.base import ErrorShape, Surface

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Answer:
    """Implements `conversation.Sink`.

    `abort` closes the client's connection at once; None: the server cannot.
    """

    def __init__(
        self,
        send: Send,
        exchange: Exchange,
        shape: ErrorShape,
        headers: Headers,
        abort: Callable[[], None] | None,
    ) -> None:
        self.committed = False
        self.opened = False
        self.finished = False  # the last byte was handed to the server
        self.shape = shape
        self.abort_streams = False  # STREAM_ERROR_TERMINATION=abort
        self._send = send
        self.exchange = exchange
        self._headers = headers  # CORS, and whatever every answer carries
        self._abort = abort
        self._surface: Surface | None = None
        self._call: Call | None = None
        self._streaming = False
        self._opener: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._busy = asyncio.Lock()

    def expect(self, surface: Surface, call: Call, open_after_s: float) -> None:
        """Say what is to be answered; a silent stream is opened after `open_after_s` (0: never)."""
        self.shape = self._surface = surface
        self._call = call
        if call.stream and open_after_s > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(open_after_s, self._start_opener, open_after_s)

    async def whole(self, body: bytes) -> None:
        if self._surface is not None and self._call is not None:
            body = self._surface.answer(self._call, self.exchange.model_id, body)
        self.committed = True
        await self._start(200, [_JSON, (b"content-length", b"%d" % len(body))])
        await self.write(body, last=True)

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self.committed = True
        told = [] if length is None else [(b"content-length", b"%d" % length)]
        await self._start(200, [_JSON, *told])
        await self.write(first)

    async def begin(self) -> None:
        await self.close()
        self.committed = True
        self._streaming = True
        if not self.opened:
            self.opened = True
            await self._start(200, _STREAM)

    async def write(self, block: bytes, *, last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": block, "more_body": not last})
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
        status, body = self.shape.error(error, self.exchange.request_id)
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        if close:
            headers.append((b"connection", b"close"))
        await self._start(status, headers)
        await self.write(body, last=True)

    async def close(self) -> None:
        """Stop the comments of an opened stream; safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._opener is not None:
            async with self._busy:  # never between its status and its comment
                self._opener.cancel()
                self._opener = None

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
        if self._abort is not None:
            self._abort()

    async def _end_frame(self, error: RouterError, before: bytes = b"") -> None:
        frame = before + self.shape.error_frame(error, self.exchange.request_id)
        ends = self._abort is None or not self.abort_streams
        await self.write(frame, last=ends)
        if not ends:
            self.cut()

    def _start_opener(self, every_s: float) -> None:
        self._opener = asyncio.get_running_loop().create_task(self._keep_open(every_s))

    async def _keep_open(self, every_s: float) -> None:
        while True:
            async with self._busy:
                if not self.opened:
                    self.opened = True
                    await self._start(200, _STREAM)
                await self.write(sse.comment("waiting for the engine"))
            await asyncio.sleep(every_s)

    async def _start(self, status: int, headers: Headers) -> None:
        exchange = self.exchange
        exchange.status = status
        elapsed = monotonic() - exchange.started_at
        own = [
            *headers,
            (b"x-request-id", exchange.request_id.encode("ascii")),
            (b"x-process-time", b"%.3f" % elapsed),
            *self._headers,
        ]
        if exchange.model_id:
            own.append((b"x-pointsman-model", exchange.model_id.encode("ascii")))
        if exchange.replica_id:
            own.append((b"x-pointsman-replica", exchange.replica_id.encode("ascii")))
            own.append((b"x-pointsman-attempts", b"%d" % (len(exchange.attempts) + (status == 200))))
        await self._send({"type": "http.response.start", "status": status, "headers": own})
