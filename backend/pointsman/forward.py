"""Forwards a call to a replica: the attempt loop, and one conversation per attempt.

The only place that retries. Rules come from `retry.next_step`; until the answer is committed a failure may
lead to another attempt, afterwards it is one error frame.
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from pointsman import attempt
from pointsman.attempt import AttemptFailed, End, Retry, Verdict
from pointsman.call import Call, Timeouts
from pointsman.connection import Broken, Connection, Head
from pointsman.engines import DIALECTS
from pointsman.engines.base import Outgoing, Reader, judge_status
from pointsman.errors import ENGINE_OVERLOADED, NO_REPLICA, UNSUPPORTED, ClientGone, RouterError
from pointsman.exchange import AttemptRecord, Exchange
from pointsman.registry import Model, Registry
from pointsman.relay import Relay
from pointsman.relay import Sink as StreamSink
from pointsman.replica import Replica
from pointsman.retry import Again, RetryConfig, Step, Stop, Tried, next_step, parse_retry_after
from pointsman.upstream import ConnectFailed, Pool, Resolver, UpstreamConfig
from pointsman.watch import Watch

HELD_MAX_BYTES = 1 << 20  # a whole answer up to this size is held until it is known to be whole
_ERROR_BODY_MAX_BYTES = 64 * 1024
_TAIL_S = (
    0.2  # how long the end of a finished stream's body is waited for, so that its connection can serve on
)
_RETRY_AFTER_S = 5  # seconds; one probe interval


class Sink(StreamSink, Protocol):
    """The client's side of an exchange."""

    async def whole(self, body: bytes) -> None:
        """Send a whole answer, in the words of the call's API."""

    async def pass_on(self, first: bytes, length: int | None) -> None:
        """Begin a whole answer too large to hold; `length` as the engine told it. Commits."""

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        """End a committed answer with the surface's error frame, or by closing where there are no frames."""


@dataclass(slots=True)
class Run:
    """One exchange on its way: what is asked, of whom, until when."""

    call: Call
    model: Model
    exchange: Exchange
    watch: Watch
    sink: Sink
    deadline: float
    tried: Tried = field(default_factory=Tried)
    asked: set[Replica] = field(default_factory=set)
    step: Step = field(default_factory=lambda: Again(0.0))

    @property
    def timeouts(self) -> Timeouts:
        return self.model.config.timeouts


