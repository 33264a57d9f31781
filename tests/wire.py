"""HTTP as the flow tests see it: raw sockets, and what an honest answer of the router looks like.

Written without the router's own parsers, so that both would have to be wrong in the same way.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pointsman.errors import ALL_KINDS

KINDS = {kind.code: kind for kind in reversed(ALL_KINDS)}  # of one code that has two owners, the first
_JSON = ("content-type: application/json",)
LIMIT_S = 15.0  # for any single wait on a socket


def request(
    method: str, path: str, body: bytes = b"", *lines: str, host: str = "router", length: bool = True
) -> bytes:
    """A request as bytes; `lines` are further header lines."""
    head = [f"{method} {path} HTTP/1.1", f"host: {host}", *lines]
    if length and (body or method == "POST"):
        head.append(f"content-length: {len(body)}")
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body


def post(path: str, value: object, *lines: str) -> bytes:
    """A POST of JSON as bytes."""
    return request("POST", path, json.dumps(value, ensure_ascii=False).encode(), *_JSON, *lines)


@dataclass
class Incoming:
    """An answer as it comes. `ended`: its framing says so; a connection that just closes does not."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    interim: list[int] = field(default_factory=list)
    rest: bytes = b""  # bytes not yet understood, or after the end
    _left: int = -1  # bytes of the body, or of a chunk, still to come; -1: a chunk's size comes next

    def feed(self, data: bytes) -> bool:
        """Take bytes; whether the answer is whole."""
        self.rest += data
        while not self.ended and self._step():
            pass
        return self.ended

    def header(self, name: str) -> str | None:
        """The only header of that name."""
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} came {len(found)} times"
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def chunked(self) -> bool:
        return self.header("transfer-encoding") == "chunked"

    def _step(self) -> bool:
        if not self.status:
            head, found, rest = self.rest.partition(b"\r\n\r\n")
            if not found:
                return False
            self.rest = rest
            self._begin(head.decode("latin-1").split("\r\n"))
            return True
        if not self.chunked:
            return self._take_plain()
        return self._take_chunked()

    def _begin(self, lines: list[str]) -> None:
        status = int(lines[0].split(" ")[1])
        if status < 200:
            self.interim.append(status)
            return
        self.status = status
        pairs = [line.split(":", 1) for line in lines[1:]]
        self.headers = [(name.lower(), value.strip()) for name, value in pairs]
        if status == 204:
            self.ended = True
        elif not self.chunked:
            self._left = int(self.header("content-length") or "-1")

    def _take_plain(self) -> bool:
        taken = self.rest if self._left < 0 else self.rest[: self._left]
        self.rest = self.rest[len(taken) :]
        self.body += taken
        if self._left >= 0:
            self._left -= len(taken)
            self.ended = self._left == 0
        return False

    def _take_chunked(self) -> bool:
        if self._left < 0:
            size, found, rest = self.rest.partition(b"\r\n")
            if not found:
                return False
            self.rest, self._left = rest, int(size, 16)
        if len(self.rest) < self._left + 2:
            return False
        self.body += self.rest[: self._left]
        self.ended = self._left == 0
        self.rest = self.rest[self._left + 2 :]
        self._left = -1
        return True


class Client:
    """One client connection, blocking; each wait is bounded."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(LIMIT_S)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        self._rest = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def unread(self, data: bytes) -> None:
        """Give back what was received, for `read` to begin with."""
        self._rest += data

    def read(self, *, until: bytes | None = None) -> Incoming:
        """Read one answer to its end, to the connection's end, or until its body holds `until`."""
        incoming = Incoming()
        incoming.feed(self._rest)
        self._rest = b""
        while not incoming.ended and not (until is not None and until in incoming.body):
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return incoming
            incoming.feed(data)
        if incoming.ended:
            self._rest, incoming.rest = incoming.rest, b""
        return incoming

    def at_end(self) -> bool:
        """Wait for the server to close; whether it did so without a further byte."""
        try:
            return self._rest + self.sock.recv(65536) == b""
        except ConnectionResetError:
            return True


def call(port: int, data: bytes) -> Incoming:
    """One exchange on a connection of its own."""
    with Client(port) as client:
        client.send(data)
        return client.read()


async def acall(port: int, data: bytes, limit: asyncio.Semaphore) -> Incoming:
    """The same among many at once."""
    async with limit, asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            incoming = Incoming()
            with contextlib.suppress(ConnectionResetError):
                while not incoming.ended and (block := await reader.read(65536)):
                    incoming.feed(block)
            return incoming
        finally:
            writer.close()


# --- what is called


@dataclass(frozen=True)
class Front:
    """One API of the router before one engine."""

    name: str
    engine: str
    model: str
    openai: bool

    def __str__(self) -> str:
        return self.name

    def value(self, text: str = "Say hello.", tokens: int = 5, *, stream: bool) -> tuple[str, dict[str, Any]]:
        """Path and body of a call."""
        if not self.openai:
            path = "/generate_stream" if stream else "/generate"
            return f"/models/{self.model}{path}", {"inputs": text, "parameters": {"max_new_tokens": tokens}}
        body: dict[str, Any] = {"model": self.model, "max_tokens": tokens, "stream": stream, "temperature": 0}
        if self.engine == "vllm":
            return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}
        return "/v1/completions", {**body, "prompt": text}

    def request(
        self, text: str = "Say hello.", tokens: int = 5, *lines: str, stream: bool, **more: Any
    ) -> bytes:
        path, value = self.value(text, tokens, stream=stream)
        return post(path, {**value, **more}, *lines)


