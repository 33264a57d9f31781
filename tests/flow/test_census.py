"""Sessions and requests are counted over all workers that share a real Redis."""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nginx import short_folder
from pointsman.store.config import StoreConfig
from pointsman.store.tally import BATCH, HEARD_MOST, HEARD_S, Count
from processes import Emulator, Router, wait_for
from redis_server import RedisServer

if not os.environ.get("CI"):
    pytest.importorskip("redis", reason="the extra redis is not installed")

from pointsman.store.redis import RedisStore

NOTHING = Count()


@dataclass
class Clock:
    """Seconds since 1970, as a test says."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with short_folder() as folder, RedisServer(folder) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(server: RedisServer, clock: Clock) -> AsyncIterator[RedisStore]:
    server.say("FLUSHALL")
    opened = RedisStore(StoreConfig(server.url, timeout_s=10.0), clock)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.mark.anyio
async def test_a_session_counts_once_and_for_half_an_hour(store: RedisStore, clock: Clock) -> None:
    """Whoever heard of it; each word in it begins the half hour anew."""
    assert (await store.tally([b"a", b"b"], NOTHING)).sessions == 2
    clock.now += HEARD_S - 1
    assert (await store.tally([b"a"], NOTHING)).sessions == 2
    clock.now += 2
    assert (await store.tally([], NOTHING)).sessions == 1
    clock.now += HEARD_S
    assert (await store.tally([], NOTHING)).sessions == 0


@pytest.mark.anyio
async def test_requests_of_an_hour_and_of_a_day(store: RedisStore, clock: Clock) -> None:
    """What is older than the window does not count, and is not kept."""
    await store.tally([], Count(3, 1, 2.5))
    clock.now += 59 * 60
    told = await store.tally([], Count(1, 0, 0.25))
    assert (told.day, told.hour) == (Count(4, 1, 2.75), Count(4, 1, 2.75))
    clock.now += 2 * 60
    told = await store.tally([], NOTHING)
    assert (told.day, told.hour) == (Count(4, 1, 2.75), Count(1, 0, 0.25))
    clock.now += 24 * 3600
    assert (await store.tally([], NOTHING)).day == NOTHING


@pytest.mark.anyio
async def test_the_sessions_are_bounded(store: RedisStore, server: RedisServer, clock: Clock) -> None:
    """Beyond the bound those go that have been silent longest."""
    names = [b"%d" % number for number in range(HEARD_MOST + 500)]
    for begin in range(0, len(names), BATCH):
        clock.now += 0.01
        told = await store.tally(names[begin : begin + BATCH], NOTHING)
    assert told.sessions == HEARD_MOST
    assert server.say("ZSCORE", "pointsman:tally:sessions", names[0]) == b"$-1\r\n"
    assert server.say("TTL", "pointsman:tally:sessions") == b":%d\r\n" % HEARD_S


@pytest.fixture
def pair(server: RedisServer) -> Iterator[tuple[Router, Router]]:
    """Two routers on one Redis, as two workers are."""
    server.say("FLUSHALL")
    with Emulator("vllm") as vllm:
        settings = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "STORE__URL": server.url, "STORE__TIMEOUT_S": "5"}
        with Router(**settings) as one, Router(**settings) as other:
            for router in (one, other):
                router.wait_until_up("gemma-3-12b")
            yield one, other


def chat(router: Router, session: str, **more: Any) -> int:
    body = {"messages": [{"role": "user", "content": "Hi"}], "session_id": session, "max_tokens": 2, **more}
    return router.http.post("/api/chat/stream", json=body).status_code


def told(router: Router) -> tuple[int, int, int]:
    """Sessions as health and metrics have them, and requests of the day."""
    health, metrics = router.http.get("/api/health").json(), router.http.get("/api/metrics").json()
    return health["active_sessions"], metrics["active_sessions"], metrics["total_requests_24h"]


def test_two_workers_count_as_one(pair: tuple[Router, Router], server: RedisServer) -> None:
    """Each tells of what both counted, a session that both heard of once; alone while Redis is away."""
    one, other = pair
    for router, session in ((one, "a"), (one, "b"), (other, "b"), (other, "c"), (other, "ד")):
        assert chat(router, session) == 200
    assert chat(one, "bad", max_tokens=0) == 400
    wait_for(lambda: told(one) == told(other) == (4, 4, 6), "4 sessions, 6 requests")
    server.stall()
    try:
        wait_for(lambda: told(one) == (2, 2, 3), "what one worker counted")
    finally:
        server.resume()
    wait_for(lambda: told(one) == (4, 4, 6), "what both counted")


def test_no_stream_waits_for_it(server: RedisServer) -> None:
    """A Redis that hangs costs a chat nothing: what is counted goes there by a task of its own."""
    with Emulator("vllm") as vllm:
        settings = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "STORE__URL": server.url, "STORE__TIMEOUT_S": "10"}
        with Router(**settings) as router:
            router.wait_until_up("gemma-3-12b")
            server.stall()
            try:
                assert [chat(router, f"s{number}") for number in range(20)] == [200] * 20
            finally:
                server.resume()
            wait_for(lambda: told(router)[0] >= 20, "all are told in the end")


def test_sessions_are_told_to_those_who_never_ask(pair: tuple[Router, Router]) -> None:
    """A worker whose health nobody reads tells of its sessions within seconds."""
    one, other = pair
    for number in range(3):
        assert chat(one, f"only here {number}") == 200
    wait_for(lambda: other.http.get("/api/health").json()["active_sessions"] == 3, "3 sessions")
