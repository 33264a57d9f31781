"""Notes when our own event loop stood still, so that nobody else is blamed for what did not answer then."""

import asyncio
import time
from types import TracebackType
from typing import Self

_TICK_S = 0.25


class StallWatch:
    """Measures the longest time by which our event loop was late while the context was open."""

    def __enter__(self) -> Self:
        self.worst_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._note()

    def _arm(self) -> None:
        # A timer's callback runs before the tasks that the same turn of the loop wakes, so the check
        # cannot end unnoticed between a standstill and this note of it.
        self._due = time.monotonic() + _TICK_S
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._note()
        self._arm()

    def _note(self) -> None:
        self.worst_s = max(self.worst_s, time.monotonic() - self._due)
