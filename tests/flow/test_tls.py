"""Engines behind TLS: they are verified, shown our certificate if we have one, and given no more time."""

import asyncio
import contextlib
import os
import pty
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import pytest

from certificates import Authority, Identity, openssl
from pointsman.replica import Endpoint, Engine, Replica
from pointsman.resolver import Resolver
from pointsman.upstream import Pool, UpstreamConfig
from processes import BACKEND, Emulator, Router, wait_for
from wire import LIMIT_S, VLLM, Client, call, check_silent, outcome

_MODEL = VLLM.model
_QUICK = {"HEALTH__INTERVAL_S": "3600", "HEALTH__INTERVAL_CHANGING_S": "0.05"}
_UNCHECKED = {"HEALTH__INTERVAL_CHANGING_S": "3600"}  # the first check comes some time within that


# --- certificates


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.found(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue("engine", "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Identity:
    return authority.issue("router-7")


# --- what stands before the engine


@dataclass
class Gate:
    """Ends TLS before a plain port; `seen`: for each connection the name asked for and the subject shown.

    On blocking sockets, each connection on a thread: asyncio drops the alert that tells of a refusal.
    """

    identity: Identity
    behind: int
    client_authority: Path | None = None  # set: a client without certificate is refused
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    seen: list[tuple[str | None, str | None]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(self.identity.cert, self.identity.key)
        if self.client_authority is not None:
            self._context.load_verify_locations(self.client_authority)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.maximum_version = self.newest
        self._names: dict[object, str | None] = {}
        self._context.sni_callback = self._note_name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)
        self.port: int = self._listener.getsockname()[1]
        self._ends = Event()
        self._connections: list[Thread] = []
        self._acceptor = Thread(target=self._accept, name="gate", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        for thread in [self._acceptor, *self._connections]:
            thread.join(LIMIT_S)
        self._listener.close()

    def url(self, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}"

    def _note_name(self, taken: object, name: str | None, _: ssl.SSLContext) -> None:
        self._names[taken] = name

    def _accept(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(TimeoutError):
                taken, _ = self._listener.accept()
                thread = Thread(target=self._serve, args=(taken,), name="gate's", daemon=True)
                thread.start()
                self._connections.append(thread)

    def _serve(self, taken: socket.socket) -> None:
        taken.settimeout(LIMIT_S)
        outer = self._context.wrap_socket(taken, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(OSError), outer:
            try:
                outer.do_handshake()
            except ssl.SSLError:  # which some tests are about
                hang_up(outer)
                return
            shown: dict[str, Any] = outer.getpeercert() or {}
            subject = dict(pair for group in shown.get("subject", ()) for pair in group)
            self.seen.append((self._names.pop(outer, None), subject.get("commonName")))
            with socket.create_connection(("127.0.0.1", self.behind), LIMIT_S) as inner:
                self._relay(outer, inner)

    def _relay(self, outer: ssl.SSLSocket, inner: socket.socket) -> None:
        while not self._ends.is_set():
            ready = [outer] if outer.pending() else select.select([outer, inner], [], [], 0.05)[0]
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (inner if source is outer else outer).sendall(data)


def hang_up(sock: socket.socket) -> None:
    """Close so that what was sent, such as an alert, arrives: unread bytes would make the end a reset."""
    sock.shutdown(socket.SHUT_WR)
    while socket.socket.recv(sock, 65536):  # past TLS, where `sock` has it
        pass


def health(router: Router) -> tuple[str, str]:
    """State and reason of the only replica."""
    (replica,) = router.http.get(f"/models/{_MODEL}/health").json()["replicas"]
    return replica["state"], replica["reason"]


def refused(router: Router, told: str, *secrets: str) -> float:
    """Call, streamed and whole: each is refused in our own words; seconds the slower one took."""
    slowest = 0.0
    for stream in (True, False):
        begin = time.monotonic()
        answer = call(router.port, VLLM.request(stream=stream))
        slowest = max(slowest, time.monotonic() - begin)
        assert outcome(VLLM, answer, stream=stream) == told
        for secret in ("TLS", "SSL", "certificate", "CERT", "localhost", ".pem", *secrets):
            assert secret.encode() not in answer.body, answer.body
        check_silent(answer, *secrets)
    return slowest


# --- verified


@pytest.fixture(scope="module")
def gate(server: Identity, vllm: Emulator) -> Iterator[Gate]:
    with Gate(server, vllm.port) as opened:
        yield opened


@pytest.fixture(scope="module")
def secured(authority: Authority, gate: Gate) -> Iterator[Router]:
    settings = {**_QUICK, "UPSTREAM__CA_FILE": str(authority.own.cert), "UPSTREAM__IDLE_EXPIRY_S": "30"}
    with Router(VLLM_GEMMA3_ENDPOINT=gate.url(), **settings) as running:
        running.wait_until_up(_MODEL)
        yield running


def test_calls_pass_through_tls(secured: Router, gate: Gate) -> None:
    """Whole and streamed, on one connection after the other's end; the engine is asked for by its name."""
    before = len(gate.seen)
    for stream in (True, False, True, False):
        answer = call(secured.port, VLLM.request(tokens=20, stream=stream))
        assert outcome(VLLM, answer, stream=stream) == "ok"
        check_silent(answer, str(gate.port), "localhost")
    assert gate.seen[before:] == [("localhost", None)]


def test_much_passes_through_tls_both_ways(secured: Router, vllm: Emulator) -> None:
    """A prompt and an event of many records of TLS arrive whole."""
    vllm.arm("big_event", 1_200_000, times=1)
    text = "word " * 1500
    answer = call(secured.port, VLLM.request(text, stream=True))
    assert outcome(VLLM, answer, stream=True) == "ok"
    assert len(answer.body) > 1_200_000
    assert text in str(vllm.sent()[-1]["body"])


@pytest.mark.parametrize("how", ["reset", "fin"])
def test_a_cut_within_tls_is_told(secured: Router, vllm: Emulator, how: str) -> None:
    """An answer that ends too early is no answer, whether TLS was ended in good form or not."""
    vllm.arm("cut_bytes", f"900:{how}")
    try:
        answer = call(secured.port, VLLM.request(tokens=20, stream=True))
    finally:
        vllm.disarm()
    assert outcome(VLLM, answer, stream=True) == "frame engine_cut"


def test_a_client_that_leaves_frees_the_engine_behind_tls(secured: Router, vllm: Emulator) -> None:
    """Closing at once means the connection below too."""
    vllm.reset()
    vllm.arm("hang_after", 3)
    try:
        with Client(secured.port) as leaving:
            leaving.send(VLLM.request(tokens=20, stream=True))
            leaving.read(until=b"data:")
        wait_for(lambda: bool(vllm.stats()["aborts"]), "the engine was left")
    finally:
        vllm.disarm()
    vllm.wait_until_quiet()


def test_an_address_is_verified_too(authority: Authority, gate: Gate) -> None:
    """An endpoint without a name needs a certificate that holds its address."""
    ca = str(authority.own.cert)
    with Router(VLLM_GEMMA3_ENDPOINT=gate.url("127.0.0.1"), UPSTREAM__CA_FILE=ca, **_QUICK) as router:
        router.wait_until_up(_MODEL)
        answer = call(router.port, VLLM.request(stream=True))
        assert outcome(VLLM, answer, stream=True) == "ok"


@pytest.mark.parametrize("flaw", ["unknown authority", "another name"])
def test_an_engine_that_cannot_be_verified_is_not_used(
    authority: Authority, gate: Gate, vllm: Emulator, flaw: str
) -> None:
    """Its checks say that it is TLS and what to look at; clients learn nothing of it, before or after."""
    with contextlib.ExitStack() as stack:
        settings = {}
        if flaw == "another name":
            other = authority.issue("other", "DNS:elsewhere.test", "IP:127.0.0.2")
            gate = stack.enter_context(Gate(other, vllm.port))
            settings = {"UPSTREAM__CA_FILE": str(authority.own.cert)}
        vllm.reset()
        checked = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=gate.url(), **settings, **_QUICK))
        wait_for(lambda: health(checked)[0] != "unknown", "the first check")
        state, reason = health(checked)
        assert state == "misconfigured"
        assert reason.startswith("TLS handshake failed")
        assert "certificate" in reason
        refused(checked, "503 no_replica", str(gate.port))
        unchecked = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=gate.url(), **settings, **_UNCHECKED))
        refused(unchecked, "502 engine_unreachable", str(gate.port))
        assert vllm.sent() == []


def test_an_engine_without_tls_is_not_used(vllm: Emulator, authority: Authority) -> None:
    """https means https: there is no way back to plain text."""
    ca = str(authority.own.cert)
    url = f"https://127.0.0.1:{vllm.port}"
    with Router(VLLM_GEMMA3_ENDPOINT=url, UPSTREAM__CA_FILE=ca, **_QUICK) as router:
        wait_for(lambda: health(router)[0] == "down", "the first check")
        assert health(router)[1] == "TLS handshake failed"
        refused(router, "503 no_replica", str(vllm.port))


# --- our own certificate


@pytest.mark.parametrize("files", ["two", "one"])
def test_our_certificate_is_shown(
    authority: Authority, server: Identity, client: Identity, vllm: Emulator, tmp_path: Path, files: str
) -> None:
    """By checks and calls alike; its key may stand in a file of its own or in the same."""
    settings = {"UPSTREAM__CA_FILE": authority.own.cert, "UPSTREAM__CLIENT_CERT": client.cert}
    if files == "two":
        settings["UPSTREAM__CLIENT_KEY"] = client.key
    else:
        settings["UPSTREAM__CLIENT_CERT"] = tmp_path / "both.pem"
        settings["UPSTREAM__CLIENT_CERT"].write_bytes(client.cert.read_bytes() + client.key.read_bytes())
    given = {name: str(file) for name, file in settings.items()}
    with (
        Gate(server, vllm.port, authority.own.cert) as gate,
        Router(VLLM_GEMMA3_ENDPOINT=gate.url(), **given, **_QUICK) as router,
    ):
        router.wait_until_up(_MODEL)
        for stream in (True, False):
            answer = call(router.port, VLLM.request(stream=stream))
            assert outcome(VLLM, answer, stream=stream) == "ok"
        assert set(gate.seen) == {("localhost", "router-7")}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_an_engine_that_wants_a_certificate_gets_no_call_without(
    authority: Authority, server: Identity, vllm: Emulator, version: ssl.TLSVersion
) -> None:
    """TLS 1.3 refuses only after our side of the handshake is done, when the call is already sent."""
    settings = {"UPSTREAM__CA_FILE": str(authority.own.cert)}
    vllm.reset()
    with (
        Gate(server, vllm.port, authority.own.cert, version) as gate,
        Router(VLLM_GEMMA3_ENDPOINT=gate.url(), **settings, **_UNCHECKED) as router,
    ):
        refused(router, "502 engine_unreachable", str(gate.port))
    assert vllm.sent() == []


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)
def test_the_checks_tell_of_a_certificate_that_is_wanted(
    authority: Authority, server: Identity, vllm: Emulator, version: ssl.TLSVersion
) -> None:
    """The replica is down, the reason names TLS, and clients are told that no replica is up."""
    settings = {"UPSTREAM__CA_FILE": str(authority.own.cert)}
    with (
        Gate(server, vllm.port, authority.own.cert, version) as gate,
        Router(VLLM_GEMMA3_ENDPOINT=gate.url(), **settings, **_QUICK) as router,
    ):
        wait_for(lambda: health(router)[0] == "down", "the first check")
        assert "TLS" in health(router)[1]
        refused(router, "503 no_replica", str(gate.port))


