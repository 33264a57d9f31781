"""How long a client may take: one timer for each connection, whatever the number of its requests.

A phase that is over sets no timer back: the timer looks when it rings, and rings again where there is time
left. A request that comes whole and an answer that is read at once touch it only to say so.
Source of the times: `reliability.md` sections 9 and 11.
"""

import asyncio
from enum import Enum
from typing import Protocol

from pointsman.front import FrontConfig

LEAST_BYTES_PER_S = 8 * 1024  # a body that is sent, or an answer that is read, more slowly is given up


class Phase(Enum):
    """What a connection waits for."""

    BUSY = "busy"  # a request is whole and its answer under way: nothing of the client
    IDLE = "idle"  # the first byte of a request, after an answer
    NEW = "new"  # the same, where no request has come yet
    HEAD = "head"  # the rest of a request's head
    BODY = "body"  # the rest of its body
    READER = "reader"  # that the client reads what was sent


class Watched(Protocol):
    """The connection, as far as patience goes."""

    @property
    def taken_bytes(self) -> int:
        """How much of the current message has come."""

    @property
    def holds_back(self) -> bool:
        """Whether we keep the client from sending."""

    @property
    def unsent_bytes(self) -> int:
        """How much of what was written the client has yet to take."""

    def overdue(self, phase: Phase) -> None:
        """The client took too long."""


class Pace:
    """One connection's timer. `phase` may be set to BUSY directly, which is all that most requests need."""

    __slots__ = ("_config", "_connection", "_loop", "_mark", "_rings_at", "_since", "_timer", "phase")

    def __init__(self, loop: asyncio.AbstractEventLoop, config: FrontConfig, connection: Watched) -> None:
        self._loop = loop
        self._config = config
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0  # the loop's time
        self._since = 0.0  # the loop's time at which the phase, or its present stretch, began
        self._mark = 0  # bytes that were taken, or left to be read, then
        self.phase = Phase.BUSY

    def expect(self, phase: Phase) -> None:
        """A phase begins."""
        self.phase = phase
        self._since = now = self._loop.time()
        if phase is Phase.BODY:
            self._mark = self._connection.taken_bytes
        elif phase is Phase.READER:
            self._mark = self._connection.unsent_bytes
        due = now + self._limit()
        if self._timer is None:
            self._ring_at(due)
        elif due < self._rings_at:
            self._timer.cancel()
            self._ring_at(due)

    def idle(self) -> None:
        """An answer is whole: what `expect` does with that phase, in fewer steps."""
        self.phase = Phase.IDLE
        self._since = self._loop.time()
        if self._timer is None:
            self._ring_at(self._since + self._config.keep_alive_s)

    def stop(self) -> None:
        """The connection is gone."""
        self.phase = Phase.BUSY
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _limit(self) -> float:
        """Seconds that the phase may take; with a body or a reader, until the pace is looked at."""
        config = self._config
        match self.phase:
            case Phase.NEW | Phase.HEAD:
                return config.head_s
            case Phase.BODY:
                return config.body_s
            case Phase.READER:
                return config.send_s
            case _:
                return config.keep_alive_s

    def _ring_at(self, due: float) -> None:
        self._rings_at = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        phase = self.phase
        if phase is Phase.BUSY:
            return  # what comes next sets the timer anew
        due = self._since + self._limit()
        if due > self._loop.time():
            self._ring_at(due)
        elif self._keeps_pace():
            self.expect(phase)
        else:
            self._connection.overdue(phase)

    def _keeps_pace(self) -> bool:
        """Whether a body came, or an answer left, fast enough since the last look."""
        connection = self._connection
        if self.phase is Phase.BODY:
            came = connection.taken_bytes - self._mark
            return connection.holds_back or came >= self._config.body_s * LEAST_BYTES_PER_S
        if self.phase is Phase.READER:
            left = self._mark - connection.unsent_bytes
            return left >= self._config.send_s * LEAST_BYTES_PER_S
        return False
