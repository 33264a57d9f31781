"""OpenAI's own client through the router, on the emulator and on vLLM itself."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from processes import Router

from .process import ALIAS, KEY, NAME, Engine

HEBREW = "ספר לי על רכבות 🚂"


@pytest.fixture(scope="module")
def router(engine: Engine) -> Iterator[Router]:
    settings = {"VLLM_GEMMA3_ENDPOINT": engine.url, "VLLM_GEMMA3_KEY": KEY}
    with Router(**settings) as started:
        started.wait_until_up("gemma-3-12b", within_s=20)
        yield started


@pytest.fixture
def openai(router: Router) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", ["gemma-3-12b", NAME, ALIAS])
def test_chat_by_each_name(openai: OpenAI, name: str) -> None:
    """The router's id, and each name the engine serves, reach the model."""
    answer = openai.chat.completions.create(
        model=name,
        messages=ask("hello"),
        max_tokens=8,
        temperature=0,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_gives_the_same_text(openai: OpenAI) -> None:
    """Hebrew and emoji come whole, usage when asked, and the text is that of the whole answer."""
    asked: dict[str, Any] = {
        "model": "gemma-3-12b",
        "messages": ask(HEBREW),
        "max_tokens": 16,
        "temperature": 0,
    }
    whole = openai.chat.completions.create(**asked)
    stream = openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 16


def test_completions_whole_and_streamed(openai: OpenAI) -> None:
    """`/v1/completions` passes in both forms."""
    whole = openai.completions.create(model="gemma-3-12b", prompt=HEBREW, max_tokens=8, temperature=0)
    stream = openai.completions.create(
        model="gemma-3-12b", prompt=HEBREW, max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text


def test_the_stream_passes_byte_for_byte(router: Router, engine: Engine) -> None:
    """What the engine sends is what the client gets, but for ids and times, framing included."""
    body = {"model": NAME, "messages": ask("hello"), "max_tokens": 6, "temperature": 0, "stream": True}
    direct = httpx.post(
        f"{engine.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    routed = router.http.post("/v1/chat/completions", json=body)

    def told(text: str) -> list[object]:
        frames = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
        events = [json.loads(frame) if frame != "[DONE]" else frame for frame in frames]
        return [{**e, "id": "", "created": 0} if isinstance(e, dict) else e for e in events]

    def framing(text: str) -> list[str]:
        return [line[:6] for line in text.split("\n")]

    assert told(routed.text) == told(direct.text)
    assert framing(routed.text) == framing(direct.text)


def test_models_lists_the_routers_ids(openai: OpenAI) -> None:
    """`/v1/models` names what the router serves; each engine's name finds its model."""
    assert [model.id for model in openai.models.list()] == ["gemma-3-12b"]
    assert openai.models.retrieve(ALIAS).id == "gemma-3-12b"


def test_nulls_of_clients_are_dropped(router: Router) -> None:
    """`messages[].name: null`, which vLLM refuses, passes."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "hello", "name": None}],
        "max_tokens": 2,
        "n": None,
        "stop": None,
    }
    assert router.http.post("/v1/chat/completions", json=body).status_code == 200


def test_the_engines_refusal_is_the_clients_400(openai: OpenAI) -> None:
    """A bad parameter is refused in the engine's words and OpenAI's shape, with our code."""
    with pytest.raises(BadRequestError) as caught:
        openai.chat.completions.create(
            model=NAME,
            messages=ask("hello"),
            temperature=-1,
        )
    assert caught.value.code == "engine_rejected"
    assert "temperature" in caught.value.message


def test_unknown_models_and_missing_embeddings_have_messages(openai: OpenAI) -> None:
    """404 lists the known ids; embeddings of a model that makes none are a 400 that says so."""
    with pytest.raises(NotFoundError, match="gemma-3-12b"):
        openai.completions.create(model="nope", prompt="x")
    with pytest.raises(BadRequestError, match="embeddings"):
        openai.embeddings.create(model=NAME, input="x")
