"""Reading how busy engines are, from small real servers on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from pointsman.gauges import Load
from pointsman.load import LoadReader
from pointsman.replica import Endpoint, Engine, Replica

pytestmark = pytest.mark.anyio

PAGES = {
    Engine.VLLM: b'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 1.0\n',
    Engine.TGI: b"tgi_batch_current_size 4\ntgi_queue_size 2\n",
}


@dataclass
class Metrics:
    """Answers every request with one status and page; status 0: never. Keeps the heads."""

    page: bytes
    status: int = 200
    heads: list[str] = field(default_factory=list)
    hang: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None] | None] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if not self.status:
            await self.hang.wait()
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.page)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + self.page)


@asynccontextmanager
async def serving(metrics: Metrics) -> AsyncIterator[Endpoint]:
    server = await asyncio.start_server(metrics, "127.0.0.1", 0)
    try:
        yield Endpoint("http", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        metrics.hang.set()
        server.close()
        running = [task for task in metrics.tasks if task is not None]
        await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), 30)


def replica(endpoint: Endpoint, engine: Engine = Engine.VLLM, key: str | None = None) -> Replica:
    return Replica("m-0", "m", engine, endpoint, key=key)


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def reader(clock: Hand | None = None, timeout_s: float = 30.0) -> LoadReader:
    return LoadReader(lambda: None, clock or Hand(), timeout_s)


async def test_loads_of_all_engines_are_summed() -> None:
    """vLLM and TGI in one pool, each asked at /metrics with its key."""
    vllm, tgi = Metrics(PAGES[Engine.VLLM]), Metrics(PAGES[Engine.TGI])
    async with serving(vllm) as one, serving(tgi) as other:
        load = await reader().read([replica(one, key="secret"), replica(other, Engine.TGI)])
    assert load == Load(7, 3)
    assert vllm.heads[0].startswith("GET /metrics HTTP/1.1\r\n")
    assert "authorization: bearer secret\r\n" in vllm.heads[0].lower()
    assert "authorization" not in tgi.heads[0].lower()


async def test_nobody_is_no_load() -> None:
    """Without an engine that is up nothing is known."""
    assert await reader().read([]) == Load()


@pytest.mark.parametrize("status", [404, 500])
async def test_an_engine_that_does_not_tell_spoils_no_sum(status: int) -> None:
    """What the others tell is told."""
    well, ill = Metrics(PAGES[Engine.VLLM]), Metrics(b"x", status)
    async with serving(well) as one, serving(ill) as other:
        assert await reader().read([replica(one), replica(other)]) == Load(3, 1)


async def test_an_engine_that_is_gone_or_hangs_is_not_waited_for() -> None:
    """A hung engine hangs no health route, as it did with the seed."""
    async with serving(Metrics(b"", 0)) as hung:
        assert await reader(timeout_s=0.05).read([replica(hung)]) == Load()
    assert await reader(timeout_s=0.5).read([replica(hung)]) == Load()


async def test_a_page_is_kept_for_a_moment() -> None:
    """However many ask, and all at once, an engine is asked twice a second at most."""
    metrics, clock = Metrics(PAGES[Engine.VLLM]), Hand()
    async with serving(metrics) as endpoint:
        loads = reader(clock)
        await asyncio.gather(*[loads.read([replica(endpoint)]) for _ in range(20)])
        clock.now += 0.4
        assert await loads.read([replica(endpoint)]) == Load(3, 1)
        assert len(metrics.heads) == 1
        clock.now += 0.2
        metrics.page = PAGES[Engine.VLLM].replace(b"3.0", b"5.0")
        assert await loads.read([replica(endpoint)]) == Load(5, 1)
    assert len(metrics.heads) == 2


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    """A cancelled caller does not end the question that another waits for."""
    metrics = Metrics(PAGES[Engine.VLLM], 0)
    async with serving(metrics) as endpoint:
        loads = reader()
        leaves = asyncio.create_task(loads.read([replica(endpoint)]))
        stays = asyncio.create_task(loads.read([replica(endpoint)]))
        while not metrics.heads:
            await asyncio.sleep(0)
        leaves.cancel()
        metrics.status = 200
        metrics.hang.set()
        assert await stays == Load(3, 1)
    assert len(metrics.heads) == 1
