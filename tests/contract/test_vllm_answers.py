"""vLLM: whole answers of the generation routes, and the small routes beside them."""

import httpx
import pytest

from .process import ALIAS, CONTEXT, NAME
from .schema import check

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "Hi"}]


def test_health_and_ping_are_empty(client: httpx.Client) -> None:
    """GET /health and both methods of /ping answer 200 with no body."""
    for answer in (client.get("/health"), client.get("/ping"), client.post("/ping")):
        assert (answer.status_code, answer.content) == (200, b"")


def test_version_and_load(client: httpx.Client) -> None:
    """/version names the version, by which the kind of an engine is told; /load counts requests."""
    version = client.get("/version")
    assert version.status_code == 200
    assert list(version.json()) == ["version"]
    assert version.json()["version"][0].isdecimal()
    assert client.get("/load").json() == {"server_load": 0}


def test_models(client: httpx.Client) -> None:
    """/v1/models lists each served name, in order, with the context length."""
    answer = client.get("/v1/models")
    assert answer.status_code == 200
    check("vllm", "Models", answer.json())
    cards = answer.json()["data"]
    assert [card["id"] for card in cards] == [NAME, ALIAS]
    for card in cards:
        assert card["object"] == "model"
        assert card["owned_by"] == "vllm"
        assert card["max_model_len"] == CONTEXT


def test_chat(client: httpx.Client) -> None:
    """A whole chat answer has every field of the schema, one choice and right sums."""
    answer = client.post(CHAT, json={"model": NAME, "messages": HI, "max_tokens": 5, "temperature": 0})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    check("vllm", "ChatCompletion", body)
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == NAME
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"], choice["stop_reason"]) == (0, "length", None)
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    usage = body["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens"] + 5 == usage["total_tokens"]


def test_completion(client: httpx.Client) -> None:
    """A whole completion has every field of the schema."""
    answer = client.post(COMPLETIONS, json={"model": NAME, "prompt": "Hi", "max_tokens": 5, "temperature": 0})
    assert answer.status_code == 200
    body = answer.json()
    check("vllm", "Completion", body)
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["text"]
    assert body["usage"]["completion_tokens"] == 5


def test_completion_is_16_tokens_by_default(client: httpx.Client) -> None:
    """A completion without max_tokens ends after 16 tokens."""
    body = client.post(COMPLETIONS, json={"prompt": "Hi", "ignore_eos": True}).json()
    assert body["usage"]["completion_tokens"] == 16


def test_several_prompts(client: httpx.Client) -> None:
    """A list of prompts gives one choice each, numbered in order."""
    body = client.post(COMPLETIONS, json={"prompt": ["Hi", "Ho"], "max_tokens": 2}).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]


def test_prompt_of_token_ids(client: httpx.Client) -> None:
    """A prompt may be a list of token ids; each counts as one."""
    body = client.post(COMPLETIONS, json={"prompt": [45, 78, 45], "max_tokens": 2}).json()
    assert body["usage"]["prompt_tokens"] == 3


def test_greedy_answers_repeat(client: httpx.Client) -> None:
    """At temperature 0 the same request gives the same text."""
    request = {"messages": HI, "max_tokens": 12, "temperature": 0}
    first, second = (client.post(CHAT, json=request).json() for _ in range(2))
    assert first["choices"] == second["choices"]


def test_several_choices(client: httpx.Client) -> None:
    """`n` gives that many choices; `usage` counts the tokens of all of them."""
    body = client.post(CHAT, json={"messages": HI, "n": 2, "max_tokens": 3, "temperature": 1}).json()
    check("vllm", "ChatCompletion", body)
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 6


def test_stop_string(client: httpx.Client) -> None:
    """A stop string ends the text before it; the reason is `stop`, and `stop_reason` the string."""
    request = {"prompt": "Hi there", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    whole = client.post(COMPLETIONS, json=request).json()["choices"][0]["text"]
    stop = whole[3:5]
    body = client.post(COMPLETIONS, json=request | {"stop": [stop]}).json()
    (choice,) = body["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["text"] == whole[: whole.index(stop)]
    assert client.post(COMPLETIONS, json=request | {"stop": stop}).json()["choices"] == body["choices"]


def test_max_tokens_is_clamped_to_the_context(client: httpx.Client) -> None:
    """A max_tokens up to the context length is accepted, though prompt and answer together do not fit."""
    request = {"messages": HI, "max_tokens": CONTEXT, "stop": list("aeio"), "temperature": 1}
    answer = client.post(CHAT, json=request)
    assert answer.status_code == 200
    assert answer.json()["usage"]["total_tokens"] <= CONTEXT


@pytest.mark.parametrize("model", [NAME, ALIAS, None, ""])
def test_answers_carry_the_first_served_name(client: httpx.Client, model: str | None) -> None:
    """A served name, an alias, null and "" all reach the model; the answer says its first name."""
    answer = client.post(CHAT, json={"model": model, "messages": HI, "max_tokens": 1})
    assert answer.status_code == 200
    assert answer.json()["model"] == NAME


def test_model_may_be_left_out(client: httpx.Client) -> None:
    """Without `model` the served one answers."""
    answer = client.post(COMPLETIONS, json={"prompt": "Hi", "max_tokens": 1})
    assert answer.json()["model"] == NAME


def test_request_id_makes_the_answers_id(client: httpx.Client) -> None:
    """X-Request-Id becomes the id's base and, as the server was told to, the answer's header."""
    for path, prompt, prefix in (
        (CHAT, {"messages": HI}, "chatcmpl"),
        (COMPLETIONS, {"prompt": "Hi"}, "cmpl"),
    ):
        answer = client.post(path, json=prompt | {"max_tokens": 1}, headers={"X-Request-Id": "abc-a1"})
        assert answer.json()["id"] == f"{prefix}-abc-a1"
        assert answer.headers["x-request-id"] == "abc-a1"


def test_load_header_on_request(client: httpx.Client) -> None:
    """`endpoint-load-metrics-format: JSON` asks for the load in a header of a whole answer."""
    asked = {"endpoint-load-metrics-format": "JSON"}
    answer = client.post(CHAT, json={"messages": HI, "max_tokens": 1}, headers=asked)
    told = answer.headers["endpoint-load-metrics"]
    assert told.startswith("JSON {")
    assert "num_requests_waiting" in told
    assert "kv_cache_usage_perc" in told


def test_tokenize(client: httpx.Client) -> None:
    """/tokenize counts a prompt, or messages with their template; the chat route counts the same."""
    text = client.post("/tokenize", json={"prompt": "Hi there"})
    assert text.status_code == 200
    check("vllm", "Tokens", text.json())
    assert text.json()["count"] == len(text.json()["tokens"]) > 0
    assert text.json()["max_model_len"] == CONTEXT
    chat = client.post("/tokenize", json={"messages": HI}).json()
    usage = client.post(CHAT, json={"messages": HI, "max_tokens": 1}).json()["usage"]
    assert chat["count"] == usage["prompt_tokens"]


@pytest.mark.parametrize("text", ["Hi there", "שלום עולם", "🙂🚂"])
def test_detokenize_undoes_tokenize(client: httpx.Client, text: str) -> None:
    """Text survives the way into tokens and back, Hebrew and emoji too."""
    tokens = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    back = client.post("/detokenize", json={"tokens": tokens})
    check("vllm", "Text", back.json())
    assert back.json()["prompt"] == text
