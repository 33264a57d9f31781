"""More calls than the engines can take, and readers that do not read."""

import asyncio
import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack

from chaos.engine import Engine
from chaos.growth import resident
from chaos.load import Done, call, open_loop, told
from chaos.scene import Figure, Size, percentile
from chaos.stage import engines
from processes import Emulator, Router, wait_for
from wire import VLLM, Client

SLOTS, TOKENS = 8, 10
STALLED = 200
FLOOD_BYTES = 16_000_000  # Linux buffers some MB of a connection


def goodput(size: Size) -> Iterable[Figure]:
    """Calls come at twice and at ten times of what one engine can serve."""
    seconds = size.pick(8, 30)
    pace = ("--ttft-ms", "10", "--tokens-per-s", "50", "--max-num-seqs", str(SLOTS))
    with engines(1, *pace, max_in_flight=SLOTS) as (router, _):
        capacity = len(_ok(asyncio.run(_closed(router.port, seconds)))) / seconds
        yield Figure("capacity, as a closed loop finds it", capacity, "/s")
        for factor in (2, 10):
            results = asyncio.run(_flood(router.port, factor * capacity, seconds))
            good = _ok(results)
            refusals = [done.took_s for done in results if done.answer.status in (429, 503)]
            other = [done for done in results if not done.ok and done.answer.status not in (429, 503)]
            rate = len(good) / (seconds + max(0.0, max(d.took_s for d in good) - 0.2))
            yield Figure(
                f"{factor} x: goodput against capacity", 100 * rate / capacity, "%", least=95, timed=True
            )
            quick = [took for took in refusals if took < 14]  # refused at once, not after a wait in the queue
            yield Figure(f"{factor} x: refused at once", len(quick))
            yield Figure(
                f"{factor} x: refusal p99", 1000 * percentile(quick, 0.99), "ms", most=20, timed=True
            )
            yield Figure(f"{factor} x: ended otherwise ({told(other)})", len(other), most=0)


def _ok(results: list[Done]) -> list[Done]:
    return [done for done in results if done.ok]


async def _closed(port: int, seconds: float) -> list[Done]:
    results: list[Done] = []
    end = time.monotonic() + seconds

    async def line() -> None:
        while time.monotonic() < end:
            results.append(await call(port, VLLM, VLLM.request("Go", TOKENS, stream=False), stream=False))

    await asyncio.gather(*(line() for _ in range(SLOTS)))
    return results


async def _flood(port: int, rate: float, seconds: float) -> list[Done]:
    loop = asyncio.get_running_loop()

    def make(number: int) -> asyncio.Task[Done]:
        return loop.create_task(call(port, VLLM, VLLM.request("Go", TOKENS, stream=False), stream=False))

    return await open_loop(rate, seconds, make)


def stalled_readers(size: Size) -> Iterable[Figure]:
    """Clients ask for more than the system buffers and do not read it; others want their first token."""
    with Emulator("vllm") as usual, Engine(FLOOD_BYTES) as floods, ExitStack() as stack:
        settings = {"VLLM_GEMMA3_ENDPOINT": usual.url, "VLLM_LONE_ENDPOINT": floods.url}
        router = stack.enter_context(Router(**settings, ADMISSION__SLOTS=str(2 * STALLED)))
        router.wait_until_up("gemma-3-12b", "lone")
        asyncio.run(_first_tokens(router.port, size))  # so that what stays with the router is there
        before = asyncio.run(_first_tokens(router.port, size))
        held = resident(router.pid)
        clients = [Client(router.port, receive_buffer=4096) for _ in range(STALLED)]
        begin = time.monotonic()
        for client in clients:
            stack.callback(client.sock.close)
            client.send(VLLM.request("Flood", 5, stream=True, model="lone"))
        time.sleep(5)  # until all that fits is on its way
        grown = resident(router.pid) - held
        during = asyncio.run(_first_tokens(router.port, size))
        wait_for(lambda: floods.left >= STALLED, "all are cut off", 120)
        cut = time.monotonic() - begin
    yield Figure("stalled readers", STALLED)
    yield Figure("memory for each", 1024 * grown / STALLED, "KiB", most=256)
    yield Figure("first token p99 of others, without them", 1000 * before, "ms")
    yield Figure("the same beside them, against that", 100 * during / before, "%", most=110, timed=True)
    yield Figure("until all are cut off (they may stall for 30 s)", cut, "s", most=45, timed=True)


async def _first_tokens(port: int, size: Size) -> float:
    """Median of five 99th percentiles of seconds to the first token."""
    found = []
    for _ in range(5):
        data = VLLM.request("Go", 3, stream=True)
        results = [await call(port, VLLM, data, stream=True) for _ in range(size.pick(100, 400))]
        found.append(percentile([done.first_s for done in results], 0.99))
    return statistics.median(found)
