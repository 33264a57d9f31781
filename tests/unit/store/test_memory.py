"""The memory store's tables: bounded, and what goes when one is full."""

import pytest

from pointsman.gcra import Rate
from pointsman.store.base import Ask, Granted, Hold, Most, Once, Shelf, Size, Take
from pointsman.store.memory import MemoryConfig, MemoryStore

SLOW = Rate(1, 1)  # one a minute
SHELF = Shelf("cache", entries=3, bytes=100)
GRANTED = Granted(allowed=True)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rate(key: str, cost: float = 1.0) -> Ask:
    return Ask((Take(key, SLOW, cost),))


def test_ten_thousand_addresses_fit_a_bounded_table(clock: Clock) -> None:
    """The rates are bounded: who came first is forgotten first, who keeps coming is not."""
    store = MemoryStore(MemoryConfig(rates=100), clock)
    for number in range(10_000):
        clock.now += 0.001
        store.at_once(rate(f"address {number}"))
        assert not store.at_once(rate(f"address {number}")).allowed
        if number >= 50:
            assert not store.at_once(rate("address 49")).allowed
    assert store.sizes()["rates"] == 100
    assert store.at_once(rate("address 0")).allowed


def test_a_refused_key_is_in_use_as_well(clock: Clock) -> None:
    """A bucket that gives back is charged anew; one that is full again goes before one that is not."""
    store = MemoryStore(MemoryConfig(rates=3), clock)
    store.at_once(Ask((Take("long", Rate(1, 10), 10.0),)))
    clock.now += 1
    store.at_once(Ask((Take("short", Rate(60, 1)),)))
    store.at_once(rate("b"))
    clock.now += 2  # "short" is full again, though it was used after "long"
    store.at_once(rate("c"))
    assert not store.at_once(Ask((Take("long", Rate(1, 10), 10.0),))).allowed
    assert store.sizes()["rates"] == 3


def test_one_entry_is_the_smallest_table(clock: Clock) -> None:
    """With room for one, the newest stays."""
    store = MemoryStore(MemoryConfig(rates=1), clock)
    assert store.at_once(rate("a")).allowed
    assert store.at_once(rate("b")).allowed
    assert store.sizes()["rates"] == 1


def test_held_leases_are_never_put_out(clock: Clock) -> None:
    """A full table of leases refuses the next; ended ones make room."""
    store = MemoryStore(MemoryConfig(leases=2), clock)
    asks = [Ask(holds=(Hold(f"key {number}", 5, "id", 60.0),)) for number in range(3)]
    assert [store.at_once(ask).allowed for ask in asks] == [True, True, False]
    store.give_back(GRANTED, holds=asks[0].holds)
    store.give_back(GRANTED, holds=asks[0].holds)
    assert store.at_once(asks[2]).allowed
    assert store.sizes()["leases"] == 2


def test_leases_that_nobody_gave_back_end_and_are_swept(clock: Clock) -> None:
    """Leases whose time is over make room for others, of their own key or of any."""
    store = MemoryStore(MemoryConfig(leases=100), clock)
    for number in range(100):
        store.at_once(Ask(holds=(Hold(f"key {number}", 1, "id", 10.0),)))
    other = Ask(holds=(Hold("another", 1, "id", 10.0),))
    assert not store.at_once(other).allowed
    clock.now += 11
    assert store.at_once(other).allowed
    assert store.sizes()["leases"] < 100


def test_no_nonce_is_forgotten_before_its_time(clock: Clock) -> None:
    """A full table of nonces refuses the next and says when there will be room; none may be used again."""
    store = MemoryStore(MemoryConfig(nonces=10), clock)
    asks = [Ask(once=Once(f"nonce {number}", 300.0)) for number in range(11)]
    assert all(store.at_once(ask).allowed for ask in asks[:10])
    assert store.at_once(asks[10]) == Granted(allowed=False, refused="nonce 10", retry_after_s=300.0)
    assert all(store.at_once(ask).replayed for ask in asks[:10])
    clock.now += 300
    assert store.at_once(asks[10]).allowed
    assert store.sizes()["nonces"] <= 10


@pytest.mark.anyio
async def test_an_expired_value_goes_before_one_used_less_recently(clock: Clock) -> None:
    """A full shelf drops what has expired, and only then what was used least recently."""
    store = MemoryStore(clock=clock)
    await store.write(SHELF, "old", "me", b"1", 1000)
    await store.write(SHELF, "other", "me", b"2", 1000)
    await store.write(SHELF, "short", "me", b"3", 10)
    clock.now += 20
    await store.write(SHELF, "new", "me", b"4", 1000)
    assert await store.read(SHELF, "old", "me") == b"1"
    await store.write(SHELF, "newer", "me", b"5", 1000)
    assert await store.read(SHELF, "other", "me") is None
    assert await store.read(SHELF, "old", "me") == b"1"


@pytest.mark.anyio
async def test_a_shelf_written_over_and_over_keeps_no_traces(clock: Clock) -> None:
    """Values that are replaced leave nothing behind that grows."""
    store = MemoryStore(clock=clock)
    for number in range(1000):
        await store.write(SHELF, "same", "me", b"x" * (number % 50), 1000 + number)
    assert await store.size(SHELF) == Size(1, 999 % 50)
    assert len(store._tables["cache"]._ends) < 100


@pytest.mark.anyio
async def test_ten_thousand_sessions_fit_a_bounded_shelf(clock: Clock) -> None:
    """Sessions beyond the bound go, the least recently used first, and the bytes are counted right."""
    store, shelf = MemoryStore(clock=clock), Shelf("history", entries=100)
    for number in range(10_000):
        assert await store.append(shelf, f"session {number}", "me", "1", b"x" * 10, 7200, Most(5, 100))
    assert await store.size(shelf) == Size(100, 1000)
    assert store.sizes()["history"] == 100
    assert await store.items(shelf, "session 9999", "me") == [b"x" * 10]


@pytest.mark.parametrize("knob", ["rates", "leases", "nonces"])
def test_a_table_without_room_is_refused(knob: str) -> None:
    """Each bound is at least 1, and a wrong one is named."""
    with pytest.raises(ValueError, match=f"{knob} of the memory store"):
        MemoryConfig(**{knob: 0})
