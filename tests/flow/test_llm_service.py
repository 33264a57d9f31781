"""Seed 002's routes through real processes: its curl scripts, its errors, its stream, its metrics and log."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import Emulator, Router, wait_for

KEY = "a-key-of-my-own-for-tests"
RED, BLUE = "a-key-of-the-red-tenant", "a-key-of-the-blue-tenant"
SAID = "a\n\n  b\tc  \n\n```py\n    x = 1\n```\nשלום 🚂\n"
SECRET = "Write to dana@example.com, card 4111 1111 1111 1111, SSN 123-45-6789. Bye"
CLEAN = "Write to [EMAIL], card [CARD], SSN [SSN]. Bye"


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Emulator, Emulator]]:
    with Emulator("tgi") as tgi, Emulator("vllm") as vllm:
        yield tgi, vllm


def start(engines: tuple[Emulator, Emulator], **settings: str) -> Router:
    tgi, vllm = engines
    router = Router(
        TGI_DISTILGPT2_ENDPOINT=tgi.url,
        VLLM_GEMMA3_ENDPOINT=vllm.url,
        **{
            "SECURITY__API_KEY": KEY,
            "MODEL__MAX_TOKENS": "12",
            "KEYS_FILE": "/nonexistent/keys.json",
            "RATE_LIMIT__ENABLED": "false",
            **settings,
        },
    )
    router.http.headers["X-API-Key"] = settings.get("SECURITY__API_KEY", KEY)
    router.wait_until_up("distilgpt2", "gemma-3-12b")
    return router


@pytest.fixture(scope="module")
def service(engines: tuple[Emulator, Emulator]) -> Iterator[Router]:
    with start(engines) as router:
        yield router


@pytest.fixture
def speaking(engines: tuple[Emulator, Emulator]) -> Iterator[Emulator]:
    """The chat engine, which will say what a test arms it with."""
    try:
        yield engines[1]
    finally:
        engines[1].disarm()


def talk(*contents: str) -> list[dict[str, str]]:
    """A conversation that the user begins and ends."""
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(contents)]


def frames(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, as JSON, less the `[DONE]` that must come last."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = answer.text.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2] if not block.startswith(":")]


def test_a_prompt_is_continued_by_a_chat_model(service: Router) -> None:
    """`POST /v1/generate` has the seed's body; a model made for chat answers; tokens are counted."""
    answer = service.http.post("/v1/generate", json={"prompt": "Once upon a time", "max_tokens": 7})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"generated_text", "prompt", "model", "tokens_generated", "cached"}
    assert (body["prompt"], body["model"]) == ("Once upon a time", "gemma-3-12b")
    assert not body["generated_text"].startswith("Once")
    assert (body["tokens_generated"], body["cached"]) == (7, False)
    assert float(answer.headers["X-Process-Time"]) >= 0


def test_a_chat_is_answered(service: Router, engines: tuple[Emulator, Emulator]) -> None:
    """`POST /v1/chat` has the seed's body, and the operator's defaults reach the engine."""
    answer = service.http.post("/v1/chat", json={"messages": talk("Say hello.")})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"message", "model", "tokens_generated", "cached"}
    assert body["message"]["role"] == "assistant"
    assert isinstance(body["message"]["content"], str)
    sent = (
        json.loads(engines[1].sent()[-1]["body"])
        if isinstance(engines[1].sent()[-1]["body"], str)
        else engines[1].sent()[-1]["body"]
    )
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["top_k"]) == (12, 0.7, 0.9, 50)
    assert sent["messages"] == talk("Say hello.")


def test_one_model_may_be_named_by_the_path(service: Router) -> None:
    """Below `/models/{id}` the routes are the model's own, and `path` in an error says so."""
    answer = service.http.post("/models/distilgpt2/v1/generate", json={"prompt": "Once", "max_tokens": 3})
    assert (answer.status_code, answer.json()["model"]) == (200, "distilgpt2")
    answer = service.http.post("/models/distilgpt2/v1/generate", json={"prompt": "x" * 4001})
    assert answer.json()["path"] == "/models/{model_id}/v1/generate"


def test_a_stream_is_byte_exact(service: Router, speaking: Emulator) -> None:
    """Newlines, double blanks, code and Hebrew come through as the model said them, whole and streamed."""
    speaking.arm("say", SAID)
    body = {"messages": talk("Hi"), "max_tokens": 200}
    whole = service.http.post("/v1/chat", json=body).json()
    assert whole["message"]["content"] == SAID
    told = frames(service.http.post("/v1/chat", json={**body, "stream": True}))
    assert "".join([frame["content"] for frame in told[:-1]]) == SAID
    assert "".join([frame["choices"][0]["delta"]["content"] for frame in told[:-1]]) == SAID
    last = {name: value for name, value in told[-1].items() if name != "type"}
    assert last == whole


