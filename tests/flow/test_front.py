"""The HTTP front over raw sockets: what is refused, what is taken, and that the server lives on."""

import contextlib
import json
from collections.abc import Iterator
from functools import partial

import pytest

from processes import Emulator, Router, wait_for
from wire import TGI, VLLM, Client, call, check_stream, outcome, request

_BODY = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 3}}).encode()
_HEAD = b"POST /generate HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
_CHUNKED = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
_GET = b"GET /live HTTP/1.1\r\n"


def chunks(*sizes: int) -> bytes:
    """The body as chunks of these sizes, the rest in one more, without the final one."""
    found, start = b"", 0
    for size in (*sizes, len(_BODY)):
        part = _BODY[start : start + size]
        if part:
            found += b"%x\r\n%b\r\n" % (len(part), part)
        start += size
    return found


@pytest.fixture(autouse=True)
def _alive(router: Router) -> Iterator[None]:
    yield
    assert call(router.port, request("GET", "/live")).status == 200
    assert '"level":"ERROR"' not in router.output()


def test_limits_are_not_lower_than_told(router: Router) -> None:
    """100 headers, 30 KiB of them, and a URL of 8,000 bytes are taken."""
    big = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 300) for number in range(99))
    answer = call(router.port, b"GET /live?" + b"a" * 8000 + b" HTTP/1.1\r\nhost: a\r\n" + big + b"\r\n")
    assert answer.status == 200


@pytest.mark.parametrize(
    "host", ["router", "router:8000", "127.0.0.1:1", "[::1]:8000", "a_b.example", ""], ids=repr
)
def test_a_host_within_the_grammar_is_taken(router: Router, host: str) -> None:
    """Names, addresses and ports as RFC 9110 7.2 allows them; it may be empty too."""
    assert call(router.port, request("GET", "/live", host=host)).status == 200


def test_trailers_are_no_headers(router: Router, tgi: Emulator) -> None:
    """A chunked body's trailers change nothing, whatever they are called."""
    tgi.reset()
    trailers = b"x-request-id: from-trailer\r\nhost: other\r\nhost: third\r\nauthorization: x\r\n"
    answer = call(
        router.port,
        _CHUNKED + chunks(1, 5) + b"0\r\n" + trailers + b"\r\n",
    )
    assert answer.status == 200
    assert answer.header("x-request-id") != "from-trailer"
    assert tgi.sent()[-1]["body"].encode() == _BODY


def test_chunks_of_one_byte_are_a_body(router: Router) -> None:
    """Framing may be larger than what it holds."""
    data = _CHUNKED + chunks(*[1] * len(_BODY)) + b"0\r\n\r\n"
    assert call(router.port, data).status == 200


def test_a_kept_connection_serves_many_requests(router: Router) -> None:
    """Requests one after the other share a connection, streams among them."""
    with Client(router.port) as client:
        for stream in (True, False, True):
            for front in (TGI, VLLM):
                client.send(front.request(stream=stream))
                assert outcome(front, client.read(), stream=stream) == "ok"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_a_pipelined_request_is_not_started(
    router: Router, vllm: Emulator, stream: bool, together: bool
) -> None:
    """The first is answered whole, then the connection ends: the second has to be sent again."""
    vllm.reset()
    vllm.arm("slow_first_token", 0.1, times=1)
    one = VLLM.request("Hello", 5, "x-request-id: first", stream=stream)
    two = VLLM.request("Hello", 5, "x-request-id: second", stream=stream)
    with Client(router.port) as client:
        if together:
            client.send(one + two)
        else:
            client.send(one)
            wait_for(lambda: len(vllm.sent()) == 1, "the first is with the engine")
            client.send(two)
        answer = client.read()
        assert outcome(VLLM, answer, stream=stream) == "ok"
        assert answer.header("x-request-id") == "first"
        assert client.at_end()
    assert len(vllm.sent()) == 1


