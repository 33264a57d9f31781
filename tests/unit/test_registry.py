"""The registry: who a name means, which model is the default, and leases that end once."""

import pytest

from pointsman import attempt
from pointsman.attempt import End
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.registry import Model, Registry
from pointsman.replica import Endpoint, Engine, Facts, Health, Replica, State
from pointsman.retry import RetryConfig

HERE = Endpoint("http", "127.0.0.1", 9)


def config(
    model_id: str,
    *,
    engine: Engine = Engine.VLLM,
    hf_name: str | None = None,
    aliases: tuple[str, ...] = (),
    served: str | None = None,
    default: bool = False,
    replicas: int = 1,
) -> ModelConfig:
    pool = tuple(ReplicaConfig(HERE, engine, served_name=served) for _ in range(replicas))
    return ModelConfig(model_id, pool, model_id, hf_name, aliases, default)


def registry(*models: ModelConfig, default: str | None = None) -> Registry:
    return Registry(models, RetryConfig(), default)


def found(names: Registry, name: str) -> str | None:
    model = names.find(name)
    return model.id if model is not None else None


NAMED = (
    config("gemma", hf_name="google/gemma-3", aliases=("gpt-4o", "chat"), served="gemma-served"),
    config("gpt-2", engine=Engine.TGI, hf_name="openai-community/gpt2"),
)


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("gemma", "gemma"),
        ("gpt-4o", "gemma"),
        ("chat", "gemma"),
        ("google/gemma-3", "gemma"),
        ("gemma-served", "gemma"),
        ("gpt-2", "gpt-2"),
        ("openai-community/gpt2", "gpt-2"),
        ("Gemma", None),
        ("gemma ", None),
        ("gemm", None),
        ("", None),
        ("gemma-0", None),
        ("google", None),
    ],
)
def test_a_model_is_found_by_each_of_its_names(name: str, model_id: str | None) -> None:
    """Id, alias, hub name and served name are matched exactly; nothing else is."""
    assert found(registry(*NAMED), name) == model_id


def test_what_an_engine_tells_is_a_name_as_long_as_it_tells() -> None:
    """Served names follow the engine's facts, and a name that is gone is unknown again."""
    names = registry(*NAMED)
    replica = names.models["gpt-2"].pool[0]
    assert found(names, "distilgpt2") is None
    replica.facts = Facts(names=("distilgpt2", "lora-a"))
    assert found(names, "distilgpt2") == found(names, "lora-a") == "gpt-2"
    replica.facts = Facts(names=("other",))
    assert found(names, "distilgpt2") is None
    assert found(names, "other") == "gpt-2"


def test_a_served_name_moves_with_its_engine() -> None:
    """Cached names are checked before they are believed."""
    names = registry(config("a"), config("b"))
    names.models["a"].pool[0].facts = Facts(names=("x",))
    assert found(names, "x") == "a"
    names.models["a"].pool[0].facts = Facts()
    names.models["b"].pool[0].facts = Facts(names=("x",))
    assert found(names, "x") == "b"


@pytest.mark.parametrize("name", ["b", "b-alias", "org/b"])
def test_no_engine_takes_the_name_of_another_model(name: str) -> None:
    """What the operator wrote outranks what an engine claims, whatever the order of the models."""
    names = registry(config("a", served=name), config("b", aliases=("b-alias",), hf_name="org/b"))
    names.models["a"].pool[0].facts = Facts(names=(name,))
    assert found(names, name) == "b"


def test_stronger_names_win_over_earlier_models() -> None:
    """An id beats an alias beats a hub name; between equals the first model counts."""
    names = registry(config("a", aliases=("c",), hf_name="x"), config("b", aliases=("x",)), config("c"))
    assert (found(names, "c"), found(names, "x")) == ("c", "b")
    twins = registry(config("first", hf_name="org/m"), config("second", hf_name="org/m"))
    assert found(twins, "org/m") == "first"


def test_unknown_names_leave_nothing_behind() -> None:
    """Strangers who guess names cannot fill the memory."""
    names = registry(*NAMED)
    for number in range(1000):
        assert names.find(f"guess-{number}") is None
    assert len(names._known) == 0


def chats(model: Model) -> bool:
    return Engine.VLLM in model.engines


@pytest.mark.parametrize(
    ("named", "marked", "expected"),
    [
        (None, None, "v"),
        ("t", None, "t"),
        ("alias-of-v2", None, "v2"),
        ("gone", None, "v"),
        (None, "t", "t"),
        ("v2", "t", "v2"),
    ],
)
def test_the_default_model(named: str | None, marked: str | None, expected: str) -> None:
    """The setting by any name, else the marked model, else the first that suits."""
    models = [
        config("t", engine=Engine.TGI, default=marked == "t"),
        config("v"),
        config("v2", aliases=("alias-of-v2",)),
    ]
    chosen = registry(*models, default=named).default(chats)
    assert chosen is not None
    assert chosen.id == expected


def test_no_default_where_nothing_suits() -> None:
    """A request is not given to an engine that cannot read it just because it is there."""
    assert registry(config("t", engine=Engine.TGI)).default(chats) is None
    assert registry().default(chats) is None


def test_replicas_are_numbered_from_zero() -> None:
    """Replica ids are the model's id and a number, in order."""
    names = registry(config("a", replicas=3), config("b"))
    assert [replica.id for replica in names.replicas] == ["a-0", "a-1", "a-2", "b-0"]


def test_a_lease_closes_exactly_once() -> None:
    """The first end counts; later ends neither lower the load again nor are told."""
    told: list[tuple[Replica, End]] = []
    names = Registry([config("a")], RetryConfig(), None, lambda replica, end: told.append((replica, end)))
    (replica,) = names.replicas
    first, second = names.lease(replica), names.lease(replica)
    assert replica.in_flight == 2
    first.close(attempt.OK)
    first.close(attempt.BUG)
    assert replica.in_flight == 1
    second.close(attempt.CLIENT_ABORT)
    assert replica.in_flight == 0
    assert told == [(replica, attempt.OK), (replica, attempt.CLIENT_ABORT)]


def test_a_model_is_available_only_when_a_check_said_so() -> None:
    """A replica that was not checked yet may be tried, but does not make its model available."""
    (model,) = registry(config("a", replicas=2)).models.values()
    assert not model.available
    assert all(replica.usable for replica in model.pool)
    model.pool[1].health = Health(state=State.UP)
    assert model.available