def test_errors_come_in_the_seeds_order(service: Router, engines: tuple[Emulator, Emulator]) -> None:
    """Key first, then the bucket, fields, lengths, each in the seed's body; no URL in any of them."""
    good = {"messages": talk("Hi")}
    anonymous = httpx.Client(base_url=service.url, trust_env=False)
    with anonymous:
        missing = anonymous.post("/v1/chat?token=secret", json=good)
        wrong = anonymous.post("/v1/chat", json=good, headers={"X-API-Key": "change-me"})
        bearer = anonymous.post("/v1/chat", json=good, headers={"Authorization": f"Bearer {KEY}"})
    assert (missing.status_code, missing.json()["error"]) == (401, "HTTP error")
    assert missing.json()["detail"]["error"] == "Missing API key"
    assert missing.json()["path"] == "/v1/chat"
    assert "secret" not in missing.text
    assert (wrong.status_code, wrong.json()["detail"]["error"]) == (403, "Invalid API key")
    assert bearer.status_code == 200

    cases: list[tuple[dict[str, Any], int]] = [
        ({"messages": talk("Hi"), "max_tokens": 0}, 422),
        ({"messages": talk("Hi", "Hello")}, 422),
        ({"messages": []}, 422),
        ({"messages": talk("x" * 4001), "temperature": 3}, 422),
        ({"messages": talk("x" * 4001)}, 400),
    ]
    for body, status in cases:
        answer = service.http.post("/v1/chat", json=body)
        assert (answer.status_code, status) == (status, answer.status_code), body
        assert isinstance(answer.json()["detail"], list if status == 422 else dict)
    broken = service.http.post("/v1/chat", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["detail"][0]["type"]) == (422, "json_invalid")
    for method, path, status in (("GET", "/v1/chat", 405), ("POST", "/v1/chats", 404)):
        assert service.http.request(method, path).status_code == status
    assert service.http.get("/v1/chat").json()["detail"] == "This route does not take this method."
    _check_that_bad_bodies_spend(engines)


def _check_that_bad_bodies_spend(engines: tuple[Emulator, Emulator]) -> None:
    """16 of them in a row: 15 times 422, then 429; who is not let in has spent nothing of anybody's."""
    too_hot = {"messages": talk("Hi"), "temperature": 3}
    with start(engines, RATE_LIMIT__ENABLED="true", RATE_LIMIT__REQUESTS_PER_MINUTE="0.1") as router:

        def statuses(headers: dict[str, str]) -> list[int]:
            cases = (too_hot, {"messages": talk("x" * 4001)}, {"messages": talk("Hi")})
            return [router.http.post("/v1/chat", json=body, headers=headers).status_code for body in cases]

        missing = [
            httpx.post(f"{router.url}/v1/chat", json=too_hot, trust_env=False).status_code for _ in range(2)
        ]
        assert missing == [401] * 2
        assert statuses({"X-API-Key": "change-me"}) == [403] * 3
        answers = [router.http.post("/v1/chat", json=too_hot) for _ in range(16)]
        assert [answer.status_code for answer in answers] == [422] * 15 + [429]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers[13:]] == ["1", "0", "0"]
        refused = answers[-1]
        assert refused.json()["detail"]["error"] == "Rate limit exceeded"
        assert refused.json()["detail"]["retry_after"] == int(refused.headers["Retry-After"]) > 500
        assert statuses({}) == [429] * 3
        broken = router.http.post("/v1/chat", content=b"{", headers={"content-type": "application/json"})
        assert broken.status_code == 429
        assert statuses({"X-API-Key": "change-me"}) == [403] * 3
        assert router.http.post("/chat/completions", json={"messages": 5}).status_code == 422


def test_a_model_that_is_gone_is_503(engines: tuple[Emulator, Emulator]) -> None:
    """What was the seed's 500 is our code in its body, with Retry-After, and nothing of the inside."""
    settings = {"VLLM_GONE_ENDPOINT": "http://127.0.0.1:9", "MODEL__NAME": "gone"}
    with start(engines, **settings) as router:
        wait_for(lambda: router.http.get("/models/gone").json()["state"] != "unknown", "it was looked for")
        answer = router.http.post("/v1/generate", json={"prompt": "Hi"})
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    body = answer.json()
    assert (body["error"], body["code"], body["path"]) == (
        "Failed to generate text",
        "no_replica",
        "/v1/generate",
    )
    assert "127.0.0.1" not in answer.text


def test_a_stream_that_breaks_says_so(service: Router, speaking: Emulator) -> None:
    """A frame whose `error` is a sentence, and no `[DONE]`: the seed's stream just ended."""
    speaking.arm("eof_after", 4, times=1)
    answer = service.http.post("/v1/chat", json={"messages": talk("Hi"), "stream": True, "max_tokens": 50})
    assert answer.status_code == 200
    last = json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert isinstance(last["error"], str)
    assert "[DONE]" not in answer.text


