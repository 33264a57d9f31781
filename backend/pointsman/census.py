"""How many sessions and requests there were lately: of this worker, or of all that share a store.

Each worker counts for itself. Where a store is shared, what is new goes there from a task of its own, about
once a second, so that no request waits for it; who asks gets what all have counted.
"""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from itertools import islice

from pointsman.exchange import Exchange
from pointsman.recent import Figures, Recent, count_of
from pointsman.sessions import Sessions
from pointsman.store.base import Unavailable
from pointsman.store.tally import BATCH, Count, Tallies, Totals

WINDOW_S = 3600  # of mean time and error rate
_EVERY_S = 1.0
_WAITING_MOST = 65_536  # sessions that have yet to be told
_log = logging.getLogger("pointsman.census")


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted; `shared`: by all workers."""

    sessions: int
    day: Figures
    hour: Figures
    shared: bool = False


class Census:
    """Counts for one worker, and with the others.

    Args:
        store: None: nothing is shared.
    """

    def __init__(self, sessions: Sessions, recent: Recent, store: Tallies | None = None) -> None:
        self._sessions = sessions
        self._recent = recent
        self._store = store
        self._heard: dict[bytes, None] = {}  # those not told of yet, the oldest first
        self._new = Figures()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Sessions that have yet to be told."""
        return len(self._heard)

    def note(self, name: str, now: float) -> None:
        """Something was said in a session. `now` is in monotonic seconds."""
        digest = self._sessions.note(name, now)
        if self._store is not None:
            self._heard[digest] = None
            if len(self._heard) > _WAITING_MOST:
                del self._heard[next(iter(self._heard))]
            self._wake()

    def observe(self, exchange: Exchange) -> None:
        """Take an exchange that ended; to be called once for each."""
        self._recent.observe(exchange)
        if self._store is not None:
            self._new = _sum(self._new, count_of(exchange))
            self._wake()

    async def read(self, now: float) -> Counted:
        """What all workers counted; what this one did, where nothing is shared or the store is away."""
        if self._store is not None:
            try:
                totals = await self._tell(self._store)
            except Unavailable:
                pass
            else:
                return Counted(totals.sessions, _figures(totals.day), _figures(totals.hour), shared=True)
        return Counted(
            self._sessions.active(now), self._recent.figures(now), self._recent.figures(now, WINDOW_S)
        )

    async def close(self) -> None:
        """Tell what is left, if the store takes it at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._store is not None and (self._heard or self._new.requests):
            await _quietly(self._tell(self._store))

    async def _tell(self, store: Tallies) -> Totals:
        """Add what is new; where that fails it is kept, and counts twice if it had arrived all the same."""
        while True:
            heard, new = list(islice(self._heard, BATCH)), self._new
            for digest in heard:
                del self._heard[digest]
            self._new = Figures()
            try:
                totals = await store.tally(heard, Count(new.requests, new.errors, new.seconds))
            except (Unavailable, asyncio.CancelledError):
                self._heard = dict.fromkeys(heard) | self._heard
                self._new = _sum(new, self._new)
                raise
            if not self._heard:
                return totals

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._tell_soon(), name="pointsman-census")

    async def _tell_soon(self) -> None:
        while self._store is not None and (self._heard or self._new.requests):
            await asyncio.sleep(_EVERY_S)
            await _quietly(self._tell(self._store))


async def _quietly(telling: Awaitable[Totals]) -> None:
    try:
        await telling
    except Unavailable as why:
        _log.debug("what was counted is not shared: %s", why)  # the store itself tells that it is away


def _sum(one: Figures, other: Figures) -> Figures:
    return Figures(one.requests + other.requests, one.errors + other.errors, one.seconds + other.seconds)


def _figures(count: Count) -> Figures:
    return Figures(count.requests, count.errors, count.seconds)
