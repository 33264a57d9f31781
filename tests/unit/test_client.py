"""How a client's connection ends when the server does."""

import asyncio
import socket
import struct
from typing import Any

import pytest

from pointsman.client import _FRESH_S
from pointsman.front import FrontConfig, TcpAddress
from pointsman.protocol import Protocol
from pointsman.server import Connections, config_for
from pointsman.sockets import listen

pytestmark = pytest.mark.anyio
LIMIT_S = 20.0
ASK = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"


class Served:
    """An app whose answer is one byte, and then, once it may, the other."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun = asyncio.Event()
        self.may_begin = asyncio.Event()
        self.asked = asyncio.Event()
        self.clients: list[Any] = []
        self.may_begin.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        self.clients.append(scope["client"])
        await self.may_begin.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        self.begun.set()
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b"k"})


class Stage:
    """A connection of our protocol on a real socket, and its client."""

    app: Served
    state: Connections
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: Protocol
    taken: list[Protocol]

    async def begin(self, *, late: bool = False) -> "Stage":
        """Connect; `late`: somebody else did, asked and hung up before anybody was taken."""
        self.app, self.state, self.taken = Served(), Connections(), []
        front = FrontConfig(listen=(TcpAddress("127.0.0.1", 0),))
        config = config_for(self.app, front)
        config.load()
        loop = asyncio.get_running_loop()
        (bound,) = listen(front)
        if late:
            with socket.create_connection(bound.getsockname()) as hasty:
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # resets
                hasty.sendall(ASK)
        made: asyncio.Future[Protocol] = loop.create_future()

        def make() -> Protocol:
            one = Protocol(config=config, server_state=self.state, app_state={}, _loop=loop)
            self.taken.append(one)
            if len(self.taken) > late:
                made.set_result(one)
            return one

        self.server = await loop.create_server(make, sock=bound)
        self.reader, self.writer = await asyncio.open_connection(*bound.getsockname())
        self.connection = await made
        while self.connection.transport is None:
            await asyncio.sleep(0)
        return self

    async def ask(self) -> None:
        self.writer.write(ASK)
        await self.app.asked.wait()

    async def head(self) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def closed(self) -> bool:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.read() == b""

    def end(self) -> None:
        self.writer.close()
        self.server.close()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that serves."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def stage() -> Any:
    made = await Stage().begin()
    yield made
    made.end()


async def test_an_answer_that_has_not_begun_is_told_to_be_the_last(stage: Stage) -> None:
    """It says so in its head, and the connection closes after it."""
    stage.app.may_begin.clear()
    await stage.ask()
    stage.connection.leave()
    stage.app.may_begin.set()
    stage.app.may_end.set()
    assert b"\r\nconnection: close\r\n" in await stage.head()
    assert await stage.reader.readexactly(2) == b"ok"
    assert await stage.closed()


async def test_an_answer_under_way_keeps_its_promise_until_the_last_moment(stage: Stage) -> None:
    """Its head said nothing of an end: another request may follow it, which is told."""
    await stage.ask()
    assert b"connection: close" not in await stage.head()
    await stage.app.begun.wait()
    stage.connection.leave()
    stage.state.leaving = True
    stage.app.may_end.set()
    assert await stage.reader.readexactly(2) == b"ok"
    await stage.ask()
    assert b"\r\nconnection: close\r\n" in await stage.head()
    assert await stage.reader.readexactly(2) == b"ok"
    assert await stage.closed()


async def test_an_idle_connection_is_closed_unless_a_request_has_come(stage: Stage) -> None:
    """What is in the socket already is answered, and the last answer."""
    stage.app.may_end.set()
    await stage.ask()
    await stage.head()
    await stage.reader.readexactly(2)
    while stage.connection.cycle is None or not stage.connection.cycle.response_complete:
        await asyncio.sleep(0)
    stage.state.leaving = True
    sock = stage.writer.get_extra_info("socket")
    stage.writer.write(ASK)  # goes to the kernel at once; the server has not looked yet
    assert sock is not None
    stage.connection.shutdown()
    assert b"\r\nconnection: close\r\n" in await stage.head()
    assert await stage.reader.readexactly(2) == b"ok"
    assert await stage.closed()


async def test_an_idle_connection_is_closed(stage: Stage) -> None:
    """At once."""
    stage.app.may_end.set()
    await stage.ask()
    await stage.head()
    await stage.reader.readexactly(2)
    while stage.connection.cycle is None or not stage.connection.cycle.response_complete:
        await asyncio.sleep(0)
    stage.connection.shutdown()
    assert await stage.closed()


async def test_who_has_just_connected_has_time_to_ask(stage: Stage) -> None:
    """A moment, and not more."""
    stage.connection.shutdown()
    assert not stage.connection.transport.is_closing()
    stage.connection._fresh_until -= _FRESH_S
    stage.connection.shutdown()
    assert await stage.closed()


async def test_half_a_request_is_not_idle(stage: Stage) -> None:
    """The timer of its head ends it, not the server's end."""
    stage.writer.write(ASK[:10])
    while not stage.connection._fed_bytes:
        await asyncio.sleep(0)
    stage.connection._fresh_until = 0.0
    stage.connection.shutdown()
    assert not stage.connection.transport.is_closing()
    stage.app.may_end.set()
    stage.writer.write(ASK[10:])
    assert b"HTTP/1.1 200 OK" in await stage.head()


@pytest.fixture
async def late() -> Any:
    made = await Stage().begin(late=True)
    yield made
    made.end()


async def test_who_was_gone_before_it_was_taken_has_asked_for_nothing(late: Stage) -> None:
    """Its address is gone too: no rule could be put to it, and the log would tell of an unknown caller."""
    late.app.may_end.set()
    await late.ask()
    await late.head()
    assert len(late.taken) == 2
    assert [client[0] for client in late.app.clients] == ["127.0.0.1"]
