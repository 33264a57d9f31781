"""Ends the wait of one task when its time is up or its client leaves.

One mechanism for every wait of an exchange (queue, connect, head, event, write, back-off): the task is
cancelled with a cause, and the cause comes out of the `with` block as an exception of ours.
A cancellation from anywhere else passes through untouched.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType

TICK_S = 0.02  # deadlines ring at most this much late


class Clock:
    """Rings the watches of one loop that have a deadline.

    One timer for all of them: a timer of its own costs a request more than all its other deadlines do, and
    each event of a stream moves one. While nothing is watched nothing ticks.
    """

    __slots__ = ("loop", "ticking", "watches")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.watches: set[Watch] = set()  # those whose block runs
        self.ticking = False  # a timer is set

    def start(self) -> None:
        """Tick while there are watches."""
        self.ticking = True
        self.loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self.loop.time()
        for watch in [watch for watch in self.watches if watch.due <= now]:
            watch.ring()
        self.ticking = bool(self.watches)
        if self.ticking:
            self.loop.call_later(TICK_S, self._tick)


class Watch:
    """Guards the current task. At most one deadline is armed; moving it costs two assignments."""

    __slots__ = (
        "_cancelling",
        "_cause",
        "_clock",
        "_error",
        "_left",
        "_running",
        "_struck",
        "_task",
        "due",
    )

    def __init__(self, clock: Clock, task: "asyncio.Task[object]") -> None:
        self._clock = clock
        self._task = task
        self.due = math.inf  # the loop's time
        self._error: Callable[[], BaseException] | None = None  # makes what is raised when it passes
        self._left: BaseException | None = None  # of the first interruption; never forgotten
        self._cause: BaseException | None = None  # what ended the wait: the first of the two
        self._running = False
        self._struck = False  # our cancellation of the task stands
        self._cancelling = 0  # cancellations of the task that stood before the block

    def set(self, due: float, error: Callable[[], BaseException]) -> None:
        """Raise what `error` makes at `due` (the loop's time) unless it is set anew before."""
        self.due = due
        self._error = error

    def clear(self) -> None:
        """Forget the deadline."""
        self.due = math.inf

    def interrupt(self, cause: BaseException) -> None:
        """End the wait now, or at the next wait within a `with` block. The first cause counts."""
        if self._left is None:
            self._left = cause
        self.end(cause)

    def __enter__(self) -> "Watch":
        if self._cause is not None:
            raise self._cause
        self._cancelling = self._task.cancelling()
        self._running = True
        self._clock.watches.add(self)
        if not self._clock.ticking:
            self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self._clock.watches.discard(self)
        self.due = math.inf
        if not self._struck:
            return
        self._struck = False
        foreign = self._task.uncancel() > self._cancelling
        if kind is asyncio.CancelledError and not foreign and self._cause is not None:
            raise self._cause from None

    def forget(self) -> None:
        """Take back a deadline that has rung, so that another attempt can be watched."""
        self._cause = self._left

    def end(self, cause: BaseException) -> None:
        """As `interrupt`, but `forget` takes it back: what comes after can be watched too."""
        if self._cause is not None:
            return
        self._cause = cause
        if not self._running:
            return
        if asyncio.current_task(self._clock.loop) is self._task:
            # The task is not waiting. Cancelled now, it would hear of it at its next wait, which may be
            # after the block (before Python 3.13 `uncancel` does not take that back).
            self._clock.loop.call_soon(self._strike, cause)
        else:
            self._strike(cause)

    def _strike(self, cause: BaseException) -> None:
        if self._running and self._cause is cause and not self._struck:
            self._struck = self._task.cancel()

    def ring(self) -> None:
        """The deadline has passed; the clock says so."""
        self.due = math.inf
        if self._error is not None:
            self.end(self._error())
