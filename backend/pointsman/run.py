"""One exchange on its way: what is asked, of whom, until when, and where the answer goes."""

from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import structs

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.call import Call, Timeouts
from pointsman.errors import RouterError
from pointsman.exchange import Exchange
from pointsman.poison import digest_of
from pointsman.registry import Model
from pointsman.relay import Sink as StreamSink
from pointsman.replica import Replica
from pointsman.retry import Again, Step, Tried
from pointsman.waiting import Priority
from pointsman.watch import Watch

_FIRST = Again(0.0)


def _nothing() -> None:
    """Nobody wants to know."""


class Sink(StreamSink, Protocol):
    """The client's side of an exchange."""

    async def whole(self, body: bytes, lines: bytes) -> None:
        """Send a whole answer, in the words of the call's API; `lines` are headers for its head."""

    async def pass_on(self, first: bytes, length: int | None) -> None:
        """Begin a whole answer too large to hold; `length` as the engine told it. Commits."""

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        """End a committed answer with the surface's error frame, or by closing where there are no frames."""


class Run(msgspec.Struct):
    """One exchange on its way: what is asked, of whom, until when."""

    call: Call
    model: Model
    exchange: Exchange
    watch: Watch
    sink: Sink
    deadline: float
    timeouts: Timeouts
    tenant: str = ""  # whose history and cache it uses
    takes_kept: bool = False  # the client takes an answer that was given before
    party: str = ""  # with whom it shares turns where calls wait for a slot
    priority: Priority = Priority.NORMAL
    tried: Tried = msgspec.field(default_factory=Tried)
    asked: set[Replica] = msgspec.field(default_factory=set)
    step: Step = _FIRST
    overtime: Callable[[], AttemptFailed] = attempt.time_is_up  # what is raised at the deadline
    chain: tuple[Model, ...] = ()  # models that may be asked where this one cannot answer, in this order
    wanted: Model | None = None  # the model that the client asked for, where it is no longer `model`
    trouble: RouterError | None = None  # what became of that
    known_by: bytes = b""  # its fingerprint; empty: nobody had to know so far
    on_let_go: Callable[[], None] = _nothing  # told that its body is held no longer

    def shorten(self, patience_s: float) -> None:
        """Let it take no longer than the client is willing to wait."""
        if self.exchange.started_at + patience_s < self.deadline:
            self.deadline = self.exchange.started_at + patience_s
            self.overtime = attempt.patience_over

    def fingerprint(self) -> bytes:
        """What tells its prompt from others."""
        self.known_by = self.known_by or digest_of(self.home.id, self.call)
        return self.known_by

    def let_go(self) -> None:
        """Hold what was asked no longer: its answer has begun, so that nobody else will be asked."""
        self.fingerprint()
        self.call = structs.replace(self.call, body=None, fields={}, wish=None)
        self.on_let_go()

    @property
    def home(self) -> Model:
        """The model that the client asked for."""
        return self.wanted or self.model

    def fall_back(self, trouble: RouterError) -> None:
        """Go on with the next model of the chain.

        Args:
            trouble: what the client is told where that one cannot take the call.
        """
        if self.wanted is None:
            self.wanted, self.trouble = self.model, trouble
            self.exchange.wanted_id = self.model.id
        self.model, *chain = self.chain
        self.chain = tuple(chain)
        self.timeouts = self.model.config.timeouts
        self.exchange.model_id = self.model.id
