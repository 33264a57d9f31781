"""A real Redis in trouble: killed, stalled, flushed, refusing; commands cancelled; several workers on it."""

import asyncio
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest

from nginx import short_folder
from pointsman.gcra import Rate
from pointsman.store.base import Ask, Granted, Hold, Most, Once, Shelf, Size, Take, Unavailable
from pointsman.store.config import StoreConfig
from pointsman.store.fallback import Local, Share
from pointsman.store.memory import MemoryStore
from ports import free_port
from processes import BACKEND
from redis_server import RedisServer

if not os.environ.get("CI"):
    pytest.importorskip("redis", reason="the extra redis is not installed")

from pointsman.store.redis import RedisStore

pytestmark = pytest.mark.anyio

LIMIT_S = 60.0
OPERATIONS = 10_000
SHELF = Shelf("cache", entries=1000)
TURNS = Shelf("history", entries=1000)
MOST = Most(20, 10_000)
GRANTED = Granted(allowed=True)
ASK = Ask((Take("key", Rate(60, 100)),), (Hold("key", 100, "id", 60.0),))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with short_folder() as folder, RedisServer(folder) as server:
        yield server


@asynccontextmanager
async def opened(url: str, timeout_s: float = 10.0) -> AsyncIterator[RedisStore]:
    """A store whose timeout is long, where the test is not about time."""
    store = RedisStore(StoreConfig(url, timeout_s=timeout_s, pause_s=0.02, pause_max_s=0.1))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(server.url) as store:
        yield store


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + LIMIT_S
    while not await holds():
        assert time.monotonic() < end, f"not within {LIMIT_S:g} s: {what}"
        await asyncio.sleep(0.01)


async def works(store: RedisStore) -> bool:
    try:
        await store.settle(Ask((Take("other", Rate(6000, 1000)),)))
    except Unavailable:
        return False
    return True


