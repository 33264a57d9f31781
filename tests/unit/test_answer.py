"""The client's side of an answer: what is sent when, with which head, and how each of its ends looks."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from clockwork import Clockwork
from pointsman import answer as answer_module
from pointsman import attempt, browser
from pointsman.answer import Answer, AsgiWire
from pointsman.attempt import AttemptFailed
from pointsman.call import Api, Call, Operation
from pointsman.errors import (
    ALL_KINDS,
    ENGINE_CUT,
    ENGINE_OVERLOADED,
    INVALID_PARAMETER,
    NO_REPLICA,
    ClientGone,
    ErrorKind,
    RouterError,
)
from pointsman.exchange import AttemptRecord, Exchange
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.tgi import Tgi

pytestmark = pytest.mark.anyio

CHAT = Call(Api.OPENAI, Operation.CHAT, "gemma")
STREAM = Call(Api.OPENAI, Operation.CHAT, "gemma", stream=True)
WORD = b'data: {"a":1}\n\n'


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


class Wire:
    """Keeps what was done to it, in order; a `put` takes `takes_s` seconds, its bytes count at their end."""

    disconnected = False
    on_disconnect: Callable[[], None] | None = None
    refused: ErrorKind | None = None

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.did: list[str] = []
        self.heads: list[tuple[int, list[bytes], int | None, bool]] = []  # status, lines, length, close
        self.blocks: list[bytes] = []
        self.takes_s = 0.0

    @property
    def status(self) -> int:
        (head,) = self.heads
        return head[0]

    @property
    def lines(self) -> list[bytes]:
        (head,) = self.heads
        return head[1]

    @property
    def sent(self) -> bytes:
        return b"".join(self.blocks)

    def take(self) -> bytes | None:
        return None

    def begin(self, status: int, lines: bytes, length: int | None, *, close: bool = False) -> None:
        assert lines.endswith(b"\r\n")
        self.did.append("begin")
        self.heads.append((status, lines.split(b"\r\n")[:-1], length, close))

    async def put(self, block: bytes, *, last: bool) -> None:
        assert self.heads, "bytes before the head"
        assert "end" not in self.did, "bytes after the end"
        if self.takes_s:
            self.did.append("putting")
            await asyncio.sleep(self.takes_s)
        self.did.append("end" if last else "put")
        self.blocks.append(block)

    def abort(self) -> None:
        self.did.append("abort")


def fresh(*, model: str = "gemma", replica: str = "gemma-0", tried: int = 0) -> Exchange:
    exchange = Exchange("id-1", "/v1", "POST", 10.0, model_id=model, replica_id=replica)
    exchange.attempts = [AttemptRecord("gemma-1", attempt.CONNECT)] * tried
    return exchange


def made(
    call: Call = CHAT, exchange: Exchange | None = None, *, open_after_s: float = 10.0
) -> tuple[Answer, Wire]:
    wire = Wire()
    answer = Answer(wire, exchange or fresh(), Tgi(), [(b"vary", b"Origin")])
    answer.expect(OpenAI(), call, open_after_s)
    return answer, wire


# --- whole answers


async def test_a_whole_answer_is_begun_and_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head tells the length, what it is, whose it is, how long it took, and what the page may know."""
    monkeypatch.setattr(answer_module, "monotonic", lambda: 12.5)
    answer, wire = made(exchange=fresh(tried=1))
    await answer.whole(b"{}", b"")
    assert wire.did == ["begin", "end"]
    assert wire.blocks == [b"{}"]
    assert wire.heads == [
        (
            200,
            [
                b"content-type: application/json",
                *browser.LINES.splitlines(),
                b"x-request-id: id-1",
                b"x-process-time: 2.500",
                b"x-pointsman-model: gemma",
                b"x-pointsman-replica: gemma-0",
                b"x-pointsman-attempts: 2",
                b"vary: Origin",
            ],
            2,
            False,
        )
    ]
    assert (answer.committed, answer.finished, answer.exchange.status) == (True, True, 200)


async def test_a_whole_answer_may_bring_headers() -> None:
    """What an engine counted stands in the head, before ours."""
    answer, wire = made()
    await answer.whole(b"{}", b"x-prompt-tokens: 3\r\n")
    assert b"x-prompt-tokens: 3" in wire.heads[0][1]
    assert wire.heads[0][2] == len(wire.sent) == 2


@pytest.mark.parametrize("whole", [True, False])
async def test_an_answer_is_committed_while_its_client_takes_it(*, whole: bool) -> None:
    """Who is cut off there must not get another attempt's answer after it; finished is only the last byte."""
    answer, wire = made()
    wire.takes_s = 30.0
    sending = asyncio.ensure_future(answer.whole(b"{}", b"") if whole else answer.pass_on(b"{", None))
    await asyncio.sleep(1)
    assert (answer.committed, answer.finished) == (True, False)
    sending.cancel()
    await asyncio.sleep(0)
    assert (answer.committed, answer.finished) == (True, False)