def test_junk_from_the_client_does_not_spoil_a_running_stream(router: Router, vllm: Emulator) -> None:
    """Bad bytes after the request end the connection, but only when the answer is whole."""
    vllm.arm("slow_body", 20_000, times=1)
    with Client(router.port) as client:
        client.send(VLLM.request(tokens=10, stream=True))
        begun = client.read(until=b"data:")
        client.send(b"\x00\xff no HTTP \r\n\r\n" * 20)
        while not begun.ended:
            begun.feed(client.sock.recv(65536))
        assert check_stream(VLLM, begun) is None
        assert client.at_end()


def test_expect_is_answered_before_the_body(router: Router) -> None:
    """A client that asks first is told 100 once its headers are good."""
    with Client(router.port) as client:
        client.send(_HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(_BODY))
        assert client.sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(_BODY)
        assert client.read().status == 200


def test_expect_is_not_answered_when_the_body_is_not_wanted(router: Router) -> None:
    """A client that asks first and is refused keeps its body."""
    with Client(router.port) as client:
        client.send(
            b"POST /generate HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\nexpect: 100-continue\r\n"
            b"content-length: 5000\r\n\r\n"
        )
        answer = client.read()
        assert (answer.status, answer.interim) == (415, [])
        assert client.at_end()


@pytest.mark.parametrize("stream", [True, False])
def test_http_1_0_is_answered_and_closed(router: Router, stream: bool) -> None:
    """Without Host too, since HTTP/1.0 knows none; a stream ends where the connection does."""
    data = VLLM.request(stream=stream).replace(b"HTTP/1.1\r\nhost: router", b"HTTP/1.0")
    with Client(router.port) as client:
        client.send(data)
        head, _, body = b"".join(iter(partial(client.sock.recv, 65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head  # it knows no chunks
    if stream:
        assert body.startswith(b"data: {")
        assert body.endswith(b"\n\ndata: [DONE]\n\n")
    else:
        assert b"\r\ncontent-length: %d\r\n" % len(body) in head + b"\r\n"
        assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize("stream", [True, False])
def test_connection_close_is_honoured(router: Router, stream: bool) -> None:
    """The answer is whole, says so, and the connection ends after it."""
    with Client(router.port) as client:
        client.send(VLLM.request("Hello", 5, "connection: close", stream=stream))
        answer = client.read()
        assert outcome(VLLM, answer, stream=stream) == "ok"
        assert answer.header("connection") == "close"
        assert client.at_end()


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
@pytest.mark.parametrize("piece", [1 << 16, 10])
def test_upgrades_are_not_made(router: Router, protocol: str, piece: int) -> None:
    """The request is answered as it stands, body included, and what follows is never read as another."""
    lines = (f"upgrade: {protocol}", "connection: upgrade")
    chunked = b"\r\n".join(line.encode() for line in lines) + b"\r\n" + _CHUNKED.removeprefix(_HEAD)
    for data in (
        TGI.request("Hello", 3, *lines, stream=False),
        _HEAD + chunked + chunks(5) + b"0\r\n\r\n",
        request("GET", "/live", b"", *lines),
    ):
        with Client(router.port) as client:
            for start in range(0, len(data), piece):
                client.send(data[start : start + piece])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # answered and closed already
                client.send(request("GET", "/live"))
            assert client.read().status == 200
            assert client.at_end()


def test_the_absolute_form_and_the_query_reach_no_engine(router: Router, tgi: Emulator) -> None:
    """The engine's path is a constant of ours, whatever the client's request line holds."""
    tgi.reset()
    data = _HEAD.replace(b"/generate", b"http://elsewhere/generate?key=1")
    answer = call(router.port, data + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY)
    assert answer.status == 200
    assert tgi.sent()[-1]["target"] == "/generate"


def test_a_refusal_can_be_read_before_the_body_is_sent(router: Router) -> None:
    """What still comes of the body is dropped, not met with a reset that would take the answer along."""
    head = _HEAD.replace(b"application/json", b"text/plain")
    with Client(router.port) as client:
        client.send(head + b"content-length: 50000000\r\n\r\n")
        for _ in range(50):
            client.send(b"x" * 100_000)
        answer = client.read()
        assert (answer.status, answer.header("connection")) == (415, "close")
        assert client.at_end()
