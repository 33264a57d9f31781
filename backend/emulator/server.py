"""Listening, dispatch, control routes, and the end of the process."""

import asyncio
import contextlib
import json
import socket
from typing import Any

from emulator.answer import Outlet, Severed
from emulator.connection import Connection
from emulator.dialect import Dialect, Exchange, Whole, as_json
from emulator.faults import FAULTS, FaultBox, FaultError, Scope, parse_fault
from emulator.message import Request
from emulator.record import Record
from emulator.schedule import Engine
from emulator.settings import Kind, Outcome, Settings
from emulator.upfront import meet

_BACKLOG = 2048


class Server:
    """One listening socket, one engine, one dialect."""

    def __init__(self, settings: Settings, engine: Engine, dialect: Dialect) -> None:
        """Nothing is bound yet."""
        self.settings = settings
        self.record = Record()
        self.box = FaultBox(settings.faults)
        self.keep_alive_s = settings.keep_alive_s
        self.body_limit = dialect.body_limit
        self.malformed = dialect.malformed
        self.closing = False
        self._engine = engine
        self._dialect = dialect
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self._address: tuple[str, int] = (settings.host, settings.port)
        self._relisten: asyncio.Task[None] | None = None
        self._idle: asyncio.Event | None = None  # set when nothing is being answered, while stopping

    # the connections' owner

    def opened(self, connection: Connection) -> bool:
        """Count a connection; false when a fault resets it."""
        self._connections.add(connection)
        self.record.open_connections += 1
        self.record.total_connections += 1
        connection.number = self.record.total_connections
        return not self.box.on_accept()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.record.open_connections -= 1
        self.rested()

    # requests

    async def serve(self, request: Request, connection: Connection) -> bool:
        """Answer one request; returns whether the connection may be kept."""
        control = request.path.startswith("/__")
        if not control:
            self.record.received(request, connection.number)
        scope = self._dialect.scope(request.path, request.method)
        plan = self.box.take(
            request.path, Scope.PROCESS if control else scope, request.body, reused=request.reused
        )
        outlet = Outlet(
            connection,
            plan,
            common=self._dialect.common,
            keep_alive=request.keep_alive and not self.closing,
            chunked=request.version != "1.0",
            head=request.method == "HEAD",
        )
        exchange = Exchange(request, outlet, plan)
        try:
            if control:
                await exchange.reply(await self._control(request, connection))
            elif not await meet(exchange, self._dialect):
                await self._dialect.handle(exchange)
        except Severed:
            return False
        finally:
            self._note(exchange, connection, control)
        return outlet.keep_alive

    def _note(self, exchange: Exchange, connection: Connection, control: bool) -> None:
        if control:
            return
        now = asyncio.get_running_loop().time()
        request, batch = exchange.request, exchange.batch
        aborted = [] if batch is None else batch.aborted
        gone_at = connection.gone_at
        if gone_at is None and not aborted:
            self.record.ended(exchange.outlet.status)
            return
        since = None if gone_at is None else now - gone_at
        self.record.aborted(f"{request.method} {request.path}", aborted, now - request.arrived_at, since)

    async def _control(self, request: Request, connection: Connection) -> Whole:
        match request.method, request.path:
            case "GET", "/__stats":
                return as_json(self._stats())
            case "POST", "/__reset":
                self.record.reset()
                self.box.struck.clear()
                return as_json({"reset": True})
            case "GET", "/__faults":
                table = {
                    name: {"summary": kind.summary, "argument": kind.argument}
                    for name, kind in FAULTS.items()
                }
                return as_json({"faults": table, "armed": self.box.armed(), "struck": self.box.struck})
            case "DELETE", "/__faults":
                self.box.clear()
                return as_json({"armed": self.box.armed()})
            case "POST", "/__faults":
                return await self._arm(request.body, connection)
        return as_json({"detail": "There is no such control route."}, 404)

    async def _arm(self, body: bytes, connection: Connection) -> Whole:
        try:
            value = json.loads(body)
            entries = value if isinstance(value, list) else [value]
            faults = [
                parse_fault(
                    str(entry.get("fault")),
                    entry.get("arg"),
                    times=entry.get("times"),
                    marker=entry.get("marker"),
                    route=entry.get("route"),
                )
                for entry in entries
            ]
        except (ValueError, AttributeError) as error:
            sentence = (
                str(error) if isinstance(error, FaultError) else 'Send {"fault": NAME, "arg": …, "times": …}.'
            )
            return as_json({"detail": sentence}, 400)
        for fault in faults:
            if fault.name in ("refuse", "crash"):
                if fault.name == "crash":
                    for other in self._connections - {connection}:
                        other.reset()
                await self.refuse(float(fault.arg))
            elif fault.name == "idle_close":
                self.keep_alive_s = float(fault.arg)
            else:
                self.box.arm(fault)
        return as_json({"armed": self.box.armed()})

    def _stats(self) -> dict[str, Any]:
        engine, meters = self._engine, self._engine.meters
        finished = sum(count for reason, count in meters.finished.items() if reason != "abort")
        return {
            "engine": self.settings.engine.value,
            "model": self.settings.name,
            "running": len(engine.running),
            "waiting": len(engine.waiting),
            "started": meters.started,
            "finished": finished,
            "generated_tokens": meters.generated_tokens,
            "prompt_tokens": meters.prompt_tokens,
            "cached_tokens": meters.cached_tokens,
            "struck": self.box.struck,
            **self.record.show(),
        }

    # listening

    async def listen(self) -> int:
        """Bind, and listen once `ready_after_s` has passed; returns the port. Raises OSError."""
        sock = _bound(*self._address)
        self._address = (self._address[0], sock.getsockname()[1])
        if self.settings.ready_after_s:
            self._relisten = asyncio.get_running_loop().create_task(
                self._later(self.settings.ready_after_s, sock)
            )
        else:
            await self._accept(sock)
        return self._address[1]

    async def refuse(self, seconds: float) -> None:
        """Stop listening now, and listen again later. Open connections stay."""
        self._shut()
        self._relisten = asyncio.get_running_loop().create_task(self._later(seconds, None))

    async def _later(self, seconds: float, sock: socket.socket | None) -> None:
        await asyncio.sleep(seconds)
        await self._accept(sock or _bound(*self._address))

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self, self.serve), sock=sock, backlog=_BACKLOG
        )

    def _shut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def stop(self) -> None:
        """End as the engine does on SIGTERM; returns when the process may exit."""
        if self._relisten is not None:
            self._relisten.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._relisten
        limit_s = self.settings.shutdown_timeout_s
        if self.settings.engine is Kind.TGI:
            self._shut()
            self._close_idle()
            await self._quiet(limit_s)
            return
        self._engine.ending = True
        await self._quiet(limit_s)
        # The engine's process is killed now; its server waits for clients to leave, without limit.
        self._shut()
        self._close_idle()
        if self.settings.unfinished is Outcome.HANG:
            self._engine.die()
        else:
            self._engine.stop(self.settings.unfinished.value)
        await self._quiet(None)

    def _close_idle(self) -> None:
        self.closing = True
        for connection in tuple(self._connections):
            if not connection.busy:
                connection.close()

    async def _quiet(self, limit_s: float | None) -> None:
        """Wait until nothing is being answered, at most so long; `None`: without limit."""
        if any(connection.busy for connection in self._connections):
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), limit_s)

    def rested(self) -> None:
        """A connection has nothing to do any more."""
        if self._idle is not None and not any(connection.busy for connection in self._connections):
            self._idle.set()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle off only where the protocol is named; without it each stream waits 40 ms for an ACK.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
