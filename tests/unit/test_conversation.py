"""One attempt at one replica: what is asked, how its answer is judged, and what becomes of the connection.

Connections and pools are the real ones; only their transport is played, byte for byte.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from clockwork import Clockwork
from pointsman import attempt, conversation, relay, upstream
from pointsman.attempt import AttemptFailed, End
from pointsman.call import Api, Call, Operation, Timeouts
from pointsman.connection import Connection
from pointsman.conversation import HELD_MAX_BYTES, converse
from pointsman.errors import ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.generation import Message, Wish
from pointsman.lengths import Lengths
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.poison import digest_of
from pointsman.registry import Registry
from pointsman.replica import Endpoint, Engine, Replica
from pointsman.resolver import Resolver
from pointsman.retry import Again, RetryConfig
from pointsman.run import Run
from pointsman.upstream import ConnectFailed, Pool
from pointsman.watch import TICK_S, Clock, Watch

pytestmark = pytest.mark.anyio

KIB = 1024
FOREVER_S = 1e6
RESET = ConnectionResetError()
BODY = b'{"model":"gemma","messages":[]}'
WHOLE = b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
WORD = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


@pytest.fixture(autouse=True)
def _played_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (conversation, relay, upstream):
        monkeypatch.setattr(module, "monotonic", now)


def now() -> float:
    return asyncio.get_running_loop().time()


Deed = bytes | float | OSError | None  # of an engine: bytes sent, seconds waited, a reset, a proper end


class Wire(asyncio.Transport):
    """An engine's end of a connection: once asked, it does its deeds, one a turn, and then waits."""

    def __init__(self, connection: Connection, deeds: tuple[Deed, ...]) -> None:
        super().__init__()
        self._connection = connection
        self._deeds = list(deeds)
        self.asked: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.asked.append(bytes(data))
        asyncio.get_running_loop().call_soon(self._act)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def _act(self) -> None:
        if not self._deeds or self.aborted:
            return
        deed, pause_s = self._deeds.pop(0), 0.0
        if isinstance(deed, bytes):
            self._connection.data_received(deed)
        elif isinstance(deed, float):
            pause_s = deed
        else:
            self._connection.connection_lost(deed)
        asyncio.get_running_loop().call_later(pause_s, self._act)


class Engines(Pool):
    """A pool whose connections lead to an engine that does these deeds."""

    def __init__(self, replica: Replica, deeds: tuple[Deed, ...]) -> None:
        super().__init__(replica, 50.0, None, Resolver())
        self.deeds = deeds
        self.wires: list[Wire] = []
        self.refuses = False
        self.connects_in_s = 0.0

    async def connect(self, budget_s: float) -> Connection:
        if self.refuses:
            raise ConnectFailed("connection refused")
        await asyncio.sleep(self.connects_in_s)
        self.active += 1
        return self.link(self.deeds)

    def link(self, deeds: tuple[Deed, ...]) -> Connection:
        connection = Connection(asyncio.get_running_loop())
        self.wires.append(Wire(connection, deeds))
        connection.connection_made(self.wires[-1])
        return connection


class Client:
    """A sink that keeps what it was sent; each block takes it `takes_s` seconds."""

    def __init__(self) -> None:
        self.committed = False
        self.did: list[str] = []
        self.length: int | None = None  # of what is passed on, as told
        self.sent = b""
        self.takes_s = 0.0

    async def _take(self, what: str, block: bytes) -> None:
        self.did.append(what)
        if self.takes_s and block:
            await asyncio.sleep(self.takes_s)
        self.sent += block

    async def begin(self) -> None:
        self.committed = True

    async def write(self, block: bytes, *, last: bool = False) -> None:
        await self._take("end" if last else "write", block)

    async def whole(self, body: bytes, lines: bytes) -> None:
        self.committed = True
        await self._take("whole", body)

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self.committed = True
        self.length = length
        await self._take("pass on", first)

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        pytest.fail("that is the caller's to do")


