"""The data plane: what is checked in which order, which model is meant, and that every end is told once.

The attempt loop is played: it does what its act says. Registry, guard, routes and surfaces are the real ones.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockwork import Clockwork
from pointsman import answer as answer_module
from pointsman import attempt, plane
from pointsman.access import AccessConfig
from pointsman.attempt import AttemptFailed, End
from pointsman.body import Buffer
from pointsman.call import Timeouts
from pointsman.errors import (
    BUFFER_FULL,
    INTERNAL,
    INVALID_PARAMETER,
    NO_REPLICA,
    OVER_SHARE,
    OWN_TIMEOUT,
    QUEUE_FULL,
    QUEUE_TIMEOUT,
    TOTAL_TIMEOUT,
    ClientGone,
    ErrorKind,
    RouterError,
)
from pointsman.exchange import Exchange
from pointsman.forward import Forwarder, client_error
from pointsman.guard import Guard
from pointsman.intake import trace_of
from pointsman.limits import Limiter, LimitsConfig, SurfaceLimits
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.origin import CorsConfig
from pointsman.plane import EXTENSION, Plane, PlaneConfig, request_id
from pointsman.registry import Registry, SurfaceConfig
from pointsman.replica import Endpoint, Engine, Facts
from pointsman.retry import RetryConfig
from pointsman.routes import Routes
from pointsman.run import Run
from pointsman.running import Running
from pointsman.store.memory import MemoryStore
from pointsman.surfaces import NAMES
from pointsman.surfaces.backend_api import BackendApi
from pointsman.waiting import Priority
from pointsman.watch import TICK_S

pytestmark = pytest.mark.anyio

FOREVER_S = 1e6
HERE = Endpoint("http", "127.0.0.1", 9)
CHAT = "/v1/chat/completions"
CHAT_BODY = b'{"messages":[]}'
HELLO = b'{"messages":[{"role":"user","content":"Hello"}]}'
BODIES = {
    CHAT: CHAT_BODY,
    "/v1/completions": b'{"prompt":"a"}',
    "/v1/embeddings": b'{"input":"a"}',
    "/generate_stream": b'{"inputs":"a"}',
    "/tokenize": b'{"inputs":"a"}',
    "/": b'{"inputs":"a"}',
}
SECRET = "10.0.0.9:8000/secret"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


@pytest.fixture(autouse=True)
def _played_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plane, answer_module):
        monkeypatch.setattr(module, "monotonic", now)


def now() -> float:
    return asyncio.get_running_loop().time()


class Wire:
    """Our server's end of a request whose body has come; keeps what was done to it, in order."""

    on_disconnect: Callable[[], None] | None = None
    refused: ErrorKind | None = None

    def __init__(self, body: bytes | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.disconnected = False
        self.body = body
        self.reads = True
        self.status = 0
        self.lines: list[bytes] = []
        self.closes = False
        self.did: list[str] = []
        self.sent = b""

    def take(self) -> bytes | None:
        self.did.append("take")
        return self.body

    def begin(self, status: int, lines: bytes, length: int | None, *, close: bool = False) -> None:
        self.did.append("begin")
        self.status, self.lines, self.closes = status, lines.split(b"\r\n"), close

    async def put(self, block: bytes, *, last: bool) -> None:
        if not self.reads:
            await asyncio.sleep(FOREVER_S)
        self.did.append("end" if last else "put")
        self.sent += block

    def abort(self) -> None:
        self.did.append("abort")

    def leave(self) -> None:
        """The client closes its connection."""
        self.disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()


Act = BaseException | Callable[[Run], Awaitable[None]] | None  # of the attempt loop; None: a good answer


@dataclass
class Stage:
    """A plane whose attempt loop does the act, and one request to it."""

    act: Act = None
    models: list[ModelConfig] = field(default_factory=lambda: [model("gemma")])
    default_model: str | None = None
    surfaces: dict[str, SurfaceConfig] = field(default_factory=dict)
    config: PlaneConfig = field(default_factory=PlaneConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    runs: list[Run] = field(default_factory=list)
    seen: list[Exchange] = field(default_factory=list)
    running: Running = field(default_factory=Running)
    buffer: Buffer = field(default_factory=lambda: Buffer(1 << 30))
    limiter: Limiter = field(default_factory=lambda: Limiter(LimitsConfig(), MemoryStore()))
    received: int = 0
    receive: Callable[[], Awaitable[dict[str, Any]]] | None = None  # in place of the messages

    def __post_init__(self) -> None:
        self.registry = Registry(self.models, RetryConfig(), self.default_model, surfaces=self.surfaces)
        cors = CorsConfig(allowed_origins=("https://ui.example",))
        self.order: list[str] = []

        def first(exchange: Exchange) -> None:
            self.order.append("first")
            self.seen.append(exchange)

        self.plane = Plane(
            self.registry,
            cast("Forwarder", self),
            Guard(self.access, cors),
            self.limiter,
            self.config,
            (first, lambda _: self.order.append("second")),
            self.running,
            buffer=self.buffer,
        )

    async def serve(self, run: Run) -> None:
        """Stands for the attempt loop."""
        self.runs.append(run)
        if isinstance(self.act, BaseException):
            raise self.act
        if self.act is not None:
            await self.act(run)
        else:
            await run.sink.whole(b'{"generated_text":"hi"}', b"")

    async def request(
        self,
        path: str = CHAT,
        body: bytes | None = None,
        *,
        method: str = "POST",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        media_type: bytes = b"application/json",
        peer: tuple[str, int] | None = ("127.0.0.1", 1),
        wire: Wire | None = None,
        messages: tuple[dict[str, Any], ...] = (),
    ) -> Wire:
        wire = wire or Wire(BODIES.get(path, CHAT_BODY) if body is None else body)
        match = Routes().find(method, path)
        assert match is not None
        scope = {
            "client": peer,
            "headers": [(b"host", b"api.example"), (b"content-type", media_type), *headers],
            "extensions": {EXTENSION: wire},
        }
        coming = list(messages)

        async def receive() -> dict[str, Any]:
            self.received += 1
            if self.receive is not None:
                return await self.receive()
            return coming.pop(0) if coming else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            pytest.fail("our own server is spoken to directly")

        await self.plane.serve(match, scope, receive, send)
        assert wire.on_disconnect is None
        assert self.buffer.held == 0
        return wire

    @property
    def exchange(self) -> Exchange:
        """What the observers were told, each of them once."""
        assert self.order == ["first", "second"]
        (exchange,) = self.seen
        assert exchange.ended_at >= exchange.started_at > 0
        return exchange

    @property
    def run(self) -> Run:
        (run,) = self.runs
        return run


def model(
    model_id: str,
    *engines: Engine,
    aliases: tuple[str, ...] = (),
    default: bool = False,
    max_body_bytes: int | None = None,
) -> ModelConfig:
    pool = tuple(ReplicaConfig(HERE, engine) for engine in engines or (Engine.VLLM, Engine.TGI))
    timeouts = Timeouts(total_s=70.0, total_stream_s=90.0, open_after_s=10.0)
    return ModelConfig(
        model_id,
        pool,
        model_id,
        aliases=aliases,
        default=default,
        timeouts=timeouts,
        max_body_bytes=max_body_bytes,
    )


def caused(end: End) -> RouterError:
    """What the attempt loop raises when its last attempt ended so."""
    failure = AttemptFailed(end, SECRET)
    error = client_error(failure)
    error.__cause__ = failure
    return error


async def hang(run: Run) -> None:
    with run.watch:
        await asyncio.sleep(FOREVER_S)


async def leave(run: Run) -> None:
    raise ClientGone


async def fail_committed(run: Run) -> None:
    await run.sink.begin()
    await run.sink.write(b"data: {}\n\n")
    raise ValueError(SECRET)


# --- each end


@pytest.mark.parametrize(
    ("act", "status", "code", "end"),
    [
        (None, 200, "", attempt.OK),
        (RouterError(INVALID_PARAMETER), 400, "invalid_parameter", attempt.REJECTED),
        (RouterError(NO_REPLICA), 503, "no_replica", attempt.NO_ENDPOINT),
        (RouterError(QUEUE_FULL), 503, "queue_full", attempt.QUEUE_FULL),
        (RouterError(OVER_SHARE), 429, "over_share", attempt.QUEUE_FULL),
        (RouterError(QUEUE_TIMEOUT), 503, "queue_timeout", attempt.QUEUE_TIMEOUT),
        (RouterError(BUFFER_FULL), 503, "buffer_full", attempt.BUFFER_FULL),
        (RouterError(TOTAL_TIMEOUT), 504, "total_timeout", attempt.BUG),
        (caused(attempt.CONNECT), 502, "engine_unreachable", attempt.CONNECT),
        (caused(attempt.REFUSED), 503, "engine_overloaded", attempt.REFUSED),
        (caused(attempt.TTFT), 504, "first_event_timeout", attempt.TTFT),
        (caused(attempt.REJECTED), 400, "engine_rejected", attempt.REJECTED),
        (ValueError(SECRET), 500, "internal_error", attempt.BUG),
        (RecursionError(SECRET), 500, "internal_error", attempt.BUG),
    ],
)
@pytest.mark.parametrize("path", BODIES)
async def test_every_end_is_answered_and_observed_once(
    path: str, act: Act, status: int, code: str, end: End, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, in the words of the path's API, under the request's id, and without a word that is not ours."""
    stage = Stage(act)
    wire = await stage.request(path, headers=((b"x-request-id", b"mine"),))
    exchange = stage.exchange
    told = 422 if code in ("invalid_parameter", "engine_rejected") and not path.startswith("/v1") else status
    assert (wire.status, wire.did) == (told, ["take", "begin", "end"])
    assert (exchange.status, exchange.error_code, exchange.end) == (told, code, end)
    assert b"x-request-id: mine" in wire.lines
    assert not wire.closes
    assert SECRET.encode() not in wire.sent
    if code:
        answered = msgspec.json.decode(wire.sent)
        shape = answered["error"] if path.startswith("/v1") else answered
        assert (shape["code"], shape["request_id"]) == (code, "mine")
        assert isinstance(answered["error"], dict if path.startswith("/v1") else str)
    bugs = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(bugs) is (status == 500)
    assert all("mine" in record.getMessage() for record in bugs)


async def test_an_error_that_calls_itself_a_bug_is_one() -> None:
    """500 is never the client's doing."""
    stage = Stage(RouterError(INTERNAL))
    await stage.request()
    assert (stage.exchange.status, stage.exchange.end) == (500, attempt.BUG)


async def test_a_client_that_left_is_told_nothing() -> None:
    """Its connection is cut, and the record says 499, whatever had been sent."""
    stage = Stage(leave)
    wire = await stage.request()
    assert wire.did == ["take", "abort"]
    assert (stage.exchange.status, stage.exchange.end) == (499, attempt.CLIENT_ABORT)
    assert stage.exchange.error_code == ""


@pytest.mark.parametrize("path", [CHAT, "/generate_stream"])
async def test_a_bug_after_content_cuts_the_answer(path: str) -> None:
    """There is no second head, no frame that could pass for content, and no end."""
    stage = Stage(fail_committed)
    wire = await stage.request(path, BODIES[path][:-1] + b',"stream":true}')
    assert wire.did == ["take", "begin", "put", "abort"]
    assert (stage.exchange.status, stage.exchange.end) == (200, attempt.BUG)


async def test_an_error_after_content_keeps_its_end() -> None:
    """What was noted as the exchange's end is not overwritten by what is raised after it."""

    async def act(run: Run) -> None:
        await run.sink.begin()
        run.exchange.end = attempt.IDLE
        raise RouterError(NO_REPLICA)

    stage = Stage(act)
    wire = await stage.request(body=b'{"messages":[],"stream":true}')
    assert wire.did[-1] == "abort"
    assert stage.exchange.end is attempt.IDLE


@pytest.mark.parametrize(
    ("raised", "code", "end"),
    [
        (caused(attempt.TTFT), b"first_event_timeout", attempt.TTFT),
        (ValueError(), b"internal_error", attempt.BUG),
    ],
)
@pytest.mark.parametrize("aborts", [True, False])
async def test_an_opened_stream_ends_in_an_error_frame(
    raised: Exception, code: bytes, end: End, *, aborts: bool
) -> None:
    """In the surface's shape, after the comments; and the connection is cut if the operator wants that."""

    async def act(run: Run) -> None:
        await asyncio.sleep(25.0)
        raise raised

    stage = Stage(act, config=PlaneConfig(abort_streams=aborts))
    wire = await stage.request(body=b'{"messages":[],"stream":true}')
    last = ["put", "abort"] if aborts else ["end"]
    assert wire.did == ["take", "begin", "put", "put", *last]
    frame = wire.sent.partition(b"data: ")[2]
    assert msgspec.json.decode(frame)["error"]["code"].encode() == code
    assert (stage.exchange.status, stage.exchange.end) == (200, end)
    before = list(wire.did)
    await asyncio.sleep(100.0)
    assert wire.did == before


async def test_nothing_is_sent_after_the_end_of_a_request() -> None:
    """The timer that would open a stream dies with the request, however that ends."""
    for act in (None, leave, RouterError(NO_REPLICA)):
        stage = Stage(act)
        wire = await stage.request(body=b'{"messages":[],"stream":true}')
        before = list(wire.did)
        await asyncio.sleep(100.0)
        assert wire.did == before


async def test_an_error_that_nobody_reads_is_given_up() -> None:
    """After 30 s of one write; the end stays what it was."""
    stage, wire = Stage(caused(attempt.CONNECT)), Wire(CHAT_BODY)
    wire.reads = False
    began = now()
    await stage.request(wire=wire)
    assert now() - began == pytest.approx(30.0, abs=2 * TICK_S)
    assert wire.did == ["take", "begin", "abort"]
    assert (stage.exchange.status, stage.exchange.end) == (502, attempt.CONNECT)


async def test_a_cancelled_request_ends_cancelled_and_observed() -> None:
    """Nothing is answered in the place of who cancels, the timers stop, and the exchange is counted."""
    stage, wire = Stage(hang), Wire(b'{"messages":[],"stream":true}')
    task = asyncio.ensure_future(stage.request(wire=wire))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(100.0)
    assert wire.did == ["take"]
    assert stage.exchange.ended_at == pytest.approx(1001.0)
    assert stage.exchange.end is attempt.CANCELLED


# --- the client leaves


async def test_a_client_that_leaves_ends_the_attempt_at_once() -> None:
    """Our server's hook ends whatever is waited for."""
    stage, wire = Stage(hang), Wire(CHAT_BODY)
    asyncio.get_running_loop().call_later(3.0, wire.leave)
    began = now()
    await stage.request(wire=wire)
    assert now() == pytest.approx(began + 3.0)
    assert (stage.exchange.status, stage.exchange.end) == (499, attempt.CLIENT_ABORT)


async def test_no_attempt_is_begun_for_a_client_that_left_before() -> None:
    """It left while its body came or was read."""
    stage, wire = Stage(), Wire(CHAT_BODY)
    wire.leave()
    await stage.request(wire=wire)
    assert stage.runs == []
    assert (stage.exchange.status, stage.exchange.end) == (499, attempt.CLIENT_ABORT)


async def test_a_client_that_has_its_whole_answer_may_leave() -> None:
    """What is left to do for its request, such as keeping the engine's connection, is not ended by that."""

    async def act(run: Run) -> None:
        with run.watch:
            await run.sink.whole(b"{}", b"")
            wire.leave()
            await asyncio.sleep(0.1)

    stage, wire = Stage(act), Wire(CHAT_BODY)
    await stage.request(wire=wire)
    assert (stage.exchange.status, stage.exchange.end) == (200, attempt.OK)
    assert "abort" not in wire.did


async def serve_plainly(stage: Stage, *messages: tuple[float, dict[str, Any]]) -> list[dict[str, Any]]:
    """A request through a server without our hook: its messages, each after so many seconds."""
    sent: list[dict[str, Any]] = []
    coming = list(messages)

    async def receive() -> dict[str, Any]:
        if not coming:
            await asyncio.sleep(FOREVER_S)
        after_s, message = coming.pop(0)
        await asyncio.sleep(after_s)
        return message

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    match = Routes().find("POST", CHAT)
    assert match is not None
    headers = [(b"content-type", b"application/json")]
    await stage.plane.serve(match, {"client": ("127.0.0.1", 1), "headers": headers}, receive, send)
    return sent


WHOLE_BODY: dict[str, Any] = {"type": "http.request", "body": CHAT_BODY, "more_body": False}
DISCONNECT: dict[str, Any] = {"type": "http.disconnect"}


async def test_another_server_is_asked_whether_the_client_left() -> None:
    """The attempt ends when it says so."""
    stage = Stage(hang)
    began = now()
    assert await serve_plainly(stage, (0.0, WHOLE_BODY), (2.0, DISCONNECT)) == []
    assert now() == pytest.approx(began + 2.0)
    assert (stage.exchange.status, stage.exchange.end) == (499, attempt.CLIENT_ABORT)


async def test_another_server_is_not_asked_after_the_answer() -> None:
    """The task that asks ends with the request; and the answer is in ASGI's words."""
    before = asyncio.all_tasks()
    stage = Stage()
    sent = await serve_plainly(stage, (0.0, WHOLE_BODY))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == stage.exchange.status == 200
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# --- what is checked, and when


FAR = ("203.0.113.9", 1)
EVIL = (b"origin", b"https://evil.example")
LARGE = (b"content-length", b"9999999")


@pytest.mark.parametrize(("size", "waits"), [(900_000, False), (1_100_000, True)])
async def test_others_have_their_turns_while_a_large_body_is_read(size: int, waits: bool) -> None:
    """A small one is read at a stretch; in between the steps on a large one the loop goes on."""
    stage, loop = Stage(), asyncio.get_running_loop()
    passed: list[str] = []

    async def answer(run: Run) -> None:
        passed.append("asked")
        await run.sink.whole(b"{}", b"")

    stage.act = answer
    loop.call_soon(loop.call_soon, passed.append, "another's turn")
    wire = await stage.request(body=b'{"messages":[],"user":"%b"}' % (b"x" * size))
    assert wire.status == 200
    assert passed[:1] == (["another's turn"] if waits else ["asked"])


@pytest.mark.parametrize(
    ("peer", "origin", "media_type", "declared", "body", "code"),
    [
        (FAR, EVIL, b"text/plain", LARGE, b"{", "address_forbidden"),
        (None, EVIL, b"text/plain", LARGE, b"{", "origin_forbidden"),
        (None, None, b"text/plain", LARGE, b"{", "unsupported_media_type"),
        (None, None, None, LARGE, b"{", "body_too_large"),
        (None, None, None, None, b"{", "malformed_json"),
        (None, None, None, None, b'{"model":"x"}', "invalid_parameter"),
        (None, None, None, None, b'{"model":"x","messages":[]}', "model_not_found"),
    ],
)
async def test_checks_come_in_their_order(
    peer: tuple[str, int] | None,
    origin: tuple[bytes, bytes] | None,
    media_type: bytes | None,
    declared: tuple[bytes, bytes] | None,
    body: bytes,
    code: str,
) -> None:
    """Who calls, then what it says of itself, then its body: which is not touched before that."""
    stage = Stage(config=PlaneConfig(max_body_bytes=1000))
    headers = tuple(header for header in (origin, declared) if header is not None)
    wire = await stage.request(
        body=body,
        peer=peer or ("127.0.0.1", 1),
        headers=headers,
        media_type=media_type or b"application/json",
    )
    assert stage.exchange.error_code == code
    assert stage.exchange.end is attempt.REJECTED
    assert ("take" in wire.did) is (declared is None)
    assert stage.runs == []


async def test_a_refused_body_counts_where_its_surface_has_a_limit() -> None:
    """Whatever is wrong with it, and before the 429 is told; who was not let in has spent nothing."""
    limiter = Limiter(LimitsConfig(), MemoryStore(), {"openai": SurfaceLimits(burst_size=4)})

    async def told(path: str = CHAT, body: bytes = CHAT_BODY, peer: str = "127.0.0.1") -> tuple[int, bytes]:
        stage = Stage(limiter=limiter, access=AccessConfig())
        wire = await stage.request(path, body, peer=(peer, 1))
        left = [line for line in wire.lines if line.startswith(b"x-ratelimit-remaining")]
        return wire.status, left[0].rpartition(b" ")[2] if left else b""

    assert await told(peer="192.0.2.1") == (403, b"")
    assert await told(body=b"{") == (400, b"3")
    assert await told(body=b'{"messages":1}') == (200, b"2")  # its engine says what is wrong
    assert await told(body=b'{"messages":[],"model":"none"}') == (404, b"1")
    assert await told("/generate", b"{}") == (422, b"")
    assert await told("/generate", b"{") == (400, b"")
    assert await told("/generate_stream", b"{}") == (422, b"")
    assert await told(body=b'{"messages":[],"stream":1}') == (400, b"0")
    for body in (b"{", b'{"messages":[],"model":"none"}', CHAT_BODY):
        stage = Stage(limiter=limiter)
        wire = await stage.request(CHAT, body)
        assert (wire.status, stage.exchange.error_code) == (429, "rate_limited")
        assert (stage.exchange.end, stage.runs) == (attempt.REJECTED, [])
        assert any(line.startswith(b"retry-after: ") for line in wire.lines)
        assert b"x-ratelimit-limit: 4" in wire.lines


@pytest.mark.parametrize(
    ("headers", "left", "closes"),
    [
        ((), (b"x" * 100,), False),
        ((), (b"x" * 60_000, b"x" * 60_000, b"x"), True),
        (((b"expect", b"100-continue"),), (b"x",), True),
    ],
    ids=["little", "much", "not sent yet"],
)
async def test_a_refusal_with_an_unread_body_ends_the_connection(
    headers: tuple[tuple[bytes, bytes], ...], left: tuple[bytes, ...], *, closes: bool
) -> None:
    """Unless little is left, which is read away first; what is not sent yet is not asked for."""
    stage = Stage()
    last = len(left) - 1
    messages = tuple(
        {"type": "http.request", "body": block, "more_body": number < last}
        for number, block in enumerate(left)
    )
    wire = await stage.request(media_type=b"text/plain", headers=headers, messages=messages)
    assert wire.closes is closes
    assert wire.status == 415
    assert stage.received == (0 if headers else min(len(left), 2))


async def test_a_get_has_no_body_to_judge() -> None:
    """Neither its type, nor its origin, nor its JSON."""
    stage = Stage()
    wire = await stage.request("/info", b"", method="GET", media_type=b"text/plain", headers=(EVIL,))
    assert wire.status == 200
    assert (stage.run.call.fields, stage.run.call.model) == ({}, None)


async def test_until_the_body_is_read_an_error_of_generate_speaks_to_all() -> None:
    """Three APIs share the path: then the field decides whose words are used."""
    for body, keys in (
        (b"{", {"error", "detail"}),
        (b"{}", {"error", "detail"}),
        (b'{"inputs":"a"}', {"error"}),
        (b'{"prompt":"a"}', {"detail"}),
        (b'{"prompt":1}', {"detail"}),
        (b'{"prompt":"a","model_id":"x"}', {"detail"}),
    ):
        stage = Stage(RouterError(NO_REPLICA))
        wire = await stage.request("/generate", body)
        assert msgspec.json.decode(wire.sent).keys() & {"error", "detail"} == keys


async def test_what_is_known_of_a_request_is_recorded() -> None:
    """Also where it is refused later: the route's template, who, how large, whose, streamed or not."""
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    stage = Stage(RouterError(NO_REPLICA))
    body = b'{"messages":[],"stream":true}'
    await stage.request(f"/models/gemma{CHAT}", body, headers=((b"traceparent", trace),))
    exchange = stage.exchange
    assert exchange.route == "/models/{model_id}/v1/chat/completions"
    assert (exchange.method, exchange.client, exchange.body_bytes) == ("POST", "127.0.0.1", len(body))
    assert (exchange.model_id, exchange.stream) == ("gemma", True)
    assert exchange.traceparent == trace.decode()


@pytest.mark.parametrize(
    "trace",
    [
        b"",
        b"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ],
)
async def test_a_trace_that_is_none_is_not_passed_on(trace: bytes) -> None:
    """It goes into a head of ours: only what the specification allows."""
    stage = Stage()
    await stage.request(headers=((b"traceparent", trace),))
    assert stage.exchange.traceparent == ""


@pytest.mark.parametrize(("origin", "told"), [(b"https://ui.example", True), (b"https://api.example", False)])
@pytest.mark.parametrize("act", [None, RouterError(NO_REPLICA)])
async def test_a_listed_page_may_read_answers_and_errors(origin: bytes, act: Act, *, told: bool) -> None:
    """The head names it; others are not mentioned."""
    stage = Stage(act)
    wire = await stage.request(headers=((b"origin", origin),))
    assert (b"access-control-allow-origin: " + origin in wire.lines) is told


# --- request ids


@pytest.mark.parametrize("sent", [b"a", b"A-z_0.9", b"x" * 128])
def test_a_fit_request_id_is_kept(sent: bytes) -> None:
    """So that a client's own trace is found in our log."""
    assert request_id(sent) == sent.decode()


@pytest.mark.parametrize(
    "sent", [None, b"", b"x" * 129, b"a b", b"a\n", b"a\r\nb: c", b"\xc3\xa9", b"a/b", b'"', b"a\0"]
)
def test_an_unfit_request_id_is_replaced(sent: bytes | None) -> None:
    """By one that is fit itself, and of which there is no second."""
    new = {request_id(sent) for _ in range(100)}
    assert len(new) == 100
    assert all(request_id(one.encode()) == one for one in new)


@given(sent=st.binary(max_size=140) | st.from_regex(rb"\A[a-z0-9-]{1,8}[\x00\r\n:]{0,3}[a-z: -]{0,8}\Z"))
def test_nothing_of_a_client_reaches_an_engines_head_but_two_forms(sent: bytes) -> None:
    """Its id and its trace are all we pass on, and neither can end a line, begin another or be long."""
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", request_id(sent))
    assert re.fullmatch(r"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", trace_of(sent))


# --- which model


TWO = [
    model("gemma", Engine.VLLM, aliases=("gpt-4o",)),
    model("falcon", Engine.TGI, aliases=("f",)),
]


@pytest.mark.parametrize(
    ("path", "body", "model_id", "named"),
    [
        (CHAT, b'{"messages":[],"model":"falcon"}', "falcon", "falcon"),
        (CHAT, b'{"messages":[],"model":"gpt-4o"}', "gemma", "gpt-4o"),
        (CHAT, b'{"messages":[],"model":null}', "gemma", None),
        (CHAT, CHAT_BODY, "gemma", None),
        (f"/models/falcon{CHAT}", CHAT_BODY, "falcon", None),
        (f"/models/gpt-4o{CHAT}", CHAT_BODY, "gemma", None),
        (f"/models/falcon{CHAT}", b'{"messages":[],"model":"gemma"}', "falcon", None),
        ("/generate", b'{"prompt":"a","model_id":"f"}', "falcon", "f"),
        ("/tokenize", b'{"inputs":"a"}', "gemma", None),
        ("/v1/embeddings", b'{"input":"a"}', "gemma", None),
    ],
)
async def test_the_model_is_the_paths_then_the_bodys_then_the_default(
    path: str, body: bytes, model_id: str, named: str | None
) -> None:
    """Without any name it is the first whose engine speaks the API; a name is kept as it was said."""
    stage = Stage(models=TWO)
    await stage.request(path, body)
    assert stage.run.model.id == stage.exchange.model_id == model_id
    assert stage.run.call.model == named


@pytest.mark.parametrize("how", ["setting", "mark"])
async def test_the_default_counts_even_where_it_does_not_suit(how: str) -> None:
    """So that the client hears why; the attempt loop says it."""
    models = [TWO[0], model("falcon", Engine.TGI, aliases=("f",), default=how == "mark")]
    stage = Stage(models=models, default_model="f" if how == "setting" else None)
    await stage.request("/v1/embeddings")
    assert stage.run.model.id == "falcon"


OF_EACH_SURFACE = [
    ("openai", CHAT, CHAT_BODY),
    ("openai", "/v1/completions", b'{"prompt":"a"}'),
    ("openai", "/v1/embeddings", b'{"input":"a"}'),
    ("tgi", "/generate", b'{"inputs":"a"}'),
    ("tgi", "/generate_stream", b'{"inputs":"a"}'),
    ("tgi", "/", b'{"inputs":"a"}'),
    ("tgi", "/tokenize", b'{"inputs":"a"}'),
    ("tgi", "/chat_tokenize", CHAT_BODY),
    ("tgi", "/info", b""),
    ("backend_api", "/generate", b'{"prompt":"a","model_id":null}'),
    ("distilgpt2", "/generate", b'{"prompt":"a"}'),
    ("distilgpt2", "/complete", b'{"prompt":"a"}'),
    ("distilgpt2", "/chat/completions", HELLO),
]


@pytest.mark.parametrize(("surface", "path", "body"), OF_EACH_SURFACE)
async def test_each_surface_has_its_own_default(surface: str, path: str, body: bytes) -> None:
    """It is that of every route of the surface, and of no other's; a model in the path still counts more."""
    models = [model("gemma"), model("distilgpt2"), model("falcon")]
    method = "GET" if path == "/info" else "POST"
    for configured in NAMES:
        surfaces = {configured: SurfaceConfig("distilgpt2")}
        stage = Stage(models=models, default_model="falcon", surfaces=surfaces)
        await stage.request(path, body, method=method)
        assert stage.run.model.id == ("distilgpt2" if configured == surface else "falcon")
    stage = Stage(models=models, surfaces={surface: SurfaceConfig("distilgpt2")})
    await stage.request(f"/models/gemma{path}".rstrip("/"), body, method=method)
    assert stage.run.model.id == "gemma"


@pytest.mark.parametrize(("surface", "path", "body"), OF_EACH_SURFACE)
@pytest.mark.parametrize("how", ["surface", "setting"])
async def test_a_default_that_nobody_is_is_no_other_model(
    surface: str, path: str, body: bytes, how: str
) -> None:
    """It is a 503 that tells the name, until an engine tells that it serves it."""
    surfaces = {surface: SurfaceConfig("org/later")} if how == "surface" else {}
    stage = Stage(default_model=None if how == "surface" else "org/later", surfaces=surfaces)
    method = "GET" if path == "/info" else "POST"
    wire = await stage.request(path, body, method=method)
    assert (wire.status, stage.exchange.error_code) == (503, "no_replica")
    assert b"default model 'org/later' is not known" in wire.sent
    assert b"retry-after: 5" in wire.lines
    assert stage.exchange.end is attempt.NO_ENDPOINT
    stage.registry.models["gemma"].pool[0].facts = Facts(names=("org/later",))
    stage.order.clear()
    await stage.request(path, body, method=method)
    assert stage.run.model.id == "gemma"


@pytest.mark.parametrize(
    ("path", "body", "model_id"),
    [
        (CHAT, CHAT_BODY, "gemma"),
        ("/chat_tokenize", CHAT_BODY, "gemma"),
        ("/v1/completions", b'{"prompt":"a"}', "distilgpt2"),
        ("/generate", b'{"inputs":"a"}', "distilgpt2"),
        ("/generate", b'{"prompt":"a"}', "distilgpt2"),
        ("/complete", b'{"prompt":"a"}', "distilgpt2"),
        ("/chat/completions", HELLO, "gemma"),
        ("/tokenize", b'{"inputs":"a"}', "distilgpt2"),
    ],
)
async def test_chat_goes_to_who_is_made_for_it(path: str, body: bytes, model_id: str) -> None:
    """A base model takes it only where there is none other; text goes to the first."""
    stage = Stage(models=[model("distilgpt2"), model("gemma")])
    await stage.request(path, body)
    assert stage.run.model.id == model_id
    alone = Stage(models=[model("distilgpt2")])
    await alone.request(path, body)
    assert alone.run.model.id == "distilgpt2"


async def test_a_surface_may_prefer_chat_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its texts go to one too."""
    monkeypatch.setattr(BackendApi, "prefers_chat", True)
    stage = Stage(models=[model("distilgpt2"), model("gemma")])
    await stage.request("/generate", b'{"prompt":"a","model_id":null}')
    assert stage.run.model.id == "gemma"


@pytest.mark.parametrize(
    ("path", "name", "shown"),
    [
        (CHAT, "x", "Model 'x' is not known; known models: gemma, falcon."),
        (CHAT, "Gemma", "Model 'Gemma' is not known; known models: gemma, falcon."),
        (CHAT, "a\\u0000\\u001b", "Model '(unprintable)' is not known; known models: gemma, falcon."),
        ("/models/x/v1/chat/completions", "", "Model 'x' is not known; known models: gemma, falcon."),
    ],
)
async def test_an_unknown_model_is_a_404_that_lists_the_known(path: str, name: str, shown: str) -> None:
    """With signs in it that a terminal would obey, the name is not repeated."""
    stage = Stage(models=TWO)
    body = b'{"messages":[],"model":"%b"}' % name.encode() if name else CHAT_BODY
    wire = await stage.request(path, body)
    error = msgspec.json.decode(wire.sent)["error"]
    assert (wire.status, error["message"], error["param"]) == (404, shown, "model")
    assert stage.exchange.model_id == ""
    assert stage.runs == []


@pytest.mark.parametrize("models", [[], [model("falcon", Engine.TGI)]])
async def test_no_model_may_speak_the_api(models: list[ModelConfig]) -> None:
    """Then a call that names none is a 404 too."""
    stage = Stage(models=models)
    wire = await stage.request("/v1/embeddings")
    assert wire.status == 404
    assert stage.exchange.error_code == "model_not_found"


async def test_a_router_without_models_says_so() -> None:
    """The list is not left empty."""
    wire = await Stage(models=[]).request(body=b'{"messages":[],"model":"x"}')
    assert "known models: none." in msgspec.json.decode(wire.sent)["error"]["message"]


# --- limits


@pytest.mark.parametrize(
    ("engines", "own", "most", "limit"),
    [
        ((Engine.VLLM,), None, 3_000_000, 3_000_000),
        ((Engine.TGI,), None, 3_000_000, 2_000_000),
        ((Engine.VLLM, Engine.TGI), None, 3_000_000, 3_000_000),
        ((Engine.TGI,), None, 1_000_000, 1_000_000),
        ((Engine.VLLM,), 100, 3_000_000, 100),
        ((Engine.VLLM,), 4_000_000, 3_000_000, 3_000_000),
        ((Engine.TGI,), 2_500_000, 3_000_000, 2_000_000),
        ((Engine.VLLM,), 66_000, 3_000_000, 66_000),
    ],
)
async def test_the_smallest_limit_of_router_model_and_engine_counts(
    engines: tuple[Engine, ...], own: int | None, most: int, limit: int
) -> None:
    """To the byte, and the error names it. Of a mixed pool some engine must take it."""
    for size, good in ((limit, True), (limit + 1, False)):
        stage = Stage(
            models=[model("gemma", *engines, max_body_bytes=own)], config=PlaneConfig(max_body_bytes=most)
        )
        wire = await stage.request(body=CHAT_BODY.ljust(size))
        assert wire.status == (200 if good else 413)
        assert good or f"the {limit:,} bytes".encode() in wire.sent
        assert len(stage.runs) == good


@pytest.mark.parametrize(("stream", "limit_s"), [(False, 70.0), (True, 90.0)])
async def test_the_time_of_an_exchange_runs_from_its_first_byte(*, stream: bool, limit_s: float) -> None:
    """The model's limit for streams or for whole answers; the time the body took is part of it."""
    stage = Stage()
    body = b'{"messages":[],"stream":%b}' % (b"true" if stream else b"false")
    message = {"type": "http.request", "body": body, "more_body": False}
    stage.act = None if not stream else leave
    await serve_plainly(stage, (5.0, message))
    assert stage.run.deadline == stage.exchange.started_at + limit_s
    assert now() == pytest.approx(stage.exchange.started_at + 5.0)


@pytest.mark.parametrize(
    ("sent", "limit_s", "end"),
    [(b"5", 5.0, attempt.DEADLINE), (b"0.25", 0.25, attempt.DEADLINE), (b"86400", 70.0, attempt.TOTAL)],
)
async def test_a_client_may_shorten_the_time_of_its_exchange(sent: bytes, limit_s: float, end: End) -> None:
    """Never lengthen it; the code that is told is the same, but only our own may be an engine's fault."""
    stage = Stage()
    await stage.request(headers=((b"x-request-timeout", sent),))
    assert stage.run.deadline == stage.exchange.started_at + limit_s
    failure = stage.run.overtime()
    assert failure.end is end
    assert client_error(failure).kind is (TOTAL_TIMEOUT if end is attempt.TOTAL else OWN_TIMEOUT)


async def test_what_other_clients_say_of_their_own_timeouts_changes_nothing() -> None:
    """OpenAI's clients tell how long one read may take them: that is no wish of ours to be done."""
    stage = Stage()
    told = ((b"x-stainless-timeout", b"1"), (b"x-stainless-read-timeout", b"1"), (b"request-timeout", b"1"))
    await stage.request(headers=told)
    assert stage.run.deadline == stage.exchange.started_at + 70.0


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("sent", [b"0", b"-1", b"nan", b"soon", b"86401"])
async def test_a_bad_timeout_is_refused_before_the_body_is_read(path: str, sent: bytes) -> None:
    """With 400 and the header's name, in the words of the route's API."""
    stage = Stage()
    wire = await stage.request(path, headers=((b"x-request-timeout", sent),))
    assert wire.status == 400
    assert b"`X-Request-Timeout` must be seconds" in wire.sent
    assert b'"code":"bad_request"' in wire.sent
    assert stage.exchange.end is attempt.REJECTED
    assert stage.runs == []


async def test_a_body_that_comes_too_late_for_its_client_is_not_waited_for() -> None:
    """The client's time runs from the first byte and the answer is on time; no engine hears of it."""
    stage = Stage()

    async def wait() -> dict[str, Any]:
        await asyncio.sleep(FOREVER_S)
        return {}

    stage.receive = wait
    wire = Wire(None)
    began = now()
    await stage.request(headers=((b"x-request-timeout", b"2"),), wire=wire)
    assert (wire.status, wire.closes) == (504, True)  # what comes of the body yet is nobody's
    assert b'"code":"total_timeout","owner":"client"' in wire.sent
    assert now() - began == pytest.approx(2.0, abs=2 * TICK_S)
    assert stage.exchange.end is attempt.DEADLINE
    assert stage.runs == []


async def test_exchanges_of_a_loop_share_a_clock() -> None:
    """One timer for all deadlines of a worker."""
    stage = Stage()
    await stage.request()
    await stage.request()
    first, second = stage.runs
    assert first.watch._clock is second.watch._clock
    assert first.watch is not second.watch


def test_a_plane_may_serve_one_loop_after_the_other() -> None:
    """As test clients do: deadlines ring on the loop of their request."""

    async def act(run: Run) -> None:
        with run.watch:
            run.watch.set(now() + 1.0, ClientGone)
            await asyncio.sleep(FOREVER_S)

    stage = Stage(act)
    for _ in range(2):
        with asyncio.Runner(loop_factory=Clockwork) as runner:
            runner.run(stage.request())
    assert [exchange.end for exchange in stage.seen] == [attempt.CLIENT_ABORT] * 2


async def test_a_forbidden_address_is_refused_whoever_forwards_it() -> None:
    """The guard sees all headers and the peer, and a peer that is gone already is no local one."""
    access = AccessConfig(denied=(IPv4Network("198.51.100.0/24"),))
    for peer, headers in (
        (("127.0.0.1", 1), ((b"x-forwarded-for", b"198.51.100.7"),)),
        (("198.51.100.7", 1), ()),
        (("", 0), ()),
    ):
        stage = Stage(access=access)
        wire = await stage.request(peer=peer, headers=headers)
        assert wire.status == 403
        assert stage.runs == []


# --- where calls wait


@pytest.mark.parametrize(
    ("sent", "found"), [((), Priority.NORMAL), (((b"x-pointsman-priority", b"low"),), Priority.LOW)]
)
async def test_a_call_knows_its_turn(sent: tuple[tuple[bytes, bytes], ...], found: Priority) -> None:
    """By whom it came, and of which class it is."""
    stage = Stage()
    await stage.request(headers=sent)
    assert (stage.run.party, stage.run.priority) == ("127.0.0.1", found)


async def test_a_class_that_there_is_not_is_refused() -> None:
    """By its name, whatever the API's own answer to bad fields; no engine is asked."""
    stage = Stage()
    wire = await stage.request(headers=((b"x-pointsman-priority", b"urgent"),))
    assert wire.status == 400
    assert b"X-Pointsman-Priority" in wire.sent
    assert stage.runs == []


async def test_bodies_are_held_until_their_answers_end() -> None:
    """Each in its size; one for which there is no room is refused."""
    held = []

    async def look(run: Run) -> None:
        held.append(stage.buffer.held)
        await run.sink.whole(b"{}", b"")

    stage = Stage(act=look)
    await stage.request()
    assert held == [len(CHAT_BODY)]
    stage.buffer.most = len(CHAT_BODY) - 1
    stage.order.clear()
    wire = await stage.request()
    assert wire.status == 503
    assert b"retry-after: 2" in wire.lines
    assert [exchange.end for exchange in stage.seen] == [attempt.OK, attempt.BUFFER_FULL]


async def cut_soon(stage: Stage) -> None:
    """End the router while requests wait."""
    await asyncio.sleep(1.0)
    stage.running.cut()


async def test_what_waits_when_the_router_ends_is_told() -> None:
    """Wherever it waits: 503 with Retry-After, the log says shutdown, and nothing is left running."""

    async def never() -> dict[str, Any]:
        await asyncio.sleep(FOREVER_S)
        return {}

    async def again(run: Run) -> None:
        try:
            await hang(run)
        except AttemptFailed as failure:
            raise client_error(failure) from failure

    acts: tuple[tuple[Act, Callable[[], Awaitable[dict[str, Any]]] | None], ...] = (
        (hang, None),
        (again, None),
        (None, never),
    )
    for act, receive in acts:
        stage = Stage(act=act, receive=receive)
        cutting = asyncio.create_task(cut_soon(stage))
        wire = await stage.request(wire=Wire(CHAT_BODY if receive is None else None))
        await cutting
        assert wire.status == 503
        assert b"retry-after: 5" in wire.lines
        assert b'"code":"shutting_down"' in wire.sent
        assert (stage.exchange.end, stage.exchange.error_code) == (attempt.SHUTDOWN, "shutting_down")
        assert not stage.running.exchanges


async def test_what_comes_after_the_end_is_refused_before_its_body() -> None:
    """No engine is asked any more."""
    stage = Stage()
    stage.running.cut()
    wire = await stage.request()
    assert wire.status == 503
    assert stage.exchange.end is attempt.SHUTDOWN
    assert stage.runs == []


async def test_who_does_not_read_a_refusal_is_left_at_the_end() -> None:
    """The connection is closed; that is no bug."""
    stage = Stage(act=RouterError(NO_REPLICA))
    wire = Wire(CHAT_BODY)
    wire.reads = False
    cutting = asyncio.create_task(cut_soon(stage))
    await stage.request(wire=wire)
    await cutting
    assert wire.did[-1] == "abort"
    assert stage.exchange.end is attempt.NO_ENDPOINT
    assert now() < 1010.0, "before the time that a client has to read an error"
