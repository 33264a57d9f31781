"""What the router serves: models, their replicas, and the leases on them. Per worker process."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType

from pointsman.attempt import End
from pointsman.model import ModelConfig
from pointsman.policy import Policy, make
from pointsman.replica import Engine, Replica, State
from pointsman.retry import Budget, RetryConfig


@dataclass(slots=True, eq=False)
class Model:
    """A model with the pool of replicas that serve it."""

    config: ModelConfig
    pool: list[Replica]
    policy: Policy
    budget: Budget

    @property
    def id(self) -> str:
        return self.config.id

    @property
    def available(self) -> bool:
        """Whether some replica passed its health checks."""
        return any(replica.health.state is State.UP for replica in self.pool)

    @property
    def engines(self) -> set[Engine]:
        return {replica.engine for replica in self.pool}

    @property
    def chats(self) -> bool:
        """False only where its name, or else an engine of it, tells that it is not made for chat.

        What is not known yet counts for the model: it is not to lose its calls while its engines are down.
        """
        told = {replica.facts.chat_template for replica in self.pool}
        return not self.config.base and (False not in told or True in told)


@dataclass(frozen=True, slots=True)
class SurfaceConfig:
    """What the operator wants of one surface."""

    model: str | None = None  # any name of the model for requests that name none


class Lease:
    """One request's hold on a replica. Closing it a second time does nothing."""

    __slots__ = ("_closed", "_on_close", "replica")

    def __init__(self, replica: Replica, on_close: Callable[[Replica, End], None]) -> None:
        self.replica = replica
        self._on_close = on_close
        self._closed = False
        replica.in_flight += 1

    def close(self, end: End) -> None:
        if self._closed:
            return
        self._closed = True
        self.replica.in_flight -= 1
        self._on_close(self.replica, end)


class Registry:
    """Models by id, in the order of the configuration.

    Args:
        default_model: a name of the model for requests that name none.
        on_attempt: told of each finished attempt: the replica and how it ended.
        surfaces: what differs for some surfaces, by their names.
    """

    def __init__(
        self,
        models: Iterable[ModelConfig],
        retry: RetryConfig,
        default_model: str | None = None,
        on_attempt: Callable[[Replica, End], None] = lambda replica, end: None,
        surfaces: Mapping[str, SurfaceConfig] = MappingProxyType({}),
    ) -> None:
        self.models = {config.id: _model(config, retry) for config in models}
        self.configured = default_model
        self._default = default_model
        self._surfaces = surfaces
        self._on_attempt = on_attempt
        self._named = _by_name(list(self.models.values()))
        # Names that engines serve, each with one that does; an entry is checked before it is believed.
        self._known: dict[str, tuple[Model, Replica]] = {}

    @property
    def replicas(self) -> list[Replica]:
        return [replica for model in self.models.values() for replica in model.pool]

    def find(self, name: str) -> Model | None:
        """The model that answers to `name`, by exact match: id, alias, hub name, name that an engine serves.

        What the operator wrote comes first, so that no engine can take another model's name.
        """
        model = self._named.get(name)
        if model is not None:
            return model
        model, replica = self._known.get(name, (None, None))
        if replica is not None and replica.knows(name):
            return model
        for model in self.models.values():
            for replica in model.pool:
                if replica.knows(name):
                    self._known[name] = (model, replica)  # bounded: only names that a model answers to
                    return model
        self._known.pop(name, None)
        return None

    def set_default(self, name: str | None) -> None:
        """Change what `wanted` gives for all surfaces without a model of their own; None: as at the start."""
        self._default = self.configured if name is None else name

    def wanted(self, surface: str = "") -> str | None:
        """The name that the settings give for requests to a surface that name no model; None: no name."""
        own = self._surfaces.get(surface, SurfaceConfig()).model
        return self._default if own is None else own

    def default(
        self, suits: Callable[[Model], bool], surface: str = "", *, chat: bool = False
    ) -> Model | None:
        """The model for a request that names none; None where there is none.

        It is the one that the settings name, for the surface or else for all; else the one marked as default;
        else the first, in the order of the configuration, that suits. These do not give way to each other:
        a name that no model answers to is None, and a model that is named or marked is it even where it does
        not suit, so that the answer says why. Which replicas are up plays no part: a model that comes and
        goes must not take turns with another.

        Args:
            suits: whether a model can serve the request at all.
            surface: by which the request came.
            chat: of those that suit, models that are not made for chat come last.
        """
        name = self.wanted(surface)
        if name is not None:
            return self.find(name)
        ranks = (
            lambda model: model.config.default,
            lambda model: suits(model) and (model.chats or not chat),
            suits,
        )
        return next((model for fits in ranks for model in self.models.values() if fits(model)), None)

    def lease(self, replica: Replica) -> Lease:
        return Lease(replica, self._on_attempt)


def _by_name(models: list[Model]) -> dict[str, Model]:
    """Configured names; of equal names the stronger kind counts, then the first model."""
    kinds = (
        [(model.config.hf_name, model) for model in models if model.config.hf_name is not None],
        [(alias, model) for model in models for alias in model.config.aliases],
        [(model.id, model) for model in models],
    )
    return {name: model for kind in kinds for name, model in reversed(kind)}


def _model(config: ModelConfig, retry: RetryConfig) -> Model:
    numbers = count()
    pool = [
        Replica(
            id=f"{config.id}-{next(numbers)}",
            model_id=config.id,
            engine=entry.engine,
            endpoint=entry.endpoint,
            served_name=entry.served_name,
            weight=entry.weight,
            max_in_flight=entry.max_in_flight,
            key=entry.key,
        )
        for entry in config.replicas
    ]
    return Model(config, pool, make(config.policy), Budget(retry))
