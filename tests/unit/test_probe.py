"""Active health checks against small real servers on loopback."""

import asyncio
import gc
import logging
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from socket import gaierror

import httpx
import pytest

from pointsman import attempt
from pointsman.breaker import BreakerConfig, share
from pointsman.conduct import Cause
from pointsman.diagnosis import of_silence
from pointsman.health import HealthConfig, Outcome
from pointsman.outliers import Outliers
from pointsman.probe import Prober
from pointsman.progress import ProgressConfig
from pointsman.replica import Endpoint, Engine, Facts, Health, Replica, State
from pointsman.stall import StallWatch

pytestmark = pytest.mark.anyio

# For changes within a moment; a check that takes long on a busy machine counts all the same.
QUICK = HealthConfig(interval_s=0.02, interval_changing_s=0.01, timeout_s=3.0, stall_s=60.0)
MODELS = (
    b'{"object":"list","data":[{"id":"gemma","object":"model","owned_by":"vllm","max_model_len":8192},'
    b'{"id":"my-lora","object":"model","owned_by":"vllm","parent":"gemma","max_model_len":null}]}'
)
INFO = (
    b'{"model_id":"distilgpt2","model_sha":null,"max_concurrent_requests":128,"max_total_tokens":1024,'
    b'"router":"text-generation-router","version":"3.3.5"}'
)
TGI_MODELS = (
    b'{"object":"list","data":[{"id":"distilgpt2","object":"model","created":0,"owned_by":"distilgpt2"}]}'
)
VLLM_ROUTES: dict[str, tuple[int, bytes]] = {
    "/health": (200, b""),
    "/v1/models": (200, MODELS),
    "/tokenize": (200, b'{"count":9}'),
}
TGI_ROUTES: dict[str, tuple[int, bytes]] = {
    "/health": (200, b""),
    "/info": (200, INFO),
    "/v1/models": (200, TGI_MODELS),
    "/chat_tokenize": (422, b'{"error":"Template error: template not found","error_type":"template_error"}'),
}

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class SmallEngine:
    """Answers from a table that a test may change, with status 0 never; keeps the heads of all requests."""

    routes: dict[str, tuple[int, bytes]]
    heads: list[str] = field(default_factory=list)
    refuses_two: int = 0  # with this status, where a body has two questions

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        told = re.search(r"content-length: (\d+)", head.lower())
        sent = await reader.readexactly(int(told[1]) if told else 0)
        status, body = self.routes.get(head.split(" ")[1], (404, b'{"detail":"Not Found"}'))
        if not status:
            await asyncio.Event().wait()
        if self.refuses_two and sent.count(b'"user"') > 1:
            status = self.refuses_two
        length = f"content-length: {len(body)}\r\n"
        writer.write(f"HTTP/1.1 {status} Said\r\nlocation: /elsewhere\r\n{length}\r\n".encode() + body)

    def asked(self) -> list[str]:
        return [head.split(" ")[1] for head in self.heads]


