"""Who may stand in for a model. Which model a call is for is tested with the plane, but for what is gone."""

import pytest

from pointsman.addressee import chain_of, model_of
from pointsman.call import Api, Call, Operation
from pointsman.errors import RouterError
from pointsman.keys import Key
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.registry import Registry
from pointsman.replica import Endpoint, Engine
from pointsman.retry import RetryConfig
from pointsman.surfaces.base import Surface, read_fields
from pointsman.surfaces.comparison import Comparison
from pointsman.surfaces.openai import OpenAI

HERE = Endpoint("http", "127.0.0.1", 9)
OPENAI = OpenAI()
CHAT = Call(Api.OPENAI, Operation.CHAT, "a")


def model(model_id: str, engine: Engine, *fallbacks: str, max_body_bytes: int | None = None) -> ModelConfig:
    pool = (ReplicaConfig(HERE, engine),)
    return ModelConfig(model_id, pool, model_id, fallbacks=fallbacks, max_body_bytes=max_body_bytes)


REGISTRY = Registry(
    [
        model("a", Engine.VLLM, "c", "gone", "b", "d"),
        model("b", Engine.VLLM, "a"),
        model("c", Engine.TGI, "d"),
        model("d", Engine.VLLM, max_body_bytes=1000),
    ],
    RetryConfig(),
)


def chain(
    name: str, call: Call = CHAT, key: Key | None = None, size: int = 100, surface: Surface = OPENAI
) -> list[str]:
    found = chain_of(REGISTRY, REGISTRY.models[name], surface, call, key, size)
    return [one.id for one in found]


def test_the_chain_is_the_models_own_in_its_order() -> None:
    """Those of its fallbacks are not followed: there is no loop. Who is gone since a reload is left out."""
    assert chain("a") == ["c", "b", "d"]
    assert chain("b") == ["a"]
    assert chain("c") == ["d"]
    assert chain("d") == []


@pytest.mark.parametrize(("models", "allowed"), [((), ["c", "b", "d"]), (("a", "d"), ["d"]), (("a",), [])])
def test_a_key_is_not_led_to_models_that_it_may_not_use(models: tuple[str, ...], allowed: list[str]) -> None:
    """Whatever the operator's chain says; a key without a list may use all."""
    key = Key(digest=b"x", models=frozenset(models))
    assert chain("a", key=key) == allowed


def test_a_body_that_is_too_large_for_a_model_does_not_go_there() -> None:
    """By its engine's limit or its own."""
    assert chain("a", size=1001) == ["c", "b"]
    assert chain("a", size=2_000_001) == ["b"]


def test_who_compares_models_wants_no_other() -> None:
    """A comparison of a model that is down with its own fallback would be of one with itself."""
    comparison = Comparison()
    body = b'{"models":["b"],"prompt":"Hi"}'
    call = comparison.decode(Operation.GENERATE, read_fields(body), body, stream=False)
    assert chain("b", call, surface=comparison) == []
    assert chain("b", call) == ["a"]


@pytest.mark.parametrize("operation", list(Operation))
def test_only_texts_may_be_another_models(operation: Operation) -> None:
    """Tokens, embeddings and what a model says of itself are worth nothing from another one."""
    api = Api.TGI if operation in (Operation.GENERATE, Operation.COMPAT) else Api.OPENAI
    found = chain("b", Call(api, operation, "b"))
    generates = (Operation.CHAT, Operation.COMPLETION, Operation.GENERATE, Operation.COMPAT)
    assert found == (["a"] if operation in generates else [])


@pytest.mark.parametrize(
    ("pools", "status"), [([], 404), ([Engine.TGI], 404), ([None], 503), ([Engine.TGI, None], 503)]
)
def test_a_call_without_a_name_where_replicas_were_taken_out(pools: list[Engine | None], status: int) -> None:
    """It may be served again when one is back; where no engine would ever suit, it is told so."""
    models = [
        ModelConfig(f"m{number}", () if engine is None else (ReplicaConfig(HERE, engine),), "m")
        for number, engine in enumerate(pools)
    ]
    call = Call(Api.OPENAI, Operation.EMBEDDING, None)  # TGI has none
    with pytest.raises(RouterError) as caught:
        model_of(Registry(models, RetryConfig()), None, OPENAI, call)
    assert caught.value.status == status
