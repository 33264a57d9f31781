"""Redis that dies or hangs, tenants beside each other, and clocks that jump."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from chaos.load import Done, call, told
from chaos.scene import Figure, Size, percentile
from chaos.stage import engines
from nginx import short_folder
from processes import BACKEND, Emulator, Router
from redis_server import RedisServer
from wire import VLLM, Client, post

_LIMITS = {"LIMITS__REQUESTS_PER_MINUTE": "1000000", "LIMITS__CONCURRENCY": "1000"}


def redis_away(size: Size) -> Iterable[Figure]:
    """The store of the limits is killed, comes back, and hangs, while calls come."""
    calls = size.pick(150, 1000)
    with short_folder() as folder, RedisServer(folder) as server:
        settings = {"STORE__URL": server.url, **_LIMITS}
        with engines(1, settings=settings) as (router, _):
            usual = asyncio.run(_in_turn(router.port, calls))
            for what, act in (("killed", server.kill), ("hanging", server.stall)):
                act()
                first = asyncio.run(_in_turn(router.port, 20))
                later = asyncio.run(_in_turn(router.port, calls))
                failed = [done for done in (*first, *later) if not done.ok]
                added = _p99(later) - _p99(usual)
                yield Figure(f"{what}: failed, of {calls + 20} ({told(failed)})", len(failed), most=0)
                yield Figure(f"{what}: slowest of the first 20", 1000 * max(d.took_s for d in first), "ms")
                yield Figure(f"{what}: p99 added after them", 1000 * added, "ms", most=5, timed=True)
                if act == server.kill:
                    server.start()
                    asyncio.run(_in_turn(router.port, calls))
            server.resume()


def _p99(results: list[Done]) -> float:
    return percentile([done.took_s for done in results], 0.99)


async def _in_turn(port: int, total: int) -> list[Done]:
    found = []
    for _ in range(total):
        found.append(await call(port, VLLM, VLLM.request("Go", 3, stream=False), stream=False))
        await asyncio.sleep(0.002)
    return found


def tenants(size: Size) -> Iterable[Figure]:
    """Two hundred sessions of many tenants, turns broken off at random: whose words turn up where?"""
    total, rng = size.pick(1500, 10_000), random.Random(5)
    with short_folder() as folder, RedisServer(folder) as server:
        settings = {
            "STORE__URL": server.url,
            "CHAT_HISTORY__ENABLED": "true",
            "CACHE__ENABLED": "true",
            "RATE_LIMIT__ENABLED": "false",
        }
        with (
            keys(8) as (path, secrets),
            engines(1, settings={**settings, "KEYS_FILE": path}) as (router, (engine,)),
        ):
            foreign, answered = asyncio.run(_talk(router.port, engine, secrets, total, rng))
    yield Figure("turns", total)
    yield Figure("that were not broken off", answered, least=total // 3)
    yield Figure("prompts with another tenant's words", foreign, most=0)


@contextmanager
def keys(count: int) -> Iterator[tuple[str, list[str]]]:
    """A file of keys, each of a tenant of its own; its path and the secrets."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        yield str(path), [_create(path, f"t{number}") for number in range(count)]


def _create(path: Path, tenant: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", "keys", "create", "--tenant", tenant],
        env={**os.environ, "KEYS_FILE": str(path), "PYTHONPATH": str(BACKEND)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.splitlines()[0].strip()


async def _talk(
    port: int, engine: Emulator, secrets: list[str], total: int, rng: random.Random
) -> tuple[int, int]:
    """How many prompts held another tenant's words, and how many turns were answered."""
    limit, answered, foreign = asyncio.Semaphore(16), 0, 0

    async def turn(number: int) -> None:
        nonlocal answered
        tenant = rng.randrange(len(secrets))
        body = {
            "messages": [{"role": "user", "content": f"tenant-{tenant}- says {number % 40}"}],
            "session_id": f"session-{rng.randrange(25)}",  # the same names for all tenants
            "stream": rng.random() < 0.5,
            "max_tokens": 3,
            "temperature": 0,
        }
        data = post("/v1/chat", body, f"x-api-key: {secrets[tenant]}", "connection: close")
        async with limit, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            if rng.random() < 0.4:
                await asyncio.sleep(rng.random() * 0.02)
                writer.transport.abort()
                return
            answer = await reader.read()
            writer.close()
            answered += answer.startswith(b"HTTP/1.1 200")

    for start in range(0, total, 100):
        engine.reset()
        await asyncio.gather(*(turn(number) for number in range(start, min(start + 100, total))))
        for sent in engine.sent():
            named = {part.partition("-")[0] for part in sent["body"].split("tenant-")[1:]}
            foreign += len(named) > 1
    return foreign, answered


def clock_steps(size: Size) -> Iterable[Figure]:
    """The machine's clock jumps by an hour, forth and back, while calls and streams run."""
    calls = size.pick(100, 1000)
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder) / "clock"
        stamp.write_text("+0")
        preload = {
            "LD_PRELOAD": _library(),
            "FAKETIME_TIMESTAMP_FILE": str(stamp),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with engines(1, settings={**preload, **_LIMITS}) as (router, _):
            usual = asyncio.run(_in_turn(router.port, calls))
            stepped, told_times = [], []
            for step in ("+3600", "-3600", "+0"):
                stamp.write_text(step)
                stepped += asyncio.run(_in_turn(router.port, calls))
                told_times.append(_says_time(router) - time.time())
    failed = [done for done in stepped if not done.ok]
    yield Figure("clock seen by the router, off by", told_times[0], "s", least=3500)
    yield Figure(f"calls that failed, of {len(stepped)} ({told(failed)})", len(failed), most=0)
    yield Figure("p99 added", 1000 * (_p99(stepped) - _p99(usual)), "ms", most=5, timed=True)


def _says_time(router: Router) -> float:
    with Client(router.port) as client:
        client.send(VLLM.request("Go", 1, stream=False))
        told_date = client.read().header("date")
    return parsedate_to_datetime(told_date).timestamp() if told_date else time.time()


def _library() -> str:
    found = next(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"), None)
    if found is None:
        pytest.skip("libfaketime is not installed")
    return str(found)
