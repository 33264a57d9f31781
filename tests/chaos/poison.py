"""A prompt that kills every engine it reaches."""

import asyncio
import socket
import time
from collections.abc import Iterable

from chaos.load import Done, call, told
from chaos.scene import Figure, Size
from chaos.stage import engines
from wire import VLLM

MARK = "<poison>"


def prompt(size: Size) -> Iterable[Figure]:
    """One prompt crashes whatever takes it; its sender tries again and again, beside good calls."""
    with engines(4) as (router, made):
        for engine in made:
            engine.arm("die", marker=MARK)
        results, good = asyncio.run(_insist(router.port, size.pick(10, 40)))
        lost = sum(not _listens(engine.port) for engine in made)
    bad = [done for done in good if not done.ok]
    yield Figure("engines", len(made))
    yield Figure(f"tries with the prompt ({told(results)})", len(results))
    yield Figure("engines lost", lost, most=2)
    yield Figure(f"good calls that failed, of {len(good)} ({told(bad)})", len(bad), most=0)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


async def _insist(port: int, tries: int) -> tuple[list[Done], list[Done]]:
    bad, good = [], []
    end = time.monotonic() + 60
    for number in range(tries):
        data = VLLM.request(f"Say {MARK}", 5, stream=number % 2 == 0)
        bad.append(await call(port, VLLM, data, stream=number % 2 == 0))
        good.append(await call(port, VLLM, VLLM.request("Go", 3, stream=False), stream=False))
        await asyncio.sleep(0.3)
        if time.monotonic() > end:
            break
    return bad, good
