"""Each client on each engine, through the router: `openai`, `huggingface_hub`, `text-generation`, seed 000's.

The engines are an emulated TGI with DistilGPT-2, which has no chat template, vLLM emulated, and vLLM itself.
What is asked is greedy, so that whole answers and streams have one text. The streamed chat of
`text-generation` is left out: version 0.7.0 cannot read the chunks of today's engines.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError
from openai import BadRequestError, OpenAI

from processes import Router

from .conftest import REAL
from .process import KEY, emulated_vllm, emulator
from .tgi_client import Ask, call, whole

PROMPT = "ספר לי על רכבות 🚂"
CHAT: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
TOKENS = 12


@dataclass(frozen=True, slots=True)
class Place:
    """A router and its one model."""

    router: Router
    model: str

    @property
    def base(self) -> str:
        """The model's own base URL."""
        return f"{self.router.url}/models/{self.model}"


@pytest.fixture(scope="module", params=["tgi", "emulator", pytest.param("vllm", marks=REAL)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    logs, model = tmp_path_factory.mktemp("place"), "gemma-3-12b"
    with ExitStack() as running:
        if request.param == "tgi":
            pace = ("--ttft-ms", "5", "--tokens-per-s", "1000", "--eos-after", "0")
            engine, model = running.enter_context(emulator("tgi", logs / "tgi.log", *pace)), "distilgpt2"
            settings = {"TGI_DISTILGPT2_ENDPOINT": engine.url}
        else:
            is_real = request.param == "vllm"
            emulated = None if is_real else running.enter_context(emulated_vllm(logs / "vllm.log"))
            url = (emulated or request.getfixturevalue("vllm_itself")).url
            settings = {"VLLM_GEMMA3_ENDPOINT": url, "VLLM_GEMMA3_KEY": KEY}
        router = running.enter_context(Router(**settings))
        router.wait_until_up(model)
        yield Place(router, model)


@pytest.fixture(params=["v1", "model"])
def openai(place: Place, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    """OpenAI's client at the router's root, and at the model's own base URL."""
    base = place.router.url if request.param == "v1" else place.base
    with OpenAI(base_url=f"{base}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def test_openai_chat(openai: OpenAI, place: Place) -> None:
    """Whole and streamed: one text, the role once, a finish reason, usage where it was asked for."""
    asked: dict[str, Any] = {
        "model": place.model,
        "messages": CHAT,
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    answer = openai.chat.completions.create(**asked)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.choices[0].finish_reason, answer.choices[0].message.role) == ("length", "assistant")
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    assert answer.usage.prompt_tokens > 5
    options: list[dict[str, Any]] = [{}, {"stream_options": {"include_usage": True}}]
    for more in options:
        chunks = list(openai.chat.completions.create(**asked, **more, stream=True))
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert "".join(delta.content or "" for delta in deltas) == answer.choices[0].message.content
        assert [delta.role for delta in deltas if delta.role] == ["assistant"]
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert [reason for reason in reasons if reason] == ["length"]
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.usage for chunk in chunks if chunk.usage] == ([answer.usage] if more else [])


def test_openai_completions(openai: OpenAI, place: Place) -> None:
    """The same for texts that go on."""
    asked: dict[str, Any] = {
        "model": place.model,
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    answer = openai.completions.create(**asked)
    assert (answer.choices[0].finish_reason, answer.model) in (
        ("length", place.model),
        ("length", "gemma-3-tiny"),  # vLLM's own bytes pass
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    chunks = list(openai.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == answer.choices[0].text
    assert chunks[-1].usage == answer.usage


def test_openai_stop_and_errors(openai: OpenAI, place: Place) -> None:
    """A stop sequence is left out of the text; a value that is wrong is the client's own exception."""
    asked: dict[str, Any] = {
        "model": place.model,
        "messages": CHAT,
        "max_tokens": 20,
        "temperature": 0,
    }
    text = openai.chat.completions.create(**asked).choices[0].message.content or ""
    stop = text[len(text) // 2]
    stopped = openai.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(stop)], "stop")
    chunks = [chunk.choices[0] for chunk in openai.chat.completions.create(**asked, stop=stop, stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == stopped.message.content
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    for stream in (False, True):
        with pytest.raises(BadRequestError, match="temperature"):
            openai.chat.completions.create(**{**asked, "temperature": -1}, stream=stream)


@pytest.fixture
def hub(place: Place) -> InferenceClient:
    return InferenceClient(place.base, timeout=60, token="any")


def test_hub_text(hub: InferenceClient) -> None:
    """`huggingface_hub` reads texts, details and streams of them."""
    asked: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": False, "return_full_text": False}
    text = hub.text_generation(PROMPT, **asked)
    assert text
    assert hub.text_generation(PROMPT, **{**asked, "return_full_text": None}) == PROMPT + text  # TGI's root
    assert "".join(hub.text_generation(PROMPT, stream=True, **asked)) == text
    full = hub.text_generation(PROMPT, details=True, **asked)
    assert (full.generated_text, full.details.generated_tokens) == (text, TOKENS)
    assert full.details.finish_reason == "length"
    pieces = list(hub.text_generation(PROMPT, details=True, stream=True, **asked))
    assert "".join(piece.token.text for piece in pieces) == text
    assert pieces[-1].generated_text == text
    assert pieces[-1].details.finish_reason == "length"


def test_hub_errors(hub: InferenceClient) -> None:
    """A value that is wrong is its own exception, streamed or not."""
    with pytest.raises(ValidationError, match="top_p"):
        hub.text_generation(PROMPT, top_p=1.5)
    with pytest.raises(ValidationError, match="top_p"):
        list(hub.text_generation(PROMPT, top_p=1.5, stream=True))


def test_hub_chat(hub: InferenceClient) -> None:
    """And chat, on the base model too."""
    asked: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0.0}
    answer = hub.chat_completion(CHAT, **asked)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == TOKENS
    options: Any = {"include_usage": True}
    chunks = list(hub.chat_completion(CHAT, stream=True, stream_options=options, **asked))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == answer.choices[0].message.content
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [TOKENS]


def test_text_generation(place: Place, ask: Ask) -> None:
    """TGI's own client, in both its forms, reads texts, streams and chats, and knows a refusal."""
    asked: dict[str, Any] = {"prompt": PROMPT, "max_new_tokens": TOKENS}
    chat: dict[str, Any] = {"messages": CHAT, "max_tokens": TOKENS, "temperature": 0.0}
    for client in ("Client", "AsyncClient"):
        plain, streamed, talk, wrong = ask(
            place.base,
            call("generate", client, **asked),
            call("generate_stream", client, **asked),
            call("chat", client, **chat),
            call("generate", client, prompt=PROMPT, max_new_tokens=0),
        )
        answer, last = whole(plain), streamed.pieces[-1]
        assert streamed.raised == ""
        for details in (answer["details"], last["details"]):
            assert (details["finish_reason"], details["generated_tokens"]) == ("length", TOKENS)
        assert answer["details"]["prefill"] == []
        assert "".join(token["text"] for token in answer["details"]["tokens"]) == answer["generated_text"]
        assert "".join(piece["token"]["text"] for piece in streamed.pieces) == answer["generated_text"]
        assert last["generated_text"] == answer["generated_text"]
        assert whole(talk)["choices"][0]["message"]["content"]
        assert whole(talk)["usage"]["completion_tokens"] == TOKENS
        assert wrong.raised == "ValidationError"


def test_older_hub(place: Place, ask: Ask) -> None:
    """`huggingface_hub` before 1.0 reads the same: texts, details, chats, and streams of each."""
    text: dict[str, Any] = {
        "prompt": PROMPT,
        "max_new_tokens": TOKENS,
        "do_sample": False,
        "return_full_text": False,
    }
    chat: dict[str, Any] = {"messages": CHAT, "max_tokens": TOKENS, "temperature": 0.0}
    names = [("text_generation", text), ("text_generation", {**text, "details": True})]
    calls = [
        call(name, "InferenceClient", **asked, stream=stream)
        for name, asked in (*names, ("chat_completion", chat))
        for stream in (False, True)
    ]
    outcomes = ask(place.base, *calls)
    assert [outcome.raised for outcome in outcomes] == [""] * 6
    plain, pieces, full, frames, talk, chunks = [outcome.pieces for outcome in outcomes]
    said = plain[0]["text"]
    assert "".join(piece["text"] for piece in pieces) == said
    assert (full[0]["generated_text"], full[0]["details"]["generated_tokens"]) == (said, TOKENS)
    assert (frames[-1]["generated_text"], len(frames)) == (said, TOKENS)
    answer = talk[0]["choices"][0]["message"]["content"]
    assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks) == answer


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", {"prompt": PROMPT, "max_length": TOKENS}, "generated_text"),
        ("/complete", {"prompt": PROMPT, "max_length": TOKENS}, "completion"),
        ("/chat/completions", {"messages": CHAT, "max_tokens": TOKENS}, "content"),
        ("/generate", {"model_id": "", "prompt": PROMPT, "max_new_tokens": TOKENS}, "generated_text"),
    ],
    ids=["000-generate", "000-complete", "000-chat", "003"],
)
def test_seeds_000_and_003(place: Place, path: str, body: dict[str, Any], field: str) -> None:
    """Their routes give a text, and the last frame of a stream has what a whole answer has."""
    greedy: dict[str, Any] = {"temperature": 0} if "model_id" in body else {"do_sample": False}
    if "model_id" in body:
        body = {**body, "model_id": place.model}
    answer = place.router.http.post(path, json={**body, **greedy})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert isinstance(said[field], str)
    streamed = place.router.http.post(path, json={**body, **greedy, "stream": True})
    *pieces, done, last = [event[6:] for event in streamed.text.split("\n\n") if event]
    assert last == "[DONE]"
    end = json.loads(done)
    assert end[field] == said[field]
    text = "".join(json.loads(piece)["content"] for piece in pieces)
    assert said[field].strip().endswith(text.strip())
    assert set(end) == {*said, "type"}
    if path == "/generate" and "model_id" not in body:
        assert said["generated_text"].startswith(PROMPT)
        assert said["metadata"]["tokens_generated"] == end["metadata"]["tokens_generated"] == TOKENS


def test_a_long_prompt_counts_up_to_its_512th_token(place: Place) -> None:
    """By the engine's own tokenizer, and the client is told; it gets the whole of its prompt back."""
    prompt = " ".join(["רכבת train"] * 700)
    answer = place.router.http.post("/generate", json={"prompt": prompt, "max_length": 4, "do_sample": False})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pointsman-ignored"] == "prompt;truncated=512"
    assert 500 <= int(answer.headers["x-prompt-tokens"]) <= 514  # those around a text are the engine's own
    assert answer.json()["generated_text"].startswith(prompt)
