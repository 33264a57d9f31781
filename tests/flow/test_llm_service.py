"""Seed 002's routes through real processes: its curl scripts, its errors, its stream, its metrics and log."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from processes import Emulator, Router

KEY = "a-key-of-my-own-for-tests"
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


def test_errors_come_in_the_seeds_order(service: Router) -> None:
    """Key first, then fields, then lengths, each in the seed's body; no URL in any of them."""
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


def test_a_model_that_is_gone_is_503(engines: tuple[Emulator, Emulator]) -> None:
    """What was the seed's 500 is our code in its body, with Retry-After, and nothing of the inside."""
    settings = {"VLLM_GONE_ENDPOINT": "http://127.0.0.1:9", "MODEL__NAME": "gone"}
    with start(engines, **settings) as router:
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