@dataclass
class Talk:
    """One attempt, about to be made."""

    run: Run
    pool: Engines
    client: Client
    replica: Replica
    began: float = field(default_factory=now)

    @property
    def wire(self) -> Wire:
        return self.pool.wires[-1]

    @property
    def took_s(self) -> float:
        return now() - self.began

    @property
    def kept(self) -> bool:
        """Whether the connection lies ready for another request; it is closed otherwise."""
        assert self.pool.active == 0
        assert self.pool.idle in (0, 1)
        assert self.wire.aborted is not bool(self.pool.idle)
        return bool(self.pool.idle)

    async def go(self) -> None:
        try:
            with self.run.watch:
                await converse(self.run, self.replica, self.pool, Lengths())
        finally:
            assert self.pool.active == 0

    async def fails(self) -> AttemptFailed:
        with pytest.raises(AttemptFailed) as caught:
            await self.go()
        return caught.value


def asking(
    *deeds: Deed,
    stream: bool = False,
    translated: bool = False,
    operation: Operation = Operation.CHAT,
    engine: Engine = Engine.VLLM,
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    limit_s: float = FOREVER_S,
) -> Talk:
    """An attempt at an engine that does these deeds when it is asked."""
    fields = msgspec.json.decode(BODY, type=dict[str, msgspec.Raw])
    call = Call(Api.OPENAI, operation, "gemma", stream, BODY, fields)
    if translated:
        wish = Wish(messages=(Message("user", "Hi"),))
        call = Call(Api.PLAIN, operation, "gemma", stream, wish=wish, shape=lambda said: {"text": said.text})
    entry = ReplicaConfig(Endpoint("http", "10.0.0.9", 8000, "/base"), engine, "gemma", key="secret")
    registry = Registry([ModelConfig("gemma", (entry,), "Gemma", timeouts=timeouts)], RetryConfig())
    model = registry.models["gemma"]
    task = asyncio.current_task()
    assert task is not None
    watch = Watch(Clock(asyncio.get_running_loop()), task)
    client = Client()
    run = Run(
        call,
        model,
        Exchange("id-1", "/v1", "POST", now()),
        watch,
        client,
        now() + limit_s,
        model.config.timeouts,
    )
    run.tried.attempts = 1
    (replica,) = model.pool
    return Talk(run, Engines(replica, deeds), client, replica)


def ok(body: bytes, *headers: bytes, kind: bytes = b"application/json") -> bytes:
    lines = [
        b"HTTP/1.1 200 OK",
        b"content-type: " + kind,
        b"content-length: %d" % len(body),
        *headers,
        b"",
        b"",
    ]
    return b"\r\n".join(lines) + body


def status(code: int, *headers: bytes, body: bytes = b"{}") -> bytes:
    lines = [b"HTTP/1.1 %d X" % code, b"content-length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def large(size: int) -> bytes:
    """A good answer of so many bytes."""
    room = size - len(b'{"choices":[{"text":""}]}')
    return b'{"choices":[{"text":"' + b"x" * room + b'"}]}'


# --- what is asked


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024])
async def test_a_large_request_is_let_go_when_its_answer_begins(size: int) -> None:
    """Its fingerprint is kept, by which it is known should the engine die of it; a small one is just held."""
    freed: list[bool] = []
    talk = asking(STREAM_HEAD + b"".join(map(chunk, (WORD, WORD, DONE))) + b"0\r\n\r\n", stream=True)
    talk.run.exchange.body_bytes, talk.run.on_let_go = size, lambda: freed.append(talk.client.sent != b"")
    told = digest_of(talk.run.home.id, talk.run.call)
    await talk.go()
    gone = size == 64 * 1024
    assert freed == [True] * gone
    assert (talk.run.call.body is None, talk.run.call.fields == {}) == (gone, gone)
    assert talk.run.fingerprint() == told


