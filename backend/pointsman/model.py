"""A model as the operator configured it: its names and the replicas that serve it."""

from dataclasses import dataclass, field

from pointsman.call import Timeouts
from pointsman.replica import USUAL_SLOTS, Endpoint, Engine, Networks

# Last parts of the hub names of models that only continue text; by their cards they know no turns of a chat.
_BASE_MODELS = frozenset(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt-2", "distilgpt2", "phi-2"))


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """One engine to send work to. Its id is made where it is used: `<model id>-<n>`, counted from 0."""

    endpoint: Endpoint
    engine: Engine
    served_name: str | None = None  # the model name the engine expects; None: ask the engine
    weight: int = 1  # 1 to 1000; share of the traffic against the pool's other replicas
    max_in_flight: int | None = None  # our requests at once, per worker process; None: as the engine says
    key: str | None = field(default=None, repr=False)  # bearer token
    usual_slots: int = USUAL_SLOTS  # where neither `max_in_flight` nor the engine says
    networks: Networks | None = None  # where its name may lead; None: anywhere


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model. `id` matches `[a-z0-9._-]+`; no other model has it among its own id and aliases."""

    id: str
    replicas: tuple[ReplicaConfig, ...]
    name: str  # for people
    hf_name: str | None = None  # name on the Hugging Face hub
    aliases: tuple[str, ...] = ()
    default: bool = False  # serves requests that name no model; at most one model has it
    fallbacks: tuple[str, ...] = ()  # ids of the models that are asked where this one cannot answer, in order
    policy: str = "least_in_flight"  # a name of `policy.POLICIES`
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_body_bytes: int | None = None  # None: what MAX_BODY_BYTES says
    origin: str = ""  # where it is configured, for people

    @property
    def base(self) -> bool:
        """Whether it has the name of a well-known model that is not made for chat."""
        return (self.hf_name or self.id).rpartition("/")[2].lower() in _BASE_MODELS
