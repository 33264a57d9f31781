"""What operators want, known to every worker: told to those that run, asked of them by one that begins."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from pointsman.channel import Busy, Channel, Reply
from pointsman.crew import Crew
from pointsman.errors import CHANGE_UNDER_WAY, NOT_ALL_FOLLOW, SEVERAL_WORKERS, RouterError
from pointsman.events import ROUTER, Events, Kind
from pointsman.membership import seat_of
from pointsman.orders import Orders, Seat
from pointsman.registry import Registry

_log = logging.getLogger("pointsman.following")
_ASK_S = 1.0  # within which others tell how they stand, and again within which they follow


class Standing(msgspec.Struct):
    """How a worker stands: `since` in monotonic seconds, `names` are its replicas' ids.

    `edition` is a digest of its settings.
    """

    since: float
    orders: Orders
    names: list[tuple[Seat, str]]
    edition: str = ""


class Order(msgspec.Struct):
    """What another worker tells."""

    orders: Orders
    who: str


@dataclass(frozen=True, slots=True)
class Followed:
    """How many workers there are, and why some of them did not follow."""

    workers: int
    silent: dict[int, str]  # by worker

    def check(self) -> None:
        """Raises RouterError (NOT_ALL_FOLLOW) unless all follow."""
        if self.silent:
            raise RouterError(
                NOT_ALL_FOLLOW,
                f"{self.workers - len(self.silent)} of {self.workers} worker processes follow; the change "
                "holds there, and the others hear of it with the next one.",
            )


class Following:
    """This worker's part in what all follow.

    Args:
        workers: how many processes serve; None: several.
    """

    def __init__(
        self,
        registry: Registry,
        crew: Crew,
        channel: Channel,
        events: Events,
        workers: Callable[[], int | None],
    ) -> None:
        self._workers = workers
        self._registry = registry
        self._crew = crew
        self._channel = channel
        self._events = events
        self.edition = ""  # told to others; by it they know whether they serve by the same settings
        self._since = time.monotonic()
        channel.on("standing", self._stand)
        channel.on("order", self._hear)

    async def join(self) -> None:
        """Take over what the workers that are there already know."""
        standing = await self._best()
        if standing is None:
            return
        self._registry.call(dict(standing.names))
        self._follow(standing.orders, ROUTER)
        if standing.edition != self.edition:
            what = "another worker serves by other settings: a changed file that it took was bad afterwards"
            _log.warning("%s; mend it", what)
            self._events.note(Kind.WORKER, what)

    async def order(self, write: Callable[[Orders], Orders], who: str) -> Followed:
        """Change what all follow.

        Args:
            write: makes the new orders of those that hold.
            who: whose doing it is.

        Raises:
            RouterError: SEVERAL_WORKERS, where they are not reached; CHANGE_UNDER_WAY; what `write` raises.
        """
        if self._workers() != 1 and not self._channel.connects:
            raise RouterError(SEVERAL_WORKERS)
        try:
            async with self._channel.alone():
                latest = await self._best()
                if latest is not None:
                    self._follow(latest.orders, ROUTER)
                fresh = write(self._registry.orders)
                self._follow(fresh, who)
                self._channel.keep(self._stand(None))
                return _followed(await self._channel.ask("order", Order(fresh, who), _ASK_S))
        except Busy:
            raise RouterError(CHANGE_UNDER_WAY, retry_after_s=1) from None

    async def _best(self) -> Standing | None:
        """How the worker stands that knows most, of equals the oldest; None: there is none, nor was there."""
        replies = await self._channel.ask("standing", wait_s=_ASK_S)
        told = [reply.answer for reply in replies if reply.error is None]
        told += [kept] if (kept := self._channel.kept()) is not None else []
        found = [msgspec.convert(one, Standing) for one in told]
        return max(found, key=lambda one: (one.orders.version, -one.since), default=None)

    def _stand(self, _: Any) -> Any:
        names = [(seat_of(replica), replica.id) for replica in self._registry.replicas]
        return Standing(self._since, self._registry.orders, names, self.edition)

    def _hear(self, content: Any) -> Any:
        told = msgspec.convert(content, Order)
        self._follow(told.orders, told.who)
        return self._registry.orders.version == told.orders.version

    def _follow(self, orders: Orders, who: str) -> None:
        if orders.version > self._registry.orders.version:
            before = set(self._registry.orders.drained)
            self._crew.take(self._registry.follow(orders), who)
            for seat in before ^ set(orders.drained):
                self._crew.heed_drain(seat, who, drains=seat not in before)


def _followed(replies: list[Reply]) -> Followed:
    silent = {
        reply.worker: reply.error or "it knows of a later change" for reply in replies if not reply.answer
    }
    return Followed(len(replies) + 1, silent)
