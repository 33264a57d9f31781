"""What one worker counts, and what it tells the others."""

import asyncio
from collections.abc import Iterable

import pytest

from pointsman import attempt
from pointsman.census import Census
from pointsman.exchange import Exchange
from pointsman.recent import Figures, Recent
from pointsman.sessions import Sessions, digest_of
from pointsman.store.base import Unavailable
from pointsman.store.tally import BATCH, Count, Totals

pytestmark = pytest.mark.anyio


class Shared:
    """A store that keeps what it is told; `away`: it does not answer."""

    def __init__(self) -> None:
        self.away = False
        self.heard: list[bytes] = []
        self.steps = 0
        self.requests = 0

    async def tally(self, heard: Iterable[bytes], count: Count) -> Totals:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        told = list(heard)
        assert len(told) <= BATCH
        self.steps += 1
        self.heard += told
        self.requests += count.requests
        return Totals(len(set(self.heard)), Count(self.requests, 1, 2.5), Count(self.requests))


def exchange() -> Exchange:
    return Exchange("id", "/r", "POST", 99.0, status=200, end=attempt.OK, ended_at=100.0)


def census(store: Shared | None) -> Census:
    return Census(Sessions(), Recent(), store)


async def test_alone_it_tells_its_own() -> None:
    """Nothing is shared, nothing waits to be told, and no task is begun."""
    own = census(None)
    own.note("a", 100.0)
    own.observe(exchange())
    counted = await own.read(100.0)
    assert (counted.sessions, counted.day, counted.shared) == (1, Figures(1, 0, 1.0), False)
    assert len(own) == 0
    assert own._task is None


async def test_what_all_have_counted_is_told() -> None:
    """Who asks adds what is new, and gets the sum of all workers in one step."""
    store = Shared()
    one, other = census(store), census(store)
    one.note("a", 100.0)
    other.note("a", 100.0)
    other.note("b", 100.0)
    other.observe(exchange())
    await other.read(100.0)
    counted = await one.read(100.0)
    assert (counted.sessions, counted.day, counted.shared) == (2, Figures(1, 1, 2.5), True)
    assert store.steps == 2
    assert b"a" not in store.heard
    assert digest_of("a") in store.heard
    await one.close()
    await other.close()


async def test_nothing_is_lost_while_the_store_is_away() -> None:
    """What this worker counted is told instead, and goes to the store once that answers."""
    store = Shared()
    own = census(store)
    store.away = True
    own.note("a", 100.0)
    own.observe(exchange())
    counted = await own.read(100.0)
    assert (counted.sessions, counted.day.requests, counted.shared) == (1, 1, False)
    store.away = False
    counted = await own.read(100.0)
    assert (counted.sessions, counted.day.requests, counted.shared) == (1, 1, True)
    await own.close()


async def test_many_sessions_go_in_several_steps() -> None:
    """None of them larger than a step may be; and no more wait than there is room for."""
    store = Shared()
    own = census(store)
    for number in range(2 * BATCH + 5):
        own.note(str(number), 100.0)
    assert (await own.read(100.0)).sessions == 2 * BATCH + 5
    assert store.steps == 3
    assert len(own) == 0
    store.away = True
    for number in range(70_000):
        own.note(f"more {number}", 100.0)
    assert len(own) == 65_536
    store.away = False
    await own.close()


async def test_the_end_tells_what_is_left() -> None:
    """And does not fail where nobody hears it."""
    for away in (False, True):
        store = Shared()
        own = census(store)
        own.note("a", 100.0)
        await asyncio.sleep(0)
        store.away = away
        await own.close()
        assert store.heard == ([] if away else [digest_of("a")])
