"""vLLM's routes over real sockets."""

import json
from typing import Any

import httpx
import pytest

_CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 12,
    "model": "gemma",
}


def _post(base: str, path: str, body: object, **headers: str) -> httpx.Response:
    return httpx.post(base + path, json=body, headers=headers, timeout=10)


def _chat(base: str, **more: object) -> httpx.Response:
    return _post(base, "/v1/chat/completions", _CHAT | more)


def _events(text: str) -> list[Any]:
    frames = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


def test_chat(vllm: str) -> None:
    """Whole and streamed chat agree; the role comes first, usage and `[DONE]` last."""
    whole = _chat(vllm, max_tokens=60).json()
    events = _events(_chat(vllm, max_tokens=60, stream=True, stream_options={"include_usage": True}).text)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"].items() <= whole["usage"].items()
    text = "".join(event["choices"][0]["delta"]["content"] for event in events[:-2])
    assert text == whole["choices"][0]["message"]["content"]
    assert text.startswith("[emulated]")
    assert "tool_calls" not in whole["choices"][0]["message"]


def test_without_include_usage_the_fingerprint_sits_on_the_last_choice(vllm: str) -> None:
    """No usage chunk."""
    events = _events(_chat(vllm, stream=True).text)
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-2]["system_fingerprint"].startswith("vllm-0.33.0")


def test_continuous_usage(vllm: str) -> None:
    """Each chunk has usage, 0 on the first."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = _events(_chat(vllm, stream=True, stream_options=options).text)
    assert [event["usage"]["completion_tokens"] for event in events[:3]] == [0, 1, 2]


def test_continue_final_message(vllm: str) -> None:
    """A cut answer is gone on with exactly."""
    whole = _chat(vllm, max_tokens=80, ignore_eos=True).json()["choices"][0]["message"]["content"]
    cut = whole.index(" ", len(whole) // 2)
    messages = [*_CHAT["messages"], {"role": "assistant", "content": whole[:cut]}]
    more = {
        "continue_final_message": True,
        "add_generation_prompt": False,
        "ignore_eos": True,
        "max_tokens": 20,
    }
    rest = _chat(vllm, messages=messages, **more).json()["choices"][0]["message"]["content"]
    assert whole[cut:].startswith(rest[: len(whole) - cut])


def test_completions_default_to_sixteen_tokens(vllm: str) -> None:
    """And several prompts with n choices keep their indices."""
    answer = _post(vllm, "/v1/completions", {"prompt": "Hello", "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["id"].startswith("cmpl-")
    body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 2, "stream": True}
    events = _events(_post(vllm, "/v1/completions", body).text)[:-1]
    assert {event["choices"][0]["index"] for event in events} == {0, 1, 2, 3}


def test_logprobs_and_token_ids(vllm: str) -> None:
    """What a bridge to TGI needs."""
    body = {"prompt": "Hello", "max_tokens": 4, "logprobs": 1, "return_token_ids": True}
    choice = _post(vllm, "/v1/completions", body).json()["choices"][0]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["tokens"]) == 4
    assert choice["prompt_token_ids"]
    chat = _chat(vllm, logprobs=True).json()["choices"][0]
    assert chat["logprobs"]["content"][0]["token"] == "[emulated]"


def test_structured_output(vllm: str) -> None:
    """`json_schema` gives JSON for the schema."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    content = _chat(vllm, response_format=form, max_tokens=99).json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"city": "emulated"}


def test_a_base_model_has_no_chat(start: Any) -> None:
    """Without a chat template, chats and their tokens are refused; texts are not."""
    base = start("vllm", "--no-chat-template", "--served-model-name", "gemma")
    for path in ("/v1/chat/completions", "/tokenize"):
        refused = _post(base, path, _CHAT)
        assert refused.status_code == 400
        assert "default chat template is no longer allowed" in refused.json()["error"]["message"]
    assert _post(base, "/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200
    assert _post(base, "/tokenize", {"prompt": "a"}).status_code == 200


def test_tokenize_and_back(vllm: str) -> None:
    """Counts of a prompt and of messages; ids turn back to text."""
    got = _post(
        vllm, "/tokenize", {"prompt": "שלום 🚂", "add_special_tokens": False, "return_token_strs": True}
    ).json()
    assert got["count"] == len(got["tokens"]) == len(got["token_strs"])
    assert got["max_model_len"] == 32768
    assert _post(vllm, "/detokenize", {"tokens": got["tokens"]}).json() == {"prompt": "שלום 🚂"}
    assert _post(vllm, "/tokenize", {"messages": [1.5]}).status_code == 400
    counted = _post(vllm, "/tokenize", {"messages": _CHAT["messages"]}).json()["count"]
    assert counted == _chat(vllm).json()["usage"]["prompt_tokens"]


def test_open_routes(vllm: str) -> None:
    """Health, version, load, models, metrics."""
    assert (httpx.get(vllm + "/health").status_code, httpx.get(vllm + "/health").content) == (200, b"")
    assert httpx.post(vllm + "/ping").status_code == 200
    assert httpx.get(vllm + "/version").json() == {"version": "0.33.0"}
    assert httpx.get(vllm + "/load").json() == {"server_load": 0}
    assert [model["id"] for model in httpx.get(vllm + "/v1/models").json()["data"]] == ["gemma", "g3"]
    assert "vllm:kv_cache_usage_perc{" in httpx.get(vllm + "/metrics").text


@pytest.mark.parametrize(
    ("more", "status", "kind"),
    [
        ({"messages": None}, 400, "Bad Request"),
        ({"messages": [{"role": "user", "content": "x", "name": None}]}, 400, "Bad Request"),
        ({"max_tokens": "ten"}, 400, "Bad Request"),
        ({"stream_options": {}}, 400, "BadRequestError"),
        ({"tools": []}, 400, "BadRequestError"),
        ({"max_tokens": 0}, 400, "BadRequestError"),
        ({"temperature": -1}, 400, "BadRequestError"),
        ({"top_p": 0}, 400, "BadRequestError"),
        ({"stop": list("abcde")}, 400, "Bad Request"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "BadRequestError"),
        ({"messages": [{"role": "user", "content": "x " * 40000}]}, 400, "BadRequestError"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "BadRequestError"),
        ({"model": "other"}, 404, "NotFoundError"),
    ],
)
def test_refusals(vllm: str, more: dict[str, Any], status: int, kind: str) -> None:
    """The nested error body with its code."""
    answer = _chat(vllm, **more)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, status, kind)


