"""TGI's routes over real sockets."""

import json
from typing import Any

import httpx
import pytest

_HI = {"inputs": "Hello", "parameters": {"max_new_tokens": 12, "details": True}}
_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "model": "tgi"}


def _post(base: str, path: str, body: object) -> httpx.Response:
    return httpx.post(base + path, json=body, timeout=10)


def _events(text: str) -> list[Any]:
    frames = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


def test_generate(tgi: str) -> None:
    """Text, details and the timing headers agree."""
    answer = _post(tgi, "/generate", _HI)
    details = answer.json()["details"]
    assert answer.json()["generated_text"] == "".join(
        t["text"] for t in details["tokens"] if not t["special"]
    )
    assert details["generated_tokens"] == len(details["tokens"]) == int(answer.headers["x-generated-tokens"])
    assert details["prefill"] == []
    assert answer.headers["x-emulated"] == "true"
    assert {"x-compute-type", "x-compute-time", "x-total-time", "x-queue-time", "x-prompt-tokens"} <= set(
        answer.headers
    )


def test_generate_stream(tgi: str) -> None:
    """One frame per token, counted from 1; the last one has the text; no `[DONE]`."""
    answer = _post(tgi, "/generate_stream", _HI)
    events = _events(answer.text)
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    assert [event["generated_text"] is None for event in events] == [True] * (len(events) - 1) + [False]
    assert events[-1]["details"]["generated_tokens"] == len(events)
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["content-type"] == "text/event-stream"


def test_compat_route(tgi: str) -> None:
    """`POST /` wraps in a list, keeps the prompt, and streams when the body says so."""
    whole = _post(tgi, "/", _HI)
    assert whole.json()[0]["generated_text"].startswith("Hello")
    stream = _post(tgi, "/", _HI | {"stream": True})
    assert _events(stream.text)[-1]["generated_text"] == whole.json()[0]["generated_text"]


def test_text_of_hebrew_tokens_may_be_empty(tgi: str) -> None:
    """Half a letter has no text; the texts still make up the whole."""
    body = {"inputs": "ends with a space ", "parameters": {"max_new_tokens": 200}}
    events = _events(_post(tgi, "/generate_stream", body).text)
    texts = [event["token"]["text"] for event in events if not event["token"]["special"]]
    assert "" in texts
    assert "".join(texts) == events[-1]["generated_text"]


def test_chat(tgi: str) -> None:
    """Whole and streamed chat say the same; the stream ends with usage and `[DONE]`."""
    whole = _post(tgi, "/v1/chat/completions", _CHAT).json()
    body = _CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    events = _events(_post(tgi, "/v1/chat/completions", body).text)
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == whole["usage"]
    text = "".join(event["choices"][0]["delta"]["content"] for event in events[:-2])
    assert text == whole["choices"][0]["message"]["content"]
    assert whole["id"] == ""


def test_chat_continues_its_own_message(tgi: str) -> None:
    """A last message of the assistant is gone on with."""
    whole = _post(tgi, "/v1/chat/completions", _CHAT | {"max_tokens": 40}).json()["choices"][0]["message"][
        "content"
    ]
    half = whole[: whole.index(" ", 15)]
    messages = [*_CHAT["messages"], {"role": "assistant", "content": half}]
    rest = _post(tgi, "/v1/chat/completions", _CHAT | {"messages": messages, "max_tokens": 10}).json()
    text = rest["choices"][0]["message"]["content"]
    assert whole[len(half) :].startswith(text[: len(whole) - len(half)])


def test_completions(tgi: str) -> None:
    """Several prompts; `finish_reason` is "" until the last frame, which has usage."""
    body = {"prompt": ["a", "b"], "max_tokens": 3}
    whole = _post(tgi, "/v1/completions", body)
    assert [choice["index"] for choice in whole.json()["choices"]] == [0, 1]
    assert "x-compute-time" not in whole.headers
    events = _events(_post(tgi, "/v1/completions", body | {"stream": True}).text)
    assert events[0]["choices"][0]["finish_reason"] == ""
    assert sum("usage" in event for event in events[:-1]) == 2


def test_tokenize_has_byte_offsets(tgi: str) -> None:
    """Half a Hebrew letter is U+FFFD at its byte offset."""
    tokens = _post(tgi, "/tokenize", {"inputs": "aש"}).json()
    assert [(token["text"], token["start"], token["stop"]) for token in tokens] == [
        ("a", 0, 1),
        ("\ufffd", 1, 2),
        ("\ufffd", 2, 3),
    ]
    chat = _post(tgi, "/chat_tokenize", _CHAT).json()
    assert chat["templated_text"].endswith("model\n")
    assert chat["tokenize_response"]


