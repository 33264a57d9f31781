"""Ends the wait of one task when its time is up or its client leaves.

One mechanism for every wait of an exchange (queue, connect, head, event, write, back-off): the task is
cancelled with a cause, and the cause comes out of the `with` block as an exception of ours.
A cancellation from anywhere else passes through untouched.
"""

import asyncio
from types import TracebackType


class Watch:
    """Guards the current task. At most one deadline is armed; moving it later costs two assignments."""

    __slots__ = ("_cancelling", "_cause", "_due", "_error", "_loop", "_running", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, task: "asyncio.Task[object]") -> None:
        self._loop = loop
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._error: BaseException | None = None  # raised when the deadline passes
        self._cause: BaseException | None = None
        self._running = False
        self._cancelling = 0

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
        if self._cause is not None:
            return
        self._cause = cause
        if self._running:
            self._task.cancel()

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
        if self._cause is not None and self._task.cancelling() > self._cancelling:
            cause = self._cause
            foreign = self._task.uncancel() > self._cancelling
            if kind is asyncio.CancelledError and not foreign:
                raise cause from None

    def forget(self) -> None:
        """Take back a deadline that has rung, so that another attempt can be watched."""
        if self._cause is self._error:
            self._cause = None

    def _ring(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._ring)
        elif self._error is not None:
            self.interrupt(self._error)
