"""Seed 000's API through real processes: what its own clients read, streams, and errors as they show them."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from processes import Emulator, Router

MODELS = ["distilgpt2", "gemma-3-12b"]  # on TGI without a chat template, on vLLM with one
PROMPT = "Once upon a time"
ASK: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": PROMPT, "max_length": 24, "do_sample": False},
    "/complete": {"prompt": PROMPT, "max_tokens": 24, "do_sample": False},
    "/chat/completions": {
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 24,
        "do_sample": False,
    },
}


def show(http: httpx.Client) -> str:
    """What seed 000's `client_example.py` prints; raises where that would fail."""
    health, info = http.get("/health").json(), http.get("/model-info").json()
    lines = [health["status"] + " " + health["model_name"]]
    lines += [str(health.get("security", {}).get("access_control_enabled", False))]
    lines += [info["model_name"] + " (" + info["model_size"] + ")" + ", ".join(info.get("optimized_for", []))]
    for path, body, fields in (
        ("/complete", {"prompt": PROMPT, "max_tokens": 80, "temperature": 0.7}, ("prompt", "completion")),
        (
            "/generate",
            {"prompt": PROMPT, "max_length": 100, "temperature": 0.8, "top_p": 0.9, "do_sample": True},
            ("prompt", "generated_text"),
        ),
        (
            "/chat/completions",
            {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 100, "temperature": 0.7},
            ("content",),
        ),
        ("/generate", {"prompt": PROMPT, "max_length": 120, "temperature": 0.9}, ("generated_text",)),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        lines += ["" + answer.json()[field] for field in fields]
    return "\n".join(lines)


def test_the_seeds_example_client(router: Router, vllm: Emulator) -> None:
    """It prints all it wants: before DistilGPT-2, before another model, before one that nobody knows."""
    assert show(router.http).startswith(
        "healthy distilgpt2\nTrue\ndistilgpt2 (82M parameters)text generation"
    )
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url) as other:
        other.wait_until_up("gemma-3-12b")
        assert "gemma-3-12b (12B parameters)chat" in show(other.http)
    with Router(VLLM_MINE_ENDPOINT=vllm.url) as unknown:
        unknown.wait_until_up("mine")
        assert show(unknown.http).startswith("healthy mine\nTrue\nmine (")


