"""The registry: who a name means, which model is the default, and leases that end once."""

from random import Random

import pytest

from pointsman import attempt
from pointsman.attempt import End
from pointsman.breaker import BreakerConfig
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.outliers import Outliers
from pointsman.registry import Model, Registry, SurfaceConfig
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


def embeds(model: Model) -> bool:
    return Engine.VLLM in model.engines


def chosen(names: Registry, surface: str = "", *, chat: bool = False) -> str | None:
    """The id of the default model for what a vLLM alone can do."""
    model = names.default(embeds, surface, chat=chat)
    return model.id if model is not None else None


@pytest.mark.parametrize(
    ("named", "marked", "expected"),
    [
        (None, None, "v"),
        ("t", None, "t"),
        ("alias-of-v2", None, "v2"),
        ("served-by-t", None, "t"),
        ("gone", None, None),
        (None, "t", "t"),
        ("v2", "t", "v2"),
        ("gone", "t", None),
    ],
)
def test_the_default_model(named: str | None, marked: str | None, expected: str | None) -> None:
    """The setting by any name and no other model, else the marked model, else the first that suits."""
    models = [
        config("t", engine=Engine.TGI, served="served-by-t", default=marked == "t"),
        config("v"),
        config("v2", aliases=("alias-of-v2",)),
    ]
    assert chosen(registry(*models, default=named)) == expected


def test_no_default_where_nothing_suits() -> None:
    """A request is not given to an engine that cannot read it just because it is there."""
    assert chosen(registry(config("t", engine=Engine.TGI))) is None
    assert chosen(registry()) is None


@pytest.mark.parametrize(
    ("named", "surface", "wanted", "expected"),
    [
        (None, "tgi", "b-alias", "b"),
        (None, "openai", None, "a"),
        ("a", "tgi", "b-alias", "b"),
        ("a", "openai", "a", "a"),
        ("gone", "tgi", "b-alias", "b"),
        ("gone", "openai", "gone", None),
    ],
)
def test_a_surface_comes_before_all(
    named: str | None, surface: str, wanted: str | None, expected: str | None
) -> None:
    """Its own setting beats DEFAULT_MODEL and the mark; other surfaces do not see it."""
    models = (config("a"), config("b", aliases=("b-alias",)), config("c", default=named is None))
    surfaces = {"tgi": SurfaceConfig("b-alias"), "openai": SurfaceConfig()}
    names = Registry(models, RetryConfig(), named, surfaces=surfaces)
    assert names.wanted(surface) == (wanted or named)
    assert chosen(names, surface) == (expected if named or surface == "tgi" else "c")


def test_a_default_by_a_name_that_engines_tell() -> None:
    """It is nobody until an engine has told the name, and stays that model when the engine is down."""
    names = registry(config("a"), config("b"), default="org/served")
    assert chosen(names) is None
    replica = names.models["b"].pool[0]
    replica.facts = Facts(names=("org/served",))
    assert chosen(names) == "b"
    replica.health = Health(state=State.DOWN)
    assert chosen(names) == "b"


YES, NO = Facts(chat_template=True), Facts(chat_template=False)


@pytest.mark.parametrize(
    ("facts", "chat", "other"),
    [
        ((Facts(), Facts()), "a", "a"),
        ((NO, Facts()), "b", "a"),
        ((NO, YES), "b", "a"),
        ((YES, NO), "a", "a"),
        ((Facts(), YES), "a", "a"),
        ((NO, NO), "a", "a"),
    ],
)
def test_chat_goes_past_models_without_a_template(facts: tuple[Facts, Facts], chat: str, other: str) -> None:
    """Only what is known to have none stands back, only for chat, and only while another suits."""
    names = registry(config("a"), config("b"))
    for model, told in zip(names.models.values(), facts, strict=True):
        model.pool[0].facts = told
    assert (chosen(names, chat=True), chosen(names)) == (chat, other)


@pytest.mark.parametrize(
    ("told", "chats"), [((NO, Facts()), False), ((NO, YES), True), ((Facts(), Facts()), True)]
)
def test_the_replicas_of_a_model_speak_for_each_other(told: tuple[Facts, ...], chats: bool) -> None:
    """One that has a template is enough; one that has none counts for those not heard yet."""
    (model,) = registry(config("a", replicas=2)).models.values()
    for replica, facts in zip(model.pool, told, strict=True):
        replica.facts = facts
    assert model.chats is chats


@pytest.mark.parametrize(
    ("model_id", "hf_name"),
    [("distilgpt2", None), ("gpt-2", "gpt2"), ("old", "distilbert/DistilGPT2"), ("p", "microsoft/phi-2")],
)
def test_well_known_base_models_do_not_wait_to_be_asked(model_id: str, hf_name: str | None) -> None:
    """Before any engine was heard, chat is not theirs; what an engine tells later moves nothing."""
    names = registry(config(model_id, hf_name=hf_name), config("gemma"))
    assert (chosen(names, chat=True), chosen(names)) == ("gemma", model_id)
    names.models[model_id].pool[0].facts = YES
    assert chosen(names, chat=True) == "gemma"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("chat", [False, True])
def test_the_default_does_not_move_with_health(state: State, chat: bool) -> None:
    """A model that comes and goes takes no turns with another."""
    names = registry(config("a"), config("b"))
    names.models["b"].pool[0].health = Health(state=State.UP)
    names.models["b"].pool[0].facts = YES
    names.models["a"].pool[0].health = Health(state=state)
    assert chosen(names, chat=chat) == "a"


@pytest.mark.parametrize("how", ["setting", "mark", "surface"])
def test_who_is_named_chats_whatever_it_is(how: str) -> None:
    """The operator's word counts more than what a model is made for."""
    models = (config("gemma"), config("distilgpt2", default=how == "mark"))
    surfaces = {"openai": SurfaceConfig("distilgpt2" if how == "surface" else None)}
    default = "distilgpt2" if how == "setting" else None
    names = Registry(models, RetryConfig(), default, surfaces=surfaces)
    assert chosen(names, "openai", chat=True) == "distilgpt2"


def test_replicas_are_numbered_from_zero() -> None:
    """Replica ids are the model's id and a number, in order."""
    names = registry(config("a", replicas=3), config("b"))
    assert [replica.id for replica in names.replicas] == ["a-0", "a-1", "a-2", "b-0"]


def test_a_lease_closes_exactly_once() -> None:
    """The first end counts; later ends neither lower the load again nor are told."""
    told: list[tuple[Replica, End]] = []

    class Noting(Outliers):
        def end(self, replica: Replica, end: End, begun_at: float, *, tried: bool = False) -> None:
            told.append((replica, end))

    names = Registry([config("a")], RetryConfig(), outliers=Noting(BreakerConfig(), Random()))
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
