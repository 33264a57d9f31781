"""Clients that leave: how soon the engine hears of it, and what is left behind."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from chaos.engine import Engine
from chaos.load import call
from chaos.scene import Figure, Size, percentile
from chaos.stage import engines
from processes import Emulator, Router, wait_for
from wire import VLLM

STREAMS = 200  # open beside


def time_to_the_engine(size: Size) -> Iterable[Figure]:
    """A client leaves in the middle of a stream: until the engine's connection is closed."""
    total = size.pick(200, 1000)
    with Emulator("vllm", "--tokens-per-s", "10", "--max-num-seqs", "256") as busy, Engine() as engine:
        settings = {"VLLM_GEMMA3_ENDPOINT": busy.url, "VLLM_LONE_ENDPOINT": engine.url}
        with Router(**settings) as router:
            router.wait_until_up("gemma-3-12b", "lone")
            idle = asyncio.run(_leaving(router.port, engine, total))
            pipelined = asyncio.run(_leaving(router.port, engine, total, pipelined=True))
            beside = asyncio.run(_leaving(router.port, engine, total, streams=STREAMS))
    for what, times, most in (
        ("idle", idle, 10),
        (f"with {STREAMS} streams", beside, 50),
        ("after a pipelined second request", pipelined, 50),
    ):
        yield Figure(f"{what}: noticed, of {total}", len(times), least=total)
        yield Figure(f"{what}: p99", 1000 * percentile(times, 0.99), "ms", most=most, timed=True)


async def _leaving(
    port: int, engine: Engine, total: int, *, streams: int = 0, pipelined: bool = False
) -> list[float]:
    """Seconds from a client's leaving to the engine's connection's end, of each that was noticed."""
    data = VLLM.request("Stay", 500, stream=True, model="lone")
    times = []
    async with _streaming(port, streams):
        for _ in range(total):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            async with asyncio.timeout(20):
                while b"delta" not in (block := await reader.read(65536)):
                    assert block, "no stream"
            if pipelined:
                writer.write(data)
                await asyncio.sleep(0.002)  # so that both have come
            left = engine.left_at
            begin = time.monotonic()
            writer.transport.abort()
            end = begin + 5
            while engine.left_at == left and time.monotonic() < end:
                await asyncio.sleep(0.0005)
            if engine.left_at != left:
                times.append(engine.left_at - begin)
    return times


@asynccontextmanager
async def _streaming(port: int, streams: int) -> AsyncIterator[None]:
    data = VLLM.request("Talk", 2000, stream=True)
    tasks = [asyncio.ensure_future(call(port, VLLM, data, stream=True)) for _ in range(streams)]
    await asyncio.sleep(2.0 if streams else 0.0)  # until all have begun
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def nothing_is_left(size: Size) -> Iterable[Figure]:
    """Clients leave at random moments in random ways; then the router holds what it held before."""
    total = size.pick(1000, 10_000)
    pace = ("--ttft-ms", "20", "--tokens-per-s", "100")
    with engines(2, *pace) as (router, _):
        asyncio.run(_leave_at_random(router.port, 100, random.Random(1)))
        router.wait_until_quiet()
        before = _held(router)
        asyncio.run(_leave_at_random(router.port, total, random.Random(2)))
        router.wait_until_quiet()
        wait_for(lambda: _held(router)["descriptors"] <= before["descriptors"] + 5, "closed", 10)
        after = _held(router)
    yield Figure("clients that left", total)
    for name, most in (
        ("exchanges", 0),
        ("connections", 0),
        ("in flight", 0),
        ("tasks", 2),
        ("descriptors", 5),
    ):
        yield Figure(f"{name} more than before", after[name] - before[name], most=most)


def _held(router: Router) -> dict[str, int]:
    (found,) = router.http.get("/debug/state").json()["workers"]
    held: dict[str, int] = found["held"]
    return {
        "exchanges": held["exchanges"],
        "connections": held["connections"],
        "in flight": held["in_flight"],
        "tasks": sum(found["tasks"].values()),
        "descriptors": found["descriptors"],
    }


async def _leave_at_random(port: int, total: int, rng: random.Random) -> None:
    limit = asyncio.Semaphore(32)

    async def one() -> None:
        async with limit:
            stream = rng.random() < 0.6
            data = VLLM.request("Stay a while", 20, stream=stream)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data if rng.random() < 0.9 else data[: rng.randrange(len(data))])
            await asyncio.sleep(rng.random() * 0.3)
            if rng.random() < 0.3:
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            if rng.random() < 0.5:
                await reader.read(rng.randrange(1, 4000)) if stream else None
            writer.close() if rng.random() < 0.5 else writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(total)))
