"""`deploy/gunicorn.conf.py` under the real gunicorn: workers that are each what `pointsman serve` is."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import crowd
from pointsman.settings import load
from processes import BACKEND, Emulator, Gunicorn, activated, wait_for
from processes import GUNICORN_CONFIG as CONFIG
from wire import VLLM, Client, call, check_stream, outcome, request

_SERVES = "Application startup complete"  # as each worker says
_BUSY_S = 4  # gunicorn's own `timeout` where a test waits for longer than that


@pytest.fixture
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm", "--tokens-per-s", "20") as engine:
        yield engine


@pytest.fixture
def served(vllm: Emulator) -> Iterator[Gunicorn]:
    with Gunicorn("--timeout", str(_BUSY_S), VLLM_GEMMA3_ENDPOINT=vllm.url) as running:
        running.wait_until_serving(2)
        yield running


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def held_stream(served: Gunicorn, engine: Emulator, tokens: int = 30) -> Iterator[Client]:
    """A stream that has begun and whose engine stands still until it is sent SIGCONT."""
    with Client(served.port) as client:
        client.send(VLLM.request("Hello", tokens, stream=True, ignore_eos=True))
        assert b"data:" in client.read(until=b"data:").body
        with stopped(engine.pid):
            yield client


def finish(client: Client) -> None:
    """Read the rest of a stream, whose first part was read; it must end well."""
    body = b""
    while block := client.sock.recv(65536):
        body += block
        if body.endswith(b"0\r\n\r\n"):
            break
    assert b"data: [DONE]" in body
    assert body.endswith(b"0\r\n\r\n"), body[-100:]


def test_each_worker_answers_with_our_server(served: Gunicorn) -> None:
    """While the other stands still, a worker serves status, metrics and models, and refuses two Hosts."""
    first, second = served.booted()
    assert first != second
    for other in (first, second):
        with stopped(other):
            assert call(served.port, request("GET", "/health")).json()["service"] == "Pointsman"
            answer = call(served.port, VLLM.request(stream=True))
            assert check_stream(VLLM, answer) is None
            assert answer.header("server") is None
            assert outcome(VLLM, call(served.port, VLLM.request(stream=False)), stream=False) == "ok"
            counted = call(served.port, request("GET", "/metrics")).body
            assert b"pointsman_request_end_total{" in counted
            refused = call(served.port, b"GET /live HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
            assert (refused.status, refused.json()["error"]["code"]) == (400, "bad_request")
    assert served.output().count("listening on http://127.0.0.1:") == 2
    assert "without Pointsman's HTTP protocol" not in served.output()


def test_sigterm_drains(served: Gunicorn, vllm: Emulator) -> None:
    """Nothing new is taken, a running stream is finished, and all end with 0."""
    with held_stream(served, vllm) as client:
        served.send_signal(signal.SIGTERM)
        wait_for(lambda: not listening(served.port), "no new connections")
        os.kill(vllm.pid, signal.SIGCONT)
        finish(client)
    assert served.stop() == 0
    told = served.output()
    assert "Bad file descriptor" not in told
    assert " was sent " not in told, "a worker was killed"
    assert '"level":"ERROR"' not in told


def test_sighup_replaces_the_workers_and_their_streams_end(served: Gunicorn, vllm: Emulator) -> None:
    """New workers take over; an old one that drains for longer than gunicorn's timeout is not killed."""
    old = served.booted()
    with held_stream(served, vllm) as client:
        served.send_signal(signal.SIGHUP)
        wait_for(lambda: len(served.booted()) == 4, "two new workers")
        end = time.monotonic() + _BUSY_S + 2  # gunicorn looks once a second
        wait_for(lambda: time.monotonic() > end, "longer than the timeout")
        os.kill(vllm.pid, signal.SIGCONT)
        finish(client)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old), "the old workers are gone")
    assert "WORKER TIMEOUT" not in served.output()
    served.wait_until_serving(4)
    assert outcome(VLLM, call(served.port, VLLM.request(stream=False)), stream=False) == "ok"


