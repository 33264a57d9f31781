"""A replica: one running engine at one address, and what we know of it."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from math import ceil
from urllib.parse import urlsplit

from pointsman.conduct import Cause, Conduct


class Engine(StrEnum):
    """Which program runs at the endpoint, and so which dialect it speaks."""

    TGI = "tgi"
    VLLM = "vllm"


class State(StrEnum):
    """What a replica's health checks made of it."""

    UNKNOWN = "unknown"  # not probed yet; may be tried
    LOADING = "loading"  # nobody listens yet, and it was never seen up
    UP = "up"
    DOWN = "down"
    MISCONFIGURED = "misconfigured"  # alive, but refuses our key, route or protocol


class Standing(StrEnum):
    """What people are shown of a replica, best first: its checks' word, unless something keeps work away."""

    UP = "up"
    BUSY = "busy"  # all its slots are taken
    UNKNOWN = "unknown"
    LOADING = "loading"
    DRAINING = "draining"  # finishes what runs and takes no new work
    EJECTED = "ejected"  # its calls failed
    WEDGED = "wedged"  # calls run there, and nothing moves
    MISCONFIGURED = "misconfigured"
    DOWN = "down"


_OUT = {Cause.WEDGED: Standing.WEDGED, Cause.DRAINING: Standing.DRAINING}

_USABLE = (State.UP, State.UNKNOWN)
USUAL_SLOTS = 128  # of an engine that does not say: what TGI has by default, and what suits vLLM


Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a replica listens. `base_path` is empty or begins with `/` and does not end with it."""

    scheme: str
    host: str
    port: int
    base_path: str = ""

    @classmethod
    def parse(cls, url: str) -> "Endpoint":
        """Read `http(s)://host[:port][/base]`.

        Raises:
            ValueError: with a sentence that says what is wrong, never with the user info of the URL.
        """
        if "@" in url:  # before any message shows the URL, however it is read
            raise ValueError("an endpoint URL must not hold a user name or password; use …_KEY for the key")
        try:
            parts = urlsplit(url.strip())
        except ValueError:
            raise ValueError(f"endpoint {url!r} has a bad host") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"endpoint {url!r} must begin with http:// or https://")
        if not parts.hostname:
            raise ValueError(f"endpoint {url!r} names no host")
        if parts.query or parts.fragment:
            raise ValueError(f"endpoint {url!r} must not have a query or a fragment")
        if any(ord(sign) <= 0x20 or ord(sign) >= 0x7F for sign in url.strip()):
            raise ValueError(f"endpoint {url!r} holds spaces or other signs that a URL cannot have")
        try:
            port = parts.port
            if port == 0:
                raise ValueError
        except ValueError:
            raise ValueError(f"endpoint {url!r} has a bad port") from None
        default = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Value of the Host header, RFC 9110 7.2: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        own = 443 if self.scheme == "https" else 80
        return host if self.port == own else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base_path}"


@dataclass(frozen=True, slots=True)
class Health:
    """Result of the active health checks so far. `since` is in wall-clock seconds, for people only."""

    state: State = State.UNKNOWN
    reason: str = "not probed yet"
    since: float = 0.0
    rises: int = 0  # successes in a row
    falls: int = 0  # failures in a row


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engine told of itself; None: it did not say.

    `names` are the model names it answers to, its own first. `chat_template`: whether it has one.
    `alternates`: its template takes user and assistant in turns only, the user first.
    """

    names: tuple[str, ...] = ()
    version: str | None = None
    max_total_tokens: int | None = None
    max_concurrent: int | None = None
    chat_template: bool | None = None
    alternates: bool = False


@dataclass(slots=True, eq=False)
class Replica:
    """One replica with its live counters. Counters are per worker process.

    `slots` is how many requests of ours it may have at once: `max_in_flight` where the operator set it, else
    what the engine says of itself, else `usual_slots`.
    """

    id: str
    model_id: str
    engine: Engine
    endpoint: Endpoint
    served_name: str | None = None
    weight: int = 1
    max_in_flight: int | None = None
    key: str | None = field(default=None, repr=False)
    networks: Networks | None = None  # where its name may lead; None: anywhere, as the operator wrote it
    health: Health = Health()
    facts: Facts = Facts()
    in_flight: int = 0
    draining: bool = False  # an operator wants it to take no new work
    draining_since: float = 0.0  # wall-clock seconds, for people
    conduct: Conduct = field(default_factory=Conduct)
    heard_at: float = 0.0  # when a byte of an answer's text came last, monotonic seconds
    answered_at: float = 0.0  # when it last began an answer
    busy_since: float = 0.0  # when the first of the calls in flight began
    full_since: float = 0.0  # wall-clock seconds, for people: when its last slot was taken
    room: float = 1.0  # which part of its slots it may use during a slow start, in (0, 1]
    usual_slots: int = USUAL_SLOTS
    slots: int = field(init=False)

    def __post_init__(self) -> None:
        self.learn(self.facts)

    def learn(self, facts: Facts) -> None:
        """Take what the engine tells of itself; its slots may change by it."""
        self.facts = facts
        self.slots = self._slots()

    def make_room(self, room: float) -> None:
        """Let it use that part of its slots, one at least."""
        self.room = room
        self.slots = self._slots()

    def _slots(self) -> int:
        slots = self.max_in_flight or self.facts.max_concurrent or self.usual_slots
        return slots if self.room >= 1 else ceil(slots * self.room)

    def drain(self, *, wanted: bool, now_wall: float) -> None:
        """Give it no new work, or give it work again; `now_wall` is shown to people."""
        if wanted and not self.draining:
            self.draining_since = now_wall
        self.draining = wanted

    @property
    def usable(self) -> bool:
        """May be sent work: its checks say up, or it was not checked yet, and nobody drains it.

        Whether it is ejected is another question: where no other is left, that does not count.
        """
        return self.health.state in _USABLE and not self.draining

    @property
    def ready(self) -> bool:
        """Usable, and a slot is free."""
        return self.health.state in _USABLE and not self.draining and self.in_flight < self.slots

    @property
    def standing(self) -> Standing:
        if self.health.state not in _USABLE:
            return Standing(self.health.state.value)
        if self.draining:
            return Standing.DRAINING
        if self.conduct.cause is not None:
            return _OUT.get(self.conduct.cause, Standing.EJECTED)
        return Standing.BUSY if self.full else Standing(self.health.state.value)

    @property
    def full(self) -> bool:
        return self.in_flight >= self.slots

    @property
    def own_name(self) -> str | None:
        """The model name this engine expects in a body; None: not known yet."""
        return self.served_name or (self.facts.names[0] if self.facts.names else None)

    def knows(self, name: str) -> bool:
        """Whether the engine itself answers to `name`."""
        return name == self.served_name or name in self.facts.names
