"""`GET /model-info`: seed 000's card of the model that answers, true as far as it is known."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from pointsman.app import Router, build
from pointsman.control.card import card
from pointsman.settings import load
from unit.control.conftest import Client, take_down


def told(app: Router, model: str) -> dict[str, Any]:
    return asdict(card(app.registry.models[model]))


def learn(app: Router, model: str, **facts: Any) -> None:
    """Let the engines of a model have told something."""
    for replica in app.registry.models[model].pool:
        replica.facts = replace(replica.facts, **facts)


@pytest.mark.anyio
async def test_distilgpt2_has_what_the_seed_said_of_it(app: Router, client: Client) -> None:
    """The seed's values, but the length is what the engine takes."""
    async with client(app) as http:
        found = (await http.get("/model-info")).json()
    assert found == told(app, "distilgpt2")
    assert (found["model_name"], found["model_type"]) == ("distilgpt2", "GPT-2")
    assert (found["architecture"], found["parameters"]) == ("GPT2LMHeadModel", "82M")
    assert found["model_size"] == "82M parameters"
    assert found["optimized_for"] == ["text generation", "text completion", "chat"]
    assert len(found["supported_endpoints"]) == 5
    assert (found["max_length"], found["status"]) == (1024, "loaded")
    learn(app, "distilgpt2", max_total_tokens=512)
    assert told(app, "distilgpt2")["max_length"] == 512


def test_distilgpt2_that_is_down(app: Router) -> None:
    """The length is the model's own where no engine tells it."""
    take_down(app, "distilgpt2")
    learn(app, "distilgpt2", max_total_tokens=None)
    found = told(app, "distilgpt2")
    assert (found["max_length"], found["status"]) == (1024, "unavailable")


def test_another_known_model(app: Router) -> None:
    """Its own size and family; what it is good for is said once its engine told of its chat template."""
    found = told(app, "gemma-3-12b")
    assert (found["model_type"], found["parameters"]) == ("Gemma 3", "12B")
    assert found["optimized_for"] == []
    learn(app, "gemma-3-12b", chat_template=True, max_total_tokens=None)
    found = told(app, "gemma-3-12b")
    assert found["optimized_for"][0] == "chat"
    assert found["max_length"] is None


def test_an_unknown_model() -> None:
    """No value is made up, and what clients join to texts are texts."""
    app = build(load({"TGI_MINE_ENDPOINT": "http://engine.invalid"}, None, None))
    found = told(app, "mine")
    assert [found[name] for name in ("model_type", "architecture", "parameters", "max_length")] == [None] * 4
    assert (found["model_name"], found["model_size"], found["status"]) == ("mine", "unknown", "unavailable")
    assert " (".join((found["model_name"], found["model_size"])) + ", ".join(found["optimized_for"])
    learn(app, "mine", chat_template=False)
    assert told(app, "mine")["optimized_for"] == ["text generation", "text completion"]


@pytest.mark.parametrize("name", ["distilgpt2", "distilbert/distilgpt2"])
def test_what_the_engine_tells_counts(name: str) -> None:
    """A model of the operator's own name is known by what its engine runs."""
    app = build(load({"TGI_MINE_ENDPOINT": "http://engine.invalid"}, None, None))
    learn(app, "mine", names=(name,))
    assert told(app, "mine")["parameters"] == "82M"