@pytest.mark.parametrize("length", [None, 3])
async def test_a_large_answer_is_passed_on_in_parts(length: int | None) -> None:
    """With the length that the engine told, and its words untouched; it ends with the last part only."""
    answer, wire = made()
    await answer.pass_on(b"a", length)
    assert (answer.committed, answer.finished) == (True, False)
    await answer.write(b"b")
    await answer.write(b"c", last=True)
    assert wire.did == ["begin", "put", "put", "end"]
    assert (wire.status, wire.heads[0][2]) == (200, length)
    assert answer.finished


@pytest.mark.parametrize(
    ("exchange", "refused", "told"),
    [
        (fresh(model="", replica=""), True, []),
        (fresh(replica=""), True, [b"model: gemma"]),
        (fresh(tried=3), True, [b"model: gemma", b"replica: gemma-0", b"attempts: 3"]),
        (fresh(tried=2), False, [b"model: gemma", b"replica: gemma-0", b"attempts: 3"]),
    ],
    ids=["no model", "no replica", "three failed", "the third did well"],
)
async def test_the_head_tells_who_was_asked(exchange: Exchange, told: list[bytes], *, refused: bool) -> None:
    """Only what is known; the attempt that is being answered counts, though it is not recorded yet."""
    answer, wire = made(exchange=exchange)
    await (answer.refuse(RouterError(NO_REPLICA)) if refused else answer.whole(b"{}", b""))
    ours = [line.removeprefix(b"x-pointsman-") for line in wire.lines if line.startswith(b"x-pointsman-")]
    assert ours == told


async def test_the_head_tells_what_the_engine_had_nothing_for() -> None:
    """The fields of the call that were left out, where there are such."""
    for ignored, line in (((), []), (("seed", "watermark"), [b"x-pointsman-ignored: seed, watermark"])):
        exchange = fresh()
        exchange.ignored = ignored
        answer, wire = made(exchange=exchange)
        await answer.whole(b"{}", b"")
        assert [told for told in wire.lines if told.startswith(b"x-pointsman-ignored")] == line


# --- streams


async def test_a_stream_is_begun_once_and_ended_once() -> None:
    """Its head has no length and forbids every buffer; beginning alone sends no byte."""
    answer, wire = made(STREAM)
    assert (answer.opened, answer.committed) == (False, False)
    await answer.begin()
    assert (answer.opened, answer.committed, answer.finished) == (True, True, False)
    assert wire.did == ["begin"]
    await answer.write(WORD)
    await answer.write(WORD, last=True)
    assert wire.did == ["begin", "put", "end"]
    assert answer.finished
    status, lines, length, close = wire.heads[0]
    assert (status, length, close) == (200, None, False)
    assert lines[:3] == [
        b"content-type: text/event-stream; charset=utf-8",
        b"cache-control: no-cache",
        b"x-accel-buffering: no",
    ]


async def test_a_silent_stream_is_opened_with_a_comment_again_and_again() -> None:
    """Status and headers once, then a comment each time; nothing of it commits."""
    answer, wire = made(STREAM, open_after_s=10)
    await asyncio.sleep(9.9)
    assert wire.did == []
    assert not answer.opened
    await asyncio.sleep(0.2)
    assert wire.did == ["begin", "put"]
    await asyncio.sleep(20)
    assert wire.did == ["begin", "put", "put", "put"]
    assert set(wire.blocks) == {b": waiting for the engine\n\n"}
    assert (answer.opened, answer.committed, answer.finished) == (True, False, False)
    assert answer.exchange.status == 200
    answer.stop()


async def test_comments_tell_the_place_in_the_queue() -> None:
    """As it is when they are sent; without a place they say that the engine is waited for."""
    answer, wire = made(STREAM, open_after_s=10)
    places = iter([3, 1])
    answer.exchange.place = lambda: next(places)
    await asyncio.sleep(21)
    answer.exchange.place = None
    await asyncio.sleep(10)
    assert wire.blocks == [b": queued 3\n\n", b": queued 1\n\n", b": waiting for the engine\n\n"]
    answer.stop()


@pytest.mark.parametrize(("call", "open_after_s"), [(CHAT, 10.0), (STREAM, 0.0)])
async def test_nothing_is_opened_that_should_stay_closed(call: Call, open_after_s: float) -> None:
    """A whole answer has no comments, and 0 turns them off."""
    answer, wire = made(call, open_after_s=open_after_s)
    await asyncio.sleep(1000)
    assert wire.did == []
    assert not answer.opened


