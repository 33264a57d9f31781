"""Takes new settings while the router runs: on SIGHUP, and when a file of theirs has changed.

They are read and checked whole, off the loop. Bad ones change nothing; log, events and a metric say so.
A file counts as changed once it has stood still for one look, since an editor may be in the middle of it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman.events import Events, Kind
from pointsman.knobs import KNOBS
from pointsman.mark import Mark
from pointsman.settings import Settings, SettingsError, check_workers
from pointsman.source import Had, Source

LOOK_EVERY_S = 0.5
_NOT, _KEPT = "not reloaded", "the settings before are kept"
_log = logging.getLogger("pointsman.reload")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a process read the settings last.

    Args:
        at: wall-clock seconds of the last good reading.
        had: the files of that one.
        seen: how the files were then, or at a bad one since.
        refusal: what was wrong with the bad one; empty: there was none.
    """

    at: float
    had: Had
    seen: dict[Path, Mark | None]
    refusal: str = ""


class Reloader:
    """Reads the settings again, for one app.

    Args:
        first: the settings that the app began with.
        workers: how many processes serve; None: several.
        take: makes the app serve by other settings; gives one sentence of what changed.
    """

    def __init__(
        self,
        source: Source,
        first: Settings,
        workers: Callable[[], int | None],
        take: Callable[[Settings], Awaitable[str]],
        events: Events,
    ) -> None:
        self.good = True  # the last reading
        self.at = time.time()  # wall-clock seconds, of the last good one
        self._source = source
        self._begun = first
        self._workers = workers
        self._take = take
        self._events = events
        self._asked = asyncio.Event()
        self._now = first
        self._seen = self._latest = source.marks(first)
        self._had = source.had(first)
        self._notices = set(first.notices)
        self._waiting: frozenset[str] = frozenset()

    def ask(self) -> None:
        """Have the settings read again, whether or not a file has changed."""
        self._asked.set()

    def follow(self, reading: Reading) -> None:
        """Go on where the process stopped that read the first settings: what it told of holds still."""
        self.at, self._had = reading.at, reading.had
        self._seen = self._latest = reading.seen
        if reading.refusal:
            self.good = False
            self._events.note(Kind.RELOAD, f"{_NOT}, {_KEPT}: {reading.refusal}")

    async def keep(self) -> None:
        """Look after the files until cancelled."""
        while True:
            await self._rest()
            before, self._latest = self._latest, self._source.marks(self._now)
            if self._asked.is_set():
                self._asked.clear()
                await self.reload("SIGHUP")
            elif self._latest != self._seen and self._latest == before:
                await self.reload("a changed file")

    async def reload(self, why: str) -> bool:
        """Read the settings and serve by them; False: they are bad, and those before are kept."""
        self._seen = self._source.marks(self._now)
        try:
            fresh, had = await asyncio.to_thread(self._read)
            told = await self._take(fresh)
        except (SettingsError, OSError, RecursionError) as error:  # the latter two: of taking them
            self.good = False
            _log.error("%s: %s; %s", _NOT, error, _KEPT)
            self._events.note(Kind.RELOAD, f"{why}: {_NOT}, {_KEPT}: {error}")
            return False
        self.good, self.at = True, time.time()
        self._had, self._now = had, fresh
        # A file that changed since then is not seen yet; one that is named only now was read just now.
        seen, self._seen = self._seen, self._source.marks(fresh)
        self._seen |= {path: mark for path, mark in seen.items() if path in self._seen}
        self._latest = self._seen
        _log.info("reloaded by %s: %s", why, told)
        self._events.note(Kind.RELOAD, f"{why}: reloaded: {told}")
        self._tell(fresh)
        return True

    def _read(self) -> tuple[Settings, Had]:
        workers, begun = self._workers() or 2, self._begun
        fresh = self._source.read(workers, self._had)
        # What is made at the start stays as it is, so the rest must fit that.
        fresh = replace(fresh, store=begun.store, memory=begun.memory, upstream=begun.upstream)
        check_workers(fresh, workers)
        return fresh, self._source.had(fresh)

    def _tell(self, fresh: Settings) -> None:
        for notice in fresh.notices:
            if notice not in self._notices:
                _log.warning("%s", notice)
        self._notices = set(fresh.notices)
        first = {origin.name: origin.text for origin in self._begun.origins}
        waiting = frozenset(
            origin.name
            for origin in fresh.origins
            if KNOBS[origin.name].restart and origin.text != first[origin.name]
        )
        if waiting != self._waiting and waiting:
            names = ", ".join(sorted(waiting))
            _log.warning("%s: read at the start only; start anew for what was changed there", names)
            self._events.note(Kind.RELOAD, f"{names}: changed, and in force at the next start only")
        self._waiting = waiting

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._asked.wait()
        except TimeoutError:
            return
