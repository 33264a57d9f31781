"""One attempt's conversation with one replica: send the request, judge the answer, pass it on."""

import asyncio
from time import monotonic, time

from msgspec import structs

from pointsman import attempt, turns
from pointsman.apis import wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.attempt import AttemptFailed, End
from pointsman.bridge import Bridge
from pointsman.call import Call
from pointsman.connection import Broken, Connection, Head
from pointsman.engines import DIALECTS
from pointsman.engines.base import Outgoing, Reader, judge_status
from pointsman.generation import Message, Misfit
from pointsman.lengths import Lengths
from pointsman.relay import Relay
from pointsman.replica import Replica
from pointsman.retry import Again, parse_retry_after
from pointsman.run import Run
from pointsman.transcript import alternating, as_text
from pointsman.upstream import ConnectFailed, Pool

HELD_MAX_BYTES = 1 << 20  # a whole answer up to this size is held until it is known to be whole
_ERROR_BODY_MAX_BYTES = 64 * 1024
_SMALL_MAX_BYTES = 8 * HELD_MAX_BYTES  # engines tell some 60 bytes of each token of a text
_LARGE_BYTES = 64 * 1024  # a request of more is not held while its answer comes
_REPAIR_CHARS = 8000  # of an answer that is told back to the model
_TAIL_S = (
    0.2  # how long the end of a finished stream's body is waited for, so that its connection can serve on
)


async def converse(run: Run, replica: Replica, pool: Pool, lengths: Lengths) -> None:
    """Ask one replica and send its answer to the sink.

    Raises:
        AttemptFailed: it failed; `run.sink.committed` says on which side of the line.
        RouterError: the call asks for what this engine cannot do.
    """
    run.watch.set(run.deadline, run.overtime)
    if run.exchange.body_bytes > turns.LARGE_BYTES:  # to read it took its time, and so will writing
        await turns.give_way()
    try:
        call, dialect, reply = run.call, DIALECTS[replica.engine], reply_to(run)
        if call.wish is None and dialect.carries(call, replica):
            outgoing, reader = dialect.encode(call, replica), dialect.reader(call, reply)
        else:
            outgoing, reader = await _translated(run, replica, pool, lengths, reply)
        run.exchange.ignored = outgoing.ignored
        connection = _idle(run, pool) or await pool.connect(run.timeouts.connect_s)
        try:
            run.exchange.sent_at = monotonic()
            connection.send(_head(run, pool, outgoing), outgoing.body)
            del call, outgoing  # may be large, and is not needed here while the answer comes
            await _talk(run, replica, connection, reader)
        finally:
            run.exchange.prompt_tokens = reader.tokens.prompt
            run.exchange.completion_tokens = reader.tokens.completion
            pool.release(connection)
    except ConnectFailed as error:
        raise AttemptFailed(attempt.CONNECT, str(error)) from None
    except Broken as error:
        raise AttemptFailed(_end_of(error), str(error)) from None


def reply_to(run: Run) -> Reply:
    """To what the answer of an exchange is the reply."""
    exchange = run.exchange

    def elapsed() -> float:
        return monotonic() - exchange.started_at

    model_id = (run.wanted or run.model).id  # as it was asked for; a header tells who answered
    return Reply(exchange.request_id, run.call.model or model_id, model_id, int(time()), elapsed)


async def _translated(
    run: Run, replica: Replica, pool: Pool, lengths: Lengths, reply: Reply
) -> tuple[Outgoing, Reader]:
    """What to send to an engine that speaks another API than the call, and who reads its answer."""
    call, exchange = run.call, run.exchange
    dialect = DIALECTS[replica.engine]
    wish = wish_of(call)
    if exchange.body_bytes > turns.LARGE_BYTES:
        await turns.give_way()

    async def ask(outgoing: Outgoing) -> bytes | None:
        return await _small(run, pool, outgoing)

    if wish.messages and wish.reserve is not None:
        wish = await lengths.trim(wish, wish.reserve, replica, dialect, ask)
        exchange.trimmed = wish.dropped
    if wish.messages and replica.facts.chat_template is False:
        wish = as_text(wish)
    elif wish.messages and replica.facts.alternates:
        wish = structs.replace(wish, messages=alternating(wish.messages))
    if not wish.messages:
        wish = await lengths.fit(wish, replica, dialect, ask)
    bridge = Bridge(dialect.source(wish), writer_of(call, reply), wish)
    return dialect.ask(wish, replica, stream=call.stream), bridge


def _idle(run: Run, pool: Pool) -> Connection | None:
    """A connection that waits to be used again, unless a fresh one is wanted."""
    return None if isinstance(run.step, Again) and run.step.fresh else pool.reuse()


async def _small(run: Run, pool: Pool, outgoing: Outgoing) -> bytes | None:
    """Ask a replica something by the way; None where it does not answer that well, or at too great length."""
    connection = _idle(run, pool) or await pool.connect(run.timeouts.connect_s)
    due = monotonic() + run.timeouts.first_event_s
    if due < run.deadline:
        run.watch.set(due, attempt.first_event_late)
    try:
        connection.send(_head(run, pool, outgoing), outgoing.body)
        head = await connection.head()
        body = await _read(connection, _SMALL_MAX_BYTES)
    finally:
        pool.release(connection)
    run.watch.set(run.deadline, run.overtime)
    return body if head.status == 200 and len(body) < _SMALL_MAX_BYTES else None


