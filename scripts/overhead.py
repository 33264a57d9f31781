"""What the router adds to a call, beside the same call made straight to the engine; see `scripts/bench`.

Both are driven by the same raw-socket client, in turns, against a stand-in engine that answers fixed bytes.
Medians are printed. Engine, router and client share the machine's processors, so figures compare within one
run only. It judges nothing: the exit code is 0 unless the run itself fails.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parent.parent
MODEL = "overhead"
ROUNDS = 3
CONNECTIONS = 64
LOAD_S = 1.0  # of each measurement under load
RATE_PER_S, CALLS = 100, 100  # of each measurement of latency
EVENTS = 100  # per stream
LIMIT_S = 20.0  # for any single wait

CHUNK = json.dumps(
    {
        "id": "chatcmpl-overhead",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}],
    }
)
ANSWER = json.dumps(
    {
        "id": "chatcmpl-overhead",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80},
    }
)
MODELS = json.dumps({"object": "list", "data": [{"id": MODEL, "owned_by": "vllm", "max_model_len": 4096}]})


def plain(body: str) -> bytes:
    """A whole JSON answer."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def chunk(event: str) -> bytes:
    """One server-sent event as one HTTP chunk."""
    return f"{len(event) + 8:x}\r\ndata: {event}\n\n\r\n".encode()


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM = STREAM_HEAD + chunk(CHUNK) * (EVENTS - 1) + chunk(CHUNK.replace("null", '"stop"')) + chunk("[DONE]")
END = b"0\r\n\r\n"
ANSWERS = {
    b"/health": plain("{}"),
    b"/v1/models": plain(MODELS),
    b"chat": plain(ANSWER),
    b"stream": STREAM + END,
}


