"""TGI's own API in front of vLLM, emulated and real, through the router."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from processes import Router

from .process import KEY, Engine

MODEL = "/models/gemma-3-12b"
HEBREW = "ספר לי על רכבות 🚂"


@pytest.fixture(scope="module")
def http(engine: Engine) -> Iterator[httpx.Client]:
    settings = {"VLLM_GEMMA3_ENDPOINT": engine.url, "VLLM_GEMMA3_KEY": KEY}
    with Router(**settings) as router:
        router.wait_until_up("gemma-3-12b", within_s=20)
        with httpx.Client(base_url=router.url, timeout=60, trust_env=False) as client:
            yield client


def generate(
    http: httpx.Client, asked: dict[str, object], path: str = "/generate", prompt: str = HEBREW
) -> httpx.Response:
    answer = http.post(MODEL + path, json={"inputs": prompt, "parameters": asked})
    assert answer.status_code == 200, answer.text
    return answer


def frames(answer: httpx.Response) -> list[dict[str, Any]]:
    assert "[DONE]" not in answer.text
    return [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]


def test_whole_and_streamed_say_the_same(http: httpx.Client) -> None:
    """The same text, tokens and counts; one frame a token, the last with the whole text."""
    asked: dict[str, object] = {"max_new_tokens": 24, "do_sample": False, "details": True}
    whole = generate(http, asked).json()
    events = frames(generate(http, asked, "/generate_stream"))
    assert [event["index"] for event in events] == list(range(1, 25))
    assert all(event["generated_text"] is None and event["details"] is None for event in events[:-1])
    assert events[-1]["generated_text"] == whole["generated_text"]
    assert "".join(event["token"]["text"] for event in events) == whole["generated_text"]
    assert [event["token"]["id"] for event in events] == [t["id"] for t in whole["details"]["tokens"]]
    for details in (events[-1]["details"], whole["details"]):
        assert (details["finish_reason"], details["generated_tokens"]) == ("length", 24)
    assert events[-1]["details"]["input_length"] > 5


def test_a_stop_sequence_stays_and_is_told(http: httpx.Client) -> None:
    """TGI leaves it in the text; the reason names it."""
    asked: dict[str, object] = {"max_new_tokens": 40, "do_sample": False, "details": True}
    text = generate(http, asked).json()["generated_text"]
    stop = text[len(text) // 2]
    found = generate(http, {**asked, "stop": [stop]}).json()
    assert found["generated_text"] == text[: text.index(stop) + 1]
    assert found["details"]["finish_reason"] == "stop_sequence"


def test_the_root_route_wraps_and_gives_the_full_text(http: httpx.Client) -> None:
    """`POST /` answers with a list, the prompt first."""
    (found,) = generate(http, {"max_new_tokens": 3}, "", "Hi").json()
    assert found["generated_text"].startswith("Hi")


def test_seed_003_is_served(http: httpx.Client) -> None:
    """`model_id` and `prompt` reach vLLM too."""
    body = {"model_id": "gemma-3-12b", "prompt": HEBREW, "max_new_tokens": 5, "temperature": 0}
    answer = http.post("/generate", json=body)
    assert answer.status_code == 200
    assert answer.json()["generated_text"]
    assert answer.json()["model_id"] == "gemma-3-12b"


def test_a_seed_repeats_and_what_is_ignored_is_told(http: httpx.Client) -> None:
    """Equal seeds give equal texts; a watermark nobody makes is named in a header."""
    asked: dict[str, object] = {"max_new_tokens": 8, "temperature": 0.9, "seed": 2**64 - 1}
    first = generate(http, {**asked, "watermark": True})
    assert first.headers["x-pointsman-ignored"] == "watermark"
    second = generate(http, asked)
    assert "x-pointsman-ignored" not in second.headers
    assert first.json() == second.json()


def test_a_grammar_is_obeyed(http: httpx.Client, engine: Engine) -> None:
    """A regular expression binds the text; only the real engine has a grammar."""
    grammar = {"type": "regex", "value": "[ab]{5}"}
    text = generate(http, {"grammar": grammar, "max_new_tokens": 20}).json()["generated_text"]
    assert re.fullmatch("[ab]{5}", text) if engine.real else text


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_errors_are_tgis(http: httpx.Client, path: str) -> None:
    """422 with TGI's sentence, whatever engine stands behind."""
    answer = http.post(MODEL + path, json={"inputs": "Hi", "parameters": {"top_p": 1.5}})
    assert answer.status_code == 422
    assert answer.json()["error"] == "Input validation error: `top_p` must be > 0.0 and < 1.0. Given: 1.5"
    assert answer.json()["error_type"] == "validation"
