"""Connections to replicas: one pool each, opened on demand, reused last in, first out.

A pool never queues: how many requests a replica may have is decided before (`registry`).
"""

import asyncio
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from pointsman.connection import Connection
from pointsman.egress import refusal
from pointsman.engines import DIALECTS
from pointsman.replica import Replica
from pointsman.resolver import Resolver, Unresolved

# A host that is gone says nothing. Its kernel is asked after 10 s without a byte, which one that works long
# answers; 20 s after the last word the connection ends, and the call may go elsewhere. Where the system can.
_SILENCE = [
    (getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_USER_TIMEOUT", 20_000),
    )  # the last: ms
    if hasattr(socket, name)
]


class ConnectFailed(Exception):
    """No connection could be opened; the text is for the log."""


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """How engines are connected to. Files are PEM; None: the system's trust store, no client certificate."""

    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    idle_expiry_s: float | None = None  # None: what fits the engine

    def tls(self) -> ssl.SSLContext:
        """Build the context for https endpoints.

        Raises:
            OSError, ssl.SSLError: a file is missing or is no certificate.
        """
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.client_cert is not None:
            # A password is given, though none is right: without one OpenSSL asks for it on the terminal.
            context.load_cert_chain(self.client_cert, self.client_key, password="")
        return context


class Pool:
    """The connections to one replica. `tls` is used for https endpoints only."""

    def __init__(
        self, replica: Replica, idle_expiry_s: float, tls: ssl.SSLContext | None, resolver: Resolver
    ) -> None:
        self._endpoint = replica.endpoint
        self._key = replica.key
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle_expiry_s = idle_expiry_s
        self._tls = tls if replica.endpoint.scheme == "https" else None
        self._resolver = resolver
        self._networks = replica.networks
        self._idle: deque[Connection] = deque()  # oldest left
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.active = 0  # connections lent out

    def __repr__(self) -> str:
        return f"<Pool {self.active} active, {len(self._idle)} idle>"

    @property
    def idle(self) -> int:
        return len(self._idle)

    def request_head(self, method: str, path: str) -> bytes:
        """The head of a request less its own headers and the blank line; `path` is a dialect's constant."""
        head = self._heads.get((method, path))
        if head is None:
            head = self._heads[(method, path)] = self._write_head(method, path)
        return head

    def reuse(self) -> Connection | None:
        """Take the youngest idle connection that is still good; None: open one."""
        now = monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.open and now - connection.idle_since < self._idle_expiry_s:
                self.active += 1
                return connection
            connection.close()
        return None

    async def connect(self, budget_s: float) -> Connection:
        """Open a connection, trying each address of the name within the budget, handshake included.

        Raises:
            ConnectFailed: with a short reason.
        """
        self.active += 1
        try:
            async with asyncio.timeout(budget_s):
                return await self._try_all(asyncio.get_running_loop().time() + budget_s)
        except TimeoutError:
            self.active -= 1
            raise ConnectFailed("connect timed out") from None
        except BaseException:
            self.active -= 1
            raise

    def release(self, connection: Connection) -> None:
        """Give a connection back; it is kept only if its answer was read whole."""
        self.active -= 1
        if self._closed or not connection.reusable:
            connection.close()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(self._idle_expiry_s, self._sweep)

    def close(self) -> None:
        """Close what is idle; lent connections close when they come back or are cancelled."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle.pop().close()

    def _sweep(self) -> None:
        now = monotonic()
        while self._idle and (
            not self._idle[0].open or now - self._idle[0].idle_since >= self._idle_expiry_s
        ):
            self._idle.popleft().close()
        self._sweeper = None
        if self._idle:
            rest_s = self._idle[0].idle_since + self._idle_expiry_s - now
            self._sweeper = asyncio.get_running_loop().call_later(rest_s + 0.01, self._sweep)

    async def _try_all(self, deadline: float) -> Connection:
        loop = asyncio.get_running_loop()
        patience_s = (deadline - loop.time()) / 2
        try:
            addresses = await self._resolver.resolve(self._endpoint.host, self._endpoint.port, patience_s)
        except Unresolved:
            raise ConnectFailed("the name does not resolve") from None
        reason = "no address"
        if self._networks is not None:  # asked each time, since a name may lead elsewhere by now
            addresses = [one for one in addresses if refusal(one[1], self._networks) is None]
            reason = "its name leads to no address where an added replica may be"
        for position, (_family, address) in enumerate(addresses):
            share = (deadline - loop.time()) / (len(addresses) - position)
            try:
                async with asyncio.timeout(share):
                    return await self._open(loop, address)
            except TimeoutError:
                reason = "connect timed out"
            except ssl.SSLError:
                reason = "TLS handshake failed"
            except OSError as error:
                reason = "connection refused" if isinstance(error, ConnectionRefusedError) else "unreachable"
        raise ConnectFailed(reason)

    async def _open(self, loop: asyncio.AbstractEventLoop, address: str) -> Connection:
        transport, connection = await loop.create_connection(
            lambda: Connection(loop),
            address,
            self._endpoint.port,
            ssl=self._tls,
            server_hostname=self._endpoint.host if self._tls else None,
        )
        raw = transport.get_extra_info("socket")
        try:
            if raw is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _SILENCE:
                    raw.setsockopt(socket.IPPROTO_TCP, option, value)
        except OSError:  # lost already
            connection.close()
            raise
        return connection

    def _write_head(self, method: str, path: str) -> bytes:
        lines = [
            f"{method} {self._endpoint.base_path}{path} HTTP/1.1",
            f"host: {self._endpoint.authority}",
            "user-agent: pointsman",
            "accept: */*",
            "accept-encoding: identity",
        ]
        if method == "POST":
            lines.append("content-type: application/json")
        if self._key:
            lines.append(f"authorization: Bearer {self._key}")
        return ("\r\n".join(lines) + "\r\n").encode("ascii")


class Pools:
    """The pools of all replicas, made when first used. One per worker process."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._config = config
        self.resolver = Resolver()
        self._tls: ssl.SSLContext | None = None
        self._pools: dict[Replica, Pool] = {}

    @property
    def names(self) -> int:
        """Names whose addresses are kept."""
        return len(self.resolver)

    def of(self, replica: Replica) -> Pool:
        """The pool of a replica."""
        pool = self._pools.get(replica)
        if pool is None:
            if replica.endpoint.scheme == "https" and self._tls is None:
                self._tls = self._config.tls()
            expiry_s = self._config.idle_expiry_s or DIALECTS[replica.engine].idle_expiry_s
            pool = self._pools[replica] = Pool(replica, expiry_s, self._tls, self.resolver)
        return pool

    def drop(self, replica: Replica) -> None:
        """Close the pool of a replica that is gone, or has another key: calls that run end with it."""
        pool = self._pools.pop(replica, None)
        if pool is not None:
            pool.close()

    def known(self) -> list[tuple[Replica, Pool]]:
        """The pools that were used, each with its replica."""
        return list(self._pools.items())

    def close(self) -> None:
        """Close idle connections; for the end of the process."""
        for pool in self._pools.values():
            pool.close()
