"""Several addresses at once: the port that containers call, and the unix socket for nginx."""

import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import Emulator, Router
from wire import LIMIT_S, Incoming, call

# As Go's client sends it: nothing about who calls, and the name that the router has in its network.
_GO = (
    b"POST /complete HTTP/1.1\r\nHost: llm-server:8082\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: %d\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n%b\r\n%b"
)


def go(*lines: bytes) -> bytes:
    body = json.dumps({"prompt": "Hello", "max_length": 5, "temperature": 0.3, "do_sample": True}).encode()
    return _GO % (len(body), b"".join(line + b"\r\n" for line in lines), body)


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pm-") as folder:
        yield Path(folder) / "p.sock"


@pytest.fixture(scope="module")
def served(tgi: Emulator, path: Path) -> Iterator[Router]:
    """Nothing is set but the engine and where to listen."""
    listen = f"127.0.0.1:0,127.0.0.2:0,unix:{path}"
    with Router(LISTEN=listen, TGI_DISTILGPT2_ENDPOINT=tgi.url) as running:
        running.wait_until_up("distilgpt2")
        yield running


def ask(path: Path, data: bytes) -> Incoming:
    """One exchange over the unix socket."""
    incoming = Incoming()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT_S)
        client.connect(str(path))
        client.sendall(data)
        while not incoming.ended and (block := client.recv(65536)):
            incoming.feed(block)
    return incoming


def check(answer: Incoming) -> None:
    assert answer.status == 200
    assert answer.json()["completion"]


def test_a_caller_without_headers_is_served_on_a_port(served: Router) -> None:
    """The Go gateway's call works with nothing configured, by whatever name it calls us."""
    check(call(served.port, go()))


def test_every_address_is_told_and_answers(served: Router, path: Path) -> None:
    """Both ports and the socket serve the same router."""
    told = served.read_until(r"listening on [^\"]*").removeprefix("listening on ").split(", ")
    assert [one.rpartition(":")[0] for one in told] == ["http://127.0.0.1", "http://127.0.0.2", "unix"]
    second = int(told[1].rpartition(":")[2])
    with socket.create_connection(("127.0.0.2", second), LIMIT_S) as client:
        client.sendall(go())
        incoming = Incoming()
        while not incoming.ended:
            incoming.feed(client.recv(65536))
    check(incoming)
    check(ask(path, go(b"X-Forwarded-For: 10.1.2.3")))


def test_the_socket_is_for_proxies(served: Router, path: Path) -> None:
    """Who comes by the socket says for whom: without that the caller is unknown and stays out."""
    assert ask(path, go()).status == 403
    assert ask(path, go(b"X-Forwarded-For: 203.0.113.9")).status == 403
    assert ask(path, b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n").status == 200
