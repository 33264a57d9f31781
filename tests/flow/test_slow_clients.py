"""Clients that send slowly, read slowly, or are too many: each is told, or left, and costs others nothing."""

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from processes import Emulator, Router, wait_for
from wire import TGI, VLLM, Client, call, check_refusal, outcome, post, request

_S = 0.8  # of each limit; long enough that a busy machine does not pass it between two lines of a test
_MOST = 6
_JSON = "content-type: application/json"


@pytest.fixture(scope="module")
def brisk(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """A router with little patience."""
    settings = {
        "REQUEST_HEAD_S": f"{_S}",
        "REQUEST_BODY_S": f"{_S}",
        "TIMEOUT__SEND_S": f"{_S}",
        "KEEP_ALIVE_S": f"{3 * _S}",
    }
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


@pytest.fixture(autouse=True)
def _alive(brisk: Router) -> Iterator[None]:
    yield
    assert call(brisk.port, request("GET", "/live")).status == 200
    assert '"level":"ERROR"' not in brisk.output()


def drip(client: Client, data: bytes, every_s: float, within_s: float = 30.0) -> None:
    """Send byte after byte until the other side has had enough.

    Raises:
        AssertionError: it took all, or for longer than `within_s`.
    """
    end = time.monotonic() + within_s
    client.sock.settimeout(every_s)
    for place in range(len(data)):
        assert time.monotonic() < end
        client.send(data[place : place + 1])
        with contextlib.suppress(TimeoutError):
            block = client.sock.recv(65536)
            client.sock.settimeout(15)
            client.unread(block)
            return
    raise AssertionError("all of it was taken")


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(brisk: Router) -> None:
    """Blank lines are nothing too."""
    for nothing in (b"", b"\r\n", b"\r\n\r\n"):
        with Client(brisk.port) as client:
            client.send(nothing)
            begin = time.monotonic()
            assert client.at_end()
            assert time.monotonic() - begin > _S * 0.9


@pytest.mark.parametrize(
    "sent", ["G", "POST /generate HTTP/1.1\r\nhost: a\r\nx-a: ", "GET /live HTTP/1.1\r\nhost: a\r\n"]
)
def test_a_head_that_does_not_end_is_a_408(brisk: Router, sent: str) -> None:
    """Wherever in it the client stops."""
    with Client(brisk.port) as client:
        client.send(sent.encode())
        check_refusal(client.read(), 408, "request_timeout")
        assert client.at_end()


def test_a_head_that_drips_is_a_408(brisk: Router) -> None:
    """Its time counts from the first byte; further bytes buy none."""
    with Client(brisk.port) as client:
        drip(client, b"GET /live HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 1000, 0.05)
        check_refusal(client.read(), 408, "request_timeout")


def test_the_second_head_of_a_connection_has_its_own_time(brisk: Router) -> None:
    """A kept connection may idle for longer than a head may take; then the head's time counts."""
    with Client(brisk.port) as client:
        client.send(request("GET", "/live"))
        assert client.read().status == 200
        time.sleep(1.5 * _S)
        client.send(b"GET /live HTTP/1.1\r\nhost: a")
        time.sleep(0.2 * _S)
        client.send(b"\r\n\r\n")
        assert client.read().status == 200
        client.send(b"GET /live HTTP/1.1\r\nhost: a")
        check_refusal(client.read(), 408, "request_timeout")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/models/compare", "/nothing/known"])
@pytest.mark.parametrize("framing", ["content-length: 5000", "transfer-encoding: chunked"])
@pytest.mark.parametrize("drips", [False, True], ids=["stops", "drips"])
def test_a_body_that_does_not_end_is_a_408(brisk: Router, path: str, framing: str, drips: bool) -> None:
    """On both planes; a route that takes no body, or is none, has answered before."""
    with Client(brisk.port) as client:
        client.send(request("POST", path, b"", _JSON, framing, "x-request-id: slow-body", length=False))
        if drips:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                drip(client, b"1\r\n{\r\n" * 1000 if "chunked" in framing else b"{" * 4000, 0.05)
        answer = client.read()
        assert answer.status == (404 if "nothing" in path else 408)
        if answer.status == 408:
            check_refusal(answer, 408, "request_timeout")
            assert client.at_end()


def test_a_slow_body_is_logged_as_what_it_is(brisk: Router, vllm: Emulator) -> None:
    """408 by its code, neither a client that left nor anybody else's fault; no engine hears of it."""
    vllm.reset()
    with Client(brisk.port) as client:
        client.send(VLLM.request("Hello", 5, "x-request-id: slow-logged", stream=True)[:-10])
        assert client.read().status == 408
    line = brisk.access_line("slow-logged")
    assert (line["status"], line["error_code"], line["end"]) == (408, "request_timeout", "rejected")
    assert vllm.sent() == []


def test_a_large_body_may_take_its_time(brisk: Router) -> None:
    """More than the limit in all, while enough keeps coming."""
    body = json.dumps({"inputs": "x" * 400_000, "parameters": {"max_new_tokens": 1}}).encode()
    with Client(brisk.port) as client:
        client.send(request("POST", "/generate", b"", _JSON, f"content-length: {len(body)}", length=False))
        for start in range(0, len(body), 20_000):
            client.send(body[start : start + 20_000])
            time.sleep(0.1)
        assert client.read().status == 422  # too long for the model, as TGI says


def test_who_waits_for_100_continue_is_not_slow(brisk: Router, vllm: Emulator) -> None:
    """The client's time begins when it is told to go on."""
    vllm.reset()
    whole = VLLM.request("Hello", 5, "expect: 100-continue", stream=False)
    head, _, body = whole.partition(b"\r\n\r\n")
    with Client(brisk.port) as client:
        client.send(head + b"\r\n\r\n")
        assert client.sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        time.sleep(_S / 2)
        client.send(body)
        assert outcome(VLLM, client.read(), stream=False) == "ok"


def test_a_waiting_client_is_not_hurried(brisk: Router, vllm: Emulator) -> None:
    """A client whose answer takes longer than all its own limits gets it."""
    vllm.arm("slow_first_token", 4 * _S, times=1)
    with Client(brisk.port) as client:
        client.send(VLLM.request(stream=False))
        assert outcome(VLLM, client.read(), stream=False) == "ok"
        client.send(TGI.request(stream=True))
        assert outcome(TGI, client.read(), stream=True) == "ok"


def test_an_idle_connection_is_closed_without_a_word(brisk: Router) -> None:
    """After KEEP_ALIVE_S, and not before."""
    with Client(brisk.port) as client:
        client.send(request("GET", "/live"))
        assert client.read().status == 200
        begin = time.monotonic()
        assert client.at_end()
        assert time.monotonic() - begin > 2.5 * _S


@pytest.mark.parametrize("path", ["/openapi.json", "/nothing"])
@pytest.mark.parametrize("close", [False, True])
def test_answers_that_nobody_reads_are_given_up(brisk: Router, path: str, close: bool) -> None:
    """Whole answers of the control plane too, kept connections or not; nothing of them stays."""
    before = brisk.descriptors()
    clients = [Client(brisk.port, receive_buffer=4096) for _ in range(4)]
    try:
        for client in clients:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(200):  # until all buffers are full of answers
                    client.sock.settimeout(0.3)
                    client.send(request("GET", path, b"", *(["connection: close"] if close else [])))
                    if path == "/nothing":
                        client.sock.recv(100)
        wait_for(lambda: brisk.descriptors() <= before, "the connections are gone", 60)
    finally:
        for client in clients:
            client.sock.close()


@pytest.fixture
def small(vllm: Emulator) -> Iterator[Router]:
    """A router that takes few clients."""
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url, MAX_CONNECTIONS=f"{_MOST}") as running:
        running.wait_until_up("gemma-3-12b")
        yield running


def test_one_client_too_many_is_told_so_at_once(small: Router) -> None:
    """503 with Retry-After; who is connected is served, health checks are, and room is used again."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Client(small.port)) for _ in range(_MOST)]
        for client in held:
            client.send(request("GET", "/live"))
            assert client.read().status == 200
        with Client(small.port) as surplus:
            surplus.send(post("/v1/chat/completions", {"model": "gemma-3-12b"}))
            answer = surplus.read()
            check_refusal(answer, 503, "too_many_connections")
            assert answer.header("retry-after") == "1"
            assert surplus.at_end()
        for path in ("/live", "/ready", "/health"):
            with Client(small.port) as probe:
                probe.send(request("GET", path))
                answer = probe.read()
                assert (answer.status, answer.header("connection")) == (200, "close")
                assert probe.at_end()
        held[0].send(VLLM.request(stream=True))
        assert outcome(VLLM, held[0].read(), stream=True) == "ok"
        held[1].sock.close()
        wait_for(lambda: call(small.port, request("GET", "/models")).status == 200, "there is room again")
    assert small.metric("pointsman_turned_away_total") >= 1
    assert small.metric("pointsman_connections") >= 1
    assert "MAX_CONNECTIONS" in small.read_until(r"connections are the most[^\n]*")


def test_a_flood_of_clients_is_closed_unheard(small: Router) -> None:
    """Far beyond the cap nobody is told anything, so that a flood takes no descriptors; then all is well."""
    before = small.descriptors()
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(Client(small.port)) for _ in range(60)]
        wait_for(lambda: small.descriptors() <= before + _MOST + 8, "the flood is held off")
        assert sum(client.at_end() for client in flood[-30:]) == 30
    wait_for(lambda: call(small.port, request("GET", "/models")).status == 200, "there is room again")
