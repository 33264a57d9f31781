"""Seed 003's API as its own clients use it: the page that compares two models, and the test client.

Source: `contracts/seeds.md` 4.1 and 6.4.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from processes import Emulator, Router

PAGE = "http://localhost:3000"
MODELS = ["distilgpt2", "gemma-3-12b"]


class Page:
    """What the page does in a browser: it knows nothing but `/models` and `/generate`."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"origin": PAGE}, timeout=30, trust_env=False)

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """On load and each 30 s; a bare array, or one in `models`."""
        answer = self._http.get("/models")
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.status_code == 200
        told = answer.json()
        models: list[dict[str, Any]] = told if isinstance(told, list) else told["models"]
        assert models, "the page would go on checking"
        return models

    def ask(self, model_id: str, prompt: str, **more: object) -> str:
        """The text it shows, or the detail of an error as it is; raises where it would not understand."""
        body = {"model_id": model_id, "prompt": prompt, "max_new_tokens": 200, "temperature": 0.7}
        preflight = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        allowed = self._http.options("/generate", headers=preflight)
        assert allowed.is_success
        assert allowed.headers["access-control-allow-origin"] == PAGE
        answer = self._http.post("/generate", json={**body, "top_p": 0.95, **more})
        assert answer.headers["access-control-allow-origin"] == PAGE
        field = "generated_text" if answer.is_success else "detail"
        shown = answer.json()[field]
        assert isinstance(shown, str)
        return shown


@pytest.fixture(scope="module")
def page_router(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    engines = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": vllm.url}
    with Router(**engines, TGI_PHI2_ENDPOINT="http://127.0.0.1:9", ALLOWED_ORIGINS=PAGE) as running:
        running.wait_until_up(*MODELS)
        yield running


@pytest.fixture
def page(page_router: Router) -> Iterator[Page]:
    with Page(page_router.url) as opened:
        yield opened


def test_the_page_lists_the_models(page: Page) -> None:
    """Id, name, availability and endpoint of each; the one that is down is there too."""
    models = page.models()
    assert {model["id"]: model["available"] for model in models} == {
        "distilgpt2": True,
        "gemma-3-12b": True,
        "phi-2": False,
    }
    for model in models:
        assert isinstance(model["name"], str)
        assert model["endpoint"].endswith(f"/models/{model['id']}")


def test_the_page_asks_two_models_at_once(page: Page) -> None:
    """Each answers with its continuation, without the prompt."""
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda model: page.ask(model, "Tell me of trains."), MODELS))
    assert all("[emulated]" in text and not text.startswith("Tell me") for text in texts)


def test_the_page_shows_what_went_wrong(page: Page) -> None:
    """A sentence, for an unknown model, one that is down, and a field that is wrong; no engine's address."""
    assert "nobody" in page.ask("nobody", "Hi")
    down = page.ask("phi-2", "Hi")
    assert down
    assert "127.0.0.1" not in down
    assert "max_new_tokens" in page.ask("distilgpt2", "Hi", max_new_tokens=5000)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "more",
    [
        *({"temperature": 0}, {"top_p": 1}, {"top_p": 0}, {"max_new_tokens": 2048}),
        {"repetition_penalty": 1.0, "temperature": 2},
    ],
    ids=str,
)
def test_values_that_engines_refuse_succeed(router: Router, model: str, more: dict[str, object]) -> None:
    """What seed 003's schema allows is served by either engine."""
    body = {"model_id": model, "prompt": "Hi", "max_new_tokens": 5, **more}
    answer = router.http.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"generated_text", "model_id"}


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_has_the_same_text(router: Router, model: str) -> None:
    """In pieces; the frame before `[DONE]` is the whole answer."""
    body = {"model_id": model, "prompt": "Tell me of trains.", "max_new_tokens": 16, "temperature": 0}
    whole = router.http.post("/generate", json=body).json()
    streamed = router.http.post("/generate", json={**body, "stream": True})
    *pieces, done, last = [event[6:] for event in streamed.text.split("\n\n") if event]
    assert last == "[DONE]"
    assert "".join(json.loads(piece)["content"] for piece in pieces) == whole["generated_text"]
    assert json.loads(done) == {"type": "done", **whole}


def test_what_the_test_client_reads(router: Router) -> None:
    """It joins `models` of the root, and asks each model for its health."""
    root = router.http.get("/").json()
    assert ", ".join(root["models"]) == "distilgpt2, gemma-3-12b"
    for model in root["models"]:
        health = router.http.get(f"/models/{model}/health").json()
        assert (health["model_id"], health["healthy"], health["status"]) == (model, True, "available")
    missing = router.http.get("/models/nobody/health")
    assert (missing.status_code, type(missing.json()["detail"])) == (404, str)