class Engine(asyncio.Protocol):
    """Answers a request with fixed bytes as soon as its body is there."""

    def __init__(self) -> None:
        self._kept = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._kept += data
        while (head := self._kept.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: (\d+)", self._kept[:head], re.IGNORECASE)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._kept) < end:
                return
            request, self._kept = self._kept[:end], self._kept[end:]
            self.answer(request.split(b" ", 2)[1], request)

    def answer(self, path: bytes, request: bytes) -> None:
        """Send the answer to a request."""
        kind = b"stream" if b'"stream": true' in request else b"chat"
        self._transport.write(ANSWERS.get(path, ANSWERS[kind]))


async def serve_engine(port: int) -> None:
    """Be the engine, until killed."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port)
    await server.serve_forever()


class Caller(asyncio.Protocol):
    """A connection that makes one call at a time."""

    def __init__(self) -> None:
        self._done: asyncio.Future[None] | None = None
        self._status = b""
        self._events = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    async def call(self, request: bytes) -> tuple[float, int]:
        """Make a call; seconds until its answer began, and the number of events in it.

        Raises:
            RuntimeError: it was not answered with 200, or the connection broke.
        """
        self._done = asyncio.get_running_loop().create_future()
        self._began, self._left, self._events = 0.0, -1, 0
        start = time.perf_counter()
        self.transport.write(request)
        await self._done
        return self._began - start, self._events

    def data_received(self, data: bytes) -> None:
        if not self._began:
            self._began = time.perf_counter()
            head, _, data = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                self._end(RuntimeError(f"unexpected answer: {head[:100]!r} {data[:300]!r}"))
                return
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self._left = int(length[1]) if length else -1
        if self._left >= 0:
            self._left -= len(data)
            over = self._left <= 0
        else:
            self._events += data.count(b"data: ")
            over = data.endswith(END)
        if over:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(RuntimeError("the connection was closed"))

    def _end(self, fault: RuntimeError | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None) if fault is None else self._done.set_exception(fault)


def request(port: int, stream: bool) -> bytes:
    """A chat call as it goes over the wire."""
    words = "Tell me about artificial intelligence in three short sentences, please, and keep it simple."
    fields = {"model": MODEL, "messages": [{"role": "user", "content": words}], "max_tokens": EVENTS}
    body = json.dumps(fields | {"stream": True} if stream else fields).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    )
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


@contextlib.asynccontextmanager
async def callers(port: int, count: int) -> AsyncIterator[list[Caller]]:
    """Open connections, each of which has made a call."""
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(Caller, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        await asyncio.gather(*(caller.call(request(port, False)) for caller in opened))
        yield opened
    finally:
        for caller in opened:
            caller.transport.abort()


async def latencies(port: int, stream: bool) -> list[float]:
    """Milliseconds until answers began, at a low and even rate."""
    message = request(port, stream)
    async with callers(port, 10) as opened:
        start, running = time.perf_counter(), []
        for number in range(CALLS):
            await asyncio.sleep(start + number / RATE_PER_S - time.perf_counter())
            running.append(asyncio.ensure_future(opened[number % len(opened)].call(message)))
        return sorted(1000 * began for began, _ in await asyncio.gather(*running))


async def load(port: int, stream: bool) -> tuple[int, int, float]:
    """Calls, events and seconds with all connections busy."""
    message = request(port, stream)
    async with callers(port, CONNECTIONS) as opened:
        start = time.perf_counter()

        async def busy(caller: Caller) -> tuple[int, int]:
            calls = events = 0
            while time.perf_counter() < start + LOAD_S:
                events += (await caller.call(message))[1]
                calls += 1
            return calls, events

        counts = await asyncio.gather(*map(busy, opened))
        took = time.perf_counter() - start
    return sum(calls for calls, _ in counts), sum(events for _, events in counts), took


def cpu_s(pid: int) -> float:
    """Processor seconds a process has used; NaN where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """Where calls go, and the process whose processor time they cost."""

    port: int
    pid: int


ROWS = (  # what a round measures, its unit, and digits
    ("JSON answer, p50 at 100/s", "ms", 2),
    ("JSON answer, p99 at 100/s", "ms", 2),
    ("first event of a stream, p50 at 100/s", "ms", 2),
    ("first event of a stream, p99 at 100/s", "ms", 2),
    (f"JSON answers, {CONNECTIONS} connections", "/s", 0),
    (f"events in streams, {CONNECTIONS} connections", "/s", 0),
    ("processor time of the server per JSON answer", "us", 0),
    ("processor time of the server per 1,000 events", "us", 0),
)


async def measure(target: Target) -> list[float]:
    """One round: a figure for each of `ROWS`."""
    figures = []
    for stream in (False, True):
        found = await latencies(target.port, stream)
        figures += [statistics.median(found), found[int(len(found) * 0.99) - 1]]
    used = cpu_s(target.pid)
    calls, _, took = await load(target.port, stream=False)
    json_cpu, used = cpu_s(target.pid) - used, cpu_s(target.pid)
    _, events, stream_took = await load(target.port, stream=True)
    stream_cpu = cpu_s(target.pid) - used
    figures += [calls / took, events / stream_took]
    return [*figures, 1e6 * json_cpu / calls, 1e9 * stream_cpu / events]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(port: int, *command: str, **settings: str) -> Iterator[Target]:
    """A program that listens on `port`, until the block ends; its output is shown if it does not start."""
    with tempfile.TemporaryFile() as output:
        environment = {"PATH": os.environ.get("PATH", ""), **settings}
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=tempfile.gettempdir(),
        )
        try:
            end = time.monotonic() + LIMIT_S
            while not listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    output.seek(0)
                    sys.exit(f"overhead: {command[-1]} did not start:\n{output.read().decode()[-2000:]}")
                time.sleep(0.05)
            yield Target(port, process.pid)
        finally:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def main() -> None:
    """Measure in turns, and print medians."""
    engine_port, port = free_port(), free_port()
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "VLLM_OVERHEAD_ENDPOINT": f"http://127.0.0.1:{engine_port}",
    }
    with (
        running(engine_port, __file__, str(engine_port)) as engine,
        running(port, "-m", "pointsman", "serve", **settings) as router,
    ):
        time.sleep(1)  # for the first health check
        rounds: list[list[list[float]]] = []
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS} …", file=sys.stderr)
            rounds.append([uvloop.run(asyncio.wait_for(measure(t), LIMIT_S)) for t in (engine, router)])
    print(f"\n{'medians of ' + str(ROUNDS) + ' rounds':46}{'direct':>10}{'Pointsman':>12}{'difference':>12}")
    for row, (what, unit, digits) in enumerate(ROWS):
        direct, ours = (statistics.median(one[side][row] for one in rounds) for side in (0, 1))
        added = f"{ours - direct:+12,.{digits}f}" if unit != "/s" else f"{ours / direct:11.0%} "
        print(f"{what:46}{direct:10,.{digits}f}{ours:12,.{digits}f}{added} {unit}")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve_engine(int(sys.argv[1])))
    else:
        main()
