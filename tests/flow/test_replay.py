"""Answers given again where the request asks: each API, whole and streamed, at real sockets."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import Emulator, Router, wait_for
from wire import Client, Incoming, call, post

USE = "x-pointsman-cache: use"
CHAT: dict[str, Any] = {
    "model": "gemma-3-12b",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 8,
    "temperature": 0,
}
_TGI = {"inputs": "Hi", "parameters": {"max_new_tokens": 8}}
_PLAIN = {"prompt": "Hi", "temperature": 0}
# Path and body of each API: OpenAI's and TGI's on both engines, and those of seeds 003, 000, 002 and 004.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat, streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "seeded": ("/v1/chat/completions", {**CHAT, "temperature": 1, "seed": 7}),
    "chat of a base model": ("/v1/chat/completions", {**CHAT, "model": "distilgpt2"}),
    "completion": ("/v1/completions", {"model": "distilgpt2", "prompt": "Hi", "temperature": 0}),
    "generate": ("/models/distilgpt2/generate", _TGI),
    "generate_stream": ("/models/distilgpt2/generate_stream", _TGI),
    "generate on the other engine": ("/models/gemma-3-12b/generate", _TGI),
    "compat": ("/models/distilgpt2/", {**_TGI, "stream": True}),
    "backend api": ("/generate", {"model_id": "distilgpt2", **_PLAIN}),
    "backend api, streamed": ("/generate", {"model_id": "distilgpt2", **_PLAIN, "stream": True}),
    "distilgpt2": ("/complete", {"prompt": "Hi", "do_sample": False}),
    "distilgpt2 chat": ("/chat/completions", {"messages": CHAT["messages"], "do_sample": False}),
    "llm service": ("/v1/generate", {**_PLAIN, "max_tokens": 8}),
    "plg": ("/api/chat/stream", {"messages": CHAT["messages"], "temperature": 0, "session_id": "s"}),
    "plg, held to a schema": ("/api/tasks/extract", {"email_content": "Send it by Thursday."}),
}
RED, BLUE = "a-key-of-the-red-tenant", "a-key-of-the-blue-tenant"


def keys(path: Path) -> str:
    entries = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": key[13:17], **more}
        for key, more in ((RED, {"tokens_per_minute": 100_000, "requests_per_minute": 1000}), (BLUE, {}))
    ]
    path.write_text(json.dumps({"keys": entries}))
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Emulator, Emulator]]:
    with Emulator("tgi") as tgi, Emulator("vllm") as vllm:
        yield tgi, vllm


@pytest.fixture(scope="module")
def service(engines: tuple[Emulator, Emulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    tgi, vllm = engines
    settings = {
        "TGI_DISTILGPT2_ENDPOINT": tgi.url,
        "VLLM_GEMMA3_ENDPOINT": vllm.url,
        "KEYS_FILE": keys(tmp_path_factory.mktemp("keys") / "keys.json"),
        "KEY_NEEDS": "POST /v1/generate=never",
        "RATE_LIMIT__ENABLED": "false",
    }
    with Router(**settings) as router:
        router.wait_until_up("distilgpt2", "gemma-3-12b")
        router.http.headers["x-api-key"] = RED
        yield router


@pytest.fixture(autouse=True)
def forgotten(service: Router, engines: tuple[Emulator, Emulator]) -> Iterator[None]:
    service.http.delete("/cache").raise_for_status()
    for engine in engines:
        engine.reset()
    yield
    for engine in engines:
        engine.disarm()


def asked(engines: tuple[Emulator, Emulator]) -> int:
    """Texts that the engines were asked for; counting tokens is by the way."""
    return sum("tokenize" not in entry["path"] for engine in engines for entry in engine.sent())


def ask(router: Router, name: str, **more: Any) -> httpx.Response:
    path, body = CALLS[name]
    return router.http.post(path, json={**body, **more}, headers={"x-pointsman-cache": "use"})


def settled(answer: httpx.Response) -> str:
    """An answer less its own times, which are those of each call."""
    text = answer.text.replace('"cached":true', '"cached":false')
    at = text.find('"generation_time"')
    return text if at < 0 else text[:at]


@pytest.mark.parametrize("name", CALLS)
def test_each_api_gives_the_same_answer_again(
    service: Router, engines: tuple[Emulator, Emulator], name: str
) -> None:
    """A miss, then a hit that no engine hears of: the same bytes, or of a text's stream the same text."""
    first, second = ask(service, name), ask(service, name)
    assert [answer.status_code for answer in (first, second)] == [200, 200], first.text
    assert [answer.headers["x-pointsman-cache"] for answer in (first, second)] == ["miss", "hit"]
    assert asked(engines) == 1
    assert "x-pointsman-replica" not in second.headers
    kept = ("content-type", "cache-control", "x-prompt-tokens", "x-pointsman-ignored", "x-session-id")
    assert {n: second.headers.get(n) for n in kept} == {n: first.headers.get(n) for n in kept}
    if name in ("backend api, streamed", "plg"):
        assert said(second) == said(first)
        assert events(second)[-2:] == events(first)[-2:]
    else:
        assert settled(second) == settled(first)


