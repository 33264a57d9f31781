"""One request on a connection of our HTTP protocol, and its answer.

The data plane speaks to it directly: it asks for the body when it has come, hears of a disconnect at once,
and hands over heads and bodies as bytes. Everything else uses it through ASGI.

uvicorn is pinned to a minor version: `tests/unit/test_protocol.py` names each attribute of its that is used.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from pointsman.errors import ErrorKind

_STATUS = {code: line[:-2] for code, line in STATUS_LINE.items()}


class Cycle(RequestResponseCycle):
    """Implements `answer.Wire`. Writes the head with the first bytes of the body: one system call.

    The head's framing is checked as a whole instead of each name and value by regular expressions.
    """

    loop: asyncio.AbstractEventLoop
    on_disconnect: Callable[[], None] | None = None
    linger: Callable[[], None] | None = None  # closes where the client is still sending its body
    refused: ErrorKind | None = None  # what the server told the client itself, in the middle of its request
    _head = b""
    _task: "asyncio.Task[None]"
    _tasks: "set[asyncio.Task[None]]"

    def start(self, app: Any, tasks: "set[asyncio.Task[None]]") -> None:
        """Have an app answer, in a task that is one of `tasks` until it ends."""
        self._tasks = tasks
        self._task = self.loop.create_task(self._run(app))
        tasks.add(self._task)

    async def _run(self, app: Any) -> None:
        try:
            await self.run_asgi(app)
        finally:
            self._tasks.discard(self._task)  # a callback of the task would cost another turn of the loop

    def take(self) -> bytes | None:
        """The request's body, if all of it has come and the client waits for no 100 Continue."""
        if self.more_body or self.waiting_for_100_continue or self.disconnected:
            return None
        body, self.body = self.body, bytearray()
        return bytes(body)

    def gone(self) -> None:
        """The client has left."""
        self.disconnected = True  # before the app may end: uvicorn would take it for a bug of the app
        self.message_event.set()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def abort(self) -> None:
        """Close the connection without ending the answer."""
        self.disconnected = True  # else uvicorn logs that the answer was not ended
        if self.refused is None:  # else the client has yet to read that
            self.transport.abort()

    def begin(self, status: int, lines: bytes, length: int | None, *, close: bool = False) -> None:
        """Take status and headers of the answer; they leave with its first bytes.

        Args:
            lines: headers, each ended by CR LF; no framing.
            length: bytes of the body; None: not known yet.
            close: end the connection after the answer.
        """
        self.response_started = True
        self.waiting_for_100_continue = False
        own = b""
        if self.default_headers:
            own = b"".join([name + b": " + value + b"\r\n" for name, value in self.default_headers])
        if close:
            self.keep_alive = False
        if not self.keep_alive:
            own += b"connection: close\r\n"
        if length is not None:
            self.expected_content_length, self.chunked_encoding = length, False
            own += b"content-length: %d\r\n" % length
        elif self.scope["method"] == "HEAD" or status in (204, 304):
            self.chunked_encoding = False
        elif self.scope["http_version"] != "1.0":  # that knows no chunks: its body ends with the connection
            self.chunked_encoding = True
            own += b"transfer-encoding: chunked\r\n"
        self._head = b"%b\r\n%b%b\r\n" % (_STATUS[status], lines, own)

    async def put(self, block: bytes, *, last: bool) -> None:
        """Send bytes of the begun answer; waits while the client does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self._write(block, last=last)

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._begin_of(message)
        elif message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._write(message.get("body", b""), last=not message.get("more_body", False))
        else:
            raise RuntimeError(f"ASGI message {message['type']!r} out of turn")

    def _begin_of(self, message: Any) -> None:
        length, close, lines = None, False, []
        for name, value in message.get("headers", ()):
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            elif lower == b"transfer-encoding":
                continue  # we say ourselves how the body is framed
            elif lower == b"connection" and value.lower() == b"close":
                close = True
            else:
                lines.append(lower + b": " + value)
        head = b"\r\n".join([*lines, b""])
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
            raise RuntimeError("a header holds a line end or NUL")
        self.begin(message["status"], head, length, close=close)

    def _write(self, body: bytes, *, last: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.transport.write(head)
        elif self.chunked_encoding:
            end = b"0\r\n\r\n" if last else b""
            self.transport.write(b"%b%x\r\n%b\r\n%b" % (head, len(body), body, end) if body else head + end)
        elif self.chunked_encoding is None:
            self.transport.write(head + body)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (last and self.expected_content_length):
                raise RuntimeError("the body is not as long as Content-Length says")
            self.transport.write(head + body)
        if last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.linger() if self.more_body and self.linger is not None else self.transport.close()
            self.on_response()