def test_two_hundred_streams_live_through_sigterm() -> None:
    """Each is finished, whichever worker has it, and gunicorn's exit code is 0."""
    with (
        Emulator("vllm", "--tokens-per-s", "10") as one,
        Emulator("vllm", "--tokens-per-s", "10") as other,
        Gunicorn(VLLM_GEMMA3_ENDPOINT=f"{one.url},{other.url}") as served,
    ):
        served.wait_until_serving(2)
        ends = crowd.through(served.port, lambda: served.send_signal(signal.SIGTERM))
        assert ends == ["ok"] * crowd.STREAMS
        assert served.wait() == 0
        assert served.output().count("every answer is finished") == 2
        assert '"level":"ERROR"' not in served.output()


def replaced(served: Gunicorn, workers: int) -> bool:
    """Whether so many workers have ended, in good order, since the start."""
    return served.output().count("every answer is finished") == workers


class Load:
    """Clients that ask without a pause, some on a connection each, some on one for as long as it is kept."""

    def __init__(self, port: int, clients: int = 6) -> None:
        self.answers: list[str] = []
        self._port = port
        self._stop = threading.Event()
        kept = [True, False] * (clients // 2)
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in kept]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def goes_on(self, answers: int) -> bool:
        """Whether so many answers came."""
        return len(self.answers) >= answers

    def _ask(self, kept: bool) -> None:
        while not self._stop.is_set():
            try:
                with Client(self._port) as client:
                    while not self._stop.is_set():
                        client.send(VLLM.request("Hello", 2, stream=False))
                        answer = client.read()
                        self.answers.append(outcome(VLLM, answer, stream=False) if answer.status else "cut")
                        if not kept or answer.header("connection") == "close":
                            break
            except OSError as error:
                self.answers.append(f"{type(error).__name__}")


def test_a_reload_under_load_refuses_nobody() -> None:
    """Nothing is refused, reset or answered with an error while workers are replaced, three times over."""
    with (
        Emulator("vllm") as engine,
        Gunicorn(VLLM_GEMMA3_ENDPOINT=engine.url, GRACE_S="2") as served,
    ):
        served.wait_until_serving(2)
        with Load(served.port) as load:
            for ended in (2, 4, 6):
                served.send_signal(signal.SIGHUP)
                wait_for(partial(replaced, served, ended), "they are replaced", 60)
                served.wait_until_serving(2 + ended)  # one that is told to end while it begins says nothing
                wait_for(partial(load.goes_on, len(load.answers) + 50), "the new ones are asked", 60)
        assert set(load.answers) == {"ok"}
        assert served.output().count("told to end: others go on") == 6
        assert "not ready any more" not in served.output()
        assert '"level":"ERROR"' not in served.output()


