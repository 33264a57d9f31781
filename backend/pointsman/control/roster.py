"""The replicas as all workers together see them."""

from typing import Any

from pointsman.channel import Channel
from pointsman.condition import condition
from pointsman.control.catalog import stamp
from pointsman.errors import REPLICA_NOT_FOUND, RouterError
from pointsman.orders import Seat
from pointsman.registry import Registry
from pointsman.replica import Replica


class Roster:
    """The replicas as all workers together see them; each tells its own part on the channel."""

    def __init__(self, registry: Registry, channel: Channel) -> None:
        self.registry = registry
        self._channel = channel
        channel.on("replicas", lambda _: [_told(replica) for replica in registry.replicas])

    def find(self, replica_id: str) -> Replica:
        """A replica of a pool.

        Raises:
            RouterError: REPLICA_NOT_FOUND.
        """
        pools = [model.pool for model in self.registry.models.values()]
        found = next((one for pool in pools for one in pool if one.id == replica_id), None)
        if found is None:
            raise RouterError(REPLICA_NOT_FOUND)
        return found

    async def view(self, *, for_ops: bool) -> list[dict[str, Any]]:
        """All of them, each with what the workers tell of it; where it is, is for operators."""
        workers = [(self._channel.worker, [_told(replica) for replica in self.registry.replicas])]
        replies = await self._channel.ask("replicas")
        workers += [(reply.worker, reply.answer or []) for reply in replies]
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for worker, replicas in workers:
            for told in replicas:
                own = {"worker": worker, "state": told["state"], "in_flight": told["in_flight"]}
                seat = (told["model"], told["upstream"], told["engine"], told["served_name"] or "")
                entry = found.setdefault(seat, {**told, "in_flight": 0, "workers": []})
                entry["in_flight"] += told["in_flight"]
                entry["workers"].append(own)
        if not for_ops:
            for entry in found.values():
                del entry["upstream"]
        return list(found.values())

    async def one(self, seat: Seat, *, for_ops: bool) -> dict[str, Any] | None:
        """One of them; None: no worker has it any more."""
        key = (seat.model, seat.url, seat.engine, seat.served_name or "")
        for entry in await self.view(for_ops=True):
            if (entry["model"], entry["upstream"], entry["engine"], entry["served_name"] or "") == key:
                return entry if for_ops else {name: entry[name] for name in entry if name != "upstream"}
        return None


def _told(replica: Replica) -> dict[str, Any]:
    """What one worker tells of a replica."""
    now = condition(replica)
    return {
        "id": replica.id,
        "model": replica.model_id,
        "engine": replica.engine.value,
        "served_name": replica.served_name,
        "upstream": replica.endpoint.url,
        "state": now.standing.value,
        "reason": now.reason,
        "since": stamp(now.since),
        "draining": replica.draining,
        "added": replica.networks is not None,
        "weight": replica.weight,
        "max_in_flight": replica.max_in_flight,
        "in_flight": replica.in_flight,
    }
