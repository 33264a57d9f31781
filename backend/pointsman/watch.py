"""Ends the wait of one task when its time is up or its client leaves.

One mechanism for every wait of an exchange (queue, connect, head, event, write, back-off): the task is
cancelled with a cause, and the cause comes out of the `with` block as an exception of ours.
A cancellation from anywhere else passes through untouched.
"""

import asyncio
from types import TracebackType


class Watch:
    """Guards the current task. At most one deadline is armed; moving it later costs two assignments."""

    __slots__ = (
        "_cancelling",
        "_cause",
        "_due",
        "_error",
        "_left",
        "_loop",
        "_running",
        "_struck",
        "_task",
        "_timer",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, task: "asyncio.Task[object]") -> None:
        self._loop = loop
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._error: BaseException | None = None  # raised when the deadline passes
        self._left: BaseException | None = None  # of the first interruption; never forgotten
        self._cause: BaseException | None = None  # what ended the wait: the first of the two
        self._running = False
        self._struck = False  # our cancellation of the task stands
        self._cancelling = 0  # cancellations of the task that stood before the block

    def set(self, due: float, error: BaseException) -> None:
        """Raise `error` at `due` (the loop's time) unless it is set anew before."""
        self._due = due
        self._error = error
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(due, self._ring)
        elif due < timer.when():
            timer.cancel()
            self._timer = self._loop.call_at(due, self._ring)

    def clear(self) -> None:
        """Forget the deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def interrupt(self, cause: BaseException) -> None:
        """End the wait now, or at the next wait within a `with` block. The first cause counts."""
        if self._left is None:
            self._left = cause
        self._end(cause)

    def __enter__(self) -> "Watch":
        if self._cause is not None:
            raise self._cause
        self._cancelling = self._task.cancelling()
        self._running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self.clear()
        if not self._struck:
            return
        self._struck = False
        foreign = self._task.uncancel() > self._cancelling
        if kind is asyncio.CancelledError and not foreign and self._cause is not None:
            raise self._cause from None

    def forget(self) -> None:
        """Take back a deadline that has rung, so that another attempt can be watched."""
        self._cause = self._left

    def _end(self, cause: BaseException) -> None:
        if self._cause is not None:
            return
        self._cause = cause
        if not self._running:
            return
        if asyncio.current_task(self._loop) is self._task:
            # The task is not waiting. Cancelled now, it would hear of it at its next wait, which may be
            # after the block (before Python 3.13 `uncancel` does not take that back).
            self._loop.call_soon(self._strike, cause)
        else:
            self._strike(cause)

    def _strike(self, cause: BaseException) -> None:
        if self._running and self._cause is cause and not self._struck:
            self._struck = self._task.cancel()

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._ring)
        elif self._error is not None:
            self._end(self._error)
