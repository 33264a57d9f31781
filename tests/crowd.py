"""Many clients at once, each with a stream at reading pace."""

import asyncio
import threading
from collections.abc import Callable

from wire import VLLM, Incoming, outcome

STREAMS = 200
LIMIT_S = 120.0  # for streams that take seconds on an idle machine
_TOKENS = 30


def through(port: int, event: Callable[[], None]) -> list[str]:
    """How so many streams end, where something happens once all have begun."""
    all_begun = threading.Event()

    def wait() -> None:
        if all_begun.wait(LIMIT_S):
            event()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        return asyncio.run(_all(port, all_begun))
    finally:
        all_begun.set()
        waiting.join(LIMIT_S)


async def _all(port: int, all_begun: threading.Event) -> list[str]:
    begun: list[int] = []
    async with asyncio.timeout(LIMIT_S):
        tasks = [asyncio.create_task(_one(port, number, begun)) for number in range(STREAMS)]
        while len(begun) < STREAMS and not any(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        all_begun.set()
        return await asyncio.gather(*tasks)


async def _one(port: int, number: int, begun: list[int]) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(VLLM.request(f"Tell me {number}", _TOKENS, stream=True, ignore_eos=True))
        incoming = Incoming()
        while not incoming.ended and (block := await reader.read(65536)):
            if not incoming.body:
                begun.append(number)
            incoming.feed(block)
        return outcome(VLLM, incoming, stream=True)
    finally:
        writer.close()