async def test_content_ends_the_comments() -> None:
    """An opened stream gets no second head, and no comment after its first event."""
    answer, wire = made(STREAM, open_after_s=10)
    await asyncio.sleep(15)
    await answer.begin()
    await answer.write(WORD)
    await asyncio.sleep(100)
    await answer.write(WORD, last=True)
    assert wire.did == ["begin", "put", "put", "end"]
    assert wire.sent == b": waiting for the engine\n\n" + WORD * 2
    assert answer.committed


@pytest.mark.parametrize("end", ["begin", "refuse", "close"])
async def test_what_follows_a_comment_waits_for_it(end: str) -> None:
    """A comment that the client is slow to take is neither cut in two nor overtaken."""
    answer, wire = made(STREAM, open_after_s=10)
    wire.takes_s = 4.0
    await asyncio.sleep(11)
    assert wire.did == ["begin", "putting"]
    wire.takes_s = 0.0
    if end == "begin":
        await answer.begin()
    elif end == "refuse":
        await answer.refuse(RouterError(NO_REPLICA))
    else:
        await answer.close()
    assert asyncio.get_running_loop().time() == pytest.approx(1014.0)
    assert wire.did[:3] == ["begin", "putting", "put"]
    assert wire.blocks[0] == b": waiting for the engine\n\n"
    await asyncio.sleep(100)
    assert len(wire.blocks) == 1 + (end == "refuse")


@pytest.mark.parametrize("at_s", [0.0, 10.0, 15.0], ids=["before", "as it begins", "between two"])
async def test_comments_can_be_stopped_at_any_time(at_s: float) -> None:
    """Also twice, and when the timer has rung but nothing was written yet."""
    answer, wire = made(STREAM, open_after_s=10)
    await asyncio.sleep(at_s)
    await answer.close()
    await answer.close()
    before = list(wire.did)
    await asyncio.sleep(100)
    assert wire.did == before
    assert answer.opened is bool(before)


async def test_a_client_that_left_is_forgotten_at_once() -> None:
    """Even amid a comment, which then never ends; the connection is cut, and no comment comes later."""
    for at_s in (5.0, 11.0, 20.0):
        answer, wire = made(STREAM, open_after_s=10)
        wire.takes_s = 4.0
        await asyncio.sleep(at_s)
        before = list(wire.did)
        answer.drop()
        await asyncio.sleep(100)
        assert wire.did == [*before, "abort"]


# --- errors


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
async def test_an_error_before_anything_was_sent_is_an_answer(kind: Any) -> None:
    """In the shape of the surface, with the surface's own status, whole and last."""
    answer, wire = made()
    error = RouterError(kind)
    await answer.refuse(error)
    status, body = OpenAI().error(error, "id-1")
    assert wire.did == ["begin", "end"]
    assert (wire.status, wire.sent, wire.heads[0][2:]) == (status, body, (len(body), False))
    assert not any(line.startswith(b"retry-after") for line in wire.lines)
    assert (answer.exchange.error_code, answer.exchange.status) == (kind.code, status)
    assert answer.finished
    assert not answer.committed


async def test_an_error_before_the_surface_is_known_speaks_for_the_route() -> None:
    """TGI says 422 where OpenAI says 400; whose request it is shows only in its body."""
    for surface, status in ((None, 422), (OpenAI(), 400)):
        wire = Wire()
        answer = Answer(wire, fresh(), Tgi(), [])
        if surface is not None:
            answer.expect(surface, CHAT, 10.0)
        await answer.refuse(RouterError(INVALID_PARAMETER))
        assert wire.status == answer.exchange.status == status


async def test_an_error_may_tell_when_to_come_back_and_end_the_connection() -> None:
    """Retry-After in whole seconds, and `close` as it was asked for."""
    answer, wire = made()
    await answer.refuse(RouterError(ENGINE_OVERLOADED, retry_after_s=7), close=True)
    assert b"retry-after: 7" in wire.lines
    assert wire.heads[0][3]


async def test_an_error_of_an_opened_stream_is_its_last_event() -> None:
    """One frame, no second head, and the status that was sent stays the one that is recorded."""
    answer, wire = made(STREAM, open_after_s=10)
    await asyncio.sleep(11)
    await answer.refuse(RouterError(NO_REPLICA), close=True)
    await asyncio.sleep(100)
    assert wire.did == ["begin", "put", "end"]
    assert wire.blocks[1] == OpenAI().error_frame(RouterError(NO_REPLICA), "id-1")
    assert (answer.exchange.status, answer.exchange.error_code) == (200, "no_replica")
    assert answer.finished