def test_metrics_and_log_have_the_seeds_names(service: Router) -> None:
    """Its three metrics count by route template; a line of the log has its fields beside ours."""
    answer = service.http.post("/v1/generate?key=secret", json={"prompt": "Once", "max_tokens": 3})
    page = service.http.get("/metrics").text
    assert 'http_requests_total{method="POST",endpoint="/v1/generate",status="200"}' in page
    assert 'tokens_generated_total{model="gemma-3-12b"}' in page
    assert 'http_request_duration_seconds_bucket{method="POST",endpoint="/v1/generate",le="60.0"}' in page
    line = service.access_line(answer.headers["X-Request-ID"])
    assert (line["method"], line["route"], line["status_code"]) == ("POST", "/v1/generate", 200)
    assert line["message"] == "POST /v1/generate - 200"
    assert line["latency_ms"] > 0
    assert "secret" not in json.dumps(line)
    assert KEY not in service.output()


def test_metrics_may_be_off(engines: tuple[Emulator, Emulator]) -> None:
    """METRICS__ENABLED=false is a 404."""
    with start(engines, METRICS__ENABLED="false") as router:
        assert router.http.get("/metrics").status_code == 404
        assert router.http.get("/health").json()["status"] == "healthy"


def test_health_tells_the_truth(service: Router) -> None:
    """The seed's `/health` was always unhealthy; the fields are its own."""
    health = service.http.get("/health").json()
    assert (health["status"], health["model_loaded"]) == ("healthy", True)
    assert isinstance(health["model_name"], str)


