"""The models: `models:` of `config.yml` joined with those the environment names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pointsman.call import Timeouts
from pointsman.config_file import Section, Tree, suggestion
from pointsman.knobs import KNOBS, section_knobs
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.naming import MODEL_ID, NamedPool, read_endpoint, read_key
from pointsman.policy import DEFAULT, POLICIES
from pointsman.replica import Engine
from pointsman.sources import Environment
from pointsman.values import NAME, SWITCH, Kind, SettingsError, choice, items, shown, whole

_MODEL_KEYS = (
    "id", "engine", "hf_name", "name", "aliases", "default", "fallbacks", "policy", "timeouts", "limits",
    "replicas",
)  # fmt: skip
_LIMIT_KEYS = ("max_body_bytes",)
_REPLICA_KEYS = ("url", "engine", "served_name", "weight", "max_in_flight", "key", "key_env")

_ENGINE = choice(Engine, Engine)
_POLICY = choice(POLICIES)
_WEIGHT = whole(1, 1000)
_COUNT = whole(1, 1_000_000)
_TITLE = Kind("text", lambda text, name: text)
_NAMES = Kind(
    "names, comma-separated",
    lambda text, name: tuple(NAME.read(item, name) for item in items(text)),
    many=True,
)


def read_models(
    file: Section, pools: Mapping[str, NamedPool], environment: Environment, timeouts: Timeouts
) -> tuple[tuple[ModelConfig, ...], list[str]]:
    """Read all models, those of the file first, with notices.

    A model that both name keeps what the file says of it, with the environment's replicas.

    Raises:
        SettingsError: an entry is wrong, or entries contradict each other.
    """
    models: dict[str, ModelConfig] = {}
    notices = []
    for number, tree in enumerate(file.items_of("models"), 1):
        entry = _entry(tree, f"item {number} of models", file.file)
        model = _model(entry, environment, timeouts)
        if model.id in models:
            raise SettingsError(f"{file.file} has two models with the id {model.id!r}; rename or remove one")
        pool = pools.get(model.id)
        if pool is not None:
            if model.replicas:
                notices.append(f"{pool.called} replaces the replicas of model {model.id!r} in {file.file}")
            origin = f"{model.origin}, replicas from {pool.called}"
            model = replace(model, replicas=pool.replicas, origin=origin)
        if not model.replicas:
            raise SettingsError(
                f"model {model.id!r} in {file.file} has no replicas; list at least one `- url: …`"
            )
        models[model.id] = model
    for pool in pools.values():
        if pool.id not in models:
            models[pool.id] = ModelConfig(
                id=pool.id,
                replicas=pool.replicas,
                name=pool.name,
                hf_name=pool.hf_name,
                timeouts=timeouts,
                origin=pool.called,
            )
    found = tuple(models.values())
    _refuse_clashes(found)
    return tuple(_with_chain(model, found, file.file) for model in found), notices


def named(models: Sequence[ModelConfig], name: str) -> ModelConfig | None:
    """The model that is configured under a name: id, before alias, hub name and served name."""
    ranks: tuple[Callable[[ModelConfig], bool], ...] = (
        lambda model: model.id == name,
        lambda model: name in model.aliases,
        lambda model: model.hf_name == name,
        lambda model: any(replica.served_name == name for replica in model.replicas),
    )
    return next((model for fits in ranks for model in models if fits(model)), None)


def mark_default(models: Sequence[ModelConfig], wanted: str | None) -> tuple[ModelConfig, ...]:
    """Move the mark to the model that DEFAULT_MODEL names; to none where it is a name that we do not know."""
    if wanted is None:
        return tuple(models)
    chosen = named(models, wanted)
    return tuple(replace(model, default=model is chosen) for model in models)


def with_slots(models: Sequence[ModelConfig], usual: int) -> tuple[ModelConfig, ...]:
    """Give all replicas the slots that one has of which neither settings nor engine say how many."""
    return tuple(
        replace(model, replicas=tuple(replace(one, usual_slots=usual) for one in model.replicas))
        for model in models
    )


def unknown_model(models: Sequence[ModelConfig], wanted: str | None, called: str) -> str | None:
    """A notice for a setting whose model has no such name in the configuration: a slip, or an engine's name.

    Without any model there is nothing to compare with, and another notice.
    """
    if wanted is None or not models or named(models, wanted) is not None:
        return None
    ids = [model.id for model in models]
    hint = suggestion(wanted, ids).rstrip("?")
    return (
        f"{called}: no model is configured as {shown(wanted)}{hint}; known are {', '.join(ids)}; "
        f"requests that this setting is for get 503 until an engine tells that it serves that name"
    )


def _entry(tree: Tree, place: str, file: str) -> Section:
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{place} in {file} must be a section of `name: value` lines, beginning with its id"
        )
    entry = Section(tree, file, place)
    model_id = tree.get("id")
    return Section(tree, file, f"model {model_id!r}") if isinstance(model_id, str) and model_id else entry


def _model(entry: Section, environment: Environment, timeouts: Timeouts) -> ModelConfig:
    entry.refuse_unknown(_MODEL_KEYS)
    model_id = entry.text("id")
    if model_id is None:
        raise SettingsError(f"{entry.place} in {entry.file} has no id; give it one such as gpt-2")
    if MODEL_ID.fullmatch(model_id) is None:
        raise SettingsError(
            f"{entry.called('id')} may only have a-z, 0-9, dot, _ and -; put other names into aliases"
        )
    limits = entry.section("limits", f"limits of {entry.place}")
    limits.refuse_unknown(_LIMIT_KEYS)
    times = entry.section("timeouts", f"timeouts of {entry.place}")
    knobs = section_knobs("TIMEOUT")
    times.refuse_unknown(knobs)
    own_times: dict[str, Any] = {key: times.value(key, knob.kind) for key, knob in knobs.items()}
    return ModelConfig(
        id=model_id,
        replicas=_replicas(entry, environment),
        name=entry.value("name", _TITLE, model_id),
        hf_name=entry.value("hf_name", NAME),
        aliases=tuple(
            alias for alias in dict.fromkeys(entry.value("aliases", _NAMES, ())) if alias != model_id
        ),
        default=entry.value("default", SWITCH, False),
        fallbacks=entry.value("fallbacks", _NAMES, ()),
        policy=entry.value("policy", _POLICY, DEFAULT),
        timeouts=replace(timeouts, **{key: value for key, value in own_times.items() if value is not None}),
        max_body_bytes=limits.value("max_body_bytes", KNOBS["MAX_BODY_BYTES"].kind),
        origin=entry.file,
    )


def _replicas(entry: Section, environment: Environment) -> tuple[ReplicaConfig, ...]:
    engine: Engine | None = entry.value("engine", _ENGINE)
    found = []
    for number, tree in enumerate(entry.items_of("replicas"), 1):
        place = f"replica {number} of {entry.place}"
        one = Section(
            {"url": tree} if isinstance(tree, str) else _mapping(tree, place, entry.file), entry.file, place
        )
        found.append(_replica(one, engine, environment))
    return tuple(found)


def _mapping(tree: Tree, place: str, file: str) -> dict[str, Tree]:
    if not isinstance(tree, dict):
        raise SettingsError(f"{place} in {file} must be a URL, or a section that has one as `url: …`")
    return tree


def _replica(one: Section, engine: Engine | None, environment: Environment) -> ReplicaConfig:
    one.refuse_unknown(_REPLICA_KEYS)
    url = one.text("url")
    if url is None:
        raise SettingsError(f"{one.place} in {one.file} has no url; write one like http://host:8080")
    own: Engine | None = one.value("engine", _ENGINE, engine)
    if own is None:
        raise SettingsError(
            f"{one.place} in {one.file} does not say its engine; write `engine: tgi` or `engine: vllm`"
        )
    return ReplicaConfig(
        endpoint=read_endpoint(url, one.called("url")),
        engine=own,
        served_name=one.value("served_name", NAME),
        weight=one.value("weight", _WEIGHT, 1),
        max_in_flight=one.value("max_in_flight", _COUNT),
        key=_key(one, environment),
    )


def _key(one: Section, environment: Environment) -> str | None:
    key, variable = one.text("key"), one.text("key_env")
    if key is not None and variable is not None:
        raise SettingsError(f"{one.place} in {one.file} has both key and key_env; keep one, best key_env")
    if variable is None:
        return None if key is None else read_key(key, one.called("key"))
    given = environment.get(variable)
    if given is None:
        raise SettingsError(
            f"{one.called('key_env')}: there is no variable {shown(variable)}; set it to the key"
        )
    return read_key(given.text, given.called)


def _with_chain(model: ModelConfig, models: Sequence[ModelConfig], file: str) -> ModelConfig:
    """The model with the ids of its fallbacks, which may be given by any configured name."""
    called = f"fallbacks of model {model.id!r} in {file}"
    chain: list[str] = []
    for name in model.fallbacks:
        other = named(models, name)
        if other is None:
            ids = [one.id for one in models]
            hint = suggestion(name, ids).rstrip("?")
            raise SettingsError(
                f"{called}: no model is configured as {shown(name)}{hint}; known are {', '.join(ids)}"
            )
        if other.id == model.id or other.id in chain:
            twice = "itself" if other.id == model.id else f"{other.id!r} twice"
            raise SettingsError(f"{called}: it names {twice}; name each other model once")
        chain.append(other.id)
    return replace(model, fallbacks=tuple(chain))


def _refuse_clashes(models: Sequence[ModelConfig]) -> None:
    owners = {model.id: model.id for model in models}
    for model in models:
        for alias in model.aliases:
            owner = owners.setdefault(alias, model.id)
            if owner != model.id:
                raise SettingsError(f"models {owner!r} and {model.id!r} both answer to {alias!r}; rename one")
        urls = [(replica.endpoint, replica.served_name) for replica in model.replicas]
        twice = next((url for url in urls if urls.count(url) > 1), None)
        if twice is not None:
            raise SettingsError(
                f"model {model.id!r} has {twice[0].url} twice; list each once, with a weight if need be"
            )
    marked = [model.id for model in models if model.default]
    if len(marked) > 1:
        raise SettingsError(f"models {' and '.join(marked)} are both marked as default; keep one mark")
