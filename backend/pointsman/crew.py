"""The replicas at work: who is new is checked, who goes finishes what runs and is let go.

Per worker process; what operators want is told to the others and heard from them by `following`.
"""

import asyncio
import logging
from collections.abc import Callable

from pointsman.events import ROUTER, Events, Kind
from pointsman.membership import Change, seat_of
from pointsman.orders import Seat
from pointsman.probe import Prober
from pointsman.registry import Registry
from pointsman.replica import Replica
from pointsman.upstream import Pools

_LOOK_EVERY_S = 0.1
_log = logging.getLogger("pointsman.crew")


class Crew:
    """Makes true what became of the replicas.

    `prober` is there while the router serves.

    Args:
        changed: told of each model whose replicas changed, by its id.
    """

    def __init__(
        self, registry: Registry, pools: Pools, events: Events, changed: Callable[[str], None]
    ) -> None:
        self.prober: Prober | None = None
        self._registry = registry
        self._pools = pools
        self._events = events
        self._changed = changed
        self._leaving: dict[Replica, asyncio.Task[None]] = {}

    def take(self, change: Change, who: str = ROUTER) -> None:
        """Do what a change asks for; at once, but for calls that run.

        Args:
            who: whose doing it is, for the log of events.
        """
        for replica in change.rekeyed:
            self._pools.drop(replica)
        for replica in change.added:
            leaving = self._leaving.pop(replica, None)
            if leaving is not None:
                leaving.cancel()
            if self.prober is not None:
                self.prober.watch(replica)
            self._tell(replica, "was added", who)
        for replica in change.removed:
            self._tell(replica, f"was taken out; calls that run there: {replica.in_flight}", who)
            task = asyncio.create_task(self._let_go(replica), name=f"farewell {replica.id}")
            self._leaving[replica] = task
        for model_id in {replica.model_id for replica in (*change.added, *change.removed)}:
            self._changed(model_id)

    def heed_drain(self, seat: Seat, who: str, *, drains: bool) -> None:
        """Tell that a replica takes no new work, or takes it again."""
        for replica in self._registry.replicas:
            if seat_of(replica) == seat:
                what = "takes no new work" if drains else "takes work again"
                _log.info("replica %s %s", replica.id, what)
                self._events.note(Kind.DRAIN, f"replica {replica.id} {what}", who)
        self._changed(seat.model)

    def close(self) -> None:
        """Wait for nobody any more."""
        for task in self._leaving.values():
            task.cancel()
        self._leaving.clear()

    async def _let_go(self, replica: Replica) -> None:
        while True:  # looked at, so that the end of a call need not ask who waits for it
            await asyncio.sleep(_LOOK_EVERY_S)
            if not replica.in_flight:
                break
        if self.prober is not None:
            self.prober.forget(replica.id)
        self._pools.drop(replica)
        self._registry.forget(replica)
        del self._leaving[replica]
        self._tell(replica, "has finished and is gone", ROUTER)

    def _tell(self, replica: Replica, what: str, who: str) -> None:
        _log.info("replica %s %s", replica.id, what)
        self._events.note(Kind.REPLICA, f"replica {replica.id} {what}", who)
