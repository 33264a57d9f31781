"""Large answers, large events and slow readers: relayed whole, within bounded memory."""

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from processes import Emulator, Router, wait_for
from wire import FRONTS, TGI, VLLM, Client, Front, call, check_stream, data_of, outcome

MIB = 1 << 20


class RawEngine:
    """A listener that passes for a healthy vLLM and answers each POST with bytes of the test's choice."""

    def __init__(self) -> None:
        self.head = b""
        self.blocks: Iterator[bytes] = iter(())
        self.sent = 0  # bytes of the body that the socket took
        self.broken = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._thread, *self._threads]:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.settimeout(20)
            data = b""
            while not _is_whole(data):  # closed with bytes unread, it would drop what it has not sent yet
                block = sock.recv(65536)
                if not block:
                    return
                data += block
            if data.startswith(b"GET /v1/models"):
                listed = json.dumps(
                    {"data": [{"id": "raw", "owned_by": "vllm", "max_model_len": 9}]}
                ).encode()
                sock.sendall(_whole(listed))
            elif not data.startswith(b"POST /v1/chat/completions"):  # a check, which must not use up blocks
                sock.sendall(_whole(b""))
            else:
                self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        try:
            sock.sendall(self.head)
            for block in self.blocks:
                sock.sendall(block)
                self.sent += len(block)
        except OSError:
            self.broken = True


def _is_whole(request: bytes) -> bool:
    head, found, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return bool(found) and len(body) >= (int(length[1]) if length else 0)


def _whole(body: bytes) -> bytes:
    lines = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{lines}connection: close\r\n\r\n".encode() + body


_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def raw() -> Iterator[RawEngine]:
    engine = RawEngine()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def wide(raw: RawEngine) -> Iterator[Router]:
    settings = {"HEALTH__INTERVAL_S": "3600", "TIMEOUT__SEND_S": "1.5"}
    with Router(VLLM_GEMMA3_ENDPOINT=raw.url, **settings) as running:
        running.wait_until_up("gemma-3-12b")
        yield running


def resident(router: Router) -> int:
    """Bytes of memory that the process holds."""
    fields = Path(f"/proc/{router.pid}/statm").read_text().split()
    return int(fields[1]) * 4096


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() + b"\n\n"


