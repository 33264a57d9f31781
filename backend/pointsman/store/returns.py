"""What was given back and has yet to be delivered to the shared store."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pointsman.store.base import Hold, Take, Unavailable

MOST = 10_000  # of each kind that wait; the oldest are lost, and their leases end by themselves
BATCH = 100  # in one step
GRACE_S = 1.0  # a command that failed may yet be carried out; its leases are freed when that is over

_Item = TypeVar("_Item", Take, Hold)


class Returns:
    """Delivers differences and leases from a task of its own, many in one step. `lost` counts the others.

    A difference whose delivery failed is not sent again: it may have arrived. A lease is, until it is free.

    Args:
        deliver: one step; raises `Unavailable`.
        ready: returns when the store answers.
    """

    def __init__(
        self,
        deliver: Callable[[list[Take], list[Hold]], Awaitable[None]],
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self.lost = 0
        self._deliver = deliver
        self._ready = ready
        self._takes: deque[Take] = deque()
        self._holds: deque[Hold] = deque()
        self._doubtful: deque[Hold] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._takes) + len(self._holds) + len(self._doubtful)

    def add(self, takes: tuple[Take, ...], holds: tuple[Hold, ...]) -> None:
        """Take differences and leases to deliver."""
        self._put(self._takes, takes)
        self._put(self._holds, holds)
        self._wake()

    def doubt(self, holds: tuple[Hold, ...]) -> None:
        """Free leases that may have been taken, by a command of which nobody knows how it ended."""
        self._put(self._doubtful, holds)
        self._wake()

    async def close(self, within_s: float) -> None:
        """Deliver what is left, for so many seconds at most."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=within_s)
            self._task.cancel()
            await asyncio.wait([self._task])

    def _put(self, queue: deque[_Item], more: tuple[_Item, ...]) -> None:
        queue.extend(more)
        while len(queue) > MOST:
            queue.popleft()
            self.lost += 1

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="pointsman-store-returns")

    async def _run(self) -> None:
        """End when nothing is left; the next return starts it anew."""
        while len(self):
            if not self._takes and not self._holds:
                await asyncio.sleep(GRACE_S)
                self._holds, self._doubtful = self._doubtful, self._holds
            await self._ready()
            takes = [self._takes.popleft() for _ in range(min(BATCH, len(self._takes)))]
            holds = [self._holds.popleft() for _ in range(min(BATCH, len(self._holds)))]
            try:
                await self._deliver(takes, holds)
            except Unavailable:
                self.lost += len(takes)
                self._put(self._doubtful, tuple(holds))
