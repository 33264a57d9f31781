"""What the router serves: models, their replicas, and the leases on them. Per worker process."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from time import time
from types import MappingProxyType

from pointsman.attempt import End
from pointsman.breaker import BreakerConfig
from pointsman.membership import Change, arrange, seat_of, wanted
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.orders import Orders, Seat
from pointsman.outliers import Outliers
from pointsman.policy import Policy, make
from pointsman.replica import Engine, Networks, Replica, State
from pointsman.retry import Budget, RetryConfig

_NAMES = 4096  # of engines' own that are kept; full, all are looked for anew


@dataclass(slots=True, eq=False)
class Model:
    """A model with the pool of replicas that serve it."""

    config: ModelConfig
    pool: list[Replica]
    policy: Policy
    budget: Budget
    service_s: float = 0.0  # that calls took of late, from sending to the end; 0: none so far

    @property
    def id(self) -> str:
        return self.config.id

    @property
    def available(self) -> bool:
        """Whether some replica passed its health checks, and nobody drains it."""
        return any(replica.health.state is State.UP and not replica.draining for replica in self.pool)

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
    """One request's hold on a replica. Closing it a second time does nothing.

    `tries`: it is the one call that tries a replica that was ejected.
    """

    __slots__ = ("_closed", "_outliers", "begun_at", "replica", "tries")

    def __init__(
        self,
        replica: Replica,
        outliers: Outliers,
        begun_at: float,
        *,
        tries: bool,
    ) -> None:
        self.replica = replica
        self._outliers = outliers
        self._closed = False
        self.begun_at = begun_at  # monotonic seconds
        self.tries = tries
        replica.in_flight += 1

    def close(self, end: End) -> None:
        if self._closed:
            return
        self._closed = True
        self.replica.in_flight -= 1
        self._outliers.end(self.replica, end, self.begun_at, tried=self.tries)


class Registry:
    """Models by id, in the order of the configuration.

    Args:
        default_model: a name of the model for requests that name none.
        surfaces: what differs for some surfaces, by their names.
        outliers: ejects replicas by how attempts end; None: its rules with their own values.
    """

    def __init__(
        self,
        models: Iterable[ModelConfig],
        retry: RetryConfig,
        default_model: str | None = None,
        surfaces: Mapping[str, SurfaceConfig] = MappingProxyType({}),
        outliers: Outliers | None = None,
    ) -> None:
        self.models: dict[str, Model] = {}
        self.retiring: list[Replica] = []  # in no pool any more; what runs there is finished
        self.orders = Orders()
        self.networks: Networks = ()  # of replicas that operators add
        self._names: dict[Seat, str] = {}  # ids that another worker gave
        self._numbers: dict[str, int] = {}  # of the next new replica, by model
        self.outliers = outliers or Outliers(BreakerConfig(), Random())
        self.outliers.pool_of = self._pool_of
        # Names that engines serve, each with one that does; an entry is checked before it is believed.
        self._known: dict[str, tuple[Model, Replica]] = {}
        self.renew(models, retry, default_model, surfaces)

    def renew(
        self,
        models: Iterable[ModelConfig],
        retry: RetryConfig,
        default_model: str | None = None,
        surfaces: Mapping[str, SurfaceConfig] = MappingProxyType({}),
        networks: Networks | None = None,
    ) -> Change:
        """Take new settings; what operators ordered holds as before.

        Models and replicas that stay are the same objects. Who goes is in `retiring` until `forget`.
        """
        before, self.models = self.models, {}
        for config in models:
            model = before.pop(config.id, None)
            if model is None:
                model = Model(config, [], make(config.policy), Budget(retry))
            elif model.config.policy != config.policy:
                model.policy = make(config.policy)
            model.config, model.budget.config = config, retry
            self.models[config.id] = model
        self.configured, self._surfaces = default_model, surfaces
        self.networks = self.networks if networks is None else networks
        self._named = _by_name(list(self.models.values()))
        return self._arrange(gone=before.values())

    def follow(self, orders: Orders) -> Change:
        """Do what operators want now."""
        self.orders = orders
        return self._arrange()

    def call(self, names: Mapping[Seat, str]) -> None:
        """Give replicas the ids that another worker has for them, so that an id means the same everywhere."""
        self._names = dict(names)
        for replica in self.replicas:
            replica.id = self._names.get(seat_of(replica), replica.id)
        for name in self._names.values():
            self._count(name)

    def entries(self, model: Model) -> list[ReplicaConfig]:
        """Who is to be in a model's pool."""
        return wanted(model.id, model.config.replicas, self.orders, self.networks)

    def forget(self, replica: Replica) -> None:
        """A replica that was about to go is gone."""
        self.retiring.remove(replica)

    def _arrange(self, gone: Iterable[Model] = ()) -> Change:
        change = Change()
        for model in gone:
            change.add(arrange(model.id, model.pool, (), self.retiring, self._name))
        drained = set(self.orders.drained)
        for model in self.models.values():
            change.add(arrange(model.id, model.pool, self.entries(model), self.retiring, self._name))
            for replica in model.pool:
                wanted_out = bool(drained) and seat_of(replica) in drained
                replica.drain(wanted=wanted_out, now_wall=time())
        self._known.clear()
        return change

    def _name(self, seat: Seat) -> str:
        """An id for a new replica; none comes back, for counters go by it."""
        taken = {replica.id for replica in self.replicas}
        name = self._names.get(seat, "")
        if not name or name in taken:
            name = f"{seat.model}-{self._numbers.get(seat.model, 0)}"
        self._count(name)
        return name

    def _count(self, name: str) -> None:
        model_id, _, number = name.rpartition("-")
        self._numbers[model_id] = max(self._numbers.get(model_id, 0), int(number) + 1)

    @property
    def served_names(self) -> int:
        """Names of the engines' own that are kept with who answers to them."""
        return len(self._known)

    @property
    def replicas(self) -> list[Replica]:
        """All replicas, those that are about to go among them."""
        return [*(replica for model in self.models.values() for replica in model.pool), *self.retiring]

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
                    if len(self._known) >= _NAMES:
                        self._known.clear()
                    self._known[name] = (model, replica)
                    return model
        self._known.pop(name, None)
        return None

    def wanted(self, surface: str = "") -> str | None:
        """The name that the settings give for requests to a surface that name no model; None: no name."""
        own = self._surfaces.get(surface, SurfaceConfig()).model
        if own is not None:
            return own
        ordered = self.orders.default
        return self.configured if ordered is None or ordered not in self.models else ordered

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
        begun_at, tries = self.outliers.begin(replica)
        return Lease(replica, self.outliers, begun_at, tries=tries)

    def _pool_of(self, replica: Replica) -> list[Replica]:
        model = self.models.get(replica.model_id)  # it may be gone meanwhile
        return [replica] if model is None else model.pool


def _by_name(models: list[Model]) -> dict[str, Model]:
    """Configured names; of equal names the stronger kind counts, then the first model."""
    kinds = (
        [(model.config.hf_name, model) for model in models if model.config.hf_name is not None],
        [(alias, model) for model in models for alias in model.config.aliases],
        [(model.id, model) for model in models],
    )
    return {name: model for kind in kinds for name, model in reversed(kind)}