def test_a_key_with_a_password_is_refused_at_the_start(client: Identity, tmp_path: Path) -> None:
    """Nothing waits at a terminal for somebody to type it."""
    locked = tmp_path / "locked.key"
    openssl("ec", "-in", client.key, "-aes128", "-passout", "pass:secret", "-out", locked)
    ours, theirs = pty.openpty()
    # The leader of a session that opens a terminal has it as its own, which OpenSSL would ask at.
    command = 'exec "$0" -m pointsman check <"$1"'
    try:
        done = subprocess.run(
            ["sh", "-c", command, sys.executable, os.ttyname(theirs)],
            cwd=BACKEND,
            env={
                **os.environ,
                "UPSTREAM__CLIENT_CERT": str(client.cert),
                "UPSTREAM__CLIENT_KEY": str(locked),
            },
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert "cannot be used for TLS" in done.stderr


# --- time


def test_an_engine_silent_in_the_handshake_costs_the_connect_limit(authority: Authority) -> None:
    """TIMEOUT__CONNECT_S is for TCP and TLS together; afterwards the connection is closed."""
    settings = {"TIMEOUT__CONNECT_S": "0.3", "UPSTREAM__CA_FILE": str(authority.own.cert)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_S)
        url = f"https://localhost:{listener.getsockname()[1]}"
        with Router(VLLM_GEMMA3_ENDPOINT=url, **settings, **_UNCHECKED) as router:
            assert 0.28 < refused(router, "502 engine_unreachable") < 1.9
            for _ in range(2):
                taken, _ = listener.accept()
                with taken:
                    taken.settimeout(LIMIT_S)
                    assert taken.recv(5)[:1] == b"\x16"  # a handshake began
                    with contextlib.suppress(ConnectionResetError):
                        while taken.recv(65536):
                            pass


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both have TLS of their own."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.mark.anyio
async def test_cancelled_in_the_handshake_nothing_leaks(
    authority: Authority, server: Identity, vllm: Emulator
) -> None:
    """At whatever moment a client leaves while we connect, the count is right and no socket stays."""
    tls = UpstreamConfig(ca_file=authority.own.cert).tls()
    with forgiving(asyncio.get_running_loop()), Gate(server, vllm.port) as gate:
        replica = Replica("gemma-0", "gemma", Engine.VLLM, Endpoint.parse(gate.url("127.0.0.1")))
        pool = Pool(replica, 3.0, tls, Resolver())
        before = sockets()
        for turns in range(40):
            trial = asyncio.create_task(pool.connect(5.0))
            for _ in range(turns):
                await asyncio.sleep(0.0003)
            trial.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                pool.release(await trial)
            assert (pool.active, pool.idle) == (0, 0)
        await until(lambda: sockets() <= before)


@contextlib.contextmanager
def forgiving(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Hear what uvloop says when a handshake ends after it closed the socket, and think nothing of it.

    The task that connects is cancelled between its connection and its next step, and the server's answer
    comes in the same turn: `create_connection` closes the socket without a word to its TLS layer, which
    writes once more.
    """
    others = loop.get_exception_handler() or type(loop).default_exception_handler

    def hear(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "the handler is closed" not in str(context.get("exception")):
            others(loop, context)

    loop.set_exception_handler(hear)
    try:
        yield
    finally:
        loop.set_exception_handler(others)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


def sockets() -> int:
    """How many this process has open."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            names.append(str(entry.readlink()))
    return sum(name.startswith("socket:") for name in names)