async def test_the_request_is_ours() -> None:
    """A constant path below the base, our key, our ids, and the client's bytes as they came."""
    talk = asking(ok(WHOLE))
    talk.run.tried.attempts = 2
    talk.run.exchange.traceparent = "00-aa-bb-01"
    await talk.go()
    head, _, body = b"".join(talk.wire.asked).partition(b"\r\n\r\n")
    assert body == BODY
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /base/v1/chat/completions HTTP/1.1"
    assert set(lines) == {
        b"host: 10.0.0.9:8000",
        b"user-agent: pointsman",
        b"accept: */*",
        b"accept-encoding: identity",
        b"content-type: application/json",
        b"authorization: Bearer secret",
        b"x-request-id: id-1-a2",
        b"traceparent: 00-aa-bb-01",
        b"content-length: %d" % len(BODY),
    }


async def test_a_request_without_trace_has_none() -> None:
    """No empty header is invented."""
    talk = asking(ok(WHOLE))
    await talk.go()
    assert b"traceparent" not in talk.wire.asked[0]


@pytest.mark.parametrize("fresh", [True, False])
async def test_an_idle_connection_is_used_unless_it_must_be_a_new_one(*, fresh: bool) -> None:
    """After a reset of a reused connection only a new one proves anything."""
    talk = asking(ok(WHOLE), ok(WHOLE))
    await talk.go()
    talk.run.step = Again(0.0, same_replica=True, fresh=fresh)
    await talk.go()
    assert len(talk.pool.wires) == 1 + fresh
    assert talk.pool.idle == 1 + fresh


async def test_what_the_engine_cannot_be_asked_takes_no_connection() -> None:
    """A dialect refuses before anything is opened."""
    talk = asking(engine=Engine.TGI)
    talk.run.call.fields["n"] = msgspec.Raw(b"2")
    with pytest.raises(RouterError):
        await talk.go()
    assert talk.pool.wires == []


async def test_no_connection_is_an_end_of_its_own() -> None:
    """The pool's reason is for the log."""
    talk = asking()
    talk.pool.refuses = True
    failure = await talk.fails()
    assert (failure.end, failure.detail) == (attempt.CONNECT, "connection refused")
    assert talk.run.exchange.sent_at == 0.0


async def test_the_deadline_holds_while_a_connection_is_made() -> None:
    """An exchange whose time is up then asks nobody."""
    talk = asking(limit_s=1.0)
    talk.pool.connects_in_s = 1.5
    assert (await talk.fails()).end is attempt.TOTAL
    assert 1.0 <= talk.took_s <= 1.0 + 2 * TICK_S
    assert talk.pool.wires == []


async def test_what_the_engine_has_nothing_for_is_noted() -> None:
    """The last attempt's engine counts: another one may have left out other fields."""
    asked = {"inputs": msgspec.Raw(b'"a"'), "parameters": msgspec.Raw(b'{"watermark":true}')}
    for engine, ignored in ((Engine.VLLM, ("watermark",)), (Engine.TGI, ())):
        talk = asking(status(500), engine=engine)
        talk.run.call = Call(Api.TGI, Operation.GENERATE, None, fields=asked)
        talk.run.exchange.ignored = ("left over",)
        await talk.fails()
        assert talk.run.exchange.ignored == ignored


# --- whole answers


@pytest.mark.parametrize("size", [1, 30, 10_000])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_whole_answer_is_sent_once_however_it_comes(size: int, *, chunked: bool) -> None:
    """Its bytes as they were, its figures noted, and the connection kept."""
    answer = ok(WHOLE)
    if chunked:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = head + chunk(WHOLE[:20]) + chunk(WHOLE[20:]) + b"0\r\n\r\n"
    talk = asking(*cut(answer, size))
    await talk.go()
    assert (talk.client.did, talk.client.sent) == (["whole"], WHOLE)
    exchange = talk.run.exchange
    assert (exchange.prompt_tokens, exchange.completion_tokens) == (3, 2)
    assert exchange.answer_bytes == len(WHOLE)
    assert exchange.sent_at == talk.began
    assert exchange.first_event_at >= talk.began
    assert talk.kept


