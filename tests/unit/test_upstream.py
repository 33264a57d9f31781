"""Connections to replicas: which are used again, what is tried and for how long, and what is counted.

Rules about time run on a loop whose clock is played; all else on real sockets, on both event loops.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork import Clockwork
from pointsman import upstream
from pointsman.connection import Broken, Connection
from pointsman.naming import read_key
from pointsman.replica import Endpoint, Engine, Replica
from pointsman.resolver import Resolver, Unresolved
from pointsman.upstream import ConnectFailed, Pool, Pools, UpstreamConfig
from pointsman.values import SettingsError

_T = TypeVar("_T")
_BUDGET_S = 5.0  # where it should not matter
_FOREVER_S = 1e9


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The server runs on uvloop where there is one, and its sockets are not asyncio's."""
    return "asyncio", {"use_uvloop": request.param}


class Names(Resolver):
    """Every name has these addresses, after a while."""

    def __init__(self, *addresses: str, after_s: float = 0.0) -> None:
        super().__init__()
        self.addresses = addresses
        self.after_s = after_s

    async def resolve(self, host: str, port: int, patience_s: float) -> list[tuple[int, str]]:
        if self.after_s:
            await asyncio.sleep(self.after_s)
        return [(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in self.addresses]


def replica_at(url: str, engine: Engine = Engine.VLLM, key: str | None = None) -> Replica:
    return Replica("gemma-0", "gemma", engine, Endpoint.parse(url), key=key)


def pool_of(
    *addresses: str, port: int = 8000, tls: ssl.SSLContext | None = None, after_s: float = 0.0
) -> Pool:
    """A pool whose replica's name has these addresses."""
    scheme = "http" if tls is None else "https"
    replica = replica_at(f"{scheme}://engine.test:{port}")
    return Pool(replica, 60.0, tls, Names(*addresses, after_s=after_s))


# --- a loop whose clock is played


class Wire(asyncio.Transport):
    """A transport to nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


Fate = float | OSError | ssl.SSLError  # of a connection: made after so many seconds, or refused at once


@dataclass
class World:
    """What there is on the loop: names and addresses, each with its fate."""

    loop: Clockwork
    hosts: dict[str, Fate] = field(default_factory=dict)
    found: Callable[[], Coroutine[Any, Any, list[str]]] | None = None  # by a lookup
    tried: list[tuple[str, float]] = field(default_factory=list)  # address, seconds since the start
    lookups: int = 0

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(work)

    def now(self) -> float:
        return round(self.loop.time() - 1000.0, 6)

    async def create_connection(
        self, make: Callable[[], Connection], host: str, port: int, **_: object
    ) -> tuple[Wire, Connection]:
        self.tried.append((host, self.now()))
        fate = self.hosts[host]
        if isinstance(fate, OSError):
            raise fate
        await asyncio.sleep(fate)
        wire, connection = Wire(), make()
        connection.connection_made(wire)
        return wire, connection

    async def look_up(self, host: str, port: int) -> list[tuple[int, str]]:
        assert self.found is not None
        self.lookups += 1
        return [(socket.AF_INET, one) for one in await self.found()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    loop = Clockwork()
    made = World(loop, {"10.0.0.1": 0.0})
    monkeypatch.setattr(loop, "create_connection", made.create_connection)
    monkeypatch.setattr(upstream, "monotonic", loop.time)
    yield made
    loop.close()


_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def used(pool: Pool) -> Connection:
    """A connection that served an answer, still lent out; for pools of a played world."""
    connection = await pool.connect(_BUDGET_S)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(_WHOLE)
    while await connection.read():
        pass
    return connection


# --- real sockets


ANSWERS = {
    "/whole": _WHOLE,
    "/chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "/half": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok",
    "/closing": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    "/old": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "/more": _WHOLE + _WHOLE,
    "/junk": b"I am no HTTP\r\n\r\n",
}


@dataclass
class Host:
    """A small engine: answers by path and counts its connections. /cut and /silence are no answers."""

    port: int = 0
    open_now: set[asyncio.StreamWriter] = field(default_factory=set)
    accepted: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.open_now.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.decode().split(" ")[1]
                if path == "/cut":
                    break
                writer.write(ANSWERS.get(path, b""))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the pool closed it
        finally:
            writer.close()
            self.open_now.discard(writer)


@asynccontextmanager
async def served(address: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Host]:
    """A host until the end of the block; all its connections end with it."""
    host = Host()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(host.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, address, port)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def until(holds: Callable[[], bool]) -> None:
    """Wait at most 5 s."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.002)


async def ask(pool: Pool, connection: Connection, path: str = "/whole") -> bytes:
    """One exchange; the connection stays lent out."""
    connection.send(pool.request_head("GET", path) + b"\r\n", b"")
    async with asyncio.timeout(5):
        await connection.head()
        body = b""
        while piece := await connection.read():
            body += piece
        return body


@contextmanager
def refusing() -> Iterator[int]:
    """A port of 127.0.0.1 where nobody listens and nobody else can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


@contextmanager
def hanging() -> Iterator[int]:
    """A port of 127.0.0.1 that takes no connections: its backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]  # it takes one or two; the kernel ignores the rest
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            yield address[1]
        finally:
            for filler in fillers:
                filler.close()