@asynccontextmanager
async def served(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """Serve connections on a loopback port; at the end close the port and every connection."""
    open_now: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the prober left, which is its right
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(one(reader, writer))
        open_now.add(task)
        task.add_done_callback(open_now.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(open_now):
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await server.wait_closed()


def replica_at(port: int, engine: Engine = Engine.VLLM, name: str = "r1", key: str | None = None) -> Replica:
    return Replica(name, "m", engine, Endpoint("http", "127.0.0.1", port), key=key)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def until(condition: Callable[[], bool]) -> None:
    """Wait at most 5 s."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def check(handler: Handler, engine: Engine = Engine.VLLM, key: str | None = None) -> Replica:
    """A replica after its first check."""
    async with served(handler) as port:
        prober = Prober([], QUICK)
        replica = replica_at(port, engine, key=key)
        await prober.probe_once(replica)
        await prober.stop()
        assert str(port) not in replica.health.reason
        assert "127.0.0.1" not in replica.health.reason
        return replica


async def test_facts_of_a_vllm_engine() -> None:
    """Its names, its own first, and its context length are read from /v1/models, after /health."""
    engine = SmallEngine(VLLM_ROUTES)
    replica = await check(engine)
    assert replica.health.state is State.UP
    assert replica.facts == Facts(names=("gemma", "my-lora"), max_total_tokens=8192, chat_template=True)
    assert engine.asked() == ["/health", "/v1/models", "/tokenize"]
    assert replica.max_in_flight is None


async def test_facts_of_a_tgi_engine() -> None:
    """Name, version, context length and concurrency are read from /info, after /health."""
    engine = SmallEngine(TGI_ROUTES)
    replica = await check(engine, Engine.TGI)
    assert replica.health.state is State.UP
    assert replica.facts == Facts(("distilgpt2",), "3.3.5", 1024, 128, chat_template=False)
    assert engine.asked() == ["/health", "/info", "/chat_tokenize", "/chat_tokenize"]
    assert replica.max_in_flight is None


_TEMPLATES = [
    (Engine.VLLM, VLLM_ROUTES, "/tokenize", 400),
    (Engine.TGI, TGI_ROUTES, "/chat_tokenize", 422),
]


@pytest.mark.parametrize(("engine", "routes", "path", "none"), _TEMPLATES)
async def test_the_chat_template_is_asked_for_once_while_up(
    engine: Engine, routes: dict[str, tuple[int, bytes]], path: str, none: int
) -> None:
    """And again once the replica was not up: another model may have started there."""
    small = SmallEngine({**routes, path: (none, b"{}")})
    async with served(small) as port:
        prober, replica = Prober([], QUICK), replica_at(port, engine)

        async def probe_until(*, up: bool) -> None:
            async with asyncio.timeout(10):
                while replica.usable is not up:
                    await prober.probe_once(replica)

        for _ in range(3):
            await prober.probe_once(replica)
        assert replica.facts.chat_template is False
        assert small.asked().count(path) == 2  # with two questions in a row, then with one
        small.routes["/health"] = (503, b"")
        await probe_until(up=False)
        assert replica.facts.chat_template is False
        small.routes["/health"], small.routes[path] = (200, b""), (200, b"{}")
        await probe_until(up=True)
        assert replica.facts.chat_template is True
        asked = small.asked().count(path)
        await prober.probe_once(replica)
        assert small.asked().count(path) == asked
        await prober.stop()


@pytest.mark.parametrize("status", [404, 405, 401, 500, 503])
@pytest.mark.parametrize(("engine", "routes", "path", "none"), _TEMPLATES)
async def test_an_engine_that_does_not_tell_of_its_template_is_up(
    engine: Engine, routes: dict[str, tuple[int, bytes]], path: str, none: int, status: int
) -> None:
    """It may be too old, or closed there: nothing is known then, and the next check asks again."""
    small = SmallEngine({**routes, path: (status, b"")})
    async with served(small) as port:
        prober, replica = Prober([], QUICK), replica_at(port, engine)
        for _ in range(2):
            await prober.probe_once(replica)
        assert replica.health.state is State.UP
        assert replica.facts.chat_template is None
        assert small.asked().count(path) == 2
        small.routes[path] = (none, b"")
        await prober.probe_once(replica)
        assert replica.facts.chat_template is False
        await prober.stop()


@pytest.mark.parametrize(("engine", "routes", "path", "none"), _TEMPLATES)
@pytest.mark.parametrize("strict", [False, True])
async def test_a_template_that_wants_turns_is_told_from_others(
    engine: Engine, routes: dict[str, tuple[int, bytes]], path: str, none: int, *, strict: bool
) -> None:
    """It takes one question and not two in a row; the others take both; none is asked more than it must."""
    small = SmallEngine({**routes, path: (200, b"{}")})
    small.refuses_two = none if strict else 0
    replica = await check(small, engine)
    assert (replica.facts.chat_template, replica.facts.alternates) == (True, strict)
    assert small.asked().count(path) == (2 if strict else 1)


async def test_a_question_that_nobody_answers_takes_no_replica_down() -> None:
    """Health was good a moment before; the check ends in its time."""

    replica = await check(SmallEngine({**VLLM_ROUTES, "/tokenize": (0, b"")}))
    assert replica.health.state is State.UP
    assert replica.facts.chat_template is None


async def test_a_good_check_ends_the_doubt_that_calls_had() -> None:
    """A bad one does not."""
    small = SmallEngine({**VLLM_ROUTES})
    async with served(small) as port:
        prober, replica = Prober([], QUICK), replica_at(port)
        replica.conduct.doubted = True
        small.routes["/health"] = (500, b"")
        await prober.probe_once(replica)
        assert replica.conduct.doubted
        small.routes["/health"] = (200, b"")
        await prober.probe_once(replica)
        assert not replica.conduct.doubted
        await prober.stop()


async def test_the_key_is_sent_and_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key goes out as bearer token; without one there is no Authorization; proxies are ignored."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    with_key, without = SmallEngine(VLLM_ROUTES), SmallEngine(VLLM_ROUTES)
    await check(with_key, key="s3cret")
    await check(without)
    assert len(with_key.heads) == len(without.heads) == 3
    assert all("authorization: Bearer s3cret\r\n" in head for head in with_key.heads)
    assert not any("authorization" in head.lower() for head in without.heads)


async def test_each_call_has_a_connection_of_its_own() -> None:
    """No connection is kept: the next check would reach it just when vLLM closes it."""
    engine = SmallEngine(VLLM_ROUTES)
    opened = 0

    async def keep_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while True:
            await engine(reader, writer)

    async with served(keep_alive) as port, Prober([], QUICK) as prober:
        replica = replica_at(port)
        for _ in range(3):
            await prober.probe_once(replica)
        assert connections(prober) == 0
    assert replica.health.rises == 3
    assert opened == len(engine.heads) == 2 * 3 + 1


async def test_a_base_path_is_kept() -> None:
    """Behind an ingress both routes are asked below the base path."""
    engine = SmallEngine({f"/team{path}": answer for path, answer in VLLM_ROUTES.items()})
    async with served(engine) as port, Prober([], QUICK) as prober:
        replica = replica_at(port)
        replica.endpoint = replace(replica.endpoint, base_path="/team")
        await prober.probe_once(replica)
    assert replica.health.state is State.UP


@pytest.mark.parametrize(
    ("route", "status", "key", "state", "reason"),
    [
        ("/health", 503, None, State.DOWN, "GET /health answered 503"),
        ("/health", 500, None, State.DOWN, "GET /health answered 500"),
        ("/health", 404, None, State.MISCONFIGURED, "GET /health answered 404: is this a vllm engine"),
        ("/health", 301, None, State.MISCONFIGURED, "redirects are not followed"),
        (
            "/v1/models",
            401,
            "k",
            State.MISCONFIGURED,
            "answered 401: the engine refuses the key set in …_KEY",
        ),
        ("/v1/models", 401, None, State.MISCONFIGURED, "answered 401: the engine wants a key"),
        ("/v1/models", 403, "k", State.MISCONFIGURED, "GET /v1/models answered 403"),
        ("/v1/models", 404, None, State.MISCONFIGURED, "GET /v1/models answered 404: is this a vllm engine"),
        ("/v1/models", 502, None, State.DOWN, "GET /v1/models answered 502"),
    ],
)
async def test_bad_statuses(route: str, status: int, key: str | None, state: State, reason: str) -> None:
    """A refusal says what a person can do about it; anything else is a failure."""
    replica = await check(SmallEngine({**VLLM_ROUTES, route: (status, b"")}), key=key)
    assert replica.health.state is state
    assert reason in replica.health.reason
    assert replica.facts == Facts()


@pytest.mark.parametrize(
    ("configured", "routes", "reason"),
    [
        (Engine.VLLM, TGI_ROUTES, "the engine is tgi, but the replica is set up as vllm"),
        (Engine.TGI, VLLM_ROUTES, "the engine is vllm, but the replica is set up as tgi"),
    ],
)
async def test_the_other_engine_is_recognised(
    configured: Engine, routes: dict[str, tuple[int, bytes]], reason: str
) -> None:
    """A TGI set up as vLLM, or the other way round, is misconfigured and the reason says so."""
    replica = await check(SmallEngine(routes), configured)
    assert replica.health.state is State.MISCONFIGURED
    assert replica.health.reason == reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to nginx!</html>",
        b"\xff\xfe\x00",
        b"[]",
        b'{"data":[]}',
        b'{"data":[{"id":7}]}',
        b'{"data":[{"id":"x","owned_by":"me"}]}',
        b'{"data":[{"id":"x","owned_by":"vllm"}],"more":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"data":[{"id":"' + b"x" * 2_000_000 + b'","owned_by":"vllm"}]}',
    ],
    ids=["empty", "html", "binary", "list", "no model", "wrong type", "foreign", "deep", "huge"],
)
async def test_an_unreadable_answer_is_a_failure(body: bytes) -> None:
    """Nonsense under status 200 is a failure with a reason, never an exception."""
    replica = await check(SmallEngine({**VLLM_ROUTES, "/v1/models": (200, body)}))
    assert replica.health.state is State.DOWN
    assert "GET /v1/models" in replica.health.reason


async def test_answers_that_are_not_http() -> None:
    """Foreign protocols and connections cut at once are failures with a reason."""

    async def foreign(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    for handler in (foreign, cut):
        replica = await check(handler)
        assert replica.health.reason == "connection cut, or the answer is not HTTP"
        assert replica.health.state is State.DOWN


async def test_refused_is_down_at_once_and_silence_is_not() -> None:
    """An up replica that refuses is down at once; one that hangs only after three timeouts."""
    hung = asyncio.Event()
    engine = SmallEngine(VLLM_ROUTES)

    async def may_hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if hung.is_set():
            await asyncio.sleep(60)
        await engine(reader, writer)

    async with Prober([], QUICK) as patient, Prober([], replace(QUICK, timeout_s=0.1)) as prober:
        async with served(may_hang) as port:
            refused, silent = replica_at(port, name="refused"), replica_at(port, name="silent")
            await patient.probe_once(refused)
            await patient.probe_once(silent)
            hung.set()
            states = []
            for _ in range(3):
                await prober.probe_once(silent)
                states.append(silent.health.state)
        assert states == [State.UP, State.UP, State.DOWN]
        assert silent.health.reason == "timed out after 0.1 s"
        result = await patient.probe_once(refused)
    assert result is not None
    assert result.outcome is Outcome.ABSENT
    assert (refused.health.state, refused.health.reason) == (State.DOWN, "connection refused")
    assert refused.facts.names == ("gemma", "my-lora")


async def test_an_answer_that_drips_is_cut_off() -> None:
    """A server that sends a byte now and then for ever holds a check no longer than twice its timeout."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(1000):
            writer.write(f"x-{number}: y\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.02)

    async with served(drip) as port, Prober([], replace(QUICK, timeout_s=0.1)) as prober:
        replica = replica_at(port)
        began = time.monotonic()
        await prober.probe_once(replica)
        assert time.monotonic() - began < 1
        assert replica.health.reason == "timed out after 0.1 s"
        with pytest.raises(TimeoutError):  # nor does its page of metrics, for which the next check waits
            await prober._ask_for(replica, "/metrics", time.monotonic() + 0.1, None)
        assert time.monotonic() - began < 2
        assert connections(prober) == 0


def connections(prober: Prober) -> int:
    transport = prober._client._transport
    assert isinstance(transport, httpx.AsyncHTTPTransport)
    return len(transport._pool.connections)


async def test_a_replica_goes_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """One task follows a replica through up, down and up; each change is told and logged once, no address."""
    caplog.set_level(logging.DEBUG, "pointsman.probe")
    changes: list[tuple[State, State]] = []

    def note(replica: Replica, before: Health) -> None:
        changes.append((before.state, replica.health.state))

    port = closed_port()
    replica = replica_at(port)
    async with Prober([replica], QUICK, on_change=note):
        await until(lambda: replica.health.state is State.LOADING)
        for _ in range(2):
            async with served(SmallEngine(VLLM_ROUTES), port):
                await until(lambda: replica.health.rises > 5)
            await until(lambda: replica.health.falls > 5)
        async with served(SmallEngine({**VLLM_ROUTES, "/v1/models": (401, b"")}), port):
            await until(lambda: replica.health.state is State.MISCONFIGURED)
        async with served(SmallEngine(VLLM_ROUTES), port):
            await until(lambda: replica.health.state is State.UP)
    down, up, wrong, loads = State.DOWN, State.UP, State.MISCONFIGURED, State.LOADING
    assert changes[:3] == [(State.UNKNOWN, loads), (loads, up), (up, down)]
    assert changes[3:6] == [(down, up), (up, down), (down, wrong)]
    assert changes[-1][1] is up
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(changes)
    assert lines[0] == "replica r1: unknown -> loading: connection refused: it may be loading its model"
    assert lines[1] == "replica r1: loading -> up: answers its health checks"
    assert lines[2] == "replica r1: up -> down: connection refused"
    assert not any("127.0.0.1" in line or str(port) in line for line in lines)


async def test_a_hanging_replica_holds_up_nobody() -> None:
    """While one hangs the other is checked at its own pace, and stopping does not wait for the first."""
    gate = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate.set()
        await asyncio.sleep(60)

    engine = SmallEngine(VLLM_ROUTES)
    async with served(hang) as dead, served(engine) as alive:
        hanging, well = replica_at(dead, name="hanging"), replica_at(alive, name="well")
        prober = Prober([hanging, well], replace(QUICK, timeout_s=30.0))
        prober.start()
        await asyncio.wait_for(gate.wait(), 5)
        await until(lambda: well.health.rises >= 5)
        assert hanging.health.state is State.UNKNOWN
        began = time.monotonic()
        await prober.stop()
        assert time.monotonic() - began < 1
        assert connections(prober) == 0
        assert prober._client.is_closed
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("probe ")]
    gc.collect()  # a socket left open warns here, and a warning fails the test


async def test_replicas_come_and_go_while_it_runs() -> None:
    """A replica can be added and forgotten at run time; a forgotten one is asked no more."""
    engine = SmallEngine(VLLM_ROUTES)
    async with served(engine) as port, Prober([], QUICK) as prober:
        replica = replica_at(port)
        prober.watch(replica)
        await until(lambda: replica.health.rises >= 2)
        prober.forget(replica.id)
        prober.forget("never heard of")
        await asyncio.sleep(0)
        await until(lambda: connections(prober) == 0)
        asked = len(engine.heads)
        await asyncio.sleep(0.1)
        assert len(engine.heads) <= asked + 1


async def test_a_check_during_a_standstill_is_discarded() -> None:
    """If our own event loop stood still, the engine is not blamed, nor praised."""
    engine = SmallEngine(VLLM_ROUTES)

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        time.sleep(0.4)
        await engine(reader, writer)

    for handler, outcome in ((stall, None), (engine, Outcome.OK)):
        async with served(handler) as port, Prober([], replace(QUICK, stall_s=0.1)) as prober:
            replica = replica_at(port)
            result = await prober.probe_once(replica)
        assert (result and result.outcome) == outcome
        assert (replica.health == Health()) is (outcome is None)
        assert (replica.facts == Facts()) is (outcome is None)


async def test_a_standstill_right_before_the_end_counts() -> None:
    """A standstill is noticed even if no timer has run since."""
    with StallWatch() as stall:
        time.sleep(0.4)
    assert stall.worst_s > 0.1


@pytest.mark.parametrize(
    ("host", "key", "reason"),
    [
        ("a" * 64, None, "name does not resolve"),
        ("127.0.0.1", "two\nlines", "address or key hold signs that HTTP does not allow"),
        ("127.0.0.1", "\ud800", "answers its health checks"),
    ],
)
async def test_addresses_and_keys_that_cannot_work(host: str, key: str | None, reason: str) -> None:
    """An address or key that HTTP cannot carry gives a reason and not an exception."""
    async with served(SmallEngine(VLLM_ROUTES)) as port, Prober([], QUICK) as prober:
        replica = replica_at(port, key=key)
        replica.endpoint = replace(replica.endpoint, host=host)
        await prober.probe_once(replica)
    assert replica.health.reason == reason


async def test_tls_to_a_plain_port() -> None:
    """https to a server without TLS is named as such."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with served(plain) as port, Prober([], QUICK) as prober:
        replica = replica_at(port)
        replica.endpoint = replace(replica.endpoint, scheme="https")
        await prober.probe_once(replica)
    assert replica.health.reason == "TLS handshake failed"


async def test_first_checks_are_spread() -> None:
    """Each task draws its own phase, within the short interval."""
    phases: list[float] = []

    class Dice(Random):
        def random(self) -> float:
            phases.append(super().random())
            return phases[-1]

    replicas = [replica_at(closed_port(), name=f"r{number}") for number in range(20)]
    async with Prober(replicas, replace(QUICK, interval_changing_s=30.0), rng=Dice(1)):
        await asyncio.sleep(0.02)
    assert len(phases) == len(set(phases)) == 20
    assert all(replica.health == Health() for replica in replicas)


def test_causes_are_found_below_other_errors() -> None:
    """The reason follows the deepest cause, also within a group of several addresses."""

    def wrapped(cause: BaseException) -> httpx.ConnectError:
        error = httpx.ConnectError("to 10.0.0.1 failed")
        error.__cause__ = OSError("all failed")
        error.__cause__.__cause__ = cause
        return error

    refused = ExceptionGroup("both", [ConnectionRefusedError(), OSError(101, "unreachable")])
    assert of_silence(wrapped(refused), 3.0).outcome is Outcome.ABSENT
    assert of_silence(wrapped(gaierror(-2)), 3.0).reason == "name does not resolve"
    assert of_silence(wrapped(ssl.SSLCertVerificationError()), 3.0).outcome is Outcome.MISCONFIGURED
    assert of_silence(wrapped(OSError(101)), 3.0).reason == "no connection"
    assert of_silence(httpx.ConnectTimeout("x"), 3.0).reason == "timed out after 3 s"


async def test_a_call_that_fails_has_its_replica_checked_at_once() -> None:
    """However far the next check is; calls that fail one after the other do not make us ask all the time."""
    small = SmallEngine({**VLLM_ROUTES})
    patient = replace(QUICK, interval_s=60.0)
    async with served(small) as port:
        replica = replica_at(port)
        outliers = Outliers(BreakerConfig(), Random(1))
        async with Prober([replica], patient, outliers=outliers):
            await until(lambda: replica.health.state is State.UP)
            small.routes["/health"] = (503, b"")
            asked = len(small.heads)
            began = time.monotonic()
            async with asyncio.timeout(10):
                while replica.health.state is not State.DOWN:
                    outliers.end(replica, attempt.RESET_NEW, 0.0)
                    await asyncio.sleep(0.001)
            took_s = time.monotonic() - began
            assert took_s < 5
            assert len(small.heads) - asked <= 2 + took_s / 0.15


async def test_a_replica_that_comes_to_be_up_starts_slowly_unless_it_was_up_from_the_beginning() -> None:
    """After it was down as well as after it loaded its model."""
    small = SmallEngine({**VLLM_ROUTES})
    async with served(small) as port:
        prober, at_once = Prober([], QUICK), replica_at(port)
        await prober.probe_once(at_once)
        assert at_once.conduct.calm
    later = replica_at(port, name="later")
    await prober.probe_once(at_once)
    await prober.probe_once(later)
    assert (at_once.health.state, later.health.state) == (State.DOWN, State.LOADING)
    async with served(small, port):
        for replica in (at_once, later):
            async with asyncio.timeout(10):
                while replica.health.state is not State.UP:
                    await prober.probe_once(replica)
            assert share(replica.conduct, time.monotonic()) < 0.5
    await prober.stop()


async def test_a_replica_whose_calls_hang_is_found_by_its_counters() -> None:
    """The prober reads them where calls run and nothing comes, and looks again soon."""
    page = b"vllm:generation_tokens_total 7\nvllm:prompt_tokens_total 3\n"
    small = SmallEngine({**VLLM_ROUTES, "/metrics": (200, page)})
    async with served(small) as port:
        replica = replica_at(port)
        replica.in_flight = 1
        async with Prober([replica], QUICK, progress=ProgressConfig(wedged_after_s=0.2)):
            await until(lambda: replica.conduct.cause is Cause.WEDGED)
            small.routes["/metrics"] = (200, page.replace(b"7", b"8"))
            await until(lambda: replica.conduct.cause is None)
