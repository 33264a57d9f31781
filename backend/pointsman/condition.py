"""How a replica and a model are, for people: state, why, and since when.

Pure. Health checks, what calls showed and what operators want come together here, and nowhere else.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pointsman.conduct import Cause
from pointsman.replica import Replica, Standing

WHY = {
    Cause.FAILURES: "too many of its answers in a row were failures",
    Cause.UNREACHED: "too many connections in a row did not come about",
    Cause.RATE: "too many of its calls failed lately",
    Cause.SILENT: "it took calls and gave no first event",
    Cause.WEDGED: "calls run there, and neither bytes nor its own counters move",
    Cause.DRAINING: "the engine gives up what it is asked, as one that is about to end",
}
_BEST_FIRST = list(Standing)


@dataclass(frozen=True, slots=True)
class Condition:
    """`since` is in wall-clock seconds; 0: not known."""

    standing: Standing
    reason: str
    since: float


def condition(replica: Replica) -> Condition:
    """How a replica is."""
    standing, health, conduct = replica.standing, replica.health, replica.conduct
    cause = conduct.cause
    if standing is Standing.DRAINING and replica.draining:
        return Condition(standing, "an operator drains it", replica.draining_since or health.since)
    if standing in (Standing.DRAINING, Standing.EJECTED, Standing.WEDGED) and cause is not None:
        return Condition(standing, WHY[cause], conduct.since)
    if standing is Standing.BUSY:
        return Condition(standing, f"all of its {replica.slots} slots are taken", replica.full_since)
    since = max(health.since, conduct.since) if standing is Standing.UP else health.since
    few = standing is Standing.UP and not conduct.calm
    return Condition(standing, f"{health.reason}; it gets few calls for now" if few else health.reason, since)


def best(replicas: Iterable[Replica]) -> Condition:
    """How a model is: as its best replica, the one that is so for longest."""
    found = [condition(replica) for replica in replicas]
    if not found:
        return Condition(Standing.UNKNOWN, "no replica is configured", 0.0)
    return min(found, key=lambda one: (_BEST_FIRST.index(one.standing), one.since))
