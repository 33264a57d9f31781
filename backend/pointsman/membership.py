"""Who is in a pool once it was said anew who is to be: by new settings, or by an operator.

A replica that stays is the same object, with its counters, health and connections; one that goes finishes
what runs; one that comes back meanwhile is the one that was about to go.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pointsman.model import ReplicaConfig
from pointsman.orders import Addition, Orders, Seat
from pointsman.replica import Endpoint, Engine, Networks, Replica


@dataclass(slots=True)
class Change:
    """What became of the replicas. `rekeyed`: they are connected to in another way."""

    added: list[Replica] = field(default_factory=list)
    removed: list[Replica] = field(default_factory=list)
    rekeyed: list[Replica] = field(default_factory=list)

    def add(self, other: "Change") -> None:
        """Hold what happened elsewhere too."""
        self.added += other.added
        self.removed += other.removed
        self.rekeyed += other.rekeyed


def seat_of(replica: Replica) -> Seat:
    """Where a replica is."""
    return Seat(replica.model_id, replica.endpoint.url, replica.engine.value, replica.served_name)


def entry_seat(model_id: str, entry: ReplicaConfig) -> Seat:
    """Where a configured replica is."""
    return Seat(model_id, entry.endpoint.url, entry.engine.value, entry.served_name)


def entry_of(addition: Addition, networks: Networks) -> ReplicaConfig:
    """An added replica as the settings would have it."""
    seat = addition.seat
    return ReplicaConfig(
        endpoint=Endpoint.parse(seat.url),
        engine=Engine(seat.engine),
        served_name=seat.served_name,
        weight=addition.weight,
        max_in_flight=addition.max_in_flight,
        key=addition.key,
        networks=networks,
    )


def wanted(
    model_id: str, configured: Iterable[ReplicaConfig], orders: Orders, networks: Networks
) -> list[ReplicaConfig]:
    """Who is to be in a model's pool: who is configured and not removed, then who was added."""
    held = [entry for entry in configured if entry_seat(model_id, entry) not in orders.removed]
    there = {entry_seat(model_id, entry) for entry in held}
    added = [one for one in orders.added if one.seat.model == model_id and one.seat not in there]
    return [*held, *(entry_of(one, networks) for one in added)]


def arrange(
    model_id: str,
    pool: list[Replica],
    entries: Sequence[ReplicaConfig],
    retiring: list[Replica],
    name: Callable[[Seat], str],
) -> Change:
    """Make a pool hold who is wanted, in that order.

    Args:
        pool: changed in place, since calls that run look at it.
        retiring: who finishes what runs; who goes is added, who comes back is taken out.
        name: a new replica's id.
    """
    change = Change()
    left = list(pool)
    fresh = []
    for entry in entries:
        seat = entry_seat(model_id, entry)
        replica = _take(left, seat)
        if replica is None:
            replica = _take(retiring, seat)
            if replica is None:
                replica = new_replica(name(seat), model_id, entry)
            change.added.append(replica)
        elif (replica.key, replica.networks) != (entry.key, entry.networks):
            change.rekeyed.append(replica)
        _tune(replica, entry)
        fresh.append(replica)
    pool[:] = fresh
    for replica in left:
        replica.draining = True
        retiring.append(replica)
    change.removed = left
    return change


def new_replica(replica_id: str, model_id: str, entry: ReplicaConfig) -> Replica:
    """A replica of which nothing is known yet."""
    return Replica(
        id=replica_id,
        model_id=model_id,
        engine=entry.engine,
        endpoint=entry.endpoint,
        served_name=entry.served_name,
        weight=entry.weight,
        max_in_flight=entry.max_in_flight,
        key=entry.key,
        networks=entry.networks,
    )


def _tune(replica: Replica, entry: ReplicaConfig) -> None:
    replica.weight = entry.weight
    replica.max_in_flight, replica.usual_slots = entry.max_in_flight, entry.usual_slots
    replica.key = entry.key
    replica.networks = entry.networks
    replica.learn(replica.facts)  # its slots may be others


def _take(replicas: list[Replica], seat: Seat) -> Replica | None:
    for place, replica in enumerate(replicas):
        if seat_of(replica) == seat:
            return replicas.pop(place)
    return None