class Forwarder:
    """Sends calls to replicas. Owns the connections; one per worker process."""

    def __init__(self, registry: Registry, upstream: UpstreamConfig, retry: RetryConfig, rng: Random) -> None:
        self._registry = registry
        self._config = upstream
        self._retry = retry
        self._rng = rng
        self._tls: ssl.SSLContext | None = None
        self._resolver = Resolver()
        self._pools: dict[Replica, Pool] = {}
        self._prefixes: dict[tuple[Replica, str, str], bytes] = {}

    @property
    def pools(self) -> dict[Replica, Pool]:
        """The pools in use, by replica."""
        return self._pools

    def close(self) -> None:
        """Close idle connections; for the end of the process."""
        for pool in self._pools.values():
            pool.close()

    async def serve(self, run: Run) -> None:
        """Get an answer for the call and send it to the sink.

        Raises:
            RouterError: nothing was committed, and this is what the client is to be told.
            ClientGone: the client left.
        """
        run.model.budget.note_request(monotonic())
        try:
            await self._attempt(run)
        except AttemptFailed as failure:
            await self._again(run, failure)

    async def _again(self, run: Run, first: AttemptFailed) -> None:
        async def rest(seconds: float) -> None:
            with run.watch:
                await asyncio.sleep(seconds)

        loop = AsyncRetrying(
            retry=retry_if_exception_type(AttemptFailed),
            stop=lambda state: self._stops(run, state),
            wait=lambda state: run.step.after_s if isinstance(run.step, Again) else 0.0,
            sleep=rest,
            reraise=True,
        )
        try:
            async for trial in loop:
                with trial:
                    if trial.retry_state.attempt_number == 1:
                        raise first  # the first try is over; the loop begins with its end
                    await self._attempt(run)
        except AttemptFailed as failure:
            raise client_error(failure) from failure

    def _stops(self, run: Run, state: RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome is not None else None
        if not isinstance(failure, AttemptFailed):
            return True
        now = monotonic()
        others = len(self._eligible(run, again=False))
        run.step = next_step(failure, run.tried, others, self._retry, self._rng.random())
        if isinstance(run.step, Stop) or now + run.step.after_s >= run.deadline:
            return True
        run.tried.fresh_used |= failure.end.retry is Retry.FRESH
        run.tried.once_used |= failure.end.retry is Retry.ONCE_OTHER
        return not run.model.budget.spend(now)

    def _eligible(self, run: Run, *, again: bool) -> list[Replica]:
        return [
            replica
            for replica in run.model.pool
            if replica.usable
            and not replica.full
            and (again or replica not in run.asked)
            and DIALECTS[replica.engine].speaks(run.call)
        ]

    def _choose(self, run: Run) -> Replica:
        same = isinstance(run.step, Again) and run.step.same_replica
        candidates = self._eligible(run, again=same)
        if candidates:
            return candidates[0] if len(candidates) == 1 else run.model.policy.choose(candidates, self._rng)
        pool = run.model.pool
        if not any(DIALECTS[replica.engine].speaks(run.call) for replica in pool):
            raise RouterError(
                UNSUPPORTED, f"Model {run.model.id!r} runs on an engine that does not speak this API."
            )
        if any(replica.usable and replica.full for replica in pool):
            raise RouterError(ENGINE_OVERLOADED, retry_after_s=1)
        raise RouterError(
            NO_REPLICA,
            f"Model {run.model.id!r} is known, but no replica of it is up.",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _attempt(self, run: Run) -> None:
        """Ask one replica.

        Raises:
            AttemptFailed: it failed and nothing was committed.
        """
        replica = self._choose(run)
        run.asked.add(replica)
        run.tried.attempts += 1
        run.exchange.replica_id = replica.id
        lease = self._registry.lease(replica)
        end, detail = attempt.BUG, ""
        try:
            with run.watch:
                await self._converse(run, replica)
            end = attempt.OK
        except ClientGone:
            end = attempt.CLIENT_ABORT
            raise
        except RouterError:
            end = attempt.REJECTED
            raise
        except AttemptFailed as failure:
            end, detail = failure.end, failure.detail
            run.watch.forget()
            if not run.sink.committed:
                raise
            run.exchange.end = end
            await self._break_off(run, failure)
        finally:
            lease.close(end)
            run.exchange.attempts.append(AttemptRecord(replica.id, end, detail))

    async def _break_off(self, run: Run, failure: AttemptFailed) -> None:
        now = monotonic()
        with run.watch:
            run.watch.set(now + run.timeouts.send_s, ClientGone())
            await run.sink.break_off(failure, mid_event=run.exchange.mid_event)

    async def _converse(self, run: Run, replica: Replica) -> None:
        dialect = DIALECTS[replica.engine]
        outgoing = dialect.encode(run.call, replica)
        reader = dialect.reader(run.call, run.exchange.request_id, run.call.model or run.model.id)
        pool = self._pool(replica)
        fresh = isinstance(run.step, Again) and run.step.fresh
        connection = None if fresh else pool.reuse()
        try:
            if connection is None:
                connection = await pool.connect(run.timeouts.connect_s)
            try:
                await self._talk(run, replica, connection, outgoing, reader)
            finally:
                run.exchange.prompt_tokens = reader.tokens.prompt
                run.exchange.completion_tokens = reader.tokens.completion
                pool.release(connection)
        except ConnectFailed as error:
            raise AttemptFailed(attempt.CONNECT, str(error)) from None
        except Broken as error:
            raise AttemptFailed(_end_of(error), str(error)) from None

    async def _talk(
        self, run: Run, replica: Replica, connection: Connection, outgoing: Outgoing, reader: Reader
    ) -> None:
        now = monotonic()
        run.exchange.sent_at = now
        connection.send(self._head(run, replica, outgoing), outgoing.body)
        timeouts = run.timeouts
        first_due = now + timeouts.first_event_s
        if run.call.stream and first_due < run.deadline:
            run.watch.set(first_due, AttemptFailed(attempt.TTFT))
        else:
            run.watch.set(run.deadline, AttemptFailed(attempt.TOTAL))
        head = await connection.head()
        if head.status != 200:
            raise await _refusal(head, connection, run.call)
        reader.heed(head.headers)
        if not run.call.stream:
            await self._whole(run, connection, reader, head)
            return
        if not head.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            reader.whole(await _read(connection, _ERROR_BODY_MAX_BYTES))
            raise AttemptFailed(attempt.JUNK, "no event stream")
        relay = Relay(reader, run.sink, run.exchange, run.watch, timeouts, run.deadline)
        try:
            await relay.run(connection)
        finally:
            run.exchange.mid_event = relay.mid_event
        await _finish(connection)

    async def _whole(self, run: Run, connection: Connection, reader: Reader, head: Head) -> None:
        idle, total = AttemptFailed(attempt.IDLE), AttemptFailed(attempt.TOTAL)
        slow = AttemptFailed(attempt.SLOW_CLIENT)
        untouched = not reader.mends and run.call.body is not None  # neither dialect nor surface rewrites it
        parts: list[bytes] = []
        size = 0
        while chunk := await connection.read():
            size += len(chunk)
            if run.sink.committed:
                run.watch.set(monotonic() + run.timeouts.send_s, slow)
                await run.sink.write(chunk)
            else:
                parts.append(chunk)
                if size > HELD_MAX_BYTES and untouched:
                    length = _passable(head)
                    run.exchange.first_event_at = monotonic()
                    run.watch.set(monotonic() + run.timeouts.send_s, slow)
                    await run.sink.pass_on(b"".join(parts), length)
                elif size > 8 * HELD_MAX_BYTES:
                    raise AttemptFailed(attempt.JUNK, "answer larger than 8 MiB")
            due = monotonic() + run.timeouts.byte_idle_s
            run.watch.set(min(due, run.deadline), idle if due < run.deadline else total)
        run.exchange.answer_bytes = size
        if run.sink.committed:
            await run.sink.write(b"", last=True)
            return
        body = reader.whole(parts[0] if len(parts) == 1 else b"".join(parts))
        run.exchange.first_event_at = monotonic()
        run.watch.set(monotonic() + run.timeouts.send_s, slow)
        await run.sink.whole(body)

    def _pool(self, replica: Replica) -> Pool:
        pool = self._pools.get(replica)
        if pool is None:
            if replica.endpoint.scheme == "https" and self._tls is None:
                self._tls = self._config.tls()
            expiry = self._config.idle_expiry_s or DIALECTS[replica.engine].idle_expiry_s
            pool = self._pools[replica] = Pool(replica.endpoint, expiry, self._tls, self._resolver)
        return pool

    def _head(self, run: Run, replica: Replica, outgoing: Outgoing) -> bytes:
        """Write the request's head: a constant part per replica and route, and what is the exchange's own."""
        key = (replica, outgoing.method, outgoing.path)
        prefix = self._prefixes.get(key)
        if prefix is None:
            prefix = self._prefixes[key] = _prefix(replica, outgoing)
        exchange = run.exchange
        trace = f"traceparent: {exchange.traceparent}\r\n" if exchange.traceparent else ""
        own = (
            f"x-request-id: {exchange.request_id}-a{run.tried.attempts}\r\n{trace}"
            f"content-length: {len(outgoing.body)}\r\n\r\n"
        )
        return prefix + own.encode("ascii")


def _prefix(replica: Replica, outgoing: Outgoing) -> bytes:
    endpoint = replica.endpoint
    lines = [
        f"{outgoing.method} {endpoint.base_path}{outgoing.path} HTTP/1.1",
        f"host: {endpoint.authority}",
        "user-agent: pointsman",
        "accept: */*",
        "accept-encoding: identity",
    ]
    if outgoing.method == "POST":
        lines.append("content-type: application/json")
    if replica.key:
        lines.append(f"authorization: Bearer {replica.key}")
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


def _end_of(error: Broken) -> End:
    if error.junk:
        return attempt.JUNK
    if error.silent:
        return attempt.RESET_REUSED if error.reused else attempt.RESET_NEW
    return attempt.TRUNCATED


async def _read(connection: Connection, most: int) -> bytes:
    parts, size = [], 0
    while size < most and (chunk := await connection.read()):
        parts.append(chunk)
        size += len(chunk)
    return b"".join(parts)


def _passable(head: Head) -> int | None:
    """Length, if told, of an answer that is too large to be held and so to be checked."""
    if not head.headers.get(b"content-type", b"").startswith(b"application/json"):
        raise AttemptFailed(attempt.JUNK, "no JSON")
    length = head.headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else None


async def _refusal(head: Head, connection: Connection, call: Call) -> AttemptFailed:
    body = await _read(connection, _ERROR_BODY_MAX_BYTES)
    asked = head.headers.get(b"retry-after")
    retry_after_s = parse_retry_after(asked.decode("latin-1") if asked else None)
    failure = judge_status(head.status, body, call.operation, retry_after_s)
    return failure or AttemptFailed(attempt.JUNK, f"status {head.status}")


async def _finish(connection: Connection) -> None:
    """Read the end of a stream's body, which follows its terminal event at once."""
    try:
        async with asyncio.timeout(_TAIL_S):
            while await connection.read():
                pass
    except (TimeoutError, Broken):
        connection.close()  # the answer is whole; only the connection is lost


def client_error(failure: AttemptFailed) -> RouterError:
    """What a client is told of a failed attempt."""
    kind = failure.end.error
    retry_after_s = None
    if failure.end.verdict is Verdict.OVERLOAD:
        retry_after_s = max(1, round(failure.retry_after_s or 1))
    return RouterError(kind, failure.client_message, status=failure.status, retry_after_s=retry_after_s)
