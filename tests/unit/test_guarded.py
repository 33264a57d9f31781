"""No connection leads an added replica elsewhere: neither of the health checks nor of calls."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_network

import httpx
import pytest

from pointsman.guarded import Guarded, NotAllowed, restricted
from pointsman.health import HealthConfig
from pointsman.probe import Prober
from pointsman.replica import Endpoint, Engine, Networks, Replica, State
from pointsman.resolver import Resolver
from pointsman.upstream import ConnectFailed, Pool

pytestmark = pytest.mark.anyio

LOOPBACK: Networks = (ip_network("127.0.0.0/8"),)
ELSEWHERE: Networks = (ip_network("10.0.0.0/8"),)


class Names:
    """A resolver whose answers change; it counts how often it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[tuple[int, str]]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, address) for address in answer]


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on loopback that answers 200; its port and the heads of the requests it got."""
    heads: list[bytes] = []
    running: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        await asyncio.gather(*running)


def replica(port: int, networks: Networks | None, host: str = "engine.test") -> Replica:
    return Replica("m-0", "m", Engine.VLLM, Endpoint("http", host, port), networks=networks)


async def test_a_name_that_leads_elsewhere_by_now_is_not_followed() -> None:
    """It was good when the replica was added; each connection asks anew."""
    names = Names(["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "8.8.8.8"])
    async with listening() as (port, _):
        pool = Pool(replica(port, LOOPBACK), 5.0, None, Resolver(names))
        first = await pool.connect(30.0)
        pool.release(first)
        with pytest.raises(ConnectFailed, match="no address where an added replica may be"):
            await pool.connect(30.0)
        mixed = await pool.connect(30.0)
        assert mixed.open, "of several addresses those that are allowed are used"
        mixed.close()
        pool.close()
    assert names.asked == 3


async def test_a_replica_of_the_settings_may_be_anywhere() -> None:
    """The operator wrote it there."""
    async with listening() as (port, _):
        pool = Pool(replica(port, None), 5.0, None, Resolver(Names(["127.0.0.1"])))
        (await pool.connect(30.0)).close()
        pool.close()


async def test_the_control_planes_way_is_judged_too() -> None:
    """It goes to the very address that was judged, with the name in Host; else it is an error."""
    names = Names(["8.8.8.8", "127.0.0.1"], ["169.254.169.254"], [])
    transport = Guarded(ssl.create_default_context(), Resolver(names))
    async with listening() as (port, heads), httpx.AsyncClient(transport=transport) as client:
        url, extensions = f"http://engine.test:{port}/health", restricted(replica(port, LOOPBACK))
        answer = await client.get(url, extensions=extensions, timeout=30)
        assert answer.status_code == 200
        assert f"host: engine.test:{port}".encode() in heads[0].lower()
        for _ in range(2):
            with pytest.raises(NotAllowed):
                await client.get(url, extensions=extensions, timeout=30)
        assert len(heads) == 1


async def test_the_next_allowed_address_is_tried() -> None:
    """As httpx would have done with the name."""
    transport = Guarded(ssl.create_default_context(), Resolver(Names(["127.0.0.9", "127.0.0.1"])))
    async with listening() as (port, heads), httpx.AsyncClient(transport=transport) as client:
        extensions = restricted(replica(port, LOOPBACK))
        answer = await client.get(f"http://engine.test:{port}/", extensions=extensions, timeout=30)
        assert (answer.status_code, len(heads)) == (200, 1)


async def test_a_name_without_an_answer_is_as_httpx_has_it() -> None:
    """An error to connect."""

    async def none(host: str, port: int) -> list[tuple[int, str]]:
        raise OSError

    transport = Guarded(ssl.create_default_context(), Resolver(none))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://engine.test/", extensions={"networks": LOOPBACK}, timeout=30)


async def test_the_health_checks_say_so() -> None:
    """A replica whose name leads elsewhere is misconfigured, and nobody was asked anything."""
    async with listening() as (port, heads), Prober([], HealthConfig()) as prober:
        away = replica(port, ELSEWHERE, host="localhost")
        await prober.probe_once(away)
        assert away.health.state is State.MISCONFIGURED
        assert "may be" in away.health.reason
        assert heads == []
