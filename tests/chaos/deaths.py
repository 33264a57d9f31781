"""Engines that die under load, and streams that break off."""

import asyncio
import signal
from collections.abc import Iterable

from chaos.load import Done, call, open_loop, told
from chaos.scene import Figure, Size
from chaos.stage import engines
from processes import Emulator
from wire import VLLM

RATE = 200  # calls a second
KILLED_S = 2.0  # after the first call
SLICE = 100  # faults armed at once: an engine looks through all of them for each call


def a_killed_engine(size: Size) -> Iterable[Figure]:
    """One of two engines is killed under load; what was not committed must not fail."""
    seconds = size.pick(10, 30)
    pace = ("--ttft-ms", "20", "--tokens-per-s", "100")
    with engines(2, *pace) as (router, (_, dies)):
        results = asyncio.run(_with_a_kill(router.port, dies, seconds))
    failed = [done for done in results if not done.ok and not done.committed]
    broken = [done for done in results if not done.ok and done.committed]
    yield Figure("calls", len(results), least=2000)
    yield Figure(f"failed without a committed event ({told(failed)})", len(failed), most=0)
    yield Figure(
        f"streams that broke after it ({told(broken)})",
        sum(not done.outcome.startswith("frame") for done in broken),
        "untold",
        most=0,
    )


async def _with_a_kill(port: int, engine: Emulator, seconds: float) -> list[Done]:
    loop = asyncio.get_running_loop()
    loop.call_later(KILLED_S, engine.send_signal, signal.SIGKILL)

    def make(number: int) -> asyncio.Task[Done]:
        stream = number % 2 == 0
        return loop.create_task(call(port, VLLM, VLLM.request("Go", 8, stream=stream), stream=stream))

    return await open_loop(RATE, seconds, make)


def cut_streams(size: Size) -> Iterable[Figure]:
    """Engines die in the middle of streams, after every byte; each end is told, none looks whole."""
    total = size.pick(1000, 4000)
    with engines(1) as (router, (engine,)):
        results: list[Done] = []
        for start in range(0, total, SLICE):
            numbers = range(start, start + SLICE)
            faults = [_cut(number) for number in numbers]
            engine.http.post("/__faults", json=faults).raise_for_status()
            results += asyncio.run(_streams(router.port, numbers))
            engine.disarm()
    cut = [done for done in results if not done.ok]
    silent = [done for done in cut if not done.outcome.startswith(("frame ", "502 ", "503 "))]
    yield Figure(f"streams cut ({told(results)})", len(cut), least=size.pick(900, 3600))
    yield Figure(f"ended without an error frame or status ({told(silent)})", len(silent), most=0)


def _cut(number: int) -> dict[str, object]:
    how = ("reset", "fin", "end")[number % 3]
    return {"fault": "cut_bytes", "arg": f"{number % 1000}:{how}", "marker": f"<{number:05}>", "times": 1}


async def _streams(port: int, numbers: range) -> list[Done]:
    limit = asyncio.Semaphore(16)

    async def one(number: int) -> Done:
        async with limit:
            data = VLLM.request("Go", 8, stream=True, user=f"<{number:05}>")
            return await call(port, VLLM, data, stream=True)

    return await asyncio.gather(*(one(number) for number in numbers))