VLLM = Front("vllm", "vllm", "gemma-3-12b", openai=True)
TGI = Front("tgi", "tgi", "distilgpt2", openai=False)
TGI_OPENAI = Front("tgi-openai", "tgi", "distilgpt2", openai=True)
FRONTS = (VLLM, TGI, TGI_OPENAI)


# --- what an answer must be


def check_error(front: Front, payload: dict[str, Any], request_id: str | None) -> str:
    """An error in the surface's shape, in our words, with all its facts; returns its code."""
    if front.openai:
        assert set(payload) == {"error"}, payload
        error = payload["error"]
        assert set(error) == {"message", "type", "param", "code", "owner", "retryable", "request_id"}, error
        message = error["message"]
    else:
        error = payload
        facts = {"error", "error_type", "code", "owner", "retryable", "request_id"}
        assert set(error) - {"detail"} == facts, error
        message = error["error"]
    (kind,) = [one for one in ALL_KINDS if (one.code, one.owner.value) == (error["code"], error["owner"])]
    assert error["retryable"] is kind.retryable
    assert error["request_id"] == request_id
    if kind.status >= 500:
        assert message == kind.message or (message.startswith("Model '") and "up" in message), message
    return kind.code


def check_refusal(answer: Incoming, status: int, code: str) -> None:
    """What the front refuses by itself: one whole answer with all its facts, and the connection's end."""
    assert (answer.status, answer.ended, answer.rest) == (status, True, b"")
    assert answer.header("connection") == "close"
    assert answer.header("x-process-time")
    error = answer.json()["error"]
    kind = KINDS[code]
    told = (error["code"], error["owner"], error["retryable"], error["request_id"])
    assert told == (code, kind.owner.value, kind.retryable, answer.header("x-request-id"))


def data_of(body: bytes) -> list[str]:
    """The data of each event of a stream; comments left out. Fails on a partial event."""
    text = body.replace(b"\r\n", b"\n").decode("utf-8")
    assert text.endswith("\n\n"), f"ends within an event: {text[-80:]!r}"
    found = []
    for event in text[:-2].split("\n\n"):
        lines = event.lstrip("\n").split("\n")
        assert all(line.startswith(("data:", ":")) for line in lines), event[:200]
        data = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
        if data:
            found.append("\n".join(data))
    return found


def check_stream(front: Front, answer: Incoming) -> str | None:
    """A stream of whole events with one honest end; the code of its error frame, None if it ended well."""
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    assert answer.header("cache-control") == "no-cache"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.ended, "the final chunk is missing"
    told = data_of(answer.body)
    payloads = [json.loads(one) for one in told if one != "[DONE]"]
    errors = [place for place, payload in enumerate(payloads) if payload.get("error")]
    if errors:
        assert errors == [len(told) - 1], "an error frame is the last event, and the only one of its kind"
        return check_error(front, payloads[-1], answer.header("x-request-id"))
    if front.openai:
        assert told.count("[DONE]") == 1
        assert told[-1] == "[DONE]"
    else:
        ends = [place for place, payload in enumerate(payloads) if payload["generated_text"] is not None]
        assert ends == [len(told) - 1]
    return None


def check_silent(answer: Incoming, *secrets: str) -> None:
    """Neither headers nor body hold an engine's address or anything else an engine may have said."""
    allowed = {
        "date", "content-type", "content-length", "transfer-encoding", "cache-control", "x-accel-buffering",
        "connection", "retry-after", "x-content-type-options", "referrer-policy", "x-frame-options",
        "content-security-policy", "x-request-id", "x-process-time", "x-pointsman-model",
        "x-pointsman-replica", "x-pointsman-attempts", "x-pointsman-ignored",
        # What TGI tells its clients of a whole answer (tgi.md 3.3).
        "x-compute-type", "x-compute-time", "x-compute-characters", "x-total-time", "x-validation-time",
        "x-queue-time", "x-inference-time", "x-time-per-token", "x-prompt-tokens", "x-generated-tokens",
    }  # fmt: skip
    names = [name for name, _ in answer.headers]
    assert set(names) <= allowed, set(names) - allowed
    assert {"x-request-id", "x-process-time", "x-content-type-options"} <= set(names)
    text = " ".join(value for _, value in answer.headers).encode() + answer.body
    for secret in ("127.0.0.1", "Traceback", "<html", "engine.invalid", *secrets):
        assert secret.encode() not in text, secret


def outcome(front: Front, answer: Incoming, *, stream: bool) -> str:
    """`ok`, the code of a refusal such as `502 engine_cut`, or `frame engine_cut`; all else fails."""
    if answer.status != 200:
        assert answer.ended
        assert answer.header("content-type") == "application/json"
        code = check_error(front, answer.json(), answer.header("x-request-id"))
        if answer.status == 503:
            assert int(answer.header("retry-after") or "") >= 1
        return f"{answer.status} {code}"
    if stream:
        code_or_none = check_stream(front, answer)
        return "ok" if code_or_none is None else f"frame {code_or_none}"
    if not answer.ended:
        return "cut"
    payload = answer.json()
    assert payload["choices"] if front.openai else isinstance(payload["generated_text"], str)
    return "ok"


def lines_of(output: str) -> Iterable[dict[str, Any]]:
    """The access log lines within a router's output."""
    for line in output.splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if "end" in entry:
                yield entry