# --- used again


@pytest.mark.anyio
async def test_the_youngest_connection_is_used_first() -> None:
    """Last in, first out: so those that a quiet hour does not need grow old and go."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port)
        assert pool.reuse() is None
        lent = [await pool.connect(_BUDGET_S) for _ in range(3)]
        for connection in lent:
            assert await ask(pool, connection) == b"ok"
        first, second, third = lent
        for connection in (second, third, first):
            pool.release(connection)
        assert (pool.active, pool.idle) == (0, 3)
        assert [pool.reuse() for _ in range(4)] == [first, third, second, None]
        assert (pool.active, pool.idle) == (3, 0)
        assert await ask(pool, second, "/chunked") == b"ok"
        pool.release(second)
        assert pool.reuse() is second
        for connection in lent:
            pool.release(connection)
        assert host.accepted == 3
        pool.close()
        await until(lambda: not host.open_now)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/half", "/closing", "/old", "/more", "/junk", "/cut", "/silence"])
async def test_only_a_connection_with_a_whole_answer_is_kept(path: str) -> None:
    """One that is broken, half-read, unread or not kept alive is closed when it comes back."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port)
        connection = await pool.connect(_BUDGET_S)
        connection.send(pool.request_head("GET", path) + b"\r\n", b"")
        if path != "/silence":
            try:
                await connection.head()
                await connection.read()
            except Broken:
                assert path in ("/junk", "/cut")
        pool.release(connection)
        assert (pool.active, pool.idle) == (0, 0)
        assert pool.reuse() is None
        await until(lambda: not host.open_now)


@pytest.mark.anyio
async def test_an_unread_or_unused_connection_is_not_kept() -> None:
    """An answer that came but was not read would be the next one's; of one never used nothing is known."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port)
        unread = await pool.connect(_BUDGET_S)
        unread.send(pool.request_head("GET", "/whole") + b"\r\n", b"")
        await unread.head()
        pool.release(unread)
        pool.release(await pool.connect(_BUDGET_S))
        assert (pool.active, pool.idle) == (0, 0)
        await until(lambda: host.accepted == 2 and not host.open_now)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["closed", "spoken to"])
async def test_an_idle_connection_that_the_engine_touched_is_passed_over(how: str) -> None:
    """Closed, or with bytes that nobody asked for: the next one is taken instead."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port)
        good = await pool.connect(_BUDGET_S)
        await ask(pool, good)
        (kept,) = host.open_now
        bad = await pool.connect(_BUDGET_S)
        await ask(pool, bad)
        (touched,) = host.open_now - {kept}
        pool.release(good)
        pool.release(bad)
        if how == "closed":
            touched.close()
        else:
            touched.write(_WHOLE)
        await until(lambda: bad.closed)
        assert pool.reuse() is good
        assert pool.idle == 0
        assert pool.active == 1
        assert await ask(pool, good) == b"ok"
        pool.release(good)
        pool.close()


