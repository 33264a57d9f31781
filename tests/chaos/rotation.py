"""How soon a bad replica is out of rotation, and how gently it comes back."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterable

from chaos.load import Done, call, told
from chaos.scene import Figure, Size
from chaos.stage import MODEL, engines
from processes import Emulator, Router
from wire import VLLM

FIRST_EVENT_S = 2.0
SLOW_START_S = 30.0


def refused(size: Size) -> Iterable[Figure]:
    """One of two engines is gone and refuses connections."""
    with engines(2) as (router, (_, dies)):
        dies.send_signal(signal.SIGKILL)
        begin = time.monotonic()
        calls = _while_calling(router, lambda: not _in_rotation(router, 1), 10)
        took = time.monotonic() - begin
        failed = [done for done in calls if not done.ok]
    yield Figure("until it is out of rotation", took, "s", most=1, timed=True)
    yield Figure(f"calls that failed meanwhile, of {len(calls)} ({told(failed)})", len(failed), most=0)


def hung(size: Size) -> Iterable[Figure]:
    """One of two engines answers its health checks and nothing else."""
    with engines(2, settings={"TIMEOUT__FIRST_EVENT_S": f"{FIRST_EVENT_S:g}"}) as (router, (_, hangs)):
        hangs.arm("hang_before_headers")
        begin = time.monotonic()
        calls = _while_calling(router, lambda: not _in_rotation(router, 1), 20, stream=True)
        took = time.monotonic() - begin
        late = [done for done in calls if not done.ok]
    yield Figure("first-event timeout", FIRST_EVENT_S, "s")
    yield Figure("until it is out of rotation", took, "s", most=FIRST_EVENT_S + 1, timed=True)
    yield Figure(f"calls that waited in vain, of {len(calls)} ({told(late)})", len(late))


def recovered(size: Size) -> Iterable[Figure]:
    """An engine that was gone listens again: how soon it has work, and how much of it at first."""
    shares = []
    with engines(2, "--ttft-ms", "5", "--tokens-per-s", "400") as (router, (steady, back)):
        back.arm("crash", "4")
        _while_calling(router, lambda: not _in_rotation(router, 1), 10)
        until = time.monotonic() + 4
        _while_calling(router, lambda: time.monotonic() > until, 10)
        listens = time.monotonic()
        _while_calling(router, lambda: _in_rotation(router, 1), 15)
        took = time.monotonic() - listens
        for engine in (steady, back):
            engine.reset()
        until = time.monotonic() + SLOW_START_S / 10
        _while_calling(router, lambda: time.monotonic() > until, 10, lines=8)
        shares = [_served(engine) for engine in (steady, back)]
    yield Figure("until it is back", took, "s", most=3, timed=True)
    fair = sum(shares) / 2
    yield Figure(f"calls in the first tenth of slow start, of {sum(shares)}", shares[1])
    yield Figure("its share of them, of a fair one", 100 * shares[1] / fair, "%", most=20, timed=True)


def _served(engine: Emulator) -> int:
    return int(engine.stats()["routes"].get("POST /v1/chat/completions", 0))


def _in_rotation(router: Router, number: int) -> bool:
    """Whether a replica is sent work, as /models tells."""
    model = router.http.get(f"/models/{MODEL}").json()
    return bool(model["replicas"][number]["state"] in {"up", "busy"})


def _while_calling(
    router: Router, done: Callable[[], bool], within_s: float, *, stream: bool = False, lines: int = 4
) -> list[Done]:
    """Make calls in so many lines until something holds, or for that time at most."""

    async def run() -> list[Done]:
        results: list[Done] = []
        over = asyncio.Event()

        async def line() -> None:
            while not over.is_set():
                data = VLLM.request("Go", 3, stream=stream)
                results.append(await call(router.port, VLLM, data, stream=stream))
                await asyncio.sleep(0.01)

        tasks = [asyncio.ensure_future(line()) for _ in range(lines)]
        end = time.monotonic() + within_s
        while time.monotonic() < end and not await asyncio.to_thread(done):
            await asyncio.sleep(0.02)
        reached = time.monotonic()
        over.set()
        await asyncio.gather(*tasks)
        assert reached <= end + 1, "it took too long"
        return results

    return asyncio.run(run())
