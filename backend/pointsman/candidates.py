"""Which replicas may take a call now, and which of them gets it."""

from random import Random

from pointsman.call import Call
from pointsman.engines import DIALECTS
from pointsman.errors import ENGINE_OVERLOADED, NO_REPLICA, UNSUPPORTED, RouterError
from pointsman.registry import Model
from pointsman.replica import Replica

_RETRY_AFTER_S = 5  # seconds; one probe interval


def eligible(model: Model, call: Call, asked: set[Replica], *, again: bool) -> list[Replica]:
    """The replicas that may take a call now.

    Args:
        asked: those that this exchange has asked already.
        again: they may be asked once more.
    """
    found = [
        replica
        for replica in model.pool
        if replica.ready and (again or replica not in asked) and DIALECTS[replica.engine].speaks(call)
    ]
    if len(found) < 2:
        return found
    return [replica for replica in found if not replica.doubted] or found


def choose(model: Model, call: Call, asked: set[Replica], rng: Random, *, again: bool) -> Replica:
    """The replica that gets a call.

    Raises:
        RouterError: there is none, and this is why.
    """
    candidates = eligible(model, call, asked, again=again)
    if candidates:
        return candidates[0] if len(candidates) == 1 else model.policy.choose(candidates, rng)
    raise none_left(model, call)


def none_left(model: Model, call: Call) -> RouterError:
    """Why no replica may take a call."""
    pool = model.pool
    if not any(DIALECTS[replica.engine].speaks(call) for replica in pool):
        return RouterError(UNSUPPORTED, f"Model {model.id!r} runs on an engine that does not speak this API.")
    if any(replica.usable and replica.full for replica in pool):
        return RouterError(ENGINE_OVERLOADED, retry_after_s=1)
    return RouterError(
        NO_REPLICA,
        f"Model {model.id!r} is known, but no replica of it is up.",
        retry_after_s=_RETRY_AFTER_S,
    )