@pytest.mark.anyio
async def test_a_closed_pool_keeps_nothing() -> None:
    """Idle connections close with it, lent ones when they come back."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port)
        lent, idle = await pool.connect(_BUDGET_S), await pool.connect(_BUDGET_S)
        for connection in (lent, idle):
            await ask(pool, connection)
        pool.release(idle)
        pool.close()
        await until(lambda: len(host.open_now) == 1)
        assert await ask(pool, lent) == b"ok"
        pool.release(lent)
        assert (pool.active, pool.idle) == (0, 0)
        await until(lambda: not host.open_now)


def test_an_idle_connection_is_used_until_it_expires(world: World) -> None:
    """Below the limit it is good, from the limit on it is not: the engine may be closing it."""

    async def play() -> None:
        pool = Pool(replica_at("http://engine.test"), 3.0, None, Names("10.0.0.1"))
        connection = await used(pool)
        pool.release(connection)
        await asyncio.sleep(2.999)
        assert pool.reuse() is connection
        await asyncio.sleep(100)
        pool.release(connection)
        assert pool.idle == 1
        connection.idle_since -= 3.0  # as old as the limit, and not swept yet
        assert pool.reuse() is None
        assert connection.closed
        assert (pool.active, pool.idle) == (0, 0)
        pool.close()

    world.run(play())


def test_idle_connections_are_swept_when_they_expire(world: World) -> None:
    """Each at its own time and without any request, so that no descriptor outlives its use."""

    async def play() -> None:
        pool = Pool(replica_at("http://engine.test"), 3.0, None, Names("10.0.0.1"))
        lent = [await used(pool) for _ in range(3)]
        for connection in lent:
            pool.release(connection)
            await asyncio.sleep(1)
        told = []
        for _ in range(5):
            await asyncio.sleep(0.5)
            told.append((world.now(), [connection.closed for connection in lent]))
        assert told == [
            (3.5, [True, False, False]),
            (4.0, [True, False, False]),  # the second has just expired; the sweep comes a moment later
            (4.5, [True, True, False]),
            (5.0, [True, True, False]),
            (5.5, [True, True, True]),
        ]
        assert pool.idle == 0
        again = await used(pool)
        pool.release(again)  # the sweeper has to begin anew
        await asyncio.sleep(3.1)
        assert again.closed
        pool.close()

    world.run(play())


# --- counted


@pytest.mark.anyio
async def test_a_connection_that_is_not_made_is_not_counted() -> None:
    """Refused, timed out or cancelled: nothing is lent out afterwards."""
    with refusing() as port:
        pool = pool_of("127.0.0.1", port=port)
        with pytest.raises(ConnectFailed, match="refused"):
            await pool.connect(_BUDGET_S)
        assert pool.active == 0
    with hanging() as port:
        pool = pool_of("127.0.0.1", port=port)
        with pytest.raises(ConnectFailed, match="timed out"):
            await pool.connect(0.05)
        assert pool.active == 0
        trial = asyncio.create_task(pool.connect(_BUDGET_S))
        await until(lambda: pool.active == 1)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert (pool.active, pool.idle) == (0, 0)


@pytest.mark.anyio
async def test_cancelled_at_any_moment_nothing_leaks() -> None:
    """Wherever connecting is cut off, the count is right and the engine sees the connection go."""
    async with served() as host:
        outcomes = set()
        for turns in range(25):
            pool = pool_of("127.0.0.1", port=host.port)
            trial = asyncio.create_task(pool.connect(_BUDGET_S))
            for _ in range(turns):
                await asyncio.sleep(0)
            trial.cancel()
            done = await asyncio.gather(trial, return_exceptions=True)
            if isinstance(done[0], Connection):
                assert pool.active == 1
                pool.release(done[0])
            else:
                assert isinstance(done[0], asyncio.CancelledError)
            outcomes.add(type(done[0]))
            assert (pool.active, pool.idle) == (0, 0)
        assert outcomes == {Connection, asyncio.CancelledError}, "25 turns were meant to cover it all"
        await until(lambda: not host.open_now)


@pytest.mark.anyio
async def test_sockets_tell_of_a_dead_engine() -> None:
    """Probes and the limit for what is not acknowledged are on, and small writes are not held back."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port)
        connection = await pool.connect(_BUDGET_S)
        assert connection._transport is not None
        raw = connection._transport.get_extra_info("socket")
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for name, value in (("TCP_USER_TIMEOUT", 20_000), ("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5)):
            if hasattr(socket, name):
                assert raw.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
        pool.release(connection)


# --- several addresses


@pytest.mark.anyio
async def test_the_second_address_helps_where_the_first_refuses() -> None:
    """A name's addresses are tried in turn."""
    with refusing() as port:
        async with served("127.0.0.2", port) as host:
            pool = pool_of("127.0.0.1", "127.0.0.2", port=port)
            connection = await pool.connect(_BUDGET_S)
            assert await ask(pool, connection) == b"ok"
            assert (host.accepted, pool.active) == (1, 1)
            pool.release(connection)
            pool.close()


@pytest.mark.anyio
async def test_the_second_address_helps_where_the_first_hangs() -> None:
    """The first spends no more than its share of the budget."""
    with hanging() as port:
        async with served("127.0.0.2", port):
            pool = pool_of("127.0.0.1", "127.0.0.2", port=port)
            begin = asyncio.get_running_loop().time()
            connection = await pool.connect(1.0)
            assert 0.49 < asyncio.get_running_loop().time() - begin < 1.0
            assert await ask(pool, connection) == b"ok"
            pool.release(connection)
            pool.close()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.anyio
async def test_addresses_of_both_families_are_tried() -> None:
    """IPv6 and IPv4 of one name, in the resolver's order."""
    if not has_ipv6():
        pytest.skip("the machine has no IPv6")
    with refusing() as port:
        async with served("::1", port) as host:
            for addresses in (("::1", "127.0.0.1"), ("127.0.0.1", "::1")):
                pool = pool_of(*addresses, port=port)
                connection = await pool.connect(_BUDGET_S)
                assert await ask(pool, connection) == b"ok"
                pool.release(connection)
                pool.close()
            assert host.accepted == 2


_REFUSED = ConnectionRefusedError()
_NEVER = _FOREVER_S
TRIALS: dict[str, tuple[list[Fate], list[float], str, float]] = {
    # fates of the addresses; when each was tried, of a budget of 3 s; what came of it; when
    "one": ([0.5], [0], "", 0.5),
    "the first hangs": ([_NEVER, 0.1], [0, 1.5], "", 1.6),
    "two hang": ([_NEVER, _NEVER, 0.1], [0, 1, 2], "", 2.1),
    "what is not spent is left to the others": ([_REFUSED, _NEVER, 0.1], [0, 0, 1.5], "", 1.6),
    "slow, but within its share": ([1.4, 0.1], [0], "", 1.4),
    "all hang": ([_NEVER, _NEVER], [0, 1.5], "connect timed out", 3),
    "one hangs": ([_NEVER], [0], "connect timed out", 3),
    "all refuse": ([_REFUSED, _REFUSED], [0, 0], "connection refused", 0),
    "the last reason counts": ([_NEVER, _REFUSED], [0, 1.5], "connection refused", 1.5),
    "and not the first": ([_REFUSED, _NEVER], [0, 0], "connect timed out", 3),
    "no route": ([OSError(errno.ENETUNREACH, "no way")], [0], "unreachable", 0),
    "the kernel gave up": ([TimeoutError(errno.ETIMEDOUT, "gone")], [0], "connect timed out", 0),
    "TLS": ([ssl.SSLError(1, "wrong version")], [0], "TLS handshake failed", 0),
    "TLS at one of two": ([ssl.SSLCertVerificationError(1, "bad"), 0.1], [0, 0], "", 0.1),
    "nothing": ([], [], "no address", 0),
}


@pytest.mark.parametrize("name", TRIALS)
def test_addresses_share_the_budget(world: World, name: str) -> None:
    """Each has an even share of what is left; all failing, the last reason is told, and in time."""
    fates, times, reason, end = TRIALS[name]
    world.hosts = {f"10.0.0.{number}": fate for number, fate in enumerate(fates)}

    async def play() -> None:
        pool = pool_of(*world.hosts)
        if reason:
            with pytest.raises(ConnectFailed) as raised:
                await pool.connect(3.0)
            assert (str(raised.value), pool.active) == (reason, 0)
        else:
            connection = await pool.connect(3.0)
            assert pool.active == 1
            pool.release(connection)

    world.run(play())
    assert world.tried == list(zip(world.hosts, times, strict=False))
    assert world.now() == pytest.approx(end)


def test_looking_up_a_name_counts_too(world: World) -> None:
    """The budget is for name, addresses and handshake together."""
    world.hosts = {"10.0.0.1": _NEVER, "10.0.0.2": 0.1}

    async def play() -> None:
        pool = pool_of(*world.hosts, after_s=1.0)
        pool.release(await pool.connect(3.0))
        assert (world.tried, world.now()) == ([("10.0.0.1", 1.0), ("10.0.0.2", 2.0)], 2.1)
        pool = pool_of(*world.hosts, after_s=_NEVER)
        with pytest.raises(ConnectFailed, match="connect timed out"):
            await pool.connect(3.0)
        assert (pool.active, world.now()) == (0, 5.1)

    world.run(play())


# --- names


async def _finds(*addresses: str) -> list[str]:
    return list(addresses)


async def _fails() -> list[str]:
    raise socket.gaierror(socket.EAI_AGAIN, "try again")


async def _hangs() -> list[str]:
    await asyncio.sleep(_FOREVER_S)
    raise AssertionError


def test_a_name_is_looked_up_for_each_connection(world: World) -> None:
    """So an engine that moved is found at once."""

    async def play() -> None:
        names = Resolver(world.look_up)
        for addresses in (["10.0.0.1"], ["10.0.0.2", "10.0.0.3"]):
            world.found = lambda addresses=addresses: _finds(*addresses)
            assert [one for _, one in await names.resolve("engine", 80, 1.0)] == addresses

    world.run(play())


def test_names_are_kept_up_to_a_bound(world: World) -> None:
    """Ten thousand names leave the latest thousand; one that is asked for again is among them."""

    async def play() -> None:
        names = Resolver(world.look_up)
        world.found = lambda: _finds("10.0.0.1")
        for number in range(10_000):
            await names.resolve(f"engine-{number}", 80, 1.0)
            await names.resolve("engine", 80, 1.0)
        assert len(names) == 1024
        world.found = _fails
        assert await names.resolve("engine", 80, 1.0)
        with pytest.raises(Unresolved):
            await names.resolve("engine-0", 80, 1.0)

    world.run(play())


def test_the_last_good_answer_helps_out_for_five_minutes(world: World) -> None:
    """While a lookup fails; the time runs from that answer, and each port has its own."""

    async def play() -> None:
        names = Resolver(world.look_up)
        world.found = lambda: _finds("10.0.0.1")
        await names.resolve("engine", 80, 1.0)
        await asyncio.sleep(100)
        world.found = lambda: _finds("10.0.0.2")
        await names.resolve("engine", 80, 1.0)
        world.found = _fails
        for rest_s in (0.0, 299.9):
            await asyncio.sleep(rest_s)
            assert await names.resolve("engine", 80, 1.0) == [(socket.AF_INET, "10.0.0.2")]
        with pytest.raises(Unresolved):
            await names.resolve("engine", 81, 1.0)
        await asyncio.sleep(0.2)
        with pytest.raises(Unresolved):
            await names.resolve("engine", 80, 1.0)

    world.run(play())


def test_a_name_that_never_resolved_fails(world: World) -> None:
    """At once, with a reason, and without a trace in the pool's count."""
    world.found = _fails

    async def play() -> None:
        pool = Pool(replica_at("http://engine.test"), 3.0, None, Resolver(world.look_up))
        with pytest.raises(ConnectFailed, match="the name does not resolve"):
            await pool.connect(_BUDGET_S)
        assert (pool.active, world.now()) == (0, 0)

    world.run(play())


def test_the_last_good_answer_helps_where_a_lookup_hangs(world: World) -> None:
    """A name server that is gone does not refuse, it is silent; one connection waits for it, no other."""

    async def play() -> None:
        pool = Pool(replica_at("http://engine.test"), 3.0, None, Resolver(world.look_up))
        world.found = lambda: _finds("10.0.0.1")
        (await pool.connect(2.0)).close()
        world.found = _hangs
        for end in (1.0, 1.0, 1.0):
            (await pool.connect(2.0)).close()
            assert world.now() == end
        assert world.lookups == 2
        await asyncio.sleep(300)
        with pytest.raises(ConnectFailed, match="connect timed out"):
            await pool.connect(2.0)
        assert world.now() == 303.0

    world.run(play())


def test_a_name_server_that_is_back_is_found_beside_the_calls(world: World) -> None:
    """Who comes while the name is in doubt is not kept waiting, and the next has the new answer."""

    async def play() -> None:
        names = Resolver(world.look_up)
        for world.found in (lambda: _finds("10.0.0.1"), _fails):
            assert await names.resolve("engine", 80, 1.0) == [(socket.AF_INET, "10.0.0.1")]
        world.found = lambda: _finds("10.0.0.2")
        assert await names.resolve("engine", 80, 1.0) == [(socket.AF_INET, "10.0.0.1")]
        await asyncio.sleep(0.1)
        assert await names.resolve("engine", 80, 1.0) == [(socket.AF_INET, "10.0.0.2")]
        assert world.now() == 0.1

    world.run(play())


def test_those_who_want_a_name_at_once_share_the_lookup(world: World) -> None:
    """It goes on where one of them leaves; other names are asked for beside it."""

    async def late() -> list[str]:
        await asyncio.sleep(1.0)
        return ["10.0.0.1"]

    async def play() -> None:
        names = Resolver(world.look_up)
        world.found = late
        waiting = [asyncio.create_task(names.resolve("engine", 80, 1.0)) for _ in range(100)]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        world.found = lambda: _finds("10.0.0.2")
        assert await names.resolve("other", 80, 1.0) == [(socket.AF_INET, "10.0.0.2")]
        assert world.now() == 0.5
        told = await asyncio.gather(*waiting[1:])
        assert told == [[(socket.AF_INET, "10.0.0.1")]] * 99
        assert (world.lookups, world.now()) == (2, 1.0)

    world.run(play())


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["a..b", ".engine", "x" * 64 + ".test"])
async def test_what_cannot_be_a_name_does_not_resolve(name: str) -> None:
    """Python refuses to look it up at all, with an error of another kind."""
    pool = Pool(replica_at(f"http://{name}:8000"), 3.0, None, Resolver())
    with pytest.raises(ConnectFailed, match="the name does not resolve"):
        await pool.connect(_BUDGET_S)
    assert pool.active == 0


@pytest.mark.anyio
async def test_addresses_need_no_lookup() -> None:
    """An endpoint may be an address, of either family."""
    names = Resolver()
    assert await names.resolve("127.0.0.1", 80, 1.0) == [(socket.AF_INET, "127.0.0.1")]
    assert await names.resolve("::1", 80, 1.0) == [(socket.AF_INET6, "::1")]


# --- TLS; with certificates in tests/flow/test_tls.py


def test_engines_are_verified_by_default() -> None:
    """Certificate and name; there is no setting against it."""
    context = UpstreamConfig().tls()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    """Missing, empty or nonsense: an error, not a router that trusts nobody or everybody."""
    junk = "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n"
    for name, text in (("missing", None), ("empty", ""), ("junk", junk)):
        file = tmp_path / f"{name}.pem"
        if text is not None:
            file.write_text(text, encoding="ascii")
        for config in (UpstreamConfig(ca_file=file), UpstreamConfig(client_cert=file)):
            with pytest.raises(OSError):  # ssl.SSLError is one
                config.tls()


@pytest.mark.anyio
async def test_an_engine_silent_in_the_handshake_costs_the_budget_and_no_more() -> None:
    """The TCP connection stands, so only the limit ends it; then it is closed."""
    async with served() as host:
        pool = pool_of("127.0.0.1", port=host.port, tls=UpstreamConfig().tls())
        begin = asyncio.get_running_loop().time()
        with pytest.raises(ConnectFailed, match="connect timed out"):
            await pool.connect(0.2)
        assert 0.19 < asyncio.get_running_loop().time() - begin < 1.5
        assert (host.accepted, pool.active) == (1, 0)
        await until(lambda: not host.open_now)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "reason"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS handshake failed"), (b"", "unreachable")],
    ids=["plain", "end"],
)
async def test_an_engine_that_does_not_speak_tls_fails_at_once(said: bytes, reason: str) -> None:
    """It answers in plain text, or hangs up."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pool = pool_of("127.0.0.1", port=port, tls=UpstreamConfig().tls())
        with pytest.raises(ConnectFailed, match=reason):
            await pool.connect(_BUDGET_S)
        assert pool.active == 0


@pytest.mark.anyio
async def test_plain_endpoints_stay_plain() -> None:
    """A context for TLS concerns https alone."""
    async with served() as host:
        plain = replica_at(f"http://127.0.0.1:{host.port}")
        pool = Pool(plain, 60.0, UpstreamConfig().tls(), Resolver())
        connection = await pool.connect(_BUDGET_S)
        assert await ask(pool, connection) == b"ok"
        pool.release(connection)
        pool.close()


# --- the head of a request


HEADS = [
    ("http://engine", "engine", ""),
    ("http://engine:80/", "engine", ""),
    ("http://engine:443", "engine:443", ""),
    ("https://engine:443", "engine", ""),
    ("https://engine:80", "engine:80", ""),
    ("http://Engine.Example:8000/base/v2/", "engine.example:8000", "/base/v2"),
    ("http://[::1]", "[::1]", ""),
    ("https://[fd00::1]:8443/x", "[fd00::1]:8443", "/x"),
]


@pytest.mark.parametrize(("url", "host", "base"), HEADS)
def test_the_head_names_the_engine_as_its_url_does(url: str, host: str, base: str) -> None:
    """The Host header has no port where it is the scheme's own, and the base path comes first."""
    pool = Pool(replica_at(url), 3.0, None, Resolver())
    assert pool.request_head("POST", "/v1/chat/completions").decode().split("\r\n") == [
        f"POST {base}/v1/chat/completions HTTP/1.1",
        f"host: {host}",
        "user-agent: pointsman",
        "accept: */*",
        "accept-encoding: identity",
        "content-type: application/json",
        "",
    ]
    assert pool.request_head("GET", "/info").startswith(f"GET {base}/info HTTP/1.1\r\n".encode())