def frames(answer: httpx.Response) -> list[str]:
    """The data of each event of a stream, read as strictly as any of the known readers."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    events = answer.text.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event[6:] for event in events]


def read(answer: httpx.Response) -> tuple[str, dict[str, Any]]:
    """The text of a whole stream, as each known reader puts it together, and its last frame."""
    *pieces, done, last = frames(answer)
    assert last == "[DONE]"
    told = [json.loads(piece) for piece in pieces]
    assert all(set(piece) == {"type", "content", "choices"} for piece in told)  # no `error` for the simulator
    text = "".join(piece["content"] for piece in told)
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in told) == text
    assert {piece["type"] for piece in told} == {"content"}
    end = json.loads(done)
    assert end.pop("type") == "done"
    assert "choices" not in end
    return text, end


def timeless(body: dict[str, Any]) -> dict[str, Any]:
    """A body less the time it took."""
    metadata = {**body.get("metadata", {}), "generation_time": 0}
    return {**body, "metadata": metadata} if "metadata" in body else body


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("path", ASK)
def test_a_stream_ends_with_what_a_whole_answer_is(router: Router, path: str, model: str) -> None:
    """Pieces of the text, then one frame of type done that carries the whole body, then `[DONE]`."""
    url = f"/models/{model}{path}"
    whole = router.http.post(url, json=ASK[path]).json()
    text, done = read(router.http.post(url, json={**ASK[path], "stream": True}))
    assert timeless(done) == timeless(whole)
    if path == "/generate":
        assert done["generated_text"] == PROMPT + text
        assert done["metadata"]["tokens_generated"] == 24
        assert done["metadata"]["model"] == model
        assert done["metadata"]["generation_time"] >= 0
    elif path == "/complete":
        assert (done["completion"], done["raw_response"]) == (text.strip(), PROMPT + text)
    else:
        assert done == {"content": text.strip(), "role": "assistant"}


PIECES = ["a", "\n\n", "  b", " ", "שלום", " 🚂", "\u2028", '"\\', "\r\ndata: [DONE]\n\n", "\u0085", " "]


class Engine(BaseHTTPRequestHandler):
    """A TGI that always says the same."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200, {"model_id": "distilgpt2", "max_total_tokens": 1024})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/chat_tokenize":
            self._answer(422, {"error": "Template error", "error_type": "template_error"})
        elif self.path == "/generate":
            details = {"finish_reason": "length", "generated_tokens": len(PIECES)}
            self._answer(200, {"generated_text": "".join(PIECES), "details": details})
        else:
            tokens = [{"id": 1, "text": text, "logprob": -1.0, "special": False} for text in PIECES]
            ends = [None] * (len(PIECES) - 1) + ["".join(PIECES)]
            events = [
                {"index": n, "token": token, "generated_text": end, "details": None}
                for n, (token, end) in enumerate(zip(tokens, ends, strict=True), 1)
            ]
            body = "".join(f"data:{json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
            self._send(200, "text/event-stream", body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: object) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def parrot() -> Iterator[Router]:
    """A router before an engine whose text is known."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, name="engine", daemon=True).start()
        with Router(TGI_DISTILGPT2_ENDPOINT=f"http://127.0.0.1:{server.server_port}") as router:
            router.wait_until_up("distilgpt2")
            yield router
        server.shutdown()


@pytest.mark.parametrize("body", [{"prompt": " x "}, {"prompt": " x ", "model_id": "distilgpt2"}])
def test_texts_pass_byte_for_byte(parrot: Router, body: dict[str, str]) -> None:
    """Blank lines, indents, Hebrew, emoji and what looks like a frame: whole and streamed."""
    said = "".join(PIECES)
    wanted = said if "model_id" in body else " x " + said
    assert parrot.http.post("/generate", json=body).json()["generated_text"] == wanted
    streamed = parrot.http.post("/generate", json={**body, "stream": True})
    text, done = read(streamed)
    assert text == said
    assert done["generated_text"] == wanted
    assert (
        streamed.text.splitlines() == streamed.text.split("\n")[:-1]
    )  # for readers that split at more signs


def test_chat_and_completion_are_bare_of_blanks_alone(parrot: Router) -> None:
    """As the seed stripped them; what is within stays."""
    said = "".join(PIECES)
    completed = parrot.http.post("/complete", json=ASK["/complete"]).json()
    assert (completed["completion"], completed["raw_response"]) == (said.strip(), PROMPT + said)
    text, done = read(
        parrot.http.post("/chat/completions", json={**ASK["/chat/completions"], "stream": True})
    )
    assert text == said
    assert done["content"] == said.strip()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("path", ASK)
def test_a_stream_that_breaks_ends_with_a_string(
    router: Router, tgi: Emulator, vllm: Emulator, path: str, model: str
) -> None:
    """One frame whose `error` and `detail` are texts; neither the done frame nor `[DONE]` follows."""
    prompt = f"Break {path} of {model}"
    body = {**ASK[path], "stream": True} | (
        {"prompt": prompt} if "prompt" in ASK[path] else {"messages": [{"role": "user", "content": prompt}]}
    )
    engine = tgi if model == "distilgpt2" else vllm
    engine.arm("eof_after", 3, marker=prompt, times=1)
    *pieces, last = frames(router.http.post(f"/models/{model}{path}", json=body))
    assert [json.loads(piece)["type"] for piece in pieces] == ["content"] * len(pieces)
    told = json.loads(last)
    assert (told["code"], told["error"]) == ("engine_cut", told["detail"])
    assert isinstance(told["error"], str)


def refused(answer: httpx.Response, status: int) -> str:
    """The sentence of an error, which a browser page of the seed's shows as it is."""
    told = answer.json()
    assert (answer.status_code, type(told["detail"])) == (status, str), answer.text
    assert told["request_id"] == answer.headers["x-request-id"]
    detail: str = told["detail"]
    return detail


@pytest.mark.parametrize("path", ASK)
def test_every_error_has_a_string_in_detail(router: Router, path: str) -> None:
    """Whatever is wrong with a request, streamed or not."""
    http, body, kind = router.http, ASK[path], {"content-type": "application/json"}
    for stream in (False, True):
        wrong = {**body, "stream": stream, "temperature": 99}
        assert "temperature" in refused(http.post(path, json=wrong), 422)
    assert "stream" in refused(http.post(path, json={**body, "stream": "yes"}), 422)
    assert "model-x" in refused(http.post(f"/models/model-x{path}", json=body), 404)
    if path != "/generate":  # there a body that cannot be read is TGI's as much as the seed's
        assert "JSON" in refused(http.post(path, content=b"{", headers=kind), 422)
        assert "JSON" in refused(http.post(path, content=b"[]", headers=kind), 422)
        assert "model-x" in refused(http.post(path, json={**body, "model": "model-x"}), 404)
    else:
        assert "JSON" in refused(http.post(path, content=b"{", headers=kind), 400)
    assert "method" in refused(http.put(path, json=body), 405)
    assert refused(http.post(f"{path}/", json=body), 404)
    assert "application/json" in refused(http.post(path, content=json.dumps(body)), 415)
    assert "larger" in refused(http.post(path, content=b" " * 9_000_000, headers=kind), 413)
    foreign = {"origin": "https://evil.example", "host": "router.example"}
    assert refused(http.post(path, json=body, headers=foreign), 403)


def test_strangers_and_dead_engines(tgi: Emulator) -> None:
    """403 before anything is read, 503 with Retry-After; the details tell no network and no address."""
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, ALLOWED_NETWORKS="192.0.2.0/24") as closed:
        for path, body in ASK.items():
            assert "192.0.2" not in refused(closed.http.post(path, json=body), 403)
        assert refused(closed.http.get("/model-info"), 403)
        health = closed.http.get("/health").json()
        assert health["security"] == {"access_control_enabled": True}
    with Router(TGI_DISTILGPT2_ENDPOINT="http://127.0.0.1:9") as dead:
        for path, body in ASK.items():
            answer = dead.http.post(path, json=body)
            if answer.status_code == 502:  # before its first health check
                continue
            assert "127.0.0.1" not in refused(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        assert dead.http.get("/model-info").json()["status"] == "unavailable"
