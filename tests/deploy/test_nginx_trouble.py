"""Restarts, crashes and clients that do not read, with the real nginx between them and the router."""

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from nginx import Nginx, ask, connected, our_site, read, short_folder
from processes import Emulator, Router, activated, wait_for
from wire import VLLM, Incoming, data_of, outcome


@pytest.fixture(scope="module")
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm", "--ttft-ms", "20") as engine:
        yield engine


@pytest.fixture(autouse=True)
def _clean(vllm: Emulator) -> Iterator[None]:
    vllm.reset()
    yield
    vllm.disarm()
    vllm.wait_until_quiet()


@contextmanager
def before(router_at: str) -> Iterator[Nginx]:
    """nginx with our site before a router at an address of nginx's kind."""
    with short_folder() as own:
        path = own / "p.sock"
        with Nginx(own, our_site(path).replace(f"unix:{path}", router_at)) as served:
            yield served


@contextmanager
def routed(vllm: Emulator, folder: Path, **settings: str) -> Iterator[tuple[Router, Nginx]]:
    """A router on a unix socket, nginx before it."""
    listen = f"127.0.0.1:0,unix:{folder}/r.sock"
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url, LISTEN=listen, **settings) as router:
        router.wait_until_up("gemma-3-12b")
        with before(f"unix:{folder}/r.sock") as served:
            yield router, served


def told_of(answer: Incoming, *, stream: bool) -> str:
    """What came of a call; nginx keeps X-Accel-Buffering to itself."""
    if stream and answer.status == 200:
        return "ok" if answer.ended and data_of(answer.body)[-1] == "[DONE]" else "cut"
    return outcome(VLLM, answer, stream=False)


def wait_for_calls(done: Counter[str]) -> None:
    """Wait until 30 more came to an end."""
    enough = done.total() + 30
    wait_for(lambda: done.total() >= enough, "calls are served")


def test_a_restart_behind_nginx_fails_nobody(vllm: Emulator) -> None:
    """The socket outlives the router, as systemd's does: calls that come between two processes wait."""
    settings = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "GRACE_S": "0"}
    done: Counter[str] = Counter()
    over = Event()

    def call_steadily(port: int, stream: bool) -> None:
        while not over.is_set():
            answer = ask(port, VLLM.request("Hello", 30, stream=stream))
            done[told_of(answer, stream=stream)] += 1

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(6) as threads:
        at = f"127.0.0.1:{listener.getsockname()[1]}"
        router = activated(listener, "pointsman", "serve", **settings)
        try:
            wait_for(lambda: router.http.get("/ready").status_code == 200, "ready")
            with before(at) as served:
                calls = [threads.submit(call_steadily, served.port, number % 2 == 0) for number in range(6)]
                try:
                    for _ in range(3):
                        wait_for_calls(done)
                        router.send_signal(signal.SIGTERM)
                        assert router.wait() == 0, router.output()
                        router.stop()
                        router = activated(listener, "pointsman", "serve", **settings)
                    wait_for_calls(done)
                finally:
                    over.set()
                    for one in calls:
                        one.result(60)
        finally:
            over.set()
            router.stop()
    assert set(done) == {"ok"}, done


def test_a_router_that_is_killed_in_mid_stream_is_seen(vllm: Emulator) -> None:
    """The stream has no end: neither [DONE] nor the last chunk; who asks then is told to come again."""
    with short_folder() as folder, routed(vllm, folder) as (router, served):
        vllm.arm("hang_after", 3)
        with connected(served.port) as client:
            client.sendall(VLLM.request("Hello", 9, stream=True))
            begun = read(client, until=b"data:")
            router.send_signal(signal.SIGKILL)
            rest = begun
            while not rest.ended and (block := client.recv(65536)):
                rest.feed(block)
        assert (rest.status, rest.ended) == (200, False)
        assert b"[DONE]" not in rest.body
        router.wait()
        late = ask(served.port, VLLM.request("Hello", 3, stream=False))
        assert (late.status, late.header("retry-after")) == (502, "1")
        assert late.json()["error"]["code"] == "router_down"
        wait_for(lambda: vllm.stats()["disconnects"] >= 1, "the engine is left")


def test_a_client_that_does_not_read_is_left_behind_nginx_too(vllm: Emulator) -> None:
    """nginx holds back what its client does not take; the router then cuts it off, and frees the engine."""
    with (
        short_folder() as folder,
        routed(vllm, folder, TIMEOUT__SEND_S="1") as (router, served),
        socket.socket() as client,
    ):
        vllm.arm("big_event", 32 * 2**20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", served.port))
        client.sendall(VLLM.request("Hello", 9, "x-request-id: stalls", stream=True))
        line = router.access_line("stalls", within_s=60)
        assert line["end"] == "slow_client"
        wait_for(lambda: vllm.stats()["disconnects"] == 1, "the engine is left")
        vllm.disarm()
        assert told_of(ask(served.port, VLLM.request("Hello", 9, stream=True)), stream=True) == "ok"