def events(answer: httpx.Response) -> list[str]:
    assert answer.text.endswith("data: [DONE]\n\n")
    return [block.removeprefix("data: ") for block in answer.text.split("\n\n")[:-1]]


def said(answer: httpx.Response) -> str:
    pieces = [json.loads(event) for event in events(answer)[:-1]]
    return "".join([piece["content"] for piece in pieces if piece["type"] == "content"])


def test_a_text_serves_whole_and_streamed_calls(service: Router, engines: tuple[Emulator, Emulator]) -> None:
    """Of an API of no engine the text is kept: a stream of it comes in that call's own words and session."""
    whole = ask(service, "plg", stream=False, session_id="one")
    stream = ask(service, "plg", session_id="two")
    assert (whole.headers["x-pointsman-cache"], stream.headers["x-pointsman-cache"]) == ("miss", "hit")
    assert said(stream) == whole.json()["content"]
    assert json.loads(events(stream)[-2])["session_id"] == stream.headers["x-session-id"] == "two"
    assert asked(engines) == 1


def test_who_does_not_ask_gets_a_new_answer(service: Router, engines: tuple[Emulator, Emulator]) -> None:
    """Without the header nothing is looked up, kept or told."""
    path, body = CALLS["chat"]
    answers = [service.http.post(path, json=body) for _ in range(2)]
    assert all("x-pointsman-cache" not in answer.headers for answer in answers)
    assert asked(engines) == 2
    assert ask(service, "chat").headers["x-pointsman-cache"] == "miss"


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/v1/chat/completions", {**CHAT, "temperature": 0.5}, "sampled"),
        ("/v1/chat/completions", {**CHAT, "temperature": None}, "sampled"),
        ("/models/distilgpt2/generate", {"inputs": "Hi"}, "sampled"),
        ("/complete", {"prompt": "Hi"}, "sampled"),
        ("/models/distilgpt2/tokenize", {"inputs": "Hi"}, "operation"),
    ],
)
def test_what_is_not_given_again_says_why(
    service: Router, engines: tuple[Emulator, Emulator], path: str, body: dict[str, Any], reason: str
) -> None:
    """Each time the engine is asked, and the answer tells the reason."""
    for _ in range(2):
        answer = service.http.post(path, json=body, headers={"x-pointsman-cache": "use"})
        assert (answer.status_code, answer.headers["x-pointsman-cache"]) == (200, f"bypass;{reason}")
    assert sum(len(engine.sent()) for engine in engines) == 2


@pytest.mark.parametrize("name", ["chat", "generate", "backend api", "distilgpt2", "llm service", "plg"])
@pytest.mark.parametrize("value", ["yes", "", "use, use", "USE"])
def test_an_unknown_value_is_refused_by_name(service: Router, name: str, value: str) -> None:
    """400 in the API's own shape, naming the header and what it may say."""
    path, body = CALLS[name]
    answer = service.http.post(path, json=body, headers={"x-pointsman-cache": value})
    assert answer.status_code == 400, answer.text
    assert f"The header X-Pointsman-Cache must be `use`, not '{value}'." in answer.text


def test_no_tenant_gets_anothers_answer(service: Router, engines: tuple[Emulator, Emulator]) -> None:
    """The same call of another tenant asks the engine."""
    path, body = CALLS["chat"]
    told = [
        service.http.post(path, json=body, headers={"x-pointsman-cache": "use", "x-api-key": key}).headers[
            "x-pointsman-cache"
        ]
        for key in (RED, BLUE, RED, BLUE)
    ]
    assert told == ["miss", "miss", "hit", "hit"]
    assert asked(engines) == 2


def test_any_other_field_is_another_request(service: Router) -> None:
    """Also one that decides nothing: what is given again is the answer to exactly this."""
    others: list[dict[str, Any]] = [{}, {"user": "x"}, {"max_tokens": 9}, {"stream": True}, {"seed": 1}]
    assert {ask(service, "chat", **more).headers["x-pointsman-cache"] for more in others} == {"miss"}