def test_plain_refusals(vllm: str) -> None:
    """Unknown paths, embeddings without a model, wrong methods and media types."""
    assert httpx.get(vllm + "/").json() == {"detail": "Not Found"}
    assert _post(vllm, "/v1/embeddings", {"input": "x"}).json() == {"detail": "Not Found"}
    wrong = httpx.get(vllm + "/v1/chat/completions")
    assert (wrong.status_code, wrong.json(), wrong.headers["allow"]) == (
        405,
        {"detail": "Method Not Allowed"},
        "POST",
    )
    media = httpx.post(vllm + "/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert (media.status_code, "Unsupported Media Type" in media.json()["error"]["message"]) == (400, True)


def test_request_ids(start: Any) -> None:
    """The header sets the id and comes back only with the flag."""
    base = start("vllm", "--enable-request-id-headers", "--served-model-name", "gemma", "--embedding")
    answer = _post(base, "/v1/chat/completions", _CHAT, **{"x-request-id": "abc-a1"})
    assert (answer.json()["id"], answer.headers["x-request-id"]) == ("chatcmpl-abc-a1", "abc-a1")
    assert len(_post(base, "/v1/embeddings", {"input": ["x", "y"]}).json()["data"]) == 2


def test_a_key_guards_v1_only(start: Any) -> None:
    """401 is a string error; tokenize stays open."""
    base = start("vllm", "--api-key", "k1", "k2")
    denied = httpx.get(base + "/v1/models")
    assert (denied.status_code, denied.json()) == (401, {"error": "Unauthorized"})
    assert httpx.get(base + "/v1/models", headers={"authorization": "Bearer k2"}).status_code == 200
    assert _post(base, "/tokenize", {"prompt": "x"}).status_code == 200


def test_tools(start: Any) -> None:
    """A forced tool gives a call with valid arguments, whole and streamed."""
    base = start("vllm", "--enable-auto-tool-choice", "--served-model-name", "gemma", "--tokens-per-s", "0")
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    more = {
        "tools": [{"type": "function", "function": {"name": "find", "parameters": schema}}],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "max_tokens": 99,
    }
    choice = _chat(base, **more).json()["choices"][0]
    function = choice["message"]["tool_calls"][0]["function"]
    assert (choice["finish_reason"], function["name"], json.loads(function["arguments"])) == (
        "tool_calls",
        "find",
        {"q": "emulated"},
    )
    deltas = [event["choices"][0]["delta"] for event in _events(_chat(base, stream=True, **more).text)[1:-1]]
    assert (
        "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas) == function["arguments"]
    )


def test_admission(start: Any) -> None:
    """Above `--max-num-queued-reqs` a real 503 before any stream."""
    base = start("vllm", "--max-num-queued-reqs", "1", "--tokens-per-s", "5", "--served-model-name", "gemma")
    with httpx.stream(
        "POST", base + "/v1/chat/completions", json=_CHAT | {"stream": True}, timeout=10
    ) as busy:
        pieces = busy.iter_raw()
        next(pieces)
        answer = _chat(base, stream=True)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "Service Unavailable")


def test_prefix_cache_counts(start: Any) -> None:
    """The same long prompt again is mostly cached, and costs less prefill."""
    base = start("vllm", "--prefill-tokens-per-s", "2000", "--ttft-ms", "0", "--served-model-name", "gemma")
    body = {"messages": [{"role": "user", "content": "the engine of the train " * 100}], "max_tokens": 1}
    first, second = (_post(base, "/v1/chat/completions", body) for _ in range(2))
    stats = httpx.get(base + "/__stats").json()
    assert stats["cached_tokens"] > 0.4 * stats["prompt_tokens"]
    assert second.elapsed < first.elapsed / 2