def test_systemds_socket_is_served(vllm: Emulator) -> None:
    """Instead of LISTEN; it outlives the workers, so there is no time of grace."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = ("gunicorn", "--config", str(CONFIG))
        settings = {"WEB_CONCURRENCY": "2", "GRACE_S": "60", "VLLM_GEMMA3_ENDPOINT": vllm.url}
        with activated(listener, *words, **settings) as served:
            port = listener.getsockname()[1]
            assert served.port == port
            wait_for(lambda: served.output().count(_SERVES) == 2, "both workers serve", 60)
            assert outcome(VLLM, call(port, VLLM.request(stream=False)), stream=False) == "ok"
            served.send_signal(signal.SIGHUP)
            wait_for(lambda: served.output().count("every answer is finished") == 2, "the old ones end", 60)
            wait_for(lambda: served.output().count(_SERVES) == 4, "the new ones serve", 60)
            assert call(port, request("GET", "/live")).status == 200
            served.send_signal(signal.SIGTERM)
            assert served.wait() == 0
        assert served.output().count("accepting for 0 s more") == 4


def test_the_state_of_all_workers_is_told(served: Gunicorn) -> None:
    """Whichever is asked tells of both, and an idle router says so."""
    told = call(served.port, request("GET", "/debug/state")).json()
    assert {one["worker"] for one in told["workers"]} == set(served.booted())
    assert told["idle"] is all(one["idle"] for one in told["workers"]) is True


def test_grace_and_drain_fit_gunicorns_limit() -> None:
    """gunicorn waits for both, and 10 s more, whatever they are."""
    for settings in ({}, {"GRACE_S": "0.5", "DRAIN_S": "30"}):
        front = load({**settings, "HOST": "127.0.0.1"}, None, None).front
        told = subprocess.run(
            [sys.executable, "-m", "gunicorn", "--config", str(CONFIG), "--print-config"],
            env={**os.environ, **settings},
            cwd=BACKEND,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        found = re.search(r"(?m)^graceful_timeout\s+= (\d+)$", told)
        assert found is not None, told
        assert front.grace_s + front.drain_s + 10 <= int(found[1]) < front.grace_s + front.drain_s + 11


def test_a_reload_takes_good_settings_only(vllm: Emulator, tmp_path: Path) -> None:
    """SIGHUP reads the settings anew; bad ones are told, and workers old and new go on with those before."""
    file = tmp_path / "config.yml"

    def write(model: str, more: str = "") -> None:
        file.write_text(f"models:\n  - id: {model}\n    engine: vllm\n    replicas: [{vllm.url}]\n{more}")

    def models(served: Gunicorn) -> set[str]:
        answer = call(served.port, request("GET", "/models"))  # none while one worker gives way to another
        return {model["id"] for model in answer.json()} if answer.status == 200 else set()

    write("one")
    with Gunicorn(workers=1, CONFIG_FILE=str(file), DRAIN_S="1") as served:
        assert models(served) == {"one"}
        write("two", "nonsense: 1\n")
        served.send_signal(signal.SIGHUP)
        served.read_until("pointsman: not reloaded; the settings before are kept\n")
        assert "nonsense" in served.output()
        wait_for(lambda: len(served.booted()) == 2, "a new worker")
        os.kill(served.booted()[-1], signal.SIGKILL)
        wait_for(lambda: len(served.booted()) == 3, "one in the place of a dead one")
        wait_for(lambda: models(served) == {"one"}, "the settings before")
        write("two")
        served.send_signal(signal.SIGHUP)
        wait_for(lambda: models(served) == {"two"}, "the new settings")
        assert served.stop() == 0


def test_a_quick_end_waits_for_nobody(served: Gunicorn, vllm: Emulator) -> None:
    """SIGINT to gunicorn ends it at once with 0; streams are told."""
    vllm.arm("hang_after", 3)
    with Client(served.port) as client:
        client.send(VLLM.request("Hello", 9, stream=True))
        answer = client.read(until=b"data:")
        served.send_signal(signal.SIGINT)
        while not answer.ended:
            answer.feed(client.sock.recv(65536))
        assert outcome(VLLM, answer, stream=True) == "frame shutting_down"
        wait_for(lambda: all(not Path(f"/proc/{pid}").exists() for pid in served.booted()), "no workers")
    assert served.stop() == 0


def test_workers_end_after_their_master(served: Gunicorn, vllm: Emulator) -> None:
    """Killed, it tells them nothing; a stream is finished, and the address is free for another router."""
    workers = served.booted()
    try:
        with held_stream(served, vllm) as client:
            served.send_signal(signal.SIGKILL)
            wait_for(lambda: not listening(served.port), "no new connections")
            os.kill(vllm.pid, signal.SIGCONT)
            finish(client)
        wait_for(lambda: all(not Path(f"/proc/{pid}").exists() for pid in workers), "no workers")
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert served.output().count("gunicorn's master is gone") == 2


def test_all_addresses_are_bound(tmp_path: Path) -> None:
    """LISTEN gives gunicorn its addresses; its unix socket is for owner and group only."""
    path = tmp_path / "p.sock"
    with Gunicorn(workers=1, LISTEN=f"127.0.0.1:0,unix:{path}") as served:
        assert path.stat().st_mode & 0o777 == 0o660
        assert call(served.port, request("GET", "/live")).json() == {"status": "alive"}
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            client.sendall(request("GET", "/live"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not path.exists(), "gunicorn takes it away at its end"


def test_bad_settings_are_told_in_one_sentence() -> None:
    """gunicorn does not start, and says what `pointsman check` says."""
    with pytest.raises(AssertionError, match="did not come") as failed:
        Gunicorn(PORT="http")
    told = str(failed.value).splitlines()
    assert told[-1] == "pointsman: PORT: 'http' is not a whole number from 0 to 65535; write one"
    assert "Traceback" not in str(failed.value)


def test_gunicorns_tls_is_refused(tmp_path: Path) -> None:
    """Certificates given to gunicorn would be without effect, so it does not start with them."""
    pem = tmp_path / "none.pem"
    pem.write_text("")
    with pytest.raises(AssertionError, match="let nginx do TLS"):
        Gunicorn("--certfile", str(pem), "--keyfile", str(pem), workers=1)