@pytest.mark.parametrize("opened", [True, False])
async def test_a_failed_stream_may_be_cut_after_its_error_frame(*, opened: bool) -> None:
    """With STREAM_ERROR_TERMINATION=abort the frame is not the end: the end never comes."""
    answer, wire = made(STREAM, open_after_s=10)
    answer.abort_streams = True
    if opened:
        await asyncio.sleep(11)
        await answer.refuse(RouterError(NO_REPLICA))
    else:
        await answer.begin()
        await answer.write(WORD)
        await answer.break_off(AttemptFailed(attempt.TRUNCATED), mid_event=False)
    assert wire.did == ["begin", "put", "put", "abort"]
    assert not answer.finished


async def test_an_unopened_stream_is_refused_whole_whatever_failed_streams_do() -> None:
    """STREAM_ERROR_TERMINATION is about streams that were begun."""
    answer, wire = made(STREAM)
    answer.abort_streams = True
    await answer.refuse(RouterError(NO_REPLICA))
    assert wire.did == ["begin", "end"]
    assert wire.status == 503


@pytest.mark.parametrize("mid_event", [True, False])
async def test_a_stream_that_fails_ends_in_one_error_frame(*, mid_event: bool) -> None:
    """On an event boundary, in our own words, and without the `[DONE]` of a good end."""
    answer, wire = made(STREAM)
    await answer.begin()
    await answer.write(b"data: half of a larg" if mid_event else WORD)
    failure = AttemptFailed(attempt.TRUNCATED, "10.0.0.9 closed")
    await answer.break_off(failure, mid_event=mid_event)
    frame = OpenAI().error_frame(RouterError(ENGINE_CUT), "id-1")
    assert wire.blocks[-1] == (b"\n\n" if mid_event else b"") + frame
    assert wire.did == ["begin", "put", "end"]
    assert b"[DONE]" not in wire.sent
    assert b"10.0.0.9" not in wire.sent
    assert answer.exchange.error_code == "engine_cut"
    assert answer.finished


async def test_a_large_answer_that_fails_is_cut() -> None:
    """There are no frames in it: its framing stays unfinished, so that nobody takes it for whole."""
    answer, wire = made()
    await answer.pass_on(b"{", 100)
    await answer.break_off(AttemptFailed(attempt.TRUNCATED), mid_event=False)
    assert wire.did == ["begin", "put", "abort"]
    assert answer.exchange.error_code == "engine_cut"
    assert not answer.finished


@pytest.mark.parametrize("streams", [True, False])
async def test_who_does_not_read_is_told_nothing(*, streams: bool) -> None:
    """A client too slow for the answer would not read the error either; it is cut off at once."""
    answer, wire = made(STREAM)
    if streams:
        await answer.begin()
    before = list(wire.did)
    await answer.break_off(AttemptFailed(attempt.SLOW_CLIENT), mid_event=False)
    assert wire.did == [*before, "abort"]
    assert answer.exchange.error_code == ""


# --- other servers


class Server:
    """Takes ASGI messages."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, message: dict[str, Any]) -> None:
        self.messages.append(message)


@pytest.mark.parametrize(
    ("length", "close", "more"),
    [
        (None, False, []),
        (0, False, [(b"content-length", b"0")]),
        (5, True, [(b"content-length", b"5"), (b"connection", b"close")]),
    ],
)
async def test_another_server_gets_the_head_as_a_message(
    length: int | None, more: list[tuple[bytes, bytes]], *, close: bool
) -> None:
    """Before the first bytes, once, with each header in two; its framing is the server's."""
    server = Server()
    wire = AsgiWire(server)
    wire.begin(503, b"content-type: a/b; c=d\r\nx-note: say: hi\r\nx-empty: \r\n", length, close=close)
    assert server.messages == []
    await wire.put(b"a", last=False)
    await wire.put(b"", last=True)
    headers = [(b"content-type", b"a/b; c=d"), (b"x-note", b"say: hi"), (b"x-empty", b"")]
    assert server.messages == [
        {"type": "http.response.start", "status": 503, "headers": headers + more},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


async def test_another_server_tells_nothing_of_itself() -> None:
    """The body must be received, a disconnect asked for, and there is no way to cut a connection."""
    server = Server()
    wire = AsgiWire(server)
    assert wire.take() is None
    assert not wire.disconnected
    assert wire.loop is asyncio.get_running_loop()
    wire.begin(200, b"a: b\r\n", None)
    wire.abort()
    assert server.messages == []


async def test_a_server_that_cannot_send_says_that_the_client_left() -> None:
    """By an OSError, as ASGI 2.4 has it."""

    async def broken(message: dict[str, object]) -> None:
        raise OSError("gone")

    wire = AsgiWire(broken)
    wire.begin(200, b"", 0)
    with pytest.raises(ClientGone):
        await wire.put(b"", last=True)
