"""What grows with use: the metrics' series, and memory."""

import asyncio
import random
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from chaos.load import Done, at_once, call, told
from chaos.scene import Figure, Size
from chaos.stage import engines
from processes import Emulator, Router
from wire import TGI, TGI_OPENAI, VLLM, post, request

FRONTS = (VLLM, TGI, TGI_OPENAI)


def resident(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def count_series(router: Router) -> int:
    """How many time series /metrics has."""
    page = router.http.get("/metrics").text.splitlines()
    return sum(not line.startswith("#") for line in page)


def series(size: Size) -> Iterable[Figure]:
    """Names that nobody knows come by the thousand: models, paths, methods, keys, ids."""
    total, rng = size.pick(2000, 10_000), random.Random(7)
    with engines(1) as (router, _):

        def once(number: int) -> bytes:
            name = f"{rng.getrandbits(64):x}"
            lines = (f"x-request-id: {name}", f"authorization: Bearer {name}", "connection: close")
            kinds = (
                post("/v1/chat/completions", {"model": name, "messages": []}, *lines),
                post(f"/models/{name}/generate", {"inputs": "x"}, *lines),
                request("GET", f"/{name}", b"", *lines),
                request(f"M{name[:8].upper()}", "/models", b"", *lines),
            )
            return kinds[number % len(kinds)]

        asyncio.run(_send_all(router.port, [once(number) for number in range(100)]))
        before = count_series(router)
        answered = asyncio.run(_send_all(router.port, [once(number) for number in range(total)]))
        after = count_series(router)
    yield Figure("random names sent", total)
    yield Figure("of them answered", answered, least=total)
    yield Figure("series before", before)
    yield Figure("series more", after - before, most=0)


async def _send_all(port: int, all_data: list[bytes]) -> int:
    """Send each on a connection of its own; how many were answered."""
    limit = asyncio.Semaphore(16)

    async def one(data: bytes) -> bool:
        async with limit, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            answer = await reader.read()
            writer.close()
            return answer.startswith(b"HTTP/1.1 ")

    return sum(await asyncio.gather(*(one(data) for data in all_data)))


def memory(size: Size) -> Iterable[Figure]:
    """Calls of all kinds, good and bad: what the router holds after the first tenth, and at the end."""
    total = size.pick(20_000, 200_000)
    fast = ("--ttft-ms", "0", "--tokens-per-s", "0")
    with ExitStack() as stack:
        vllm, tgi = (stack.enter_context(Emulator(kind, *fast)) for kind in ("vllm", "tgi"))
        settings = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "TGI_DISTILGPT2_ENDPOINT": tgi.url}
        router = stack.enter_context(Router(**settings))
        router.wait_until_up("gemma-3-12b", "distilgpt2")
        asyncio.run(_mixed(router.port, range(total // 10)))
        begin = resident(router.pid)
        results = asyncio.run(_mixed(router.port, range(total // 10, total)))
        end = resident(router.pid)
    wrong = [done for done in results if not done.ok and not done.outcome.startswith("4")]
    yield Figure("calls", total)
    yield Figure(f"that ended otherwise than well or with a 4xx ({told(wrong)})", len(wrong), most=0)
    yield Figure("resident after the first tenth", begin, "MB")
    yield Figure("growth since", 100 * (end - begin) / begin, "%", most=5)


async def _mixed(port: int, numbers: range) -> list[Done]:
    async def one(number: int) -> Done:
        front, stream = FRONTS[number % 3], number % 2 == 0
        data = front.request(f"Turn {number}", number % 17 + 1, stream=stream)
        if number % 29 == 0:
            data = front.request("x" * 20_000, 3, stream=stream)
        elif number % 31 == 0:
            data = front.request("Go", -1, stream=stream)
        return await call(port, front, data, stream=stream)

    return await at_once(len(numbers), 24, lambda at: asyncio.ensure_future(one(numbers[at])))