def test_the_head_of_a_get_tells_of_no_body() -> None:
    """A content type is for what has content."""
    head = Pool(replica_at("http://engine"), 3.0, None, Resolver()).request_head("GET", "/info")
    assert b"content-type" not in head


def test_the_key_is_sent_and_not_shown() -> None:
    """As a bearer token, where the replica has one; nobody who prints a pool sees it."""
    with_key = Pool(replica_at("http://engine", key="s3cret"), 3.0, None, Resolver())
    without = Pool(replica_at("http://engine"), 3.0, None, Resolver())
    assert b"\r\nauthorization: Bearer s3cret\r\n" in with_key.request_head("POST", "/generate")
    assert b"authorization" not in without.request_head("POST", "/generate")
    assert repr(with_key) == "<Pool 0 active, 0 idle>"


@given(
    st.text(alphabet="\r\n\t\0 \x1f\x7f\x85\u2028éa/.:%0dA[]?#", max_size=12),
    st.text(alphabet="\r\n\t\0 \x85\u2028éa=", min_size=1, max_size=12),
)
def test_no_setting_can_add_a_line_to_the_head(rest: str, key: str) -> None:
    """What the readers of endpoints and keys let through stays within its own line."""
    try:
        endpoint = Endpoint.parse(f"http://engine{rest}")
    except ValueError:
        endpoint = Endpoint.parse("http://engine")
    try:
        secret = read_key(key, "VLLM_X_KEY")
    except SettingsError:
        secret = "s3cret"
    replica = Replica("gemma-0", "gemma", Engine.VLLM, endpoint, key=secret)
    head = Pool(replica, 3.0, None, Resolver()).request_head("POST", "/generate")
    assert head.endswith(b"\r\n")
    lines = head[:-2].split(b"\r\n")
    assert len(lines) == 7
    assert all(0x20 <= sign < 0x7F for line in lines for sign in line)
    assert len(lines[0].split(b" ")) == 3


