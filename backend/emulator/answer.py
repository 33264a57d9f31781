"""Writing an answer to the connection, and the faults that act on its head or its bytes."""

import asyncio
import time
from collections.abc import Iterable
from typing import Protocol

from emulator.faults import Plan

Headers = Iterable[tuple[str, str]]
_REASONS = {
    200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
    404: "Not Found", 405: "Method Not Allowed", 413: "Payload Too Large", 415: "Unsupported Media Type",
    422: "Unprocessable Entity", 424: "Failed Dependency", 429: "Too Many Requests",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip
_GAP_S = 0.002  # between two segments that must not be joined by the kernel


class Severed(Exception):
    """A fault has cut the connection; there is nothing more to write."""


class Wire(Protocol):
    """What an answer needs of a connection."""

    def write(self, data: bytes) -> None:
        """Queue bytes."""

    async def drained(self) -> None:
        """Wait until the peer has taken enough of them."""

    def reset(self) -> None:
        """Close with RST; unsent bytes are lost."""

    def close(self) -> None:
        """Close with FIN after the last byte."""


class Outlet:
    """One answer. `reply` for a whole body; `start`, `event`…, `end` for a stream."""

    def __init__(
        self, wire: Wire, plan: Plan, *, common: Headers, keep_alive: bool, chunked: bool, head: bool
    ) -> None:
        """`chunked`: false for HTTP/1.0; `head`: send no body; `common`: headers of every answer."""
        self._wire = wire
        self._plan = plan
        self._common = tuple(common)
        self._chunked = chunked and "no_length" not in plan
        self._framed = False
        self._head = head
        self._batch: list[bytes] = []
        self._sent = 0
        self._segmented = any(
            n in plan for n in ("split_at", "split_every", "coalesce", "cut_bytes", "slow_body")
        )
        self.keep_alive = keep_alive
        self.started = False
        self.status = 0

    def add(self, name: str, value: str) -> None:
        """One more header, before the answer is begun."""
        self._common = (*self._common, (name, value))

    def drop(self, *names: str) -> None:
        """Leave out headers of every answer, before this one is begun."""
        self._common = tuple((name, value) for name, value in self._common if name not in names)

    async def reply(
        self, status: int, body: bytes, media: str | None = "application/json", headers: Headers = ()
    ) -> None:
        """A whole answer; `media` is `None` for a body without type."""
        fields = list(headers)
        if media is not None:
            fields.insert(0, ("content-type", media))
        length = len(body)
        if "wrong_content_length" in self._plan:
            length = max(0, length + int(self._plan.number("wrong_content_length")))
            self.keep_alive = False
        if "no_length" not in self._plan:
            fields.append(("content-length", str(length)))
        if "cl_te" in self._plan:
            fields.append(("transfer-encoding", "chunked"))
            self._framed = True
        shown = b"" if self._head else body
        if self._segmented or self._framed:
            self._open(status, fields, b"")
            await self._send(shown)
            await self.end()
        else:
            self._open(status, fields, shown)
            await self._wire.drained()

    async def start(self, status: int, headers: Headers) -> None:
        """Status and headers of a stream."""
        fields = list(headers)
        if self._chunked:
            fields.append(("transfer-encoding", "chunked"))
            if "cl_te" in self._plan:
                fields.append(("content-length", "10"))
        else:
            self.keep_alive = False
        self._framed = self._chunked
        self._open(status, fields, b"")
        await self._wire.drained()

    async def event(self, data: bytes) -> None:
        """One whole SSE event or comment."""
        if "crlf" in self._plan:
            data = data.replace(b"\n", b"\r\n")
        if "no_space" in self._plan:
            data = data.replace(b"data: ", b"data:", 1)
        if "coalesce" in self._plan:
            self._batch.append(data)
            if len(self._batch) < self._plan.number("coalesce"):
                return
            data = self._flush()
        await self._send(data)

    async def end(self) -> None:
        """The end of the body."""
        if self._batch:
            await self._send(self._flush())
        if self._framed:
            self._wire.write(b"0\r\n\r\n")
        await self._wire.drained()

    def raw(self, data: bytes) -> None:
        """Bytes as they are, instead of an answer; the connection ends after them."""
        self.started, self.keep_alive = True, False
        self._wire.write(data)

    def sever(self, *, reset: bool) -> Severed:
        """Cut the connection; raise what is returned."""
        if reset:
            self._wire.reset()
        else:
            self._wire.close()
        return Severed()

    def _flush(self) -> bytes:
        data = b"".join(self._batch)
        self._batch.clear()
        return data

    def _open(self, status: int, headers: Headers, body: bytes) -> None:
        self.started, self.status = True, status
        fields = [*self._common, *headers]
        if "no_length" in self._plan:
            self.keep_alive = False
        if not self.keep_alive:
            fields.append(("connection", "close"))
        if "junk_headers" in self._plan:
            fields += _JUNK
        if "huge_headers" in self._plan:
            fields += _padding(int(self._plan.number("huge_headers")))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        first = ""
        if "interim" in self._plan:
            first = f"HTTP/1.1 {self._plan.part('interim')} Interim\r\nlink: </a>; rel=preload\r\n\r\n"
        head = f"{first}HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\ndate: {_date()}\r\n{lines}\r\n"
        self._wire.write(head.encode("latin-1") + body)

    async def _send(self, data: bytes) -> None:
        if not self._segmented:
            await self._segment(data)
            return
        for piece in self._pieces(data):
            await self._segment(await self._allowed(piece))
            if "split_at" in self._plan or "split_every" in self._plan:
                await asyncio.sleep(_GAP_S)
            if "slow_body" in self._plan:
                await asyncio.sleep(len(piece) / max(1.0, self._plan.number("slow_body")))

    def _pieces(self, data: bytes) -> list[bytes]:
        if "split_at" in self._plan:
            place = int(self._plan.number("split_at"))
            return [piece for piece in (data[:place], data[place:]) if piece]
        size = 16 if "slow_body" in self._plan else 0
        size = int(self._plan.number("split_every", size)) or size or len(data) or 1
        return [data[n : n + size] for n in range(0, len(data), size)]

    async def _allowed(self, piece: bytes) -> bytes:
        """The piece, or after `cut_bytes` its last allowed part and the end of the connection."""
        if "cut_bytes" not in self._plan:
            return piece
        left = int(self._plan.number("cut_bytes")) - self._sent
        self._sent += len(piece)
        if left >= len(piece):
            return piece
        await self._segment(piece[: max(0, left)])
        how = self._plan.part("cut_bytes", 1) or "reset"
        if how == "end":
            if self._framed:
                self._wire.write(b"0\r\n\r\n")
            raise self.sever(reset=False)
        await asyncio.sleep(0.02)  # what was written must be read before the reset throws it away
        raise self.sever(reset=how == "reset")

    async def _segment(self, data: bytes) -> None:
        if self._head or not data:
            return
        self._wire.write(b"%x\r\n%b\r\n" % (len(data), data) if self._framed else data)
        await self._wire.drained()


_JUNK = (
    ("set-cookie", "engine=1; Path=/"),
    ("set-cookie", "session=emulated"),
    ("keep-alive", "timeout=1"),
    ("proxy-connection", "keep-alive"),
    ("upgrade", "h2c"),
    ("x-engine-internal", "10.0.0.1"),
    ("access-control-allow-origin", "https://engine.invalid"),
    ("strict-transport-security", "max-age=1"),
)


def _padding(size: int) -> list[tuple[str, str]]:
    return [(f"x-padding-{n}", "p" * min(4096, size - n)) for n in range(0, size, 4096)]


def _date() -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
