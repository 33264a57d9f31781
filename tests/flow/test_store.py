"""What holds for every store, in memory and in a real Redis alike; and that both give the same answers."""

import os
from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest

from nginx import short_folder
from pointsman.gcra import Rate
from pointsman.store.base import Ask, Granted, Hold, Level, Most, Once, Shelf, Size, Store, Take, digest, seal
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryStore
from redis_server import RedisServer

if not os.environ.get("CI"):
    pytest.importorskip("redis", reason="the extra redis is not installed")

from pointsman.store.redis import RedisStore

pytestmark = pytest.mark.anyio

SEQUENCES = 1000
SHELF = Shelf("cache", entries=3, bytes=100)
TURNS = Shelf("history", entries=3, bytes=100)
MOST = Most(3, 30)
GRANTED = Granted(allowed=True)
TEN = Rate(10, 15)


class Clock:
    """Seconds that pass when told to, the same for all stores."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with short_folder() as folder, RedisServer(folder) as server:
        yield server


@pytest.fixture
async def shared(server: RedisServer, clock: Clock) -> AsyncIterator[RedisStore]:
    server.say("FLUSHALL")
    store = RedisStore(StoreConfig(server.url, timeout_s=10.0), clock)
    yield store
    await store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Store:
    if request.param == "memory":
        return MemoryStore(clock=clock)
    found: RedisStore = request.getfixturevalue("shared")
    return found


async def delivered(store: Store) -> None:
    """Wait until what was given back has arrived."""
    if isinstance(store, RedisStore) and store._returns._task is not None:
        await store._returns._task


async def test_the_bucket_of_seed_002(store: Store, clock: Clock) -> None:
    """15 at once, the sixteenth refused for six seconds, with the levels told each time."""
    ask = Ask((Take("key", TEN),))
    for left in range(14, -1, -1):
        granted = await store.settle(ask)
        assert granted.allowed
        assert granted.levels[0].remaining == left
    level = Level(0, 90.0)
    assert await store.settle(ask) == Granted(False, (level,), "key", retry_after_s=6.0)
    clock.now += 6
    assert (await store.settle(ask)).allowed


async def test_all_or_nothing(store: Store) -> None:
    """When one of several refuses, none of the others is taken, and the longest wait is told."""
    full = Take("full", Rate(1, 1))
    rich, hold, once = Take("rich", TEN), Hold("leases", 1, "mine", 60.0), Once("nonce", 60.0)
    assert (await store.settle(Ask((full,)))).allowed
    refused = await store.settle(Ask((rich, full), (hold,), once))
    assert (refused.allowed, refused.refused, refused.retry_after_s) == (False, "full", 60.0)
    assert [level.remaining for level in refused.levels] == [15, 0]
    granted = await store.settle(Ask((rich,), (hold,), once))
    assert granted.levels[0].remaining == 14
    assert not (await store.settle(Ask((rich,), (Hold("leases", 1, "other", 60.0),)))).allowed


async def test_a_nonce_is_good_once_in_its_time(store: Store, clock: Clock) -> None:
    """A nonce seen before is replayed, whatever else is asked, until its time is over."""
    ask = Ask((Take("key", TEN),), once=Once("nonce", 300.0))
    assert (await store.settle(ask)).allowed
    assert await store.settle(ask) == Granted(False, refused="nonce", replayed=True)
    clock.now += 299.9
    assert (await store.settle(ask)).replayed


async def test_leases_count_at_once_and_end_by_themselves(store: Store, clock: Clock) -> None:
    """So many at once; given back or out of time they are free, asked again under their id renewed."""

    async def held(name: str) -> bool:
        return (await store.settle(Ask(holds=(Hold("key", 2, name, 60.0),)))).allowed

    assert [await held(name) for name in ("a", "b", "c", "a")] == [True, True, False, True]
    store.give_back(GRANTED, holds=(Hold("key", 2, "b", 60.0), Hold("key", 2, "unknown", 60.0)))
    await delivered(store)
    assert [await held(name) for name in ("c", "d")] == [True, False]
    clock.now += 60
    assert [await held(name) for name in ("d", "e", "f")] == [True, True, False]


async def test_an_estimate_is_settled(store: Store) -> None:
    """What was reserved too much comes back; what was too little is a debt."""
    rate = Rate(60, 100)
    granted = await store.settle(Ask((Take("key", rate, 80.0),)))
    store.give_back(granted, (Take("key", rate, -50.0),))
    await delivered(store)
    assert (await store.settle(Ask((Take("key", rate, 0.0),)))).levels == (Level(70, 30.0),)
    store.give_back(granted, (Take("key", rate, 100.0),))
    await delivered(store)
    assert (await store.settle(Ask((Take("key", rate, 1.0),)))).retry_after_s == 31.0


async def test_a_value_is_its_owners(store: Store, clock: Clock) -> None:
    """Another tenant reads nothing under the same key, which is counted; expired, nobody reads it."""
    assert await store.write(SHELF, "key", "me", b"mine\r\n\x00", 60.0)
    assert await store.read(SHELF, "key", "me") == b"mine\r\n\x00"
    assert await store.read(SHELF, "key", "you") is None
    assert store.foreign == 1
    assert await store.read(SHELF, "other", "me") is None
    assert store.foreign == 1
    clock.now += 60
    assert await store.read(SHELF, "key", "me") is None
    assert await store.size(SHELF) == Size(0, 0)


async def test_a_value_too_large_leaves_nothing(store: Store) -> None:
    """What the shelf cannot hold is not kept, and the value it was to replace is gone."""
    assert await store.write(SHELF, "key", "me", b"x" * 100, 60.0)
    assert not await store.write(SHELF, "key", "me", b"x" * 101, 60.0)
    assert await store.read(SHELF, "key", "me") is None
    assert await store.size(SHELF) == Size(0, 0)


async def test_a_full_shelf_drops_what_was_used_least_recently(store: Store, clock: Clock) -> None:
    """By entries and by bytes; reading counts as use."""
    for key in ("a", "b", "c"):
        clock.now += 1
        await store.write(SHELF, key, "me", b"x" * 30, 600.0)
    clock.now += 1
    assert await store.read(SHELF, "a", "me")
    clock.now += 1
    await store.write(SHELF, "d", "me", b"x" * 30, 600.0)
    assert [await store.read(SHELF, key, "me") is None for key in "abcd"] == [False, True, False, False]
    clock.now += 1
    await store.write(SHELF, "e", "me", b"x" * 70, 600.0)
    assert (await store.size(SHELF)).bytes <= 100
    assert await store.read(SHELF, "e", "me") is not None


async def test_a_list_loses_its_oldest_items_whole(store: Store) -> None:
    """By number and by bytes; an item beyond the bounds changes nothing."""
    for number in range(5):
        assert await store.append(TURNS, "key", "me", f"{number}", b"%d" % number * 5, 60.0, MOST)
    assert await store.items(TURNS, "key", "me") == [b"22222", b"33333", b"44444"]
    assert await store.append(TURNS, "key", "me", "5", b"5" * 22, 60.0, MOST)
    assert await store.items(TURNS, "key", "me") == [b"44444", b"5" * 22]
    assert not await store.append(TURNS, "key", "me", "6", b"6" * 31, 60.0, MOST)
    assert await store.items(TURNS, "key", "me") == [b"44444", b"5" * 22]
    assert await store.size(TURNS) == Size(1, 27)


async def test_an_item_is_kept_once(store: Store) -> None:
    """The same id again, with whatever value, changes nothing."""
    for value in (b"first", b"again"):
        assert await store.append(TURNS, "key", "me", "id", value, 60.0, MOST)
    assert await store.items(TURNS, "key", "me") == [b"first"]


async def test_each_item_begins_a_lists_life_anew(store: Store, clock: Clock) -> None:
    """A list lives so long after its last item; reading does not prolong it."""
    await store.append(TURNS, "key", "me", "1", b"1", 60.0, MOST)
    clock.now += 50
    await store.append(TURNS, "key", "me", "2", b"2", 60.0, MOST)
    clock.now += 50
    assert await store.items(TURNS, "key", "me") == [b"1", b"2"]
    clock.now += 10
    assert await store.items(TURNS, "key", "me") == []


async def test_a_list_is_its_owners(store: Store) -> None:
    """Another tenant sees an empty list, and one foreign item hides all."""
    await store.append(TURNS, "key", "me", "1", b"1", 60.0, MOST)
    assert await store.items(TURNS, "key", "you") == []
    await store.append(TURNS, "key", "you", "2", b"2", 60.0, MOST)
    assert await store.items(TURNS, "key", "me") == []
    assert store.foreign == 2


async def test_dropping_by_key_and_by_prefix(store: Store) -> None:
    """What is dropped is counted, and only that is gone."""
    mine, yours = digest("me"), digest("you")
    for key in (mine + "1", mine + "2", yours + "1"):
        await store.write(SHELF, key, "me", b"x", 60.0)
    assert await store.drop(SHELF, mine + "1", mine + "9") == 1
    assert await store.drop(SHELF) == 0
    assert await store.drop_under(SHELF, mine) == 1
    assert await store.size(SHELF) == Size(1, 1)
    assert await store.drop_under(SHELF) == 1


async def test_memory_and_redis_answer_alike(shared: RedisStore, clock: Clock) -> None:
    """A thousand random sequences of limits get equal answers, to the last bit, from Python and from Lua."""
    memory, rng = MemoryStore(clock=clock), Random(4)
    for number in range(SEQUENCES):
        await compare_limits(memory, shared, clock, rng, str(number))


async def compare_limits(
    memory: MemoryStore, shared: RedisStore, clock: Clock, rng: Random, name: str
) -> None:
    """One sequence on keys of its own; half of them with a clock that goes back now and then."""
    backwards = rng.random() < 0.5
    rates = [Rate(rng.uniform(0.5, 600), rng.randint(1, 30)) for _ in range(2)]
    for step in range(12):
        clock.now += rng.uniform(-5 if backwards else 0, 15) * rng.random()
        takes = tuple(Take(f"{name}:{n}", rate, rng.uniform(0, 40)) for n, rate in enumerate(rates))
        takes = takes[: rng.randint(0, 2)]
        holds = (Hold(name, 2, str(rng.randint(0, 4)), rng.uniform(30, 60)),) if not backwards else ()
        once = Once(f"{name}:{rng.randint(0, 8)}", 60.0) if rng.random() < 0.3 else None
        ask = Ask(takes, holds[: rng.randint(0, 1)], once)
        expected = await memory.settle(ask)
        assert await shared.settle(ask) == expected, (name, step, ask)
        if rng.random() < 0.3:
            back = tuple(Take(take.key, take.rate, rng.uniform(-20, 20)) for take in takes)
            for store in (memory, shared):
                store.give_back(expected, back, ask.holds)
                await delivered(store)


async def test_memory_and_redis_keep_alike(shared: RedisStore, clock: Clock) -> None:
    """Three thousand random operations on values and lists leave both with the same, step by step."""
    memory, rng = MemoryStore(clock=clock), Random(5)
    for step in range(3000):
        clock.now += rng.uniform(0.001, 2)
        key, owner = rng.choice("abcdef"), rng.choice(("me", "you"))
        value, ttl_s, kind = rng.randbytes(rng.randint(1, 45)), rng.uniform(10, 60), rng.random()
        answers: list[object] = []
        for store in (memory, shared):
            if kind < 0.3:
                answers.append(await store.write(SHELF, key, owner, value, ttl_s))
            elif kind < 0.5:
                answers.append(await store.read(SHELF, key, owner))
            elif kind < 0.7:
                answers.append(await store.append(TURNS, key, "me", str(step % 7), value, ttl_s, MOST))
            elif kind < 0.9:
                answers.append(await store.items(TURNS, key, "me"))
            elif kind < 0.95:
                answers.append(await store.drop(SHELF, key))
            else:
                answers.append((await store.size(SHELF), await store.size(TURNS), store.foreign))
        assert answers[0] == answers[1], (step, kind)


async def test_another_tenants_value_from_redis_reads_as_absent(
    shared: RedisStore, server: RedisServer
) -> None:
    """Whatever Redis answers, what was not sealed for this tenant and key is nothing."""
    place = b"pointsman:value:cache:key"
    for value in (
        seal("you", "key", b"x"),
        seal("me", "other", b"x"),
        b"",
        b"short",
        seal("me", "key", b"xy")[:-1],
    ):
        server.say("SET", place, value)
        before = shared.foreign
        assert await shared.read(SHELF, "key", "me") is None
        assert shared.foreign == before + 1
    server.say("SET", place, seal("me", "key", b"x"))
    assert await shared.read(SHELF, "key", "me") == b"x"


async def test_every_key_in_redis_ends(shared: RedisStore, server: RedisServer, clock: Clock) -> None:
    """Nothing stays for ever: each key that any operation makes has a time to live."""
    await shared.settle(Ask((Take("key", TEN),), (Hold("key", 2, "id", 60.0),), Once("key", 60.0)))
    await shared.write(SHELF, "key", "me", b"x", 60.0)
    await shared.append(TURNS, "key", "me", "1", b"1", 60.0, MOST)
    await shared.check()
    names = [line for line in server.say("KEYS", "*").split(b"\r\n") if line.startswith(b"pointsman:")]
    assert len(names) == 12
    for name in names:
        left = int(server.say("PTTL", name).strip(b":\r\n"))
        assert 0 < left <= 70_000, name


async def test_an_operation_is_one_round_trip(shared: RedisStore, server: RedisServer) -> None:
    """Settling sends one command, by the script's name; a new connection sends no greeting."""
    ask = Ask((Take("key", TEN), Take("tokens", TEN)), (Hold("key", 99, "id", 60.0),), Once("a", 60.0))
    await shared.settle(ask)
    server.say("CONFIG", "RESETSTAT")
    for number in range(5):
        await shared.settle(Ask(ask.takes, ask.holds, Once(str(number), 60.0)))
    told = server.say("INFO", "commandstats").decode()
    calls = {line.split(":")[0].removeprefix("cmdstat_"): line for line in told.splitlines() if ":" in line}
    assert "calls=5," in calls["evalsha"]
    assert not {"eval", "hello", "client|setinfo", "select", "script|load"} & set(calls)
