"""vLLM's end on SIGTERM: what runs may finish for a while; then its engine is gone and it waits for clients.

Each engine is this test's own, since the test ends it. What becomes of a request that outlasts the timeout is
a race in vLLM (emulator/settings.py, Outcome), so the real one may choose here.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from ports import free_port
from processes import wait_for

from .process import (
    ALIAS,
    CONTEXT,
    FLAGS,
    NAME,
    ROOT,
    VLLM_CPU,
    Engine,
    healthy,
    vllm_installed,
    wait_ready,
)
from .test_vllm_answers import CHAT, HI
from .test_vllm_load import LONG, connect, open_request, receive_until, send
from .test_vllm_load import wait_for as wait_for_load

Process = subprocess.Popen[bytes]
REAL = [pytest.mark.real, pytest.mark.xdist_group("vllm")]
TIMEOUT_S = {False: 6, True: 25}  # by whether it is the real one, which a busy machine slows
REFUSED = (
    b'{"error":{"message":"cannot schedule new futures after shutdown",'
    b'"type":"InternalServerError","param":null,"code":500}}'
)


@contextmanager
def started(command: list[str], log: Path) -> Iterator[tuple[Engine, Process]]:
    """An engine, and the process that the test ends; by force when it does not."""
    port = free_port()
    real = str(VLLM_CPU) in command
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *FLAGS, "--shutdown-timeout", str(TIMEOUT_S[real])],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT / "backend")},
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        url = wait_ready(process, f"http://127.0.0.1:{port}", log, within_s=300)
        yield Engine(url, real=real, pid=process.pid), process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(params=["emulator", pytest.param("vllm", marks=REAL)])
def ending(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Process]]:
    """vLLM's protocol and its process, by the emulator at about the real one's pace, and by vLLM itself."""
    if request.param == "emulator":
        names = ("--served-model-name", NAME, ALIAS, "--max-model-len", str(CONTEXT))
        pace = ("--tokens-per-s", "50", "--eos-after", "0", "--enable-request-id-headers")
        command = [sys.executable, "-m", "emulator", "--engine", "vllm", *names, *pace]
    elif vllm_installed():
        command = [str(VLLM_CPU), "serve"]
    else:
        reason = "vLLM is not installed: run scripts/vllm-cpu install"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with started(command, tmp_path / "engine.log") as both:
        yield both


def tokenizes(engine: Engine) -> bool:
    """Whether a request is taken now."""
    with open_request(engine, {"prompt": "Hi"}, "/tokenize") as sock:
        return receive_until(sock, b"}").startswith(b"HTTP/1.1 200 ")


def rest_of(sock: socket.socket, within_s: float) -> tuple[bytes, bool]:
    """What else comes in that time, and whether it was the end."""
    received, end = b"", time.monotonic() + within_s
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            piece = sock.recv(65536)
        except TimeoutError:
            break
        if not piece:
            return received, True
        received += piece
    return received, False


def test_sigterm(ending: tuple[Engine, Process]) -> None:
    """What is queued still runs and ends, new requests are a 500; then all is refused, it exits with 0."""
    engine, process = ending
    timeout_s = TIMEOUT_S[engine.real]
    with ExitStack() as opened:
        long = opened.enter_context(open_request(engine, LONG))
        gives_way = opened.enter_context(open_request(engine, LONG))
        for sock in (long, gives_way):
            receive_until(sock, b"data: ")
        queued = [opened.enter_context(open_request(engine, LONG | {"max_tokens": most})) for most in (3, 40)]
        with httpx.Client(base_url=engine.url, trust_env=False) as client:
            wait_for_load(client, running=2, waiting=2)  # what has not been taken yet would be refused
        idle = opened.enter_context(connect(engine))  # late: vLLM closes it after 5 idle seconds
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        receive_until(idle, b"\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()

        wait_for(lambda: not tokenizes(engine), "requests are refused", within_s=timeout_s / 3)
        send(idle, CHAT, {"messages": HI, "max_tokens": 3})
        head, _, body = receive_until(idle, b"}}").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert body == REFUSED
        assert not {b"vary", b"x-request-id", b"connection"} & set(re.findall(rb"\r\n([a-z-]+):", head))
        assert idle.recv(1) == b""
        wait_for(lambda: healthy(engine.url), "the old process still answers", within_s=timeout_s / 3)
        gives_way.close()
        for sock in queued:
            assert b'"finish_reason":"length"' in receive_until(sock, b"data: [DONE]\n\n")

        wait_for(lambda: not healthy(engine.url), "connections are refused", within_s=timeout_s + 5)
        assert time.monotonic() > signalled + timeout_s - 1
        received, ended = rest_of(long, within_s=2)
        if ended:
            assert engine.real
            assert b'"finish_reason":"abort"' in received or b'data: {"error": {' in received
        else:  # it hangs, but for comments, and keeps the process
            assert process.poll() is None
            assert rest_of(long, within_s=1.5)[0].replace(b"e\r\n: keep-alive\n\n\r\n", b"") == b""
    assert process.wait(10) == 0