# --- one pool per replica


class CountedConfig(UpstreamConfig):
    """Counts how often the trust store is read."""

    reads = 0

    def tls(self) -> ssl.SSLContext:
        CountedConfig.reads += 1
        return super().tls()


def test_each_replica_has_one_pool() -> None:
    """For as long as the process lives; equals do not share, and the trust store is read once, if at all."""
    before = CountedConfig.reads
    pools = Pools(CountedConfig())
    one, other = replica_at("http://engine"), replica_at("http://engine")
    assert pools.of(one) is pools.of(one)
    assert pools.of(one) is not pools.of(other)
    assert CountedConfig.reads == before
    for _ in range(2):
        pools.of(replica_at("https://engine"))
    assert CountedConfig.reads == before + 1


@pytest.mark.parametrize(
    ("engine", "configured", "kept_s"),
    [(Engine.VLLM, None, 3.0), (Engine.TGI, None, 50.0), (Engine.TGI, 0.5, 0.5), (Engine.VLLM, 9.0, 9.0)],
)
def test_idle_time_is_what_fits_the_engine(
    world: World, engine: Engine, configured: float | None, kept_s: float
) -> None:
    """Below the engine's own limit, so that we close first; a setting goes before."""

    async def play() -> None:
        pools = Pools(UpstreamConfig(idle_expiry_s=configured))
        pool = pools.of(replica_at("http://10.0.0.1", engine))
        connection = await used(pool)
        pool.release(connection)
        await asyncio.sleep(kept_s - 0.01)
        assert not connection.closed
        await asyncio.sleep(0.03)
        assert connection.closed
        pools.close()

    world.run(play())


def test_closing_closes_all_pools(world: World) -> None:
    """Whatever is idle, of any replica."""

    async def play() -> None:
        pools = Pools(UpstreamConfig())
        connections = []
        for url in ("http://10.0.0.1", "http://10.0.0.1:81"):
            pool = pools.of(replica_at(url))
            connections.append(await used(pool))
            pool.release(connections[-1])
        pools.close()
        assert all(connection.closed for connection in connections)

    world.run(play())