@pytest.mark.parametrize("how", ["cut", "error", "abort"])
def test_what_is_not_whole_is_not_kept(service: Router, engines: tuple[Emulator, Emulator], how: str) -> None:
    """A stream that breaks, an error and an abort are told to their own caller alone."""
    fault = {"cut": ("cut_bytes", "900:fin"), "error": ("status", 500), "abort": ("abort", None)}[how]
    engines[1].arm(*fault, times=4)
    broken = ask(service, "chat, streamed", max_tokens=30)
    assert "[DONE]" not in broken.text
    engines[1].disarm()
    assert ask(service, "chat, streamed", max_tokens=30).headers["x-pointsman-cache"] == "miss"
    assert ask(service, "chat, streamed", max_tokens=30).headers["x-pointsman-cache"] == "hit"


def test_a_hit_costs_a_request_and_no_token(service: Router) -> None:
    """The key's tokens are as before, its requests are fewer by one."""
    ask(service, "chat")
    before = service.http.get("/usage").json()
    assert ask(service, "chat").headers["x-pointsman-cache"] == "hit"
    after = service.http.get("/usage").json()
    assert after["used"]["requests"] == before["used"]["requests"] + 1
    for kind in ("prompt_tokens", "completion_tokens"):
        assert after["used"][kind] == before["used"][kind]
    assert after["remaining"]["tokens"] >= before["remaining"]["tokens"]


def test_operators_see_what_it_does(service: Router) -> None:
    """Hits, misses, size and answers shared; emptying covers all routes."""
    before = service.http.get("/cache").json()
    for name in ("chat", "generate", "chat"):
        ask(service, name)
    told = service.http.get("/cache").json()
    assert (told["enabled"], told["on_request"], told["size"]) == (False, True, 2)
    assert (told["hits"], told["misses"]) == (before["hits"] + 1, before["misses"] + 2)
    assert service.http.delete("/cache").json() == {"removed": 2}


def test_it_can_be_forbidden(engines: tuple[Emulator, Emulator]) -> None:
    """`CACHE__ON_REQUEST=false`: asking does no harm and is told."""
    with Router(VLLM_GEMMA3_ENDPOINT=engines[1].url, CACHE__ON_REQUEST="false") as router:
        router.wait_until_up("gemma-3-12b")
        assert {ask(router, "chat").headers["x-pointsman-cache"] for _ in range(2)} == {"bypass;off"}


def start(port: int, answers: list[Incoming], body: dict[str, Any]) -> threading.Thread:
    def run() -> None:
        answers.append(call(port, post("/v1/chat/completions", body, USE, f"x-api-key: {RED}")))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("stream", [False, True])
def test_equal_calls_at_once_are_one(
    service: Router, engines: tuple[Emulator, Emulator], stream: bool
) -> None:
    """Ten of them ask the engine once, and all get the same answer, whole."""
    engines[1].arm("slow_first_token", 1)
    answers: list[Incoming] = []
    threads = [start(service.port, answers, {**CHAT, "stream": stream}) for _ in range(10)]
    for thread in threads:
        thread.join()
    assert len({answer.body for answer in answers}) == 1
    assert all(answer.ended for answer in answers)
    told = sorted([answer.header("x-pointsman-cache") or "" for answer in answers])
    assert told.count("miss") == 1
    assert set(told) <= {"miss", "shared", "hit"}
    assert asked(engines) == 1


def test_a_leader_that_leaves_fails_nobody(service: Router, engines: tuple[Emulator, Emulator]) -> None:
    """One of those who wait asks in its place, and the others follow that one."""
    engines[1].arm("hang_before_headers", times=1)
    answers: list[Incoming] = []
    with Client(service.port) as leader:
        leader.send(post("/v1/chat/completions", CHAT, USE, f"x-api-key: {RED}"))
        wait_for(lambda: bool(engines[1].sent()), "the leader asks")
        threads = [start(service.port, answers, CHAT) for _ in range(5)]
        wait_for(lambda: service.metric("pointsman_in_flight") == 1, "the others wait")
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 5
    assert asked(engines) == 2


def test_who_waits_for_anothers_answer_may_leave_at_once(
    service: Router, engines: tuple[Emulator, Emulator]
) -> None:
    """The router is done with a follower as soon as its client leaves, long before the leader is answered."""
    engines[1].arm("hang_before_headers", times=1)
    with ExitStack() as stack:
        leader = stack.enter_context(Client(service.port))
        leader.send(post("/v1/chat/completions", CHAT, USE, f"x-api-key: {RED}"))
        wait_for(lambda: bool(engines[1].sent()), "the leader asks")
        with Client(service.port) as follower:
            named = "x-request-id: the-one-who-leaves"
            follower.send(post("/v1/chat/completions", CHAT, USE, f"x-api-key: {RED}", named))
            follower.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                follower.sock.recv(1)
        begin = time.monotonic()
        line = service.access_line("the-one-who-leaves", within_s=20.0)
        assert time.monotonic() - begin < 20.0  # of the 30 s for which it would have waited
        assert (line["status"], line["end"]) == (499, "client_abort")
    assert asked(engines) == 1