async def test_figures_may_stand_in_the_head() -> None:
    """TGI counts there, on its own routes."""
    answer = ok(b'{"generated_text":"a"}', b"X-Prompt-Tokens: 7", b"x-generated-tokens: 4")
    talk = asking(answer, engine=Engine.TGI)
    talk.run.call = Call(Api.TGI, Operation.GENERATE, None, body=b'{"inputs":"a"}')
    await talk.go()
    assert (talk.run.exchange.prompt_tokens, talk.run.exchange.completion_tokens) == (7, 4)


@pytest.mark.parametrize("size", [HELD_MAX_BYTES, HELD_MAX_BYTES + 1])
@pytest.mark.parametrize("told", [True, False])
async def test_an_answer_too_large_to_hold_is_passed_on(size: int, *, told: bool) -> None:
    """From the byte above 1 MiB on, with the length if the engine told it; ended only by the engine's end."""
    body = large(size)
    parts = cut(ok(body), 300 * KIB)
    if not told:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        parts = [head, *(chunk(part) for part in cut(body, 300 * KIB)), b"0\r\n\r\n"]
    talk = asking(*parts)
    await talk.go()
    assert talk.client.sent == body
    assert talk.run.exchange.answer_bytes == size
    assert talk.run.exchange.first_event_at >= talk.began
    if size > HELD_MAX_BYTES:
        assert talk.client.did == ["pass on", "end"]
        assert talk.client.length == (size if told else None)
    else:
        assert talk.client.did == ["whole"]
    assert talk.kept


async def test_what_is_passed_on_leaves_as_it_comes() -> None:
    """Each part after the first MiB, in its turn; nothing of it is sent twice."""
    body = large(HELD_MAX_BYTES + 9 * KIB)
    talk = asking(ok(body)[: HELD_MAX_BYTES + KIB], 1.0, *cut(ok(body)[HELD_MAX_BYTES + KIB :], KIB))
    await talk.go()
    assert talk.client.sent == body
    first, *between, last = talk.client.did
    assert (first, set(between), last) == ("pass on", {"write"}, "end")
    assert len(between) > 5