def test_open_routes(tgi: str) -> None:
    """Health is empty; info, models and metrics tell about the engine."""
    for path in ("/", "/health", "/ping"):
        assert (httpx.get(tgi + path).status_code, httpx.get(tgi + path).content) == (200, b"")
    assert httpx.get(tgi + "/info").json()["max_total_tokens"] == 1024
    assert httpx.get(tgi + "/v1/models").json()["data"][0]["id"] == "distilbert/distilgpt2"
    _post(tgi, "/generate", _HI)
    assert "tgi_queue_size 0" in httpx.get(tgi + "/metrics").text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"top_n_tokens": 9}, "`top_n_tokens` must be >= 0 and <= 5. Given: 9"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 1023. Given: 0"),
        (
            {"max_new_tokens": 1024},
            (
                "`inputs` tokens + `max_new_tokens` must be <= 1024. "
                "Given: 3 `inputs` tokens and 1024 `max_new_tokens`"
            ),
        ),
    ],
)
def test_parameter_messages(tgi: str, parameters: dict[str, Any], message: str) -> None:
    """TGI's own words: as 422 JSON, and as a frame under 200 on a stream."""
    body = {"inputs": "Hello", "parameters": parameters}
    wanted = {"error": f"Input validation error: {message}", "error_type": "validation"}
    whole = _post(tgi, "/generate", body)
    assert (whole.status_code, whole.json()) == (422, wanted)
    stream = _post(tgi, "/generate_stream", body)
    if "best_of" not in parameters:
        assert (stream.status_code, _events(stream.text)) == (200, [wanted])


def test_rejections_are_plain_text(tgi: str) -> None:
    """415, 400, 422 and 413 come from the framework and are no JSON."""
    json_type = {"content-type": "application/json"}
    cases = [
        (httpx.post(tgi + "/generate", content=b"{}"), 415),
        (httpx.post(tgi + "/generate", content=b"{", headers=json_type), 400),
        (httpx.post(tgi + "/generate", content=b"{}", headers=json_type), 422),
        (_post(tgi, "/generate", {"inputs": "x", "parameters": {"temperature": "hot"}}), 422),
        (_post(tgi, "/generate", {"inputs": "x" * 2_000_001}), 413),
    ]
    for answer, status in cases:
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/plain")


def test_empty_bodies_of_404_and_405(tgi: str) -> None:
    """Unknown path and wrong method."""
    assert (httpx.get(tgi + "/nothing").status_code, httpx.get(tgi + "/nothing").content) == (404, b"")
    wrong = httpx.get(tgi + "/generate")
    assert (wrong.status_code, wrong.content, wrong.headers["allow"]) == (405, b"", "POST")


def test_an_unknown_model_is_an_adapter(tgi: str) -> None:
    """An adapter that is not loaded is the base model, under the name that was asked for."""
    answer = _post(tgi, "/v1/chat/completions", _CHAT | {"model": "other"})
    assert (answer.status_code, answer.json()["model"]) == (200, "other")


def test_grammar_gives_json(tgi: str) -> None:
    """A JSON grammar forces valid JSON."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    body = {"inputs": "x", "parameters": {"grammar": {"type": "json", "value": schema}}}
    assert json.loads(_post(tgi, "/generate", body).json()["generated_text"]) == {"a": 0}


def test_no_template_and_a_key(start: Any) -> None:
    """DistilGPT-2 has no chat template; a wrong key is an empty 401; keys ignore case."""
    base = start("tgi", "--api-key", "SeCret")
    key = {"authorization": "Bearer secret"}
    denied = httpx.post(base + "/generate", json=_HI)
    assert (denied.status_code, denied.content) == (401, b"")
    chat = httpx.post(base + "/v1/chat/completions", json=_CHAT | {"stream": True}, headers=key)
    assert chat.status_code == 422
    assert chat.json() == {"error": "Template error: template not found", "error_type": "template_error"}
    assert httpx.get(base + "/info").status_code == 200


def test_overload_is_429_or_a_frame(start: Any) -> None:
    """Above the permits: 429, a native frame, and an OpenAI frame with 422 and `[DONE]`."""
    base = start("tgi", "--max-concurrent", "1", "--tokens-per-s", "5", "--chat-template")
    with httpx.stream("POST", base + "/generate_stream", json=_HI, timeout=10) as busy:
        pieces = busy.iter_raw()
        next(pieces)
        assert _post(base, "/generate", _HI).json() == {
            "error": "Model is overloaded",
            "error_type": "overloaded",
        }
        assert _post(base, "/generate", _HI).status_code == 429
        native = _post(base, "/generate_stream", _HI)
        assert (native.status_code, _events(native.text)[0]["error_type"]) == (200, "overloaded")
        chat = _events(_post(base, "/v1/chat/completions", _CHAT | {"stream": True}).text)
        assert chat == [{"error": {"message": "Model is overloaded", "http_status_code": 422}}, "[DONE]"]


def test_comments_while_the_first_token_is_late(start: Any) -> None:
    """A bare comment comes first when the interval passes without a frame."""
    base = start("tgi", "--sse-keep-alive-interval", "0.05", "--ttft-ms", "180")
    assert _post(base, "/generate_stream", _HI).text.startswith(":\n\n:\n\n")
