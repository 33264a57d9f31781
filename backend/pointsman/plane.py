"""The data plane: takes a generation request from its first header to its last byte.

Pure ASGI. The way of a request: guard, read, decode, choose the model, forward, observe.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any

from pointsman import attempt
from pointsman.answer import Answer, AsgiWire, Send, Wire
from pointsman.attempt import AttemptFailed
from pointsman.body import Body, Buffer, Receive
from pointsman.errors import INTERNAL, ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.forward import client_error
from pointsman.guard import Caller, Guard
from pointsman.intake import Intake
from pointsman.limits import FREE, Limiter, Rules, counted, used
from pointsman.pii import PiiMode
from pointsman.registry import Registry
from pointsman.replay import Server
from pointsman.routes import Match
from pointsman.run import Run
from pointsman.running import Running
from pointsman.store.base import Once
from pointsman.watch import Clock, Watch

Scope = dict[str, Any]
Observer = Callable[[Exchange], None]

EXTENSION = "pointsman"  # name of our server's hook in scope["extensions"]
_PROCESS = secrets.token_hex(6)  # tells the request ids of this process from all others
_numbers = count(1)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_TELL_S = 30.0  # for the client to take an error
_log = logging.getLogger("pointsman.plane")


@dataclass(frozen=True, slots=True)
class PlaneConfig:
    """Knobs of the data plane."""

    max_body_bytes: int = 8 * 1024 * 1024
    abort_streams: bool = False  # end a failed stream by cutting the connection after the error frame
    pii: PiiMode = PiiMode.OFF


def request_id(sent: bytes | None) -> str:
    """The client's request id where it is fit to be logged, else a new one."""
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent.decode("ascii")
    return f"{_PROCESS}{next(_numbers):08x}"


class Plane:
    """Serves the generation routes.

    Args:
        buffer: counts the bodies that are held; None: they have no bound.
    """

    def __init__(
        self,
        registry: Registry,
        forwarder: Server,
        guard: Guard,
        limiter: Limiter,
        config: PlaneConfig,
        observers: Sequence[Observer],
        running: Running,
        buffer: Buffer | None = None,
    ) -> None:
        self._intake = Intake(registry, guard, limiter, config.max_body_bytes, config.pii)
        self._forwarder = forwarder
        self._guard = guard
        self._limiter = limiter
        self._config = config
        self._observers = observers
        self._kept_clock: Clock | None = None
        self._running = running
        self._buffer = buffer

    async def serve(
        self, match: Match, scope: Scope, receive: Receive, send: Send, caller: Caller | None = None
    ) -> None:
        """Answer one request, whatever happens; with a `caller` it is part of one that was let in."""
        wire: Wire = (scope.get("extensions") or {}).get(EXTENSION) or AsgiWire(send)
        loop = wire.loop  # to ask asyncio for it is a system call
        headers = dict(scope["headers"])
        route = match.route
        exchange = Exchange(
            request_id(headers.get(b"x-request-id")), route.template, route.method, monotonic()
        )
        cors = self._guard.cors(headers.get(b"origin"))
        answer = Answer(wire, exchange, route.shape, cors)
        answer.abort_streams = self._config.abort_streams
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - ASGI servers run us in a task
        watch = Watch(self._clock(loop), task)
        body = Body(receive, headers, wire.take, self._buffer)
        running = self._running
        running.exchanges[answer] = watch
        try:
            if running.over:
                raise attempt.shutting_down()
            taken = await self._intake.take(match, scope, headers, exchange, answer, watch, body, caller)
            await self._run(*taken, wire, body, answer)
        except ClientGone:
            answer.leave()
        except asyncio.CancelledError:
            exchange.end = attempt.CANCELLED
            raise
        except RouterError as error:
            await self._refuse(answer, error, body, watch)
        except AttemptFailed as failure:  # between attempts, or before the first
            exchange.end = failure.end
            await self._refuse(answer, client_error(failure), body, watch)
        except Exception:  # noqa: BLE001 - the one broad except: whatever is wrong with us, the client hears
            _log.exception("request %s failed by a bug", exchange.request_id)
            exchange.end = attempt.BUG
            await self._refuse(answer, RouterError(INTERNAL), body, watch)
        finally:
            del running.exchanges[answer]
            answer.stop()
            body.free()
            exchange.ended_at = monotonic()
            for observe in self._observers:
                observe(exchange)

    def _clock(self, loop: asyncio.AbstractEventLoop) -> Clock:
        clock = self._kept_clock
        if clock is None or clock.loop is not loop:  # a test client may bring a loop per request
            clock = self._kept_clock = Clock(loop)
        return clock

    async def _run(
        self, run: Run, rules: Rules, once: Once | None, wire: Wire, body: Body, answer: Answer
    ) -> None:
        watcher = _listen(wire, body, run.watch, answer)
        try:
            limited = rules is not FREE or once is not None
            await (self._serve_limited(run, rules, answer, once) if limited else self._forwarder.serve(run))
        finally:
            wire.on_disconnect = None
            if watcher is not None:
                watcher.cancel()

    async def _serve_limited(self, run: Run, rules: Rules, answer: Answer, once: Once | None) -> None:
        run.call = counted(run.call, rules)
        size, lasts_s = run.exchange.body_bytes, run.deadline - run.exchange.started_at
        grant = await self._limiter.admit(rules, run.call, size, lasts_s, once)
        try:
            answer.add(grant.lines)
            if grant.refusal is not None:
                raise grant.refusal
            await self._forwarder.serve(run)
        finally:
            self._limiter.settle(grant, used(run.exchange))

    async def _refuse(self, answer: Answer, error: RouterError, body: Body, watch: Watch) -> None:
        """Tell the client; a body that nobody read is drained a little, or the connection ends."""
        if answer.exchange.end is attempt.OK:
            cause = error.__cause__
            answer.exchange.end = cause.end if isinstance(cause, AttemptFailed) else _end_of(error)
        if answer.committed:
            answer.cut()
            return
        watch.forget()  # why it is refused; that the client left is not forgotten
        late = answer.exchange.end is attempt.DEADLINE  # the client waits no longer, for its own body neither
        whole = body.whole if late else await body.drain()
        try:
            with watch:
                watch.set(monotonic() + _TELL_S, ClientGone)
                await answer.refuse(error, close=not whole)
        except (ClientGone, AttemptFailed):  # the latter at the router's end: the client does not read
            answer.drop()


def _listen(wire: Wire, body: Body, watch: Watch, answer: Answer) -> "asyncio.Task[None] | None":
    """Have the exchange interrupted when the client leaves before it has its whole answer."""

    def leave() -> None:
        if not answer.finished:
            watch.interrupt(ClientGone())

    if wire.disconnected:
        raise ClientGone
    wire.on_disconnect = leave
    if not isinstance(wire, AsgiWire):
        return None

    async def wait() -> None:
        await body.gone()
        leave()

    return wire.loop.create_task(wait())


def _end_of(error: RouterError) -> attempt.End:
    if error.kind in attempt.QUEUE_ENDS:
        return attempt.QUEUE_ENDS[error.kind]
    if error.status == 503:
        return attempt.NO_ENDPOINT
    return attempt.REJECTED if error.status < 500 else attempt.BUG