@pytest.mark.parametrize("why", ["surface", "dialect"])
async def test_an_answer_that_must_be_rewritten_is_held_up_to_8_mib(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever rewrites it needs all of it; more is nonsense. It is rewritten aside, so that others go on."""
    aside: list[int] = []

    async def beside(rewrite: Callable[[bytes], bytes], body: bytes) -> bytes:
        aside.append(len(body))  # the clock of these tests knows no threads
        await asyncio.sleep(2 * Timeouts().byte_idle_s)  # nor is it the engine that is waited for
        return rewrite(body)

    monkeypatch.setattr(asyncio, "to_thread", beside)
    engine = Engine.TGI if why == "dialect" else Engine.VLLM
    for size, good in ((8 * HELD_MAX_BYTES, True), (8 * HELD_MAX_BYTES + 1, False)):
        parts = cut(ok(large(size)), 512 * KIB)
        talk = asking(*parts, translated=why == "surface", engine=engine)
        if good:
            await talk.go()
            assert talk.client.did == ["whole"]
            assert talk.kept
        else:
            assert (await talk.fails()).end is attempt.JUNK
            assert talk.client.did == []
    assert aside == [8 * HELD_MAX_BYTES]


async def test_a_large_answer_of_another_kind_is_not_passed_on() -> None:
    """It cannot be checked, and does not even say that it is JSON."""
    talk = asking(*cut(ok(large(HELD_MAX_BYTES + 1), kind=b"text/html"), 300 * KIB))
    assert (await talk.fails()).end is attempt.JUNK
    assert talk.client.did == []
    assert not talk.client.committed


@pytest.mark.parametrize("loss", [None, RESET])
async def test_a_large_answer_that_is_cut_is_committed_and_failed(loss: Deed) -> None:
    """What was passed on has no end, and the caller learns on which side of the line it broke."""
    body = large(2 * HELD_MAX_BYTES)
    talk = asking(*cut(ok(body), 600 * KIB)[:-1], loss)
    assert (await talk.fails()).end is attempt.TRUNCATED
    assert talk.client.committed
    assert "end" not in talk.client.did
    assert body.startswith(talk.client.sent)
    assert not talk.kept


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"{}", b'{"choices":[]}', WHOLE[:-1]])
@pytest.mark.parametrize("parts", [1, 3])
async def test_a_whole_answer_that_is_none_is_not_sent(body: bytes, parts: int) -> None:
    """In one part or in many, it is judged before a byte of it leaves; the connection did no wrong."""
    answer = ok(body)
    talk = asking(*cut(answer, -(-len(answer) // parts)))
    assert (await talk.fails()).end is attempt.JUNK
    assert talk.client.did == []
    assert talk.kept


# --- refusals


@pytest.mark.parametrize(
    ("answer", "end", "retry_after_s"),
    [
        (status(503, b"retry-after: 2"), attempt.REFUSED, 2.0),
        (status(429, b"Retry-After: 0"), attempt.REFUSED, 0.0),
        (status(503), attempt.REFUSED, None),
        (status(503, b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT"), attempt.REFUSED, None),
        (status(503, b"retry-after: \xff"), attempt.REFUSED, None),
        (status(503, b"retry-after: -1"), attempt.REFUSED, None),
        (status(500, b"retry-after: 2"), attempt.ENGINE_ERROR, None),
        (status(404), attempt.MISCONFIGURED, None),
        (status(302, b"location: http://10.0.0.1/"), attempt.JUNK, None),
        (status(201, body=WHOLE), attempt.JUNK, None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", attempt.JUNK, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_any_status_but_200_is_no_answer(
    answer: bytes, end: End, retry_after_s: float | None, *, stream: bool
) -> None:
    """It is judged, with the time the engine asked for; its body read whole, the connection serves on."""
    talk = asking(answer, stream=stream)
    failure = await talk.fails()
    assert (failure.end, failure.retry_after_s) == (end, retry_after_s)
    assert talk.client.did == []
    assert talk.kept


async def test_an_engines_word_on_the_clients_mistake_is_kept() -> None:
    """Also where it comes in parts."""
    body = b'{"error":{"message":"max_tokens is too large: 99.","code":400}}'
    talk = asking(*cut(status(400, body=body), 50))
    failure = await talk.fails()
    assert (failure.end, failure.status) == (attempt.REJECTED, 400)
    assert failure.client_message == "max_tokens is too large: 99."


async def test_an_error_that_does_not_end_is_judged_by_its_first_64_kib() -> None:
    """Its rest is not waited for; the connection is closed with it."""
    endless = b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"x" * 64 * KIB)
    talk = asking(endless, 3600.0, stream=True)
    assert (await talk.fails()).end is attempt.ENGINE_ERROR
    assert talk.took_s == 0.0
    assert not talk.kept


# --- streams


async def test_a_streams_connection_serves_on() -> None:
    """The last chunk, which follows the terminal event, is read too, though it comes a little later."""
    talk = asking(STREAM_HEAD + chunk(WORD), chunk(DONE), 0.1, b"0\r\n\r\n", stream=True)
    await talk.go()
    assert talk.client.sent == WORD + DONE
    assert talk.client.did[-1] == "end"
    assert talk.kept


@pytest.mark.parametrize(
    ("tail", "took_s"),
    [((), 0.2), ((RESET,), 0.0), ((b"zz\r\n",), 0.0), ((0.15, chunk(WORD), 0.15, b"0\r\n\r\n"), 0.2)],
    ids=["none", "reset", "junk", "slow"],
)
async def test_a_stream_without_its_last_chunk_is_whole_all_the_same(
    tail: tuple[Deed, ...], took_s: float
) -> None:
    """The client has everything: only the connection is lost, after 0.2 s at most."""
    talk = asking(STREAM_HEAD + chunk(WORD + DONE), *tail, stream=True)
    await talk.go()
    assert talk.client.sent == WORD + DONE
    assert talk.took_s == pytest.approx(took_s)
    assert not talk.kept


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b'{"error":{"message":"Service unavailable","type":"overloaded_error"}}', attempt.REFUSED),
        (b'{"object":"error","message":"bad","code":400}', attempt.REJECTED),
        (WHOLE, attempt.JUNK),
        (b"<html>", attempt.JUNK),
    ],
)
async def test_a_stream_that_is_answered_whole_is_a_failure(body: bytes, end: End) -> None:
    """An error under status 200 is judged as the error it is; a good whole answer was not asked for."""
    talk = asking(ok(body), stream=True)
    assert (await talk.fails()).end is end
    assert talk.client.did == []


async def test_a_stream_that_breaks_off_tells_where() -> None:
    """Within an event too large to hold, or between two; either way the tokens so far are noted."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    for broken, mid_event in ((b"data: " + b"x" * (2 << 20), True), (b"data: x", False)):
        talk = asking(STREAM_HEAD + chunk(WORD + usage), chunk(broken), RESET, stream=True)
        assert (await talk.fails()).end is attempt.TRUNCATED
        assert talk.client.committed
        assert talk.run.exchange.mid_event is mid_event
        assert talk.run.exchange.prompt_tokens == 3
        assert not talk.kept


# --- broken connections


@pytest.mark.parametrize(
    ("deeds", "new", "reused"),
    [
        ((None,), attempt.RESET_NEW, attempt.RESET_REUSED),
        ((RESET,), attempt.RESET_NEW, attempt.RESET_REUSED),
        ((ssl.SSLError(),), attempt.CONNECT, attempt.CONNECT),
        ((b"H", RESET), attempt.TRUNCATED, attempt.TRUNCATED),
        ((ok(WHOLE)[:-1], None), attempt.TRUNCATED, attempt.TRUNCATED),
        ((b"SSH-2.0\r\n",), attempt.JUNK, attempt.JUNK),
    ],
    ids=["end", "reset", "TLS refused", "in the head", "in the body", "junk"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_broken_connection_is_told_by_how_far_it_came(
    deeds: tuple[Deed, ...], new: End, reused: End, *, stream: bool
) -> None:
    """Silence on a connection that had served is the engine's timer; on a new one it is a fault."""
    talk = asking(*deeds, stream=stream)
    assert (await talk.fails()).end is new
    assert not talk.kept
    talk = asking(ok(WHOLE), *deeds)
    await talk.go()
    assert (await talk.fails()).end is reused
    assert not talk.kept
    assert len(talk.pool.wires) == 1


async def test_a_connection_that_closed_as_it_was_taken_is_the_engines_timer() -> None:
    """Nothing was sent on it."""
    talk = asking(ok(WHOLE))
    await talk.go()
    idle = talk.pool.reuse()
    assert idle is not None
    idle.connection_lost(None)
    talk.pool.reuse = lambda: idle  # type: ignore[method-assign] # it closes between the look and the write
    assert (await talk.fails()).end is attempt.RESET_REUSED
    assert len(talk.wire.asked) == 1


# --- time


_SHORT: dict[str, Any] = {"first_event_s": 10.0, "byte_idle_s": 5.0, "token_idle_s": 5.0, "send_s": 3.0}


@pytest.mark.parametrize(
    ("deeds", "stream", "limit_s", "end", "at_s"),
    [
        ((), True, 600.0, attempt.TTFT, 10.0),
        ((), True, 7.0, attempt.TOTAL, 7.0),
        ((), True, 10.0, attempt.TOTAL, 10.0),
        ((STREAM_HEAD,), True, 600.0, attempt.TTFT, 10.0),
        ((STREAM_HEAD, 9.0, chunk(b": hm\n\n")), True, 600.0, attempt.TTFT, 10.0),
        ((status(500)[:-1],), True, 600.0, attempt.TTFT, 10.0),
        ((STREAM_HEAD + chunk(WORD),), True, 600.0, attempt.IDLE, 5.0),
        ((), False, 60.0, attempt.TOTAL, 60.0),
        ((ok(WHOLE)[: -len(WHOLE)],), False, 60.0, attempt.TOTAL, 60.0),
        ((ok(WHOLE)[:-5],), False, 600.0, attempt.IDLE, 5.0),
        ((ok(WHOLE)[:-5], 4.0, b"a"), False, 600.0, attempt.IDLE, 9.0),
        ((ok(WHOLE)[:-5], 4.0, b"a"), False, 6.0, attempt.TOTAL, 6.0),
        ((ok(WHOLE)[:-5],), False, 5.0, attempt.TOTAL, 5.0),
    ],
)
async def test_each_wait_has_its_limit(
    deeds: tuple[Deed, ...], limit_s: float, end: End, at_s: float, *, stream: bool
) -> None:
    """The nearest one rings, within a tick, and the engine's connection is closed with it."""
    talk = asking(*deeds, stream=stream, limit_s=limit_s, timeouts=Timeouts(**_SHORT))
    assert (await talk.fails()).end is end
    assert at_s <= talk.took_s <= at_s + 2 * TICK_S
    assert not talk.kept


@pytest.mark.parametrize("size", [len(WHOLE), 2 * HELD_MAX_BYTES])
async def test_a_client_that_does_not_take_its_answer_has_a_limit(size: int) -> None:
    """One write may take `send_s`; the engine, which did its part, is not blamed."""
    body = WHOLE if size == len(WHOLE) else large(size)
    talk = asking(*cut(ok(body), 1 << 20), timeouts=Timeouts(**_SHORT))
    talk.client.takes_s = FOREVER_S
    assert (await talk.fails()).end is attempt.SLOW_CLIENT
    assert 3.0 <= talk.took_s <= 3.0 + 2 * TICK_S
    assert talk.client.committed


async def test_each_part_of_a_large_answer_has_the_time_of_one_write() -> None:
    """A client that reads slowly but steadily gets all; its slowness is not the engine's silence."""
    body = large(4 * HELD_MAX_BYTES)
    talk = asking(*cut(ok(body), 512 * KIB), timeouts=Timeouts(**{**_SHORT, "byte_idle_s": 2.0}))
    talk.client.takes_s = 2.9
    await talk.go()
    assert talk.client.sent == body
    assert talk.kept


@pytest.mark.parametrize("deeds", [(), (STREAM_HEAD,), (STREAM_HEAD + chunk(WORD),)])
async def test_a_client_that_leaves_closes_the_engines_connection(deeds: tuple[Deed, ...]) -> None:
    """At whatever point: at once, and it is not used again."""
    talk = asking(*deeds, stream=True)
    asyncio.get_running_loop().call_later(1.0, talk.run.watch.interrupt, ClientGone())
    with pytest.raises(ClientGone):
        await talk.go()
    assert talk.took_s == pytest.approx(1.0)
    assert not talk.kept


async def test_the_public_name_is_the_one_that_was_asked_for() -> None:
    """Where a dialect names the model in its answer: the client's word, or the model's id without one."""
    answer = b'{"model":"/data","choices":[{"finish_reason":"stop","index":0}]}'
    for asked, named in (("gpt-4o", "gpt-4o"), (None, "gemma")):
        talk = asking(ok(answer), engine=Engine.TGI)
        talk.run.call = msgspec.structs.replace(talk.run.call, model=asked)
        await talk.go()
        sent = msgspec.json.decode(talk.client.sent)
        assert (sent["model"], sent["id"]) == (named, "chatcmpl-id-1")


async def test_the_end_of_a_large_answer_waits_for_the_client_not_for_the_engine() -> None:
    """A client that stops reading there is slow; its engine was not."""

    class Stuck(Client):
        async def write(self, block: bytes, *, last: bool = False) -> None:
            if last:
                await asyncio.sleep(1e6)
            await super().write(block, last=last)

    talk = asking(
        *cut(ok(large(2 * HELD_MAX_BYTES)), 512 * KIB), timeouts=Timeouts(send_s=3.0, byte_idle_s=5.0)
    )
    talk.run.sink = talk.client = Stuck()
    failure = await talk.fails()
    assert failure.end is attempt.SLOW_CLIENT
    assert talk.took_s == pytest.approx(3.0, abs=0.1)
