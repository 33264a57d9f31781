"""Disconnects, gauges, faults on the wire, and the life of the process."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

_CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 400,
    "ignore_eos": True,
}
_SHORT = _CHAT | {"max_tokens": 5}
_PATH = "/v1/chat/completions"
# a fresh connection per request, without the cost of loading certificates each time
_HTTP = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))


def _until(check: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def _stats(base: str) -> Any:
    return _HTTP.get(base + "/__stats").json()


def _arm(base: str, fault: str, **more: object) -> None:
    _HTTP.post(base + "/__faults", json={"fault": fault, "times": 1, **more}).raise_for_status()


def _send(base: str, body: object, path: str = _PATH) -> socket.socket:
    host, port = base.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), timeout=5)
    connection.sendall(head.encode() + data)
    return connection


def _healthy(base: str) -> bool:
    try:
        return _HTTP.get(base + "/health").status_code == 200
    except httpx.TransportError:  # refused, or closed in the middle of the question
        return False


def _read(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def _read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one answer with a length."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head) if end else None
        if length and len(body) >= int(length[1]):
            return head, body
        piece = connection.recv(65536)
        assert piece, data
        data += piece


def _silent(connection: socket.socket, for_s: float = 0.3) -> bool:
    """Whether, after what is on its way, neither a byte nor the end comes."""
    connection.settimeout(for_s)
    for _ in range(100):
        try:
            if not connection.recv(65536):
                return False
        except TimeoutError:
            return True
    return False


def _gauges(base: str) -> dict[str, float]:
    lines = [line for line in _HTTP.get(base + "/metrics").text.splitlines() if not line.startswith("#")]
    return {line.split("{")[0].split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_aborts_in_every_phase(start: Any, stream: bool) -> None:
    """Running and queued requests end at once, are recorded, and the gauges return to zero."""
    base = start("vllm", "--max-concurrent", "1", "--tokens-per-s", "50")
    sockets = [_send(base, _CHAT | {"stream": stream}) for _ in range(3)]
    _until(lambda: _stats(base)["running"] == 1 and _stats(base)["waiting"] == 2)
    gauges = _gauges(base)
    assert (gauges["vllm:num_requests_running"], gauges["vllm:num_requests_waiting"]) == (1, 2)
    assert gauges["vllm:kv_cache_usage_perc"] > 0
    for connection in reversed(sockets):
        connection.close()
    _until(lambda: _stats(base)["aborted"] == 3)
    stats, gauges = _stats(base), _gauges(base)
    assert {abort["phase"] for abort in stats["aborts"]} >= {"queued"}
    assert all(abort["time_to_abort_ms"] < 50 for abort in stats["aborts"])
    assert (stats["running"], stats["waiting"], stats["disconnects"]) == (0, 0, 3)
    assert (gauges["vllm:num_requests_running"], gauges["vllm:kv_cache_usage_perc"]) == (0, 0)


def test_a_disconnect_aborts_tgi_too(start: Any) -> None:
    """Prefill is a phase like the others."""
    base = start("tgi", "--ttft-ms", "5000")
    connection = _send(base, {"inputs": "x"}, "/generate_stream")
    _until(lambda: _stats(base)["running"] == 1)
    connection.close()
    _until(lambda: _stats(base)["aborted"] == 1)
    assert _stats(base)["aborts"][0]["phase"] == "prefill"
    assert _gauges(base)["tgi_batch_current_size"] == 0


def test_a_half_closed_client_counts_as_gone(start: Any) -> None:
    """EOF from the client ends its request."""
    base = start("vllm", "--tokens-per-s", "20")
    connection = _send(base, _CHAT)
    connection.shutdown(socket.SHUT_WR)
    _until(lambda: _stats(base)["disconnects"] == 1)
    connection.close()


def test_a_slow_reader_does_not_stop_the_others(start: Any) -> None:
    """Nobody reads one stream; another request still finishes."""
    base = start("vllm", "--tokens-per-s", "0")
    connection = _send(base, _CHAT | {"stream": True, "max_tokens": 20000})
    assert _HTTP.post(base + _PATH, json=_SHORT, timeout=5).status_code == 200
    connection.close()


def test_the_record_shows_what_arrived(start: Any) -> None:
    """Headers as a list of pairs, the body, reuse of the connection; a reset clears it."""
    base = start("vllm")
    with httpx.Client(base_url=base) as client:
        client.post(_PATH, json=_SHORT, headers=[("x-a", "1"), ("x-a", "2")])
        client.post(_PATH, json=_SHORT)
        stats = client.get("/__stats").json()
        first, second = stats["last_requests"]
        assert [value for name, value in first["headers"] if name == "x-a"] == ["1", "2"]
        assert json.loads(first["body"]) == _SHORT
        assert (first["reused"], second["reused"]) == (False, True)
        assert stats["routes"] == {f"POST {_PATH}": 2}
        client.post("/__reset")
        assert client.get("/__stats").json()["requests"] == 0


@pytest.mark.parametrize("size", [1, 7])
def test_split_frames_are_the_same_bytes(vllm: str, size: int) -> None:
    """Segments of any size carry the same stream."""
    body = _SHORT | {"stream": True, "marker": f"split-{size}"}
    _arm(vllm, "split_every", arg=size, marker=f"split-{size}")
    with _HTTP.stream("POST", vllm + _PATH, json=body, timeout=20) as answer:
        pieces = list(answer.iter_raw())
    assert max(map(len, pieces)) <= size * 4
    assert b"".join(pieces).endswith(b"data: [DONE]\n\n")


def test_cut_after_exactly_so_many_bytes(start: Any) -> None:
    """Reset, FIN and a proper end all come after byte N."""
    base = start("vllm")
    for how in ("fin", "reset", "end"):
        _arm(base, f"cut_bytes=301:{how}")
        got = b""
        try:
            with _HTTP.stream("POST", base + _PATH, json=_SHORT | {"stream": True}, timeout=5) as answer:
                for piece in answer.iter_raw():
                    got += piece
        except httpx.TransportError:
            assert how != "end"
        else:
            assert how == "end"
        assert len(got) == 301


def test_status_faults_have_the_engines_bodies(start: Any) -> None:
    """Each engine speaks for itself; Retry-After only when asked."""
    base = start("tgi")
    for status, kind in ((424, "generation"), (429, "overloaded"), (500, "incomplete_generation")):
        _arm(base, "status", arg=f"{status}:7")
        answer = _HTTP.post(base + "/generate", json={"inputs": "x"})
        assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
        assert answer.headers["retry-after"] == "7"
    _arm(base, "status=401")
    assert _HTTP.post(base + "/generate", json={"inputs": "x"}).content == b""


def test_error_frames(start: Any) -> None:
    """As first frame and after k frames; on a whole answer with its own status."""
    base = start("vllm", "--tokens-per-s", "0")
    body = _SHORT | {"stream": True}
    _arm(base, "error_first=unavailable")
    assert (
        '"type": "ServiceUnavailableError", "param": null, "code": 503}}\n\ndata: [DONE]'
        in _HTTP.post(base + _PATH, json=body).text
    )
    _arm(base, "error_after=3:internal")
    frames = _HTTP.post(base + _PATH, json=body).text.split("\n\n")
    assert [index for index, frame in enumerate(frames) if '"error"' in frame] == [3]
    _arm(base, "error_first")
    assert _HTTP.post(base + _PATH, json=_SHORT).status_code == 503


def test_a_hang_keeps_the_request_running(start: Any) -> None:
    """The client waits, the gauge stays up, health is fine; leaving ends it."""
    base = start("vllm", "--tokens-per-s", "0")
    _arm(base, "hang_after=2")
    with _HTTP.stream("POST", base + _PATH, json=_SHORT | {"stream": True}, timeout=5) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        _until(lambda: _gauges(base)["vllm:num_requests_running"] == 1)
        assert _HTTP.get(base + "/health").status_code == 200
    _until(lambda: _stats(base)["running"] == 0)


def test_abort_finish(start: Any) -> None:
    """`finish_reason` abort without content, as while draining."""
    base = start("vllm")
    _arm(base, "abort")
    choice = _HTTP.post(base + _PATH, json=_SHORT).json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("abort", "")


def test_health_and_metrics_faults(start: Any) -> None:
    """A hanging or refusing health route; stale, missing and old metrics."""
    base = start("vllm")
    _arm(base, "health_hang")
    with pytest.raises(httpx.ReadTimeout):
        _HTTP.get(base + "/health", timeout=0.2)
    _arm(base, "health_status")
    assert _HTTP.get(base + "/health").status_code == 503
    _arm(base, "metrics_old_names")
    assert "vllm:gpu_cache_usage_perc" in _HTTP.get(base + "/metrics").text
    _arm(base, "metrics_missing")
    assert "num_requests_running" not in _HTTP.get(base + "/metrics").text
    _arm(base, "metrics_stale", times=2)
    before = _HTTP.get(base + "/metrics").text
    _HTTP.post(base + _PATH, json=_SHORT)
    assert _HTTP.get(base + "/metrics").text == before
    assert _HTTP.get(base + "/metrics").text != before


def test_a_stale_connection_is_reset_but_not_a_fresh_one(start: Any) -> None:
    """`reset_if_reused` strikes on the second request of a connection."""
    base = start("vllm")
    _arm(base, "reset_if_reused")
    with httpx.Client(base_url=base) as client:
        assert client.post(_PATH, json=_SHORT).status_code == 200
        with pytest.raises(httpx.TransportError):
            client.post(_PATH, json=_SHORT)
        assert client.post(_PATH, json=_SHORT).status_code == 200


def test_idle_connections_close(start: Any) -> None:
    """After `--keep-alive-s` the server ends an idle connection."""
    base = start("vllm", "--keep-alive-s", "0.1")
    connection = _send(base, _SHORT)
    data = _read(connection)
    connection.close()
    assert data.startswith(b"HTTP/1.1 200 OK")


def test_refuse_then_listen(start: Any) -> None:
    """Connections are refused for a while, at the start or on demand."""
    base = start("tgi", "--ready-after", "1")
    with pytest.raises(httpx.ConnectError):
        _HTTP.get(base + "/health")
    _until(lambda: _healthy(base))
    _arm(base, "refuse=1")
    assert not _healthy(base)
    _until(lambda: _healthy(base))


def test_a_crash_resets_what_runs_and_refuses_for_a_while(start: Any) -> None:
    """All streams break at once, then connections are refused, then it is back."""
    base = start("vllm", "--tokens-per-s", "20")
    connection = _send(base, _CHAT | {"stream": True})
    assert connection.recv(100)
    _arm(base, "crash=1")
    with pytest.raises(ConnectionResetError):
        _read(connection)
    connection.close()
    with pytest.raises(httpx.ConnectError):
        _HTTP.get(base + "/health")
    _until(lambda: _healthy(base))
    assert _stats(base)["running"] == 0


def test_an_upgrade_header_is_ignored(start: Any) -> None:
    """The request is answered over HTTP/1.1, and so is the next one."""
    headers = {"connection": "Upgrade", "upgrade": "h2c"}
    with httpx.Client(base_url=start("vllm"), headers=headers) as client:
        assert [client.get("/version").status_code for _ in range(2)] == [200, 200]


def test_several_requests_in_one_segment_are_answered_in_order(start: Any) -> None:
    """Pipelined requests do not get lost."""
    base = start("tgi")
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
            b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        data = _read(connection)
    assert data.index(b"200 OK") < data.index(b"404 Not Found")


def test_bytes_that_are_no_http(start: Any) -> None:
    """400 and the end of the connection."""
    base = start("vllm")
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        data = _read(connection)
    assert data.startswith(b"HTTP/1.1 400")
    assert data.endswith(b"Invalid HTTP request received.")


def test_tgi_stops_gracefully(start_process: Any) -> None:
    """After SIGTERM new connections are refused, the running stream is finished, the exit is clean."""
    process, base = start_process("tgi", "--tokens-per-s", "60")
    body = {"inputs": "x", "parameters": {"max_new_tokens": 30}}
    with _HTTP.stream("POST", base + "/generate_stream", json=body, timeout=10) as answer:
        pieces = answer.iter_raw()
        data = next(pieces)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        with pytest.raises(httpx.ConnectError):
            _HTTP.get(base + "/health")
        data += b"".join(pieces)
    assert b'"generated_text":"' in data
    assert process.wait(30) == 0


def test_vllm_falls_silent_on_sigterm(start_process: Any) -> None:
    """What runs hangs, idle connections end, new ones are refused; it exits when its clients have left."""
    process, base = start_process("vllm", "--tokens-per-s", "50")
    idle = _send(base, _SHORT)
    _read_answer(idle)
    running, waiting = _send(base, _CHAT | {"stream": True}), _send(base, _CHAT)
    _until(lambda: _stats(base)["running"] == 2)
    process.send_signal(signal.SIGTERM)
    assert idle.recv(1) == b""
    idle.close()
    _until(lambda: not _healthy(base))
    assert _silent(running)
    assert _silent(waiting)
    assert process.poll() is None
    running.close()
    waiting.close()
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("outcome", "last"),
    [("abort", b'"finish_reason":"abort"'), ("error", b'data: {"error": {"message": "EngineCore')],
)
def test_vllm_ends_what_runs_as_told(start_process: Any, outcome: str, last: bytes) -> None:
    """The other ends of requests that outlast the timeout: each stream is whole, the exit clean."""
    process, base = start_process("vllm", "--tokens-per-s", "50", "--unfinished", outcome)
    streams = [_send(base, _CHAT | {"stream": True}) for _ in range(2)]
    answer = _send(base, _CHAT)
    _until(lambda: _stats(base)["running"] == 3)
    process.send_signal(signal.SIGTERM)
    for stream in streams:
        data = _read(stream)
        assert last in data
        assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert (b'"code":500' if outcome == "error" else b'"finish_reason":"abort"') in _read(answer)
    for connection in (*streams, answer):
        connection.close()
    assert process.wait(30) == 0


def test_vllm_finishes_within_the_shutdown_timeout(start_process: Any) -> None:
    """Running and queued requests finish, new ones are a 500 that ends the connection, health stays good."""
    flags = ("--tokens-per-s", "40", "--shutdown-timeout", "5", "--max-num-seqs", "1")
    process, base = start_process("vllm", *flags, "--enable-request-id-headers")
    with ThreadPoolExecutor(2) as pool:
        asked = _CHAT | {"max_tokens": 30}
        running = [pool.submit(_HTTP.post, base + _PATH, json=asked, timeout=10) for _ in range(2)]
        _until(lambda: (stats := _stats(base))["running"] == stats["waiting"] == 1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert _healthy(base)
        late = _send(base, _SHORT)
        head, body = _read_answer(late)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert not {b"vary", b"x-request-id", b"connection"} & set(re.findall(rb"\r\n([a-z-]+):", head))
        assert json.loads(body)["error"]["message"] == "cannot schedule new futures after shutdown"
        assert late.recv(1) == b""
        late.close()
        assert _HTTP.post(base + _PATH, json=_SHORT | {"model": "nope"}).status_code == 404
        ends = [answer.result(10).json()["choices"][0]["finish_reason"] for answer in running]
    assert ends == ["length", "length"]
    assert process.wait(30) == 0


def test_a_second_signal_ends_at_once(start_process: Any) -> None:
    """Hanging clients keep no process whose owner insists."""
    process, base = start_process("vllm", "--tokens-per-s", "50")
    hanging = _send(base, _CHAT)
    _until(lambda: _stats(base)["running"] == 1)
    process.send_signal(signal.SIGTERM)
    _until(lambda: not _healthy(base))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    hanging.close()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--engine", "tgi"), "--port"),
        (("--engine", "odd", "--port", "0"), "odd"),
        (("--engine", "tgi", "--port", "0", "--fault", "odd"), "There is no fault 'odd'"),
        (("--engine", "tgi", "--port", "0", "--max-concurrent", "0"), "above 0"),
        (("--engine", "tgi", "--port", "99999"), "no port"),
    ],
)
def test_bad_flags_end_with_a_sentence(flags: tuple[str, ...], words: str) -> None:
    """Status 2 and one line that says what is wrong."""
    backend = Path(__file__).parents[3] / "backend"
    command = [sys.executable, "-m", "emulator", *flags]
    done = subprocess.run(command, cwd=backend, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
