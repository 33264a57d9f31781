"""Seed 000's own client, a gateway written in Go: its calls byte for byte, and what it accepts.

Source: `contracts/go_gateway.md` 2 and 3. It keeps one connection, sends no key and no address, and gives
each call 30 s. The last test is Go's own HTTP client.
"""

import gzip
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nginx import tool
from pointsman.settings import load
from processes import Emulator, Router
from wire import Client

GO_KEEPS_S = 90.0  # an idle connection
UVICORN_KEEPS_S = 5.0  # by default, which is too short for Go
SOURCE = Path(__file__).parent / "data" / "gateway.go"
PROMPT = 'Tell <b>me</b> & "them":\n\n  ספר לי 🚂'
MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": PROMPT}]


class Failed(Exception):
    """What the gateway answers its own client with 500 for."""


class Gateway:
    """The gateway, with one connection to the router."""

    def __init__(self, port: int) -> None:
        self._client = Client(port)
        self._client.sock.settimeout(30)

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.sock.close()

    def is_closed(self) -> bool:
        """Wait for the router to close the connection; whether it did so without a word."""
        return self._client.at_end()

    def model_info(self) -> dict[str, Any]:
        return self._ask("GET", "/model-info")

    def complete(self, prompt: str, max_tokens: int | None = None, temperature: float | None = None) -> str:
        return self._text("/complete", "completion", prompt, max_tokens, temperature)

    def generate(self, prompt: str, max_tokens: int | None = None, temperature: float | None = None) -> str:
        return self._text("/generate", "generated_text", prompt, max_tokens, temperature)

    def chat(
        self,
        messages: list[dict[str, str]],
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> str:
        body = {
            "max_tokens": max_tokens or 150,
            "messages": messages,
            "temperature": temperature or 0.7,
        }
        answer = self._ask("POST", "/chat/completions", body)
        content = answer["content"] if answer.get("content") is not None else answer.get("generated_text")
        if not isinstance(content, str):
            raise Failed("no content")
        return content.strip()

    def _text(
        self, path: str, field: str, prompt: str, max_tokens: int | None, temperature: float | None
    ) -> str:
        body = {
            "prompt": prompt,
            "max_length": max_tokens or 150,
            "temperature": temperature or 0.7,
            "do_sample": True,
        }
        text = self._ask("POST", path, body).get(field)
        if not isinstance(text, str) or not text:
            raise Failed(f"no {field}")
        return text

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        head = f"{method} {path} HTTP/1.1\r\nHost: llm-server:8082\r\nUser-Agent: Go-http-client/1.1\r\n"
        content = b"" if body is None else marshal(body)
        if body is not None:
            head += f"Content-Length: {len(content)}\r\nContent-Type: application/json\r\n"
        self._client.send(f"{head}Accept-Encoding: gzip\r\n\r\n".encode() + content)
        answer = self._client.read()
        if not answer.ended:
            raise Failed("the connection ended")
        text = gzip.decompress(answer.body) if answer.header("content-encoding") == "gzip" else answer.body
        if answer.status != 200:
            assert isinstance(json.loads(text)["detail"], str)
            raise Failed(f"status {answer.status}")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise Failed("no object")
        return found


def marshal(body: object) -> bytes:
    """JSON as Go writes it."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode()


@dataclass(frozen=True)
class Place:
    """A router that is told nothing but where its one engine is."""

    engine: Emulator
    router: Router
    model: str

    def wanted(self) -> int:
        """How many tokens the engine was asked for last."""
        body = json.loads(self.engine.sent()[-1]["body"])
        return int(body["max_tokens"] if "max_tokens" in body else body["parameters"]["max_new_tokens"])


PLACES = [("tgi", "TGI_DISTILGPT2_ENDPOINT", "distilgpt2"), ("vllm", "VLLM_GEMMA3_ENDPOINT", "gemma-3-12b")]


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: place[0])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """DistilGPT-2 on TGI, which has no chat template, and Gemma on vLLM."""
    kind, setting, model = request.param
    with Emulator(kind, "--eos-after", "0") as engine, Router(**{setting: engine.url}) as router:
        router.wait_until_up(model)
        yield Place(engine, router, model)


@pytest.fixture
def gateway(place: Place) -> Iterator[Gateway]:
    with Gateway(place.router.port) as opened:
        yield opened


def test_each_call_is_accepted_on_one_connection(place: Place, gateway: Gateway) -> None:
    """Again and again, within the 30 s; the text of `/generate` begins with the prompt, byte for byte."""
    for _ in range(5):
        card = gateway.model_info()
        assert (card["model_name"], card["status"]) == (place.model, "loaded")
        assert gateway.complete(PROMPT, 7, 0.3)
        assert place.wanted() == 7
        assert gateway.generate(PROMPT, 33).startswith(PROMPT)
        assert place.wanted() == 33
        assert gateway.chat(MESSAGES, 20)
        assert place.wanted() == 20


def test_what_is_missing_or_zero(place: Place, gateway: Gateway) -> None:
    """The gateway fills it in: 150 tokens, 0.7."""
    for given in ((), (None, None), (0, 0.0)):
        assert gateway.complete("Hi", *given)
        assert place.wanted() == 150
        assert gateway.generate("Hi", *given)
        assert place.wanted() == 150
        assert gateway.chat(MESSAGES, *given)
        assert place.wanted() == 150


def test_what_is_out_of_bounds_fails_and_the_connection_lives(place: Place, gateway: Gateway) -> None:
    """The gateway lets negative values pass: 422 with a string, no engine is asked, the next call is fine."""
    place.engine.reset()
    for ask in (gateway.complete, gateway.generate):
        for given in ((-5,), (2000,), (50, -1.0), (50, 2.5)):
            with pytest.raises(Failed, match="status 422"):
                ask("Hi", *given)
    for given in ((-5,), (50, -1.0)):
        with pytest.raises(Failed, match="status 422"):
            gateway.chat(MESSAGES, *given)
    assert place.engine.sent() == []
    assert gateway.generate("Hi", 3)


def test_a_failing_engine_is_a_quick_failure(place: Place, gateway: Gateway) -> None:
    """Far within its 30 s, on the same connection, and the call after it is fine."""
    place.engine.arm("status", 500)
    try:
        began = time.monotonic()
        with pytest.raises(Failed, match="status 502"):
            gateway.complete("Hi", 3)
        assert time.monotonic() - began < 15
    finally:
        place.engine.disarm()
    assert gateway.complete("Hi", 3)


def test_a_long_prompt_is_cut_as_the_seed_did(place: Place, gateway: Gateway) -> None:
    """It counts up to its 512th token; the client gets the whole of it back."""
    prompt = "station " * 1500
    assert gateway.generate(prompt, 5).startswith(prompt)
    sent = json.loads(place.engine.sent()[-1]["body"])
    assert prompt.startswith(sent["inputs"] if "inputs" in sent else sent["prompt"])
    assert len(sent["inputs"] if "inputs" in sent else sent["prompt"]) < 5000


def test_a_connection_that_was_idle_is_used_again(router: Router) -> None:
    """The router keeps one longer than Go does, so that no call meets a connection that closes."""
    assert load({}, None, None).front.keep_alive_s > GO_KEEPS_S + 2
    with Gateway(router.port) as gateway:
        assert gateway.complete("Hi", 3)
        time.sleep(UVICORN_KEEPS_S + 1)  # the time itself is what is tested
        assert gateway.complete("Hi", 3)


def test_the_time_that_is_set_is_the_time_that_is_kept(tgi: Emulator) -> None:
    """A connection closes when KEEP_ALIVE_S has passed since its last answer, not since it began."""
    settings = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "KEEP_ALIVE_S": "4"}
    with Router(**settings) as router, Gateway(router.port) as gateway:
        assert gateway.model_info()
        time.sleep(2)
        began = time.monotonic()
        assert gateway.model_info()
        assert gateway.is_closed()
        assert time.monotonic() - began > 3.9


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's HTTP client in Go."""
    go, made = tool("go"), tmp_path_factory.mktemp("go") / "gateway"
    own = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    cache = os.environ.get("GOCACHE") or str(made.parent / "cache")
    done = subprocess.run(
        [go, "build", "-o", made, SOURCE],
        env={**os.environ, **own, "GOCACHE": cache},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return made


def test_gos_own_client(place: Place, program: Path) -> None:
    """Go's `net/http` is served on one connection, an error between its calls included."""
    text = {"prompt": PROMPT, "max_length": 50, "temperature": 0.3, "do_sample": True}
    chat = {"max_tokens": 20, "messages": MESSAGES, "temperature": 0.7}
    calls = [
        ("GET", "/model-info", "", None),
        ("POST", "/complete", "completion", text),
        ("POST", "/complete", "completion", {**text, "max_length": -5}),
        ("POST", "/generate", "generated_text", text),
        ("POST", "/chat/completions", "content", chat),
    ]
    names = ("method", "path", "field", "body")
    done = subprocess.run(
        [program, f"127.0.0.1:{place.router.port}"],
        input=json.dumps([dict(zip(names, one, strict=True)) for one in calls * 3]),
        env={**os.environ, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["Connections"] == 1
    assert len(told["Outcomes"]) == 15
    for (_, path, field, _), found in zip(calls * 3, told["Outcomes"], strict=True):
        if found["Status"] == 422:
            assert found["Error"] == "`max_length` must be a whole number from 1 to 1024."
            continue
        assert (found["Status"], found["Error"]) == (200, ""), path
        assert bool(found["Text"]) is bool(field)
    assert [found["Status"] for found in told["Outcomes"]] == [200, 200, 422, 200, 200] * 3
    assert told["Outcomes"][3]["Text"].startswith(PROMPT)
