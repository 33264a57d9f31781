"""vLLM: gauges, queueing, disconnects and idle connections."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import httpx
import pytest

from .process import KEY, NAME, Engine
from .sse import KEEP_ALIVE
from .test_vllm_answers import CHAT, COMPLETIONS, HI

LONG = {"messages": HI, "max_tokens": 2000, "ignore_eos": True, "stream": True}  # outlasts any test
COUNTERS = (
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "generation_tokens",
)
HISTOGRAMS = ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds")


def samples(client: httpx.Client, name: str) -> list[float]:
    """All values of vllm:`name` in /metrics, whatever their other labels, for the served model."""
    pattern = re.compile(rf'^vllm:{name}{{[^}}]*model_name="{NAME}"[^}}]*}} (\S+)$', re.MULTILINE)
    return [float(value) for value in pattern.findall(client.get("/metrics").text)]


def load(client: httpx.Client) -> tuple[float, float]:
    """Requests running and waiting."""
    (running,), (waiting,) = samples(client, "num_requests_running"), samples(client, "num_requests_waiting")
    return running, waiting


def wait_for(client: httpx.Client, running: int, waiting: int, within_s: float = 30) -> None:
    """Poll the gauges until they read so."""
    until = time.monotonic() + within_s
    while (now := load(client)) != (running, waiting):
        assert time.monotonic() < until, f"(running, waiting) stays {now}, not {(running, waiting)}"
        time.sleep(0.02)


def connect(engine: Engine) -> socket.socket:
    """A plain connection; whoever closes it, closes it at once."""
    return socket.create_connection(("127.0.0.1", engine.port), timeout=20)


def send(sock: socket.socket, path: str, body: object) -> None:
    """One POST, written as a client would."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    sock.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)


def receive_until(sock: socket.socket, mark: bytes, limit: int = 1_000_000) -> bytes:
    """What comes, up to and with `mark`."""
    received = b""
    while mark not in received:
        piece = sock.recv(65536)
        assert piece, f"closed before {mark!r}: {received[-200:]!r}"
        received += piece
        assert len(received) < limit
    return received


@contextmanager
def open_request(engine: Engine, body: object, path: str = CHAT) -> Iterator[socket.socket]:
    """A request on a connection of its own, which is closed at the end of the block."""
    with closing(connect(engine)) as sock:
        send(sock, path, body)
        yield sock


def test_metric_names(client: httpx.Client) -> None:
    """/metrics is Prometheus text with the gauges a router reads, under their names since 0.12."""
    client.post(COMPLETIONS, json={"prompt": "Hi", "max_tokens": 3})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f"# TYPE vllm:{gauge} gauge" in answer.text
        (value,) = samples(client, gauge)
        assert value >= 0
    for counter in COUNTERS:
        assert f"# TYPE vllm:{counter}_total counter" in answer.text
        assert len(samples(client, f"{counter}_total")) == 1
    for histogram in HISTOGRAMS:
        assert f"# TYPE vllm:{histogram} histogram" in answer.text
        assert len(samples(client, f"{histogram}_count")) == 1
    reasons = re.findall(
        r'^vllm:request_success_total{[^}]*finished_reason="(\w+)"', answer.text, re.MULTILINE
    )
    assert {"stop", "length", "abort"} <= set(reasons)
    assert "gpu_cache_usage_perc" not in answer.text


def test_counters_count(client: httpx.Client) -> None:
    """Prompt and generated tokens move the counters by what `usage` says."""
    before = samples(client, "prompt_tokens_total")[0], samples(client, "generation_tokens_total")[0]
    usage = client.post(COMPLETIONS, json={"prompt": "Hi you", "max_tokens": 7, "ignore_eos": True}).json()[
        "usage"
    ]
    wait_for(client, 0, 0)
    after = samples(client, "prompt_tokens_total")[0], samples(client, "generation_tokens_total")[0]
    assert after[0] - before[0] == usage["prompt_tokens"]
    assert after[1] - before[1] == usage["completion_tokens"] == 7


def test_requests_queue(engine: Engine, client: httpx.Client) -> None:
    """Past --max-num-seqs requests wait; headers and keep-alive comments come meanwhile, but no frame."""
    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(open_request(engine, LONG))
        wait_for(client, 2, 2)
        last = opened.enter_context(open_request(engine, LONG | {"max_tokens": 3}))
        wait_for(client, 2, 3)
        head = receive_until(last, KEEP_ALIVE + b"\n\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"data: " not in head
    wait_for(client, 0, 0)


def test_queued_request_runs_when_its_turn_comes(engine: Engine, client: httpx.Client) -> None:
    """A place that a disconnect frees goes to the next in line, which then ends well."""
    with open_request(engine, LONG) as first, open_request(engine, LONG):
        wait_for(client, 2, 0)
        with open_request(engine, LONG | {"max_tokens": 3}) as third:
            wait_for(client, 2, 1)
            first.close()
            receive_until(third, b"data: [DONE]\n\n")
    wait_for(client, 0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_disconnect_aborts(engine: Engine, client: httpx.Client, *, stream: bool) -> None:
    """Closing the connection frees the engine within a moment, streamed or not."""
    with open_request(engine, LONG | {"stream": stream}) as sock:
        wait_for(client, 1, 0)
        if stream:
            receive_until(sock, b"data: ")
    wait_for(client, 0, 0, within_s=2)


def test_disconnect_aborts_the_queued(engine: Engine, client: httpx.Client) -> None:
    """A waiting request leaves the queue when its client goes."""
    with open_request(engine, LONG), open_request(engine, LONG):
        wait_for(client, 2, 0)
        with open_request(engine, LONG):
            wait_for(client, 2, 1)
        wait_for(client, 2, 0, within_s=2)
    wait_for(client, 0, 0)


def test_half_close_is_a_disconnect(engine: Engine, client: httpx.Client) -> None:
    """A client that ends its sending side gets no whole answer: never half-close."""
    with open_request(engine, LONG) as sock:
        wait_for(client, 1, 0)
        sock.shutdown(socket.SHUT_WR)
        wait_for(client, 0, 0, within_s=2)
        received = b""
        while piece := sock.recv(65536):
            received += piece
        assert b"[DONE]" not in received


def test_idle_connection_is_closed_after_five_seconds(engine: Engine) -> None:
    """Five seconds after an answer the server closes the connection."""
    with closing(connect(engine)) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        receive_until(sock, b"\r\n\r\n")
        since = time.monotonic()
        assert sock.recv(1) == b""
        assert 4.5 < time.monotonic() - since < 6.5


def test_connection_serves_again_within_that_time(engine: Engine) -> None:
    """An idle connection takes the next request until then; `Connection: close` and HTTP/1.0 end it."""
    with closing(connect(engine)) as sock:
        for _ in range(2):
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert receive_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"connection: close\r\n" in receive_until(sock, b"\r\n\r\n").lower()
        assert sock.recv(1) == b""
    with closing(connect(engine)) as sock:
        sock.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        receive_until(sock, b"\r\n\r\n")
        assert sock.recv(1) == b""


def test_what_is_no_http(engine: Engine) -> None:
    """Bytes that are no HTTP get a plain-text 400 and the end of the connection."""
    with closing(connect(engine)) as sock:
        sock.sendall(b"BLAH\r\n\r\n")
        answer = receive_until(sock, b"Invalid HTTP request received.").lower()
        assert answer.startswith(b"http/1.1 400 bad request\r\n")
        assert b"content-type: text/plain; charset=utf-8\r\n" in answer
        assert b"connection: close\r\n" in answer
        assert sock.recv(1) == b""
