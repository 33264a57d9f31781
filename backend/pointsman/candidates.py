"""Which replicas may take a call, now or once they have a slot free."""

from random import Random
from time import monotonic

from pointsman.breaker import may_try, ramp, settle, share
from pointsman.call import Call
from pointsman.conduct import Cause
from pointsman.engines import DIALECTS
from pointsman.errors import ENGINE_OVERLOADED, NO_REPLICA, UNSUPPORTED, RouterError
from pointsman.registry import Model
from pointsman.replica import Replica

_MUTE = (Cause.SILENT, Cause.WEDGED)  # who is asked gets no answer, only late
_CREDIT_MAX = 3.0  # calls saved up while the policy prefers others
_RETRY_AFTER_S = 5  # seconds; one probe interval


def eligible(model: Model, call: Call, asked: set[Replica], *, again: bool) -> list[Replica]:
    """The replicas that may take a call now, each with a slot free; of these `pick` takes one.

    Args:
        asked: those that this exchange has asked already.
        again: they may be asked once more.
    """
    found = []
    for replica in model.pool:  # the usual case costs least so; each call comes by
        if not replica.conduct.calm:
            return [one for one in _in_rotation(model, call, asked, again=again) if not one.full]
        if replica.ready and (again or replica not in asked) and DIALECTS[replica.engine].speaks(call):
            found.append(replica)
    return found


def reachable(model: Model, call: Call, asked: set[Replica], *, again: bool) -> bool:
    """Whether there are replicas that may take the call, now or when a slot of theirs is free."""
    if not all(replica.conduct.calm for replica in model.pool):
        return bool(_in_rotation(model, call, asked, again=again))
    return any(
        replica.usable and (again or replica not in asked) and DIALECTS[replica.engine].speaks(call)
        for replica in model.pool
    )


def sound(model: Model) -> bool:
    """Whether some replica is there that calls did not eject, or whose time for a try has come."""
    now = monotonic()
    return any(
        replica.usable and (replica.conduct.cause is None or may_try(replica, now)) for replica in model.pool
    )


def pick(model: Model, candidates: list[Replica], rng: Random) -> Replica:
    """The candidate that gets the call: the policy chooses among those that are due.

    A replica that is to have less than its fair share gains a part of a call with each call, and is due when
    it has a whole one: so it never gets more than that share, whatever the policy makes of its idleness.
    """
    if len(candidates) == 1:
        return candidates[0]
    for replica in candidates:
        if not replica.conduct.calm:
            due = _due(candidates, monotonic())
            chosen = due[0] if len(due) == 1 else model.policy.choose(due, rng)
            chosen.conduct.credit = max(0.0, chosen.conduct.credit - 1.0)
            return chosen
    return model.policy.choose(candidates, rng)


def _in_rotation(model: Model, call: Call, asked: set[Replica], *, again: bool) -> list[Replica]:
    """Who may take the call when it has a slot free, where not all replicas behaved well.

    Ejected replicas are asked when their time for a try has come. Besides, those that answer, if badly, are
    asked where no other is left; those that do not answer only where no other was there to begin with.
    """
    now = monotonic()
    _make_room(model.pool, now)
    fit = [
        replica
        for replica in model.pool
        if replica.usable and (again or replica not in asked) and DIALECTS[replica.engine].speaks(call)
    ]
    steady = [r for r in fit if r.conduct.cause is None]
    found = steady + [r for r in fit if r.conduct.cause is not None and may_try(r, now)]
    if found:
        return found
    answering = [replica for replica in fit if replica.conduct.cause not in _MUTE]
    return answering or ([] if asked else fit)


def _make_room(pool: list[Replica], now: float) -> None:
    """Set how many slots each may use: where all are in their slow start, none is spared for another."""
    there = [replica for replica in pool if replica.usable and replica.conduct.cause is None]
    ramps = {replica: ramp(replica.conduct, now) for replica in there}
    most = max(ramps.values(), default=1.0)
    for replica in pool:
        settle(replica.conduct, now)
        room = ramps.get(replica, most) / most
        if room != replica.room:
            replica.make_room(room)


def _due(candidates: list[Replica], now: float) -> list[Replica]:
    """Those that may have this call by their share; the credit of the others grows."""
    shares = [share(replica.conduct, now) for replica in candidates]
    most = max(shares)
    if not most:
        return candidates
    total = sum([replica.weight for replica in candidates])
    due = []
    for replica, part in zip(candidates, shares, strict=True):
        conduct = replica.conduct
        if part < most and conduct.cause is None:
            conduct.credit = min(_CREDIT_MAX, conduct.credit + part / most * replica.weight / total)
            if conduct.credit < 1.0:
                continue
        due.append(replica)
    return due


def none_left(model: Model, call: Call) -> RouterError:
    """Why no replica may take a call."""
    pool = model.pool
    if pool and not any(DIALECTS[replica.engine].speaks(call) for replica in pool):
        return RouterError(UNSUPPORTED, f"Model {model.id!r} runs on an engine that does not speak this API.")
    if any(replica.usable and replica.full for replica in pool):
        return RouterError(ENGINE_OVERLOADED, retry_after_s=1)
    return RouterError(
        NO_REPLICA,
        f"Model {model.id!r} is known, but no replica of it is up.",
        retry_after_s=_RETRY_AFTER_S,
    )