def test_personal_data_is_redacted_everywhere(engines: tuple[Emulator, Emulator], speaking: Emulator) -> None:
    """With the filter on `redact` no engine sees it and no answer tells it, on any chat route."""
    with start(engines, SECURITY__ENABLE_PII_FILTER="redact") as router:
        speaking.arm("say", SECRET)
        body: dict[str, Any] = {"messages": talk(SECRET, "Yes?", SECRET), "max_tokens": 200}
        for path in ("/v1/chat", "/chat/completions", "/v1/chat/completions"):
            model = {"model": "gemma-3-12b"}
            whole = router.http.post(path, json={**body, **model})
            assert whole.status_code == 200, whole.text
            assert CLEAN in whole.text
            sent = json.dumps(speaking.sent()[-1], ensure_ascii=False)
            streamed = router.http.post(path, json={**body, **model, "stream": True})
            pieces = [
                frame["choices"][0]["delta"].get("content", "")
                for frame in frames(streamed)
                if frame.get("choices")
            ]
            assert "".join(pieces) == CLEAN
            for text in (whole.text, streamed.text, sent):
                assert not any(secret in text for secret in ("dana@", "4111", "123-45"))
        refused = router.http.post("/v1/completions", json={"model": "gemma-3-12b", "prompt": "Hi"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_by_engine")


def test_personal_data_is_rejected(engines: tuple[Emulator, Emulator], speaking: Emulator) -> None:
    """`true` is the seed's reject: 400 for any message, before an engine is asked; answers are redacted."""
    with start(engines, SECURITY__ENABLE_PII_FILTER="true") as router:
        speaking.reset()
        for messages in (talk("Hi", SECRET, "Hello"), [{"role": "system", "content": SECRET}, *talk("Hi")]):
            answer = router.http.post("/v1/chat", json={"messages": messages})
            assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "PII detected")
            assert "dana" not in answer.text
        assert speaking.sent() == []
        speaking.arm("say", SECRET)
        answer = router.http.post("/v1/chat", json={"messages": talk("Hi"), "max_tokens": 200})
        assert answer.json()["message"]["content"] == CLEAN


@pytest.fixture(scope="module")
def keeping(engines: tuple[Emulator, Emulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router that remembers, with the keys of two tenants in its file."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    for tenant, secret in (("red", RED), ("blue", BLUE)):
        add_key(path, tenant, secret)
    settings = {"CHAT_HISTORY__ENABLED": "true", "CACHE__ENABLED": "true", "KEYS_FILE": str(path)}
    with start(engines, **settings) as router:
        yield router


def add_key(path: Path, tenant: str, secret: str) -> None:
    """Put a key of a tenant into a key file, as `pointsman keys create` does."""
    held = json.loads(path.read_text()) if path.exists() else {"keys": []}
    held["keys"].append({"sha256": hashlib.sha256(secret.encode()).hexdigest(), "tenant": tenant})
    path.write_text(json.dumps(held))


def asked(engine: Emulator) -> list[str]:
    """The contents of the messages that the engine was asked last."""
    body = engine.sent()[-1]["body"]
    held = json.loads(body) if isinstance(body, str) else body
    return [turn["content"] for turn in held["messages"]]


def test_the_cache_demo(keeping: Router) -> None:
    """Seed 002's script: the same prompt twice is `cached` false, then true; statistics tell of it."""
    body = {"prompt": "What is a points lever?", "max_tokens": 9}
    first, second = [keeping.http.post("/v1/generate", json=body).json() for _ in range(2)]
    assert (first["cached"], second["cached"]) == (False, True)
    assert {**second, "cached": False} == first
    another = keeping.http.post("/v1/generate", json=body, headers={"X-API-Key": RED}).json()
    assert another["cached"] is False

    status = keeping.http.get("/status").json()
    assert (status["model_name"], status["rate_limit_enabled"]) == ("gemma-3-12b", False)
    stats = status["cache_stats"]
    assert stats["enabled"]
    assert stats["hits"] >= 1
    assert stats["size"] >= 2
    assert stats["hit_rate_percent"] == round(100 * stats["hits"] / (stats["hits"] + stats["misses"]), 2)
    told = keeping.http.get("/cache").json()
    assert {name: told[name] for name in stats} == keeping.http.get("/status").json()["cache_stats"]
    assert keeping.http.delete("/cache").json()["removed"] >= 2
    assert keeping.http.get("/cache").json()["size"] == 0
    assert keeping.http.post("/v1/generate", json=body).json()["cached"] is False


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("session", ["user-123-chat", "שיחה 7\r\nX-Evil: 1"])
def test_the_history_demo(keeping: Router, speaking: Emulator, session: str, streams: bool) -> None:
    """Three turns with one session: each is asked with all before it, streamed or not, whatever the name."""
    session += str(streams)
    answers = []
    for number in range(3):
        body = {"messages": talk(f"turn {number} {session}"), "session_id": session, "stream": streams}
        answer = keeping.http.post("/v1/chat", json={**body, "max_tokens": 5 + number})
        assert answer.status_code == 200
        told = frames(answer)[-1] if streams else answer.json()
        answers.append(told["message"]["content"])
    first, second, third = (f"turn {number} {session}" for number in range(3))
    assert asked(speaking) == [first, answers[0], second, answers[1], third]

    alone = f"and now? {session}"
    other = {"messages": talk(alone), "session_id": session, "max_tokens": 4}
    keeping.http.post("/v1/chat", json=other, headers={"X-API-Key": RED})
    assert asked(speaking) == [alone]  # another tenant's session of the same name


def test_a_long_session_never_bricks(engines: tuple[Emulator, Emulator]) -> None:
    """Turns that do not fit any more are left out, oldest first and whole, and the answer counts them."""
    with ExitStack() as stack:
        small = stack.enter_context(Emulator("vllm", "--max-model-len", "256"))
        router = stack.enter_context(start((engines[0], small), CHAT_HISTORY__ENABLED="true"))
        trimmed = []
        for number in range(8):
            body = {"messages": talk(f"turn {number}: " + "word " * 40), "session_id": "long"}
            answer = router.http.post("/v1/chat", json={**body, "max_tokens": 16})
            assert answer.status_code == 200, answer.text
            trimmed.append(int(answer.headers.get("X-Pointsman-Trimmed", 0)))
        assert trimmed[0] == 0
        assert trimmed[-1] >= 2
        contents = asked(small)
        assert contents[-1].startswith("turn 7")
        assert len(contents) % 2 == 1


def test_without_history_a_session_is_ignored_and_told(service: Router, speaking: Emulator) -> None:
    """Off, the router keeps nobody's words, and says that the session means nothing."""
    for _ in range(2):
        answer = service.http.post("/v1/chat", json={"messages": talk("Hi"), "session_id": "s"})
    assert answer.headers["X-Pointsman-Ignored"] == "session_id"
    assert asked(speaking) == ["Hi"]
    assert service.http.get("/status").json()["cache_stats"]["enabled"] is False


def test_the_token_bucket(engines: tuple[Emulator, Emulator]) -> None:
    """Ten a minute, fifteen at once, as in the seed: then 429 in its body, with Retry-After."""
    with start(engines, RATE_LIMIT__ENABLED="true") as router:
        statuses = []
        for _ in range(16):
            answer = router.http.post("/v1/generate", json={"prompt": "Hi", "max_tokens": 1})
            statuses.append(answer.status_code)
        assert statuses == [200] * 15 + [429]
        detail = answer.json()["detail"]
        assert (detail["error"], detail["retry_after"]) == (
            "Rate limit exceeded",
            int(answer.headers["Retry-After"]),
        )
        assert router.http.get("/status").json()["rate_limit_enabled"] is True