async def test_a_killed_redis_is_gone_at_once_and_used_again_when_it_is_back(
    store: RedisStore, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed: every operation says so. Back, without its scripts: all work. One line tells of each."""
    caplog.set_level("INFO", "pointsman.store")
    assert (await store.settle(ASK)).allowed
    server.kill()
    for _ in range(20):
        with pytest.raises(Unavailable, match="Redis cannot be reached"):
            await store.settle(ASK)
        with pytest.raises(Unavailable):
            await store.read(SHELF, "key", "me")
    assert store.down is not None
    server.start()
    await until(lambda: works(store), "Redis is back")
    assert store.down is None
    assert (await store.settle(ASK)).levels[0].remaining == 99
    assert [record.message for record in caplog.records] == [
        "store: Redis cannot be reached",
        "store: Redis answers again",
    ]


async def test_a_connection_that_redis_closed_is_not_used(store: RedisStore, server: RedisServer) -> None:
    """Idle connections that ended meanwhile cost no operation."""
    await asyncio.gather(*(store.read(SHELF, str(number), "me") for number in range(10)))
    assert store.sizes()["connections"] == 10
    server.kill()
    server.start()

    async def noticed() -> bool:
        return all([await connection.can_read() for connection in store._link._idle])

    await until(noticed, "the event loop has seen them end")
    for _ in range(10):
        assert (await store.settle(Ask((Take("key", Rate(60, 100)),)))).allowed
    assert store.sizes()["connections"] == 1


async def test_a_stalled_redis_costs_one_timeout_and_then_nothing(server: RedisServer) -> None:
    """It lives, listens and does not answer: the first waits 50 ms, the others no time at all."""
    async with opened(server.url, timeout_s=0.05) as store:
        await until(lambda: works(store), "a first answer")
        local = Local(store, Share(MemoryStore(), 2))
        server.stall()
        try:
            begin = time.monotonic()
            with pytest.raises(Unavailable, match="Redis did not answer within 50 ms"):
                await store.settle(ASK)
            assert time.monotonic() - begin >= 0.05
            for number in range(300):
                asking = local.settle(Ask((Take(f"key {number}", Rate(60, 10)),)))
                with pytest.raises(StopIteration) as answered:
                    asking.send(None)  # an answer at the first step: it waited for nothing at all
                granted = answered.value.value
                assert granted.local
                assert granted.levels[0].remaining == 4
                await asyncio.sleep(0.001)
            assert store.down is not None
        finally:
            server.resume()
        await until(lambda: works(store), "Redis is back")
        assert not (await local.settle(Ask((Take("new", Rate(60, 10)),)))).local


async def test_a_lease_whose_asker_gave_up_is_freed(server: RedisServer) -> None:
    """Redis carries out what it was sent before it stalled; such leases are given back when it is known."""
    async with opened(server.url, timeout_s=0.05) as store:
        await until(lambda: works(store), "a first answer")
        server.stall()
        try:
            with pytest.raises(Unavailable):
                await store.settle(Ask(holds=(Hold("key", 1, "orphan", 1800.0),)))
        finally:
            server.resume()

        async def free() -> bool:
            return not store.sizes()["returns"] and server.say("ZCARD", "pointsman:lease:key") == b":0\r\n"

        await until(free, "the lease is freed")
        await until(lambda: works(store), "Redis is back")
        assert (await store.settle(Ask(holds=(Hold("key", 1, "mine", 1800.0),)))).allowed


async def test_what_is_given_back_while_redis_is_away_is_not_lost(
    store: RedisStore, server: RedisServer
) -> None:
    """Leases given back to a Redis that does not answer are freed when it does."""
    hold = Hold("key", 1, "id", 1800.0)
    assert (await store.settle(Ask(holds=(hold,)))).allowed
    server.stall()
    try:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(store.read(SHELF, "key", "me"), 0.05)
        store.give_back(GRANTED, holds=(hold,))
        await asyncio.sleep(0.05)
    finally:
        server.resume()

    async def freed() -> bool:
        return server.say("ZCARD", "pointsman:lease:key") == b":0\r\n"

    await until(freed, "the lease is freed")


async def test_a_flushed_redis_begins_anew(store: RedisStore, server: RedisServer) -> None:
    """All data and scripts gone in the middle of use: limits begin anew, values are absent, nothing fails."""
    await store.settle(ASK)
    await store.write(SHELF, "key", "me", b"x", 60.0)
    await store.append(TURNS, "key", "me", "1", b"1", 60.0, MOST)
    server.say("FLUSHALL")
    server.say("SCRIPT", "FLUSH")
    store.give_back(GRANTED, (Take("key", Rate(60, 100), 5.0),), ASK.holds)
    assert await store.read(SHELF, "key", "me") is None
    assert await store.items(TURNS, "key", "me") == []
    assert await store.size(SHELF) == Size(0, 0)
    assert await store.write(SHELF, "key", "me", b"y", 60.0)
    assert await store.append(TURNS, "key", "me", "2", b"2", 60.0, MOST)
    assert await store.items(TURNS, "key", "me") == [b"2"]
    assert (await store.settle(ASK)).allowed
    assert store.down is None


async def test_a_redis_that_refuses_is_told_of_and_left_alone(store: RedisStore, server: RedisServer) -> None:
    """A replica that may not be written is no store, though it answers; once it may be, it is."""
    server.say("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(Unavailable, match="Redis refuses commands"):
        await store.settle(ASK)
    with pytest.raises(Unavailable):
        await store.check()
    server.say("REPLICAOF", "NO", "ONE")
    await until(lambda: works(store), "it may be written again")


async def test_a_check_tells_of_a_store_that_is_away(
    store: RedisStore, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """From then on it is known to be away, without any other operation; and so is that it is back."""
    caplog.set_level("INFO", "pointsman.store")
    await store.check()
    assert store.down is None
    server.kill()
    with pytest.raises(Unavailable, match="Redis cannot be reached"):
        await store.check()
    assert store.down == "Redis cannot be reached"
    server.start()

    async def back() -> bool:
        return store.down is None

    await until(back, "Redis is back")
    assert [record.message for record in caplog.records] == [
        "store: Redis cannot be reached",
        "store: Redis answers again",
    ]


async def test_an_answer_that_comes_late_once_is_no_alarm(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is busy with its start may be late itself: a check asks more than once."""
    told: list[str] = []

    async def try_writing() -> None:
        told.append("asked")
        if len(told) < 3:
            raise Unavailable("Redis did not answer within 50 ms")

    monkeypatch.setattr(store._link, "try_writing", try_writing)
    await store.check()
    assert (len(told), store.down) == (3, None)


async def test_a_password_is_given_and_a_wrong_one_is_told() -> None:
    """Over TCP, with user, password and a database of its own; no address or password is in the reason."""
    with short_folder() as folder:
        port = free_port()
        with RedisServer(folder, "--requirepass", "s3cret", port=port):
            async with opened(f"redis://default:s3cret@127.0.0.1:{port}/3") as store:
                await store.check()
                assert (await store.settle(ASK)).allowed
            for url in (f"redis://:wrong@127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
                async with opened(url) as store:
                    with pytest.raises(Unavailable, match=r"^Redis refuses the user or the password$"):
                        await store.check()
        async with opened(f"redis://:s3cret@127.0.0.1:{port}") as store:
            with pytest.raises(Unavailable, match=r"^Redis cannot be reached$"):
                await store.check()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b":7\r\n", b"*1\r\n$-1\r\n", b"$x\r\n", b""]
)
async def test_what_is_no_redis_is_not_believed(answer: bytes) -> None:
    """A server that answers something else, or hangs up, is unavailable and nothing worse."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as fake:
        port = fake.sockets[0].getsockname()[1]
        async with opened(f"redis://127.0.0.1:{port}") as store:
            with pytest.raises(Unavailable):
                await store.settle(ASK)
            with suppress(Unavailable):
                assert await store.read(SHELF, "key", "me") is None


async def test_a_cancelled_commands_connection_is_closed(store: RedisStore, server: RedisServer) -> None:
    """The answer that is still to come is nobody's: its connection is gone before others could use it."""
    await store.write(SHELF, "mine", "me", b"mine", 60.0)
    assert store.sizes()["connections"] == 1
    server.stall()
    try:
        task = asyncio.create_task(store.read(SHELF, "mine", "me"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert store.sizes()["connections"] == 0
    finally:
        server.resume()
    assert await store.read(SHELF, "yours", "you") is None
    assert store.foreign == 0
    assert store.down is None


async def test_no_reader_gets_anothers_answer_under_a_storm_of_cancels(
    store: RedisStore, server: RedisServer
) -> None:
    """Ten thousand operations of several tenants, a third cancelled: each reads its own, no lease stays."""
    storm = Storm(store, Random(6))
    await asyncio.wait_for(asyncio.gather(*(storm.work(worker) for worker in range(20))), LIMIT_S)
    assert storm.cancelled > OPERATIONS / 10
    assert storm.read > OPERATIONS / 20
    assert store.foreign == 0
    assert store.down is None

    async def nothing_held() -> bool:
        return not store.sizes()["returns"] and server.say("ZCARD", "pointsman:lease:key") == b":0\r\n"

    await until(nothing_held, "all leases are freed")
    assert store.sizes()["connections"] <= 32


class Storm:
    """Random operations, and the checker: whatever is read was written by this tenant under this key."""

    def __init__(self, store: RedisStore, rng: Random) -> None:
        self.read = 0
        self.cancelled = 0
        self._store = store
        self._rng = rng
        self._written: defaultdict[tuple[str, str], set[bytes]] = defaultdict(set)

    async def work(self, worker: int) -> None:
        for step in range(OPERATIONS // 20):
            task = asyncio.create_task(self._operation(f"{worker}:{step}"))
            if self._rng.random() < 1 / 3:
                for _ in range(self._rng.randint(0, 12)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                self.cancelled += 1

    async def _operation(self, name: str) -> None:
        tenant, key = f"tenant {self._rng.randint(0, 4)}", f"key {self._rng.randint(0, 9)}"
        value = f"{tenant}, {key}, {name}".encode()
        kind = self._rng.random()
        if kind < 0.25:
            self._written[tenant, key].add(value)
            await self._store.write(SHELF, tenant + key, tenant, value, 60.0)
        elif kind < 0.5:
            found = await self._store.read(SHELF, tenant + key, tenant)
            assert found is None or found in self._written[tenant, key], (tenant, key, found)
            self.read += found is not None
        elif kind < 0.65:
            self._written[tenant, key].add(value)
            await self._store.append(TURNS, tenant + key, tenant, name, value, 60.0, MOST)
        elif kind < 0.8:
            items = await self._store.items(TURNS, tenant + key, tenant)
            assert set(items) <= self._written[tenant, key], (tenant, key, items)
            assert len(set(items)) == len(items)
            self.read += bool(items)
        else:
            hold = Hold("key", OPERATIONS, name, 1800.0)
            granted = await self._store.settle(Ask((Take(tenant, Rate(1e6, 100_000)),), (hold,)))
            assert granted.allowed
            assert len(granted.levels) == 1
            self._store.give_back(granted, holds=(hold,))


WORKER = """
import asyncio, sys
from pointsman.gcra import Rate
from pointsman.store.base import Ask, Hold, Once, Take
from pointsman.store.config import StoreConfig
from pointsman.store.redis import RedisStore

async def work(url, name):
    store = RedisStore(StoreConfig(url, timeout_s=10.0))
    rates = asyncio.gather(*(store.settle(Ask((Take("rate", Rate(0.001, 100)),))) for _ in range(150)))
    asks = [Ask(holds=(Hold("hold", 10, f"{name}{n}", 60.0),)) for n in range(30)]
    holds = asyncio.gather(*(store.settle(ask) for ask in asks))
    onces = asyncio.gather(*(store.settle(Ask(once=Once(f"nonce {n}", 60.0))) for n in range(50)))
    answers = [await rates, await holds, await onces]
    await store.close()
    print(*(sum(granted.allowed for granted in some) for some in answers))

asyncio.run(work(*sys.argv[1:]))
"""


async def test_two_workers_on_one_redis_are_as_one(server: RedisServer) -> None:
    """Two processes at once get together exactly what one limit allows: requests, leases and nonces."""
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, server.url, name, cwd=BACKEND, stdout=subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    told = [await asyncio.wait_for(worker.communicate(), LIMIT_S) for worker in workers]
    counts = [[int(word) for word in out.split()] for out, _ in told]
    assert [sum(pair) for pair in zip(*counts, strict=True)] == [100, 10, 50]


async def test_more_operations_than_connections_wait_for_one(server: RedisServer) -> None:
    """The number of connections is bounded, and no operation is lost for it."""
    config = StoreConfig(server.url, timeout_s=10.0, connections=3)
    store = RedisStore(config)
    answers = await asyncio.gather(*(store.settle(Ask((Take("key", Rate(60, 100)),))) for _ in range(200)))
    assert sum(granted.allowed for granted in answers) >= 100
    assert store.sizes()["connections"] == 3
    await store.close()
    assert store.sizes()["connections"] == 0
    with pytest.raises(Unavailable, match="closed"):
        await store.settle(ASK)


async def test_signed_requests_are_not_settled_by_a_share(server: RedisServer, store: RedisStore) -> None:
    """Without the shared store nobody knows which nonces were seen: an ask with one is unavailable."""
    local = Local(store, Share(MemoryStore(), 1))
    server.kill()
    assert (await local.settle(ASK)).local
    with pytest.raises(Unavailable):
        await local.settle(Ask(once=Once("nonce", 60.0)))
