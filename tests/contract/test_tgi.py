"""TGI's protocol, as the emulator speaks it: against TGI's published schemas and with a real client of TGI.

There is no TGI to install, so these tests hold the emulator to what is written: a wrong reading of its source
shows here only where its schemas or its client disagree.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from .process import Engine
from .schema import check
from .sse import cut

PROMPT = "The pointsman sets"
FEW = {"max_new_tokens": 5}


@pytest.fixture
def http(tgi: Engine) -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(base_url=tgi.url, timeout=20, trust_env=False) as opened:
        yield opened


@pytest.fixture
def inference(tgi: Engine) -> Iterator[InferenceClient]:
    """The client that TGI's own documentation names."""
    with InferenceClient(model=tgi.url, timeout=20) as opened:
        yield opened


def frames(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[bytes, ...]:
    """The frames of a stream."""
    answer = http.post(path, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return cut(answer.content)


def events(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON of a stream's data frames, [DONE] apart."""
    read = (frame.removeprefix(b"data: ") for frame in frames(http, path, body))
    return [httpx.Response(200, content=data).json() for data in read if data.startswith(b"{")]


def test_info_and_models(http: httpx.Client) -> None:
    """/info tells the limits, by which the kind of an engine is told too; /v1/models lists one model."""
    info = http.get("/info").json()
    check("tgi", "Info", info)
    assert info["max_input_tokens"] < info["max_total_tokens"]
    models = http.get("/v1/models").json()
    assert models["object"] == "list"
    (model,) = models["data"]
    check("tgi", "ModelInfo", model)
    assert model["id"] == info["model_id"]


def test_health(http: httpx.Client) -> None:
    """All three health routes answer 200 with no body."""
    for path in ("/health", "/ping", "/"):
        answer = http.get(path)
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("details", [False, True])
def test_generate(http: httpx.Client, *, details: bool) -> None:
    """/generate answers one object; details only when asked for, and the sums are in headers."""
    answer = http.post("/generate", json={"inputs": PROMPT, "parameters": FEW | {"details": details}})
    assert answer.status_code == 200
    body = answer.json()
    check("tgi", "GenerateResponse", body)
    assert ("details" in body) is details
    assert answer.headers["x-generated-tokens"] == "5"
    for name in ("x-compute-time", "x-total-time", "x-queue-time", "x-inference-time", "x-prompt-tokens"):
        assert float(answer.headers[name]) >= 0
    if details:
        assert body["details"]["finish_reason"] == "length"
        assert len(body["details"]["tokens"]) == body["details"]["generated_tokens"] == 5


def test_root_answers_a_list(http: httpx.Client) -> None:
    """POST / wraps the whole answer in a list, and starts with the prompt unless told otherwise."""
    (body,) = http.post("/", json={"inputs": PROMPT, "parameters": FEW}).json()
    check("tgi", "GenerateResponse", body)
    assert body["generated_text"].startswith(PROMPT)


@pytest.mark.parametrize(("path", "extra"), [("/generate_stream", {}), ("/", {"stream": True})])
def test_generate_stream(http: httpx.Client, path: str, extra: dict[str, Any]) -> None:
    """Frames count from 1; the last has the whole text and the details; there is no [DONE]."""
    asked = {"inputs": PROMPT, "parameters": FEW | {"details": True, "return_full_text": False}} | extra
    raw = frames(http, path, asked)
    assert all(frame.startswith((b"data: {", b":")) for frame in raw)
    read = events(http, path, asked)
    for event in read:
        check("tgi", "StreamResponse", event)
    assert [event["index"] for event in read] == [1, 2, 3, 4, 5]
    assert [event["generated_text"] is None for event in read] == [True] * 4 + [False]
    last = read[-1]
    assert last["generated_text"] == "".join(event["token"]["text"] for event in read)
    assert last["details"]["generated_tokens"] == 5
    assert last["details"]["input_length"] > 0


def test_chat(http: httpx.Client) -> None:
    """Chat has an empty id, the engine's model, and usage."""
    asked = {"model": "tgi", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    body = http.post("/v1/chat/completions", json=asked).json()
    check("tgi", "ChatCompletion", body)
    assert body["id"] == ""
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5


def test_chat_stream(http: httpx.Client) -> None:
    """Every delta repeats the role; usage comes only when asked for; [DONE] ends."""
    asked = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert frames(http, "/v1/chat/completions", asked)[-1] == b"data: [DONE]"
    *chunks, usage = events(http, "/v1/chat/completions", asked)
    for chunk in chunks:
        check("tgi", "ChatCompletionChunk", chunk)
        assert chunk["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5


def test_completions(http: httpx.Client) -> None:
    """/v1/completions, whole and streamed; a stream's reason is "" until the last chunk."""
    asked = {"prompt": PROMPT, "max_tokens": 5}
    check("tgi", "CompletionFinal", http.post("/v1/completions", json=asked).json())
    assert frames(http, "/v1/completions", asked | {"stream": True})[-1] == b"data: [DONE]"
    chunks = events(http, "/v1/completions", asked | {"stream": True})
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == ["", "", "", "", "length"]
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_tokenize(http: httpx.Client) -> None:
    """/tokenize lists the tokens with their places; /chat_tokenize shows the template's text beside."""
    tokens = http.post("/tokenize", json={"inputs": PROMPT}).json()
    check("tgi", "TokenizeResponse", tokens)
    assert (tokens[0]["start"], tokens[-1]["stop"]) == (0, len(PROMPT))
    asked = {"messages": [{"role": "user", "content": "Hi"}]}
    chat = http.post("/chat_tokenize", json=asked).json()
    check("tgi", "ChatTokenizeResponse", chat)
    assert "Hi" in chat["templated_text"]


@pytest.mark.parametrize(
    "parameters", [{"temperature": 0}, {"top_p": 1.0}, {"max_new_tokens": 0}, {"stop": list("abcde")}]
)
def test_bad_values(http: httpx.Client, parameters: dict[str, Any]) -> None:
    """A value out of range is a JSON 422; on a stream it is a frame under 200."""
    asked = {"inputs": PROMPT, "parameters": parameters}
    answer = http.post("/generate", json=asked)
    assert answer.status_code == 422
    check("tgi", "ErrorResponse", answer.json())
    assert answer.json()["error_type"] == "validation"
    assert answer.json()["error"].startswith("Input validation error: ")
    (event,) = events(http, "/generate_stream", asked)
    assert event == answer.json()


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 422),
        (b"{oops", "application/json", 400),
        (b'{"inputs":"x"}', "text/plain", 415),
    ],
)
def test_bad_bodies(http: httpx.Client, body: bytes, kind: str, status: int) -> None:
    """What cannot be read at all is refused in plain text."""
    answer = http.post("/generate", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/plain")


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    """Routing errors have no body."""
    assert (http.get("/nope").status_code, http.get("/nope").content) == (404, b"")
    wrong = http.get("/generate")
    assert (wrong.status_code, wrong.content, wrong.headers["allow"]) == (405, b"", "POST")


def test_client_whole(inference: InferenceClient) -> None:
    """huggingface_hub reads a whole answer, with details and without."""
    text = inference.text_generation(PROMPT, max_new_tokens=5, return_full_text=False)
    assert isinstance(text, str)
    assert text
    answer = inference.text_generation(PROMPT, max_new_tokens=5, details=True, return_full_text=False)
    assert answer.details is not None
    assert answer.details.finish_reason == "length"
    assert len(answer.details.tokens) == 5


def test_client_stream(inference: InferenceClient) -> None:
    """huggingface_hub reads a stream to its last token."""
    pieces = list(inference.text_generation(PROMPT, max_new_tokens=5, stream=True))
    assert 0 < len(pieces) <= 5
    outputs = list(
        inference.text_generation(PROMPT, max_new_tokens=5, stream=True, details=True, return_full_text=False)
    )
    assert [output.index for output in outputs] == [1, 2, 3, 4, 5]
    last = outputs[-1]
    assert last.details is not None
    assert last.details.finish_reason == "length"
    assert last.generated_text == "".join(output.token.text for output in outputs)


def test_client_errors(inference: InferenceClient) -> None:
    """huggingface_hub makes its own ValidationError of TGI's 422."""
    with pytest.raises(ValidationError, match="Input validation error"):
        inference.text_generation(PROMPT, max_new_tokens=5, top_p=1.0)


def test_client_chat(inference: InferenceClient) -> None:
    """huggingface_hub's chat works, whole and streamed, though it asks for a model `dummy`.

    TGI takes an unknown model for an adapter, and an adapter that is not loaded for the model itself
    (server/text_generation_server/models/flash_causal_lm.py: index 0).
    """
    asked = [{"role": "user", "content": "Hi"}]
    whole = inference.chat_completion(asked, max_tokens=5)
    assert whole.choices[0].message.content
    assert whole.usage.completion_tokens == 5
    deltas = list(inference.chat_completion(asked, max_tokens=5, stream=True))
    assert deltas[-1].choices[0].finish_reason == "length"