@pytest.mark.parametrize("told", [True, False], ids=["with length", "chunked"])
def test_a_whole_answer_above_1_mib_is_relayed_whole(wide: Router, raw: RawEngine, told: bool) -> None:
    """It is too large to be held, so it passes as it comes: the same bytes, and a good end."""
    body = json.dumps({"choices": [{"message": {"content": "ש" * (3 * MIB)}}]}, ensure_ascii=False).encode()
    if told:
        raw.head, raw.blocks = _whole(body)[: -len(body)], iter([body])
    else:
        lines = b"content-type: application/json\r\ntransfer-encoding: chunked\r\n"
        raw.head = b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n"
        raw.blocks = iter([b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"])
    answer = call(wide.port, VLLM.request(stream=False))
    assert (answer.status, answer.ended) == (200, True)
    assert answer.header("content-length") == (str(len(body)) if told else None)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_a_large_answer_that_is_cut_ends_visibly(wide: Router, raw: RawEngine) -> None:
    """Once it is begun, its framing is left unfinished: nobody takes it for whole."""
    body = b'{"choices":[{"text":"' + b"x" * (3 * MIB)
    for head in (b"content-length: 9999999\r\n", b"transfer-encoding: chunked\r\n"):
        raw.head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + head + b"\r\n"
        raw.blocks = iter([body if b"length" in head else b"%x\r\n" % len(body) + body + b"\r\n"])
        answer = call(wide.port, VLLM.request("Hello", 5, "x-request-id: large-cut", stream=False))
        assert (answer.status, answer.ended) == (200, False)


def test_a_large_page_that_is_no_json_is_a_502(wide: Router, raw: RawEngine) -> None:
    """What cannot be held to be checked must at least say that it is JSON."""
    body = b"<html>" + b"x" * (2 * MIB)
    raw.head = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(body)
    raw.blocks = iter([body])
    answer = call(wide.port, VLLM.request(stream=False))
    assert outcome(VLLM, answer, stream=False) == "502 engine_junk"


@pytest.mark.parametrize("front", FRONTS, ids=str)
def test_an_event_above_1_mib_passes(router: Router, tgi: Emulator, vllm: Emulator, front: Front) -> None:
    """One event of 1.2 MB arrives whole, and the stream after it goes on."""
    engine = {"tgi": tgi, "vllm": vllm}[front.engine]
    engine.arm("big_event", 1_200_000, times=1)
    answer = call(router.port, front.request(stream=True))
    assert check_stream(front, answer) is None
    sizes = [len(data) for data in data_of(answer.body)]
    assert max(sizes) > 1_200_000
    assert len(sizes) > 3


def test_a_stream_cut_within_a_large_event_ends_on_a_boundary(wide: Router, raw: RawEngine) -> None:
    """Part of the event was sent already: it is ended, and the error frame stands alone."""
    raw.head, raw.blocks = _STREAM, iter([event("a"), event("x" * (2 * MIB))[:-100]])
    answer = call(wide.port, VLLM.request(stream=True))
    assert answer.ended
    told = answer.body.split(b"\n\n")
    assert told[-1] == b""
    assert b'"code":"engine_cut"' in told[-2]
    assert told[-2].startswith(b"data: {")


@contextmanager
def stalled(router: Router, own_id: str) -> Iterator[Client]:
    """A client that asks for a stream, reads its begin and then nothing."""
    with Client(router.port, receive_buffer=32 * 1024) as client:
        client.send(VLLM.request("Hello", 5, f"x-request-id: {own_id}", stream=True))
        assert client.sock.recv(1000).startswith(b"HTTP/1.1 200")
        yield client


def test_a_slow_reader_slows_the_engine_down(wide: Router, raw: RawEngine) -> None:
    """Of 60 MB only what fits into socket buffers leaves the engine; the router holds next to nothing."""
    block = event("x" * 1000) * 64
    total = 60 * MIB // len(block)
    raw.head, raw.blocks, raw.sent = _STREAM, iter([block] * total + [b"data: [DONE]\n\n"]), 0
    before = resident(wide)
    with stalled(wide, "large-slow") as client:
        time.sleep(0.5)
        reached = raw.sent
        assert resident(wide) - before < 12 * MIB  # what earlier tests freed is in pieces by now
        assert reached < 20 * MIB, "the engine was not slowed down"
        read, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = client.sock.recv(1 << 18)
            assert data
            read, tail = read + len(data), data[-5:]
        assert read > total * len(block)
    assert resident(wide) - before < 12 * MIB


def test_a_reader_that_never_reads_is_given_up(wide: Router, raw: RawEngine) -> None:
    """After TIMEOUT__SEND_S the client's connection and the engine's are closed, and no engine is blamed."""
    raw.broken = False
    raw.head, raw.blocks = _STREAM, iter([event("x" * 1000) * 64] * 2000)
    with stalled(wide, "large-stalled"):
        wait_for(lambda: raw.broken, "the engine is left", 6)
        wait_for(lambda: wide.metric("pointsman_in_flight") == 0, "nothing in flight")
    assert wide.access_line("large-stalled")["end"] == "slow_client"
    assert '"level":"ERROR"' not in wide.output()


@pytest.mark.parametrize(
    ("size", "end"), [(900_000, "ok"), (40 * MIB, "slow_client")], ids=["held", "passed on"]
)
def test_a_whole_answer_that_nobody_reads_is_given_up(
    wide: Router, raw: RawEngine, size: int, end: str
) -> None:
    """Small enough to be written at once or not, nothing of it stays; the engine is left, and not blamed."""
    raw.broken = False
    body = b'{"choices":[{"text":"' + b"x" * size + b'"}]}'
    raw.head, raw.blocks = _whole(body)[: -len(body)], iter([body])
    own_id = f"large-unread-{size}"
    with Client(wide.port, receive_buffer=4096) as client:
        client.send(VLLM.request("Hello", 5, f"x-request-id: {own_id}", stream=False))
        assert client.sock.recv(100).startswith(b"HTTP/1.1 200")
        before = wide.descriptors()
        wait_for(lambda: wide.descriptors() < before, "the connection is gone")
        assert wide.access_line(own_id)["end"] == end
    wait_for(lambda: raw.broken or end == "ok", "the engine is left")
    assert '"level":"ERROR"' not in wide.output()


def test_a_large_prompt_reaches_the_engine_whole(router: Router, vllm: Emulator) -> None:
    """Seven megabytes pass, and other calls are answered meanwhile."""
    vllm.reset()
    text = "שלום " * 800_000
    answer = call(router.port, VLLM.request(text, 1, stream=False))
    assert (answer.status, answer.json()["error"]["code"]) == (
        400,
        "engine_rejected",
    )  # too long for the model
    sent = vllm.sent()[-1]["body_bytes"]
    assert sent > 7_000_000
    assert outcome(TGI, call(router.port, TGI.request(stream=False)), stream=False) == "ok"
