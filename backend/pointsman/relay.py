"""Passes an engine's stream on, whole event by whole event, and says honestly how it ended.

The first event with content commits the answer; before it nothing of the engine's reaches the client.
"""

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Protocol

from pointsman import attempt, sse
from pointsman.attempt import AttemptFailed
from pointsman.call import Timeouts
from pointsman.connection import Connection
from pointsman.engines.base import Reader
from pointsman.exchange import Exchange
from pointsman.replica import Replica
from pointsman.watch import Watch

_HELD_MAX_BYTES = 4 * sse.EVENT_CAP_BYTES  # of events before content; a large one may be among them


class Sink(Protocol):
    """Where an answer goes: the client's side of an exchange."""

    @property
    def committed(self) -> bool:
        """Whether content was sent."""

    async def begin(self) -> None:
        """Send status and headers of a stream, if they were not sent; commits."""

    async def write(self, block: bytes, *, last: bool = False) -> None:
        """Send bytes of a begun answer."""


class Relay:
    """One stream from one connection to one sink."""

    def __init__(
        self,
        reader: Reader,
        sink: Sink,
        exchange: Exchange,
        replica: Replica,
        watch: Watch,
        timeouts: Timeouts,
        deadline: float,
        overtime: Callable[[], AttemptFailed] = attempt.time_is_up,
        on_begun: Callable[[], None] | None = None,  # told when the first content was sent
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._exchange = exchange
        self._replica = replica
        self._watch = watch
        self._timeouts = timeouts
        self._deadline = deadline
        self._overtime = overtime
        self._on_begun = on_begun
        self._splitter = sse.Splitter()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._content = False  # some event had content
        self._last = False  # the terminal event has come
        self._within = False  # part of an event too large to hold was passed on, its end was not
        self._marked = False  # that event holds the mark of a last one
        self._tail = b""  # of that part, where the mark may have begun

    @property
    def mid_event(self) -> bool:
        """Whether part of an event too large to hold was sent and its end was not."""
        return self._within

    async def run(self, connection: Connection) -> None:
        """Relay until the engine's terminal event.

        Raises:
            AttemptFailed: the stream failed; `sink.committed` says on which side of the line.
            Broken: the connection broke.
        """
        token_at = monotonic()
        while True:
            chunk = await connection.read()
            if not chunk:
                raise AttemptFailed(attempt.TRUNCATED, "ended without its terminal event")
            now = monotonic()
            block = self._splitter.feed(chunk)
            if block:
                if await self._pass(block, now):
                    return
                now = monotonic()  # what the client took to read is not the engine's silence
                if not block.startswith(b":") or b"\ndata:" in block:
                    token_at = self._replica.heard_at = now
            if self._sink.committed:
                self._expect(now, token_at)

    async def _pass(self, block: bytes, now: float) -> bool:
        """Send what may be sent of a block; True after the terminal event."""
        sink = self._sink
        if sink.committed and not (self._splitter.oversize or self._within) and self._mark(block) < 0:
            self._exchange.events += block.count(b"\n\n")
            await self._write(block, now)
            return False
        out, failure = self._examine(block)
        if not sink.committed and (self._content or self._last):
            if not self._content:
                raise failure or AttemptFailed(attempt.JUNK, "terminal event without content")
            self._held.append(out)
            out = b"".join(self._held)
            self._held.clear()
            self._exchange.first_event_at = self._replica.heard_at = self._replica.answered_at = now
            await sink.begin()
        if not sink.committed:
            self._held.append(out)
            self._held_bytes += len(out)
            if self._held_bytes > _HELD_MAX_BYTES:
                raise AttemptFailed(attempt.JUNK, "4 MiB of events without content")
        elif out:
            await self._write(out, now, last=self._last and failure is None)
            begun, self._on_begun = self._on_begun, None
            if begun is not None:
                begun()
        if failure is not None:
            raise failure
        return self._last

    def _examine(self, block: bytes) -> tuple[bytes, AttemptFailed | None]:
        """Judge a block up to the terminal event: what may be sent, and the failure that ends it."""
        if self._splitter.oversize or self._within:
            return self._examine_large(block)
        kept: list[bytes] = []
        try:
            for piece, plain in self._pieces(block):
                if plain:
                    self._exchange.events += piece.count(b"\n\n")
                    kept.append(piece)
                else:
                    kept.append(self._judge(piece))
                if self._last:
                    break
        except AttemptFailed as failure:
            return b"".join(kept), failure
        return b"".join(kept), None

    def _examine_large(self, block: bytes) -> tuple[bytes, AttemptFailed | None]:
        """Pass on part of an event too large to hold, unread but for the mark of a last one."""
        if not self._reader.marks:
            return b"", AttemptFailed(attempt.JUNK, "an event too large to translate")
        self._content = True
        self._within = self._splitter.oversize
        size = len(block) if self._within else sse.first_end(block)
        part = block[:size]
        mark = self._reader.last_mark
        if mark:
            self._marked = self._marked or mark in self._tail + part
            self._tail = part[-len(mark) :]
        if self._within:
            return part, None
        self._exchange.events += 1
        self._last, self._marked, self._tail = self._marked, False, b""
        if self._last or size == len(block):
            return part, None
        rest, failure = self._examine(block[size:])
        return part + rest, failure

    def _pieces(self, block: bytes) -> Iterator[tuple[bytes, bool]]:
        """The events of a block in turn. Once content was seen, those without a mark may pass unread.

        Yields each event to be read by itself, and with True as many together as may pass.
        """
        if self._reader.mends or b"\r" in block:
            for event in sse.events(block):
                yield event, False
            return
        start = 0
        while start < len(block):
            if self._content:
                mark = self._mark(block, start)
                before = block.rfind(b"\n\n", start, mark) + 2 if mark >= 0 else len(block)
                if before > start + 1:  # else the very next event is the marked one
                    yield block[start:before], True
                    start = before
                    continue
            at = block.find(b"\n\n", start)
            end = at + 2 if at >= 0 else len(block)
            yield block[start:end], False
            start = end

    def _mark(self, block: bytes, start: int = 0) -> int:
        """Where the first mark of an event that must be read is; -1: nowhere."""
        if self._reader.mends:
            return start
        first = -1
        for mark in self._reader.marks:
            at = block.find(mark, start, first) if first >= 0 else block.find(mark, start)
            if at >= 0:
                first = at
        return first

    def _judge(self, event: bytes) -> bytes:
        """Note what one event is; the event, repaired where the dialect says so."""
        data = sse.data(event)
        found = self._reader.look(data)
        self._content = self._content or found.content
        self._last = found.last
        self._exchange.events += bool(data)
        reader = self._reader
        return reader.mend(data) if data and (reader.mends or reader.edits) else event

    async def _write(self, block: bytes, now: float, *, last: bool = False) -> None:
        self._watch.set(now + self._timeouts.send_s, attempt.client_too_slow)
        self._exchange.answer_bytes += len(block)
        await self._sink.write(block, last=last)

    def _expect(self, now: float, token_at: float) -> None:
        """Arm the idle times: any byte resets the one, only whole events the other."""
        due = min(now + self._timeouts.byte_idle_s, token_at + self._timeouts.token_idle_s)
        if due < self._deadline:
            self._watch.set(due, attempt.idle_too_long)
        else:
            self._watch.set(self._deadline, self._overtime)
