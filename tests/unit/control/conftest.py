"""The router's app in this process, without probes: states are set by hand."""

from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from pointsman.app import Router, build
from pointsman.replica import Facts, Health, State
from pointsman.settings import load

ENGINES = {
    "TGI_DISTILGPT2_ENDPOINT": "http://engine.invalid:8080",
    "VLLM_GEMMA3_ENDPOINT": "http://one.invalid:8000,http://two.invalid:8000",
}
Client = Callable[..., httpx.AsyncClient]


@pytest.fixture
def app() -> Router:
    built = build(load(ENGINES, None, None))
    for replica in built.registry.replicas:
        replica.health = Health(State.UP, "answers its health checks", since=1_700_000_000.0)
        replica.facts = Facts(names=("hub/name",), max_total_tokens=1024)
    return built


@pytest.fixture
def client() -> Client:
    """A client of an app, calling from an address."""

    def make(app: Router, address: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 50000), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://router.test")

    return make


def take_down(app: Router, model: str) -> None:
    """Let the health checks have found every replica of a model down."""
    for replica in app.registry.models[model].pool:
        replica.health = replace(replica.health, state=State.DOWN, reason="connection refused")
