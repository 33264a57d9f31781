"""Which model answers when a request names none, with real processes: no setting, settings, unknown names."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from processes import Emulator, Router, wait_for

HELLO = [{"role": "user", "content": "Say hello."}]
SHORT = {"parameters": {"max_new_tokens": 2}}
CHAT = ("POST", "/v1/chat/completions", {"messages": HELLO, "max_tokens": 2})
TEXT = ("POST", "/v1/completions", {"prompt": "Once", "max_tokens": 2})
PROMPT = ("POST", "/generate", {"prompt": "Once"})
COMPLETE = ("POST", "/complete", {"prompt": "Once", "max_tokens": 2})
TALK = ("POST", "/chat/completions", {"messages": HELLO, "max_tokens": 2})
INPUTS = ("POST", "/generate", {"inputs": "Once", **SHORT})
STREAM = ("POST", "/generate_stream", {"inputs": "Once", **SHORT})
ROOT = ("POST", "/", {"inputs": "Once", **SHORT})
TOKENIZE = ("POST", "/tokenize", {"inputs": "Once"})
INFO = ("GET", "/info", None)
Request = tuple[str, str, dict[str, Any] | None]
QUICK = {"HEALTH__INTERVAL_S": "0.2", "HEALTH__INTERVAL_CHANGING_S": "0.05"}


def ask(router: Router, request: Request) -> httpx.Response:
    method, path, body = request
    return router.http.request(method, path, json=body)


def told(router: Router) -> list[str | None]:
    """What the routes that name the default model say."""
    health, card, root = (router.http.get(path).json() for path in ("/health", "/model-info", "/"))
    return [health["model_name"], card.get("model_name"), root["model"]]


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        (CHAT, "gemma-3-12b"),
        (TALK, "gemma-3-12b"),
        (TEXT, "distilgpt2"),
        (PROMPT, "distilgpt2"),
        (COMPLETE, "distilgpt2"),
        (INPUTS, "distilgpt2"),
        (STREAM, "distilgpt2"),
        (ROOT, "distilgpt2"),
        (TOKENIZE, "distilgpt2"),
        (INFO, "distilgpt2"),
    ],
)
def test_without_settings_the_first_that_suits(router: Router, request_: Request, model: str) -> None:
    """Text goes to the first configured model, and chat past DistilGPT-2 to one that is made for it."""
    answer = ask(router, request_)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pointsman-model"] == model


def test_without_settings_it_is_told(router: Router) -> None:
    """`/health`, `/model-info` and `/` name the model that answers a prompt alone."""
    assert told(router) == ["distilgpt2"] * 3


@pytest.fixture(scope="module")
def chosen(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """A router whose settings turn round what it would do by itself."""
    wishes = {
        "DEFAULT_MODEL": "gemma-3-12b",
        "SURFACES__TGI__MODEL": "distilbert/distilgpt2",
        "POINTSMAN_SURFACES__OPENAI__MODEL": "distilgpt2",
    }
    engines = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": vllm.url}
    with Router(**engines, **wishes) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        (TEXT, "distilgpt2"),
        (CHAT, "distilgpt2"),
        (PROMPT, "gemma-3-12b"),
        (COMPLETE, "gemma-3-12b"),
        (TALK, "gemma-3-12b"),
        (INPUTS, "distilgpt2"),
        (STREAM, "distilgpt2"),
        (ROOT, "distilgpt2"),
        (TOKENIZE, "distilgpt2"),
        (INFO, "distilgpt2"),
    ],
)
def test_a_surface_asks_its_own_setting_then_the_default(
    chosen: Router, request_: Request, model: str
) -> None:
    """OpenAI's and TGI's routes have settings of their own; seed 000's have not."""
    answer = ask(chosen, request_)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pointsman-model"] == model


def test_the_default_of_prompts_is_told(chosen: Router) -> None:
    """The routes that tell a model's name follow the settings."""
    assert told(chosen) == ["gemma-3-12b"] * 3


def free_url() -> str:
    """An address where nobody listens yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def engine_at(url: str, *flags: str) -> Emulator:
    return Emulator("vllm", "--port", url.rpartition(":")[2], *flags)


def test_a_model_that_is_down_is_not_replaced(tgi: Emulator) -> None:
    """Chat waits for its model with 503 and does not go to DistilGPT-2, which is up."""
    url = free_url()
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=url, **QUICK) as router:
        router.wait_until_up("distilgpt2")
        refused = ask(router, CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_replica")
        assert "'gemma-3-12b'" in refused.json()["error"]["message"]
        with engine_at(url):
            router.wait_until_up("gemma-3-12b")
            assert ask(router, CHAT).headers["x-pointsman-model"] == "gemma-3-12b"
        wait_for(lambda: ask(router, CHAT).status_code == 503, "down again")
        assert ask(router, TEXT).headers["x-pointsman-model"] == "distilgpt2"


def test_a_name_that_only_an_engine_knows(tgi: Emulator) -> None:
    """The log tells at the start; calls get 503 with the name until the engine is up, and then that model."""
    url = free_url()
    engines = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": url}
    with Router(**engines, DEFAULT_MODEL="org/served", **QUICK) as router:
        router.read_until("DEFAULT_MODEL: no model is configured as 'org/served'")
        router.wait_until_up("distilgpt2")
        for request in (CHAT, TEXT, PROMPT, COMPLETE, TALK, INPUTS, ROOT, TOKENIZE, INFO):
            refused = ask(router, request)
            assert refused.status_code == 503, refused.text
            assert int(refused.headers["retry-after"]) >= 1
            assert "'org/served' is not known" in refused.text
        assert told(router) == [None, None, None]
        assert router.http.get("/model-info").status_code == 503
        assert router.http.get("/health").json()["model_loaded"] is False
        assert ask(router, ("POST", "/v1/completions", {"model": "distilgpt2", **TEXT[2]})).status_code == 200
        with engine_at(url, "--served-model-name", "org/served"):
            router.wait_until_up("gemma-3-12b")
            for request in (CHAT, TEXT, PROMPT, INPUTS, ROOT):
                assert ask(router, request).headers["x-pointsman-model"] == "gemma-3-12b"
            assert told(router) == ["gemma-3-12b"] * 3
