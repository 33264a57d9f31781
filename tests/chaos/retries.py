"""What retries cost where all fails, and what they hide where little does."""

import asyncio
from collections.abc import Iterable

from chaos.load import Done, at_once, call, open_loop, told
from chaos.scene import Figure, Size
from chaos.stage import engines
from wire import VLLM


def everything_fails(size: Size) -> Iterable[Figure]:
    """Three engines answer nothing but 500, at 100 calls a second."""
    seconds = size.pick(10, 30)
    with engines(3) as (router, failing):
        for engine in failing:
            engine.arm("status", "500")
            engine.reset()
        results = asyncio.run(_steady(router.port, 100, seconds))
        asked = sum(engine.stats()["routes"].get("POST /v1/chat/completions", 0) for engine in failing)
        most = max(int(done.answer.header("x-pointsman-attempts") or "0") for done in results)
    yield Figure(f"calls ({told(results)})", len(results))
    yield Figure("attempts, as the engines counted, per call", asked / len(results), most=1.25)
    yield Figure("attempts of one call, at most", most, most=3)


async def _steady(port: int, rate: float, seconds: float) -> list[Done]:
    loop = asyncio.get_running_loop()

    def make(number: int) -> asyncio.Task[Done]:
        return loop.create_task(call(port, VLLM, VLLM.request(f"Go {number}", 5, stream=False), stream=False))

    return await open_loop(rate, seconds, make)


def reused_connections(size: Size) -> Iterable[Figure]:
    """An engine closes connections that are idle for 50 ms, just when they are used again."""
    total = size.pick(2000, 10_000)
    with engines(1, "--keep-alive-s", "0.05") as (router, _):
        results = asyncio.run(_in_gaps(router.port, total))
        repeated = sum(done.answer.header("x-pointsman-attempts") == "2" for done in results)
    failed = [done for done in results if not done.ok]
    yield Figure("calls", len(results))
    yield Figure("that met a connection closed under them", repeated)
    yield Figure(f"failed ({told(failed)})", len(failed), most=0)


async def _in_gaps(port: int, total: int) -> list[Done]:
    async def one(number: int) -> Done:
        await asyncio.sleep(0.045 + number % 11 * 0.001)  # around the 50 ms
        return await call(port, VLLM, VLLM.request("Go", 3, stream=False), stream=False)

    return await at_once(total, 24, lambda number: asyncio.ensure_future(one(number)))