async def _talk(run: Run, replica: Replica, connection: Connection, reader: Reader) -> None:
    timeouts = run.timeouts
    first_due = run.exchange.sent_at + timeouts.first_event_s
    if run.call.stream and first_due < run.deadline:
        run.watch.set(first_due, attempt.first_event_late)
    head = await connection.head()
    if head.status != 200:
        raise await _refusal(head, connection, run.call)
    reader.heed(head.headers)
    if not run.call.stream:
        await _whole(run, replica, connection, reader, head)
        return
    if not head.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
        reader.whole(await _read(connection, _ERROR_BODY_MAX_BYTES))
        raise AttemptFailed(attempt.JUNK, "no event stream")
    exchange, watch = run.exchange, run.watch
    let_go = run.let_go if exchange.body_bytes >= _LARGE_BYTES else None
    relay = Relay(reader, run.sink, exchange, replica, watch, timeouts, run.deadline, run.overtime, let_go)
    try:
        await relay.run(connection)
    finally:
        run.exchange.mid_event = relay.mid_event
    await _finish(connection)


async def _whole(run: Run, replica: Replica, connection: Connection, reader: Reader, head: Head) -> None:
    body = await connection.read()
    replica.heard_at = replica.answered_at = monotonic()
    if not connection.ended:
        body = await _gather(run, connection, reader, head, body)
        if run.sink.committed:
            return
    try:
        if reader.mends and len(body) > turns.LARGE_BYTES:  # tokens of a long text take half a second
            run.watch.set(run.deadline, run.overtime)  # no longer is it the engine that takes its time
            body = await asyncio.to_thread(reader.whole, body)
        else:
            body = reader.whole(body)
    except Misfit as misfit:
        run.call = repaired(run.call, misfit)
        raise AttemptFailed(attempt.MISFIT, misfit.fault) from None
    exchange = run.exchange
    exchange.answer_bytes = len(body)
    exchange.first_event_at = now = monotonic()
    run.watch.set(now + run.timeouts.send_s, attempt.client_too_slow)
    await run.sink.whole(body, reader.headers)


async def _gather(run: Run, connection: Connection, reader: Reader, head: Head, first: bytes) -> bytes:
    """Read a body that comes in parts; one too large to hold is passed on, which commits."""
    timeouts = run.timeouts
    parts, size = [first], len(first)
    while True:
        due = monotonic() + timeouts.byte_idle_s
        if due < run.deadline:
            run.watch.set(due, attempt.idle_too_long)
        else:
            run.watch.set(run.deadline, run.overtime)
        chunk = await connection.read()
        if not chunk:
            break
        size += len(chunk)
        run.watch.set(monotonic() + timeouts.send_s, attempt.client_too_slow)
        if run.sink.committed:
            await run.sink.write(chunk)
            continue
        parts.append(chunk)
        if size > HELD_MAX_BYTES and not reader.mends:
            run.exchange.first_event_at = monotonic()
            await run.sink.pass_on(b"".join(parts), _passable(head))
            parts.clear()
        elif size > 8 * HELD_MAX_BYTES:
            raise AttemptFailed(attempt.JUNK, "answer larger than 8 MiB")
    if run.sink.committed:
        run.exchange.answer_bytes = size
        run.watch.set(monotonic() + timeouts.send_s, attempt.client_too_slow)
        await run.sink.write(b"", last=True)
    return b"".join(parts)


def repaired(call: Call, misfit: Misfit) -> Call:
    """The call that asks the model to say anew what it said unfitly."""
    wish, said = call.wish, misfit.said.text[:_REPAIR_CHARS]
    if wish is None or not misfit.told or not said.strip():
        return call
    turns = (*wish.messages, Message("assistant", said), Message("user", misfit.told))
    return structs.replace(call, wish=structs.replace(wish, messages=turns))


def _head(run: Run, pool: Pool, outgoing: Outgoing) -> bytes:
    """Write the request's head: a constant part per replica and route, and what is the exchange's own."""
    exchange = run.exchange
    trace = f"traceparent: {exchange.traceparent}\r\n" if exchange.traceparent else ""
    own = (
        f"x-request-id: {exchange.request_id}-a{run.tried.attempts}\r\n{trace}"
        f"content-length: {len(outgoing.body)}\r\n\r\n"
    )
    return pool.request_head(outgoing.method, outgoing.path) + own.encode("ascii")


def _end_of(error: Broken) -> End:
    if error.unheard:
        return attempt.CONNECT
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
    if connection.ended:
        return
    try:
        async with asyncio.timeout(_TAIL_S):
            while await connection.read():
                pass
    except (TimeoutError, Broken):
        connection.close()  # the answer is whole; only the connection is lost
