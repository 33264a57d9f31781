"""Seed 002's and seed 004's APIs through the router, on the emulator and on vLLM itself.

The real one's model is tiny and says nonsense: shapes are asserted, and what the router answers for.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pointsman.services.title import SCHEMA
from processes import Router

from .process import KEY, Engine

OURS = "a-key-of-my-own-for-contracts"
MAILS = Path(__file__).parents[1] / "data" / "mails"
TALKS = {"hebrew": "ספר לי על רכבות 🚂", "english": "Tell me about trains."}
SHORT: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
TASK = {"sender", "sending_date", "assigned_to", "title", "description", "due_date"}
SUMMARY = {"sender", "sending_date", "title", "summary"}


@pytest.fixture(scope="module")
def router(engine: Engine) -> Iterator[Router]:
    settings = {
        "VLLM_GEMMA3_ENDPOINT": engine.url,
        "VLLM_GEMMA3_KEY": KEY,
        "SECURITY__API_KEY": OURS,
        "KEYS_FILE": "/nonexistent/keys.json",
        "RATE_LIMIT__ENABLED": "false",
        "CACHE__ENABLED": "true",
        "CHAT_HISTORY__ENABLED": "true",
        "LLM_API_MAX_TOKENS": "100",
    }
    with Router(**settings) as started:
        started.wait_until_up("gemma-3-12b", within_s=30)
        started.http.headers["X-API-Key"] = OURS
        started.http.timeout = 180  # an answer that does not fit is asked for twice, on a slow machine
        yield started


def said(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(contents)]


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The frames of a stream, comments aside, less the `[DONE]` that must come last."""
    assert answer.status_code == 200, answer.text
    told = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert told[-1] == "[DONE]"
    return [json.loads(line) for line in told[:-1]]


@pytest.mark.parametrize("language", TALKS)
def test_a_chat_of_plgs(router: Router, language: str) -> None:
    """Its page's frames: the same text as in a whole answer, no error, and the session at the end."""
    body = {"messages": said(TALKS[language]), "session_id": "chat_1", **SHORT}
    *pieces, done = events(router.http.post("/api/chat/stream", json=body))
    assert done == {"type": "done", "session_id": "chat_1"}
    assert not any("error" in piece for piece in pieces)
    whole = router.http.post("/api/chat/stream", json={**body, "stream": False}).json()
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == whole["content"]
    assert whole["usage"]["completion_tokens"] == 12
    assert whole["usage"]["prompt_tokens"] > 12


def test_health_of_plgs_counts(router: Router) -> None:
    """The engine's own gauges are read: none at rest, one while a stream runs."""
    rest = router.http.get("/api/health").json()
    assert (rest["status"], rest["vllm_healthy"]) == ("healthy", True)
    assert isinstance(rest["vllm_running_requests"], int)
    assert isinstance(rest["vllm_waiting_requests"], int)
    body = {"messages": said("Tell me all."), "max_tokens": 1200, "temperature": 0, "session_id": "long"}
    running = []
    with router.http.stream("POST", "/api/chat/stream", json=body) as answer:
        for number, line in enumerate(answer.iter_lines()):
            if line.startswith("data: ") and number % 20 == 0:
                running.append(router.http.get("/api/health").json()["vllm_running_requests"])
            if 1 in running:
                break
    assert 1 in running


@pytest.mark.parametrize("mail", ["hebrew", "english"])
def test_tasks_and_summaries_have_their_shape(router: Router, mail: str) -> None:
    """The engine is held to the schema; a text that never ends within it is told as a 502."""
    body = {"email_content": (MAILS / f"{mail}.txt").read_text(encoding="utf-8")}
    tasks = router.http.post("/api/tasks/extract", json=body)
    summary = router.http.post("/api/summarization/summarize", json=body)
    for answer in (tasks, summary):
        assert answer.status_code in (200, 502), answer.text
        if answer.status_code == 502:
            assert (answer.json()["code"], type(answer.json()["detail"])) == ("answer_unfit", str)
    if tasks.status_code == 200:
        assert all(set(task) == TASK for task in tasks.json())
    if summary.status_code == 200:
        assert set(summary.json()) == SUMMARY


@pytest.mark.parametrize("language", TALKS)
def test_a_title_is_what_the_schema_lets_the_model_say(router: Router, engine: Engine, language: str) -> None:
    """One line of at most six words, be it the model's or the stand-in; the schema itself is enforced."""
    answer = router.http.post("/api/title/generate", json={"user_message": TALKS[language]})
    assert answer.status_code == 200, answer.text
    title = answer.json()["title"]
    assert title
    assert "\n" not in title
    assert len(title.split()) <= 6
    # Which blanks come between the signs of JSON is the model's to choose, and this one chooses nothing else.
    asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    body = {"messages": said(TALKS[language]), "max_tokens": 20, "temperature": 0}
    free, held = [
        router.http.post("/v1/chat/completions", json={**body, **more}).json()["choices"][0]["message"][
            "content"
        ]
        for more in ({}, {"response_format": asked})
    ]
    assert re.match(r'\{\s*(?:$|"title")', held)
    assert engine.real is False or not free.startswith("{")


def test_a_prompt_of_the_llm_service(router: Router) -> None:
    """Its body, tokens as the engine counts them, and `cached` false, then true."""
    body = {"prompt": "Once upon a time", **SHORT}
    first, second = [router.http.post("/v1/generate", json=body).json() for _ in range(2)]
    assert set(first) == {"generated_text", "prompt", "model", "tokens_generated", "cached"}
    assert first["tokens_generated"] == 12
    assert (first["cached"], second) == (False, {**first, "cached": True})


def test_a_chat_of_the_llm_service(router: Router) -> None:
    """Whole and streamed are one text, and three turns of a session are each answered."""
    body = {"messages": said(TALKS["hebrew"]), **SHORT}
    whole = router.http.post("/v1/chat", json=body).json()
    *pieces, done = events(router.http.post("/v1/chat", json={**body, "stream": True}))
    assert "".join(piece["content"] for piece in pieces) == whole["message"]["content"]
    assert done["tokens_generated"] == whole["tokens_generated"] == 12
    for number in range(3):
        turn = {"messages": said(f"turn {number}"), "session_id": "contract", **SHORT, "max_tokens": 5}
        answer = router.http.post("/v1/chat", json=turn)
        assert (answer.status_code, answer.json()["tokens_generated"]) == (200, 5), answer.text


CONVERSATIONS = {
    "two questions": [*said("a"), *said("b")],
    "a greeting first": said("Hello!", "a", first="assistant"),
    "instructions in between": [*said("a", "b"), {"role": "system", "content": "Be brief."}, *said("c")],
}


@pytest.mark.parametrize("talk", CONVERSATIONS)
def test_a_conversation_that_does_not_alternate(router: Router, talk: str) -> None:
    """Gemma's template refuses it: our own APIs make turns of it; on OpenAI's it stays as sent."""
    messages = CONVERSATIONS[talk]
    body = {"messages": messages, **SHORT}
    for path in ("/api/chat/stream", "/v1/chat", "/chat/completions"):
        more = {"stream": False} if path.startswith("/api") else {}
        answer = router.http.post(path, json={**body, "temperature": 0.1, **more})
        assert answer.status_code == 200, f"{path}: {answer.text}"
    compared = router.http.post("/models/compare", json={**body, "models": ["gemma-3-12b"]}).json()
    assert "error" not in compared["results"][0], compared
    refused = router.http.post("/v1/chat/completions", json={**body, "model": "gemma-3-12b"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "engine_rejected")
    assert "alternate" in refused.json()["error"]["message"]
