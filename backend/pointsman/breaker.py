"""What calls make of a replica: ejection, the one call that tries again, slow start, penalties.

Pure but for the record it keeps in a `Conduct`: clock and dice come in. `outliers` drives it.
Source of the rules: `reliability.md` section 6.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from pointsman import attempt
from pointsman.attempt import End, Verdict
from pointsman.conduct import Cause, Conduct
from pointsman.replica import Replica

RAMP_FLOOR = 0.1  # share with which a slow start begins
_PENALTY_MAX = 9.0  # at which a replica gets a tenth of its fair share
_PENALTY_HALF_S = 5.0  # in which a penalty fades to its half
_PENALTY_LEAST = 0.05  # below this it counts no more
_HEALED = 0.9  # what a good call leaves of a penalty: it follows the share of calls that fail
_AGAIN_S = 1.0  # after a try that told nothing
_PATIENCE_S = 10.0  # a call that ran out of its own time before that says nothing of the replica


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """Knobs of what calls may do to a replica, per worker process.

    Raises:
        ValueError: one sentence that names the knob.
    """

    failures: int = 5  # answers in a row that were faults of its own
    connect_errors: int = 3  # in a row
    first_event_timeouts: int = 2  # in a row; one is enough where not a byte came from it meanwhile
    success_share: float = 0.8  # of the calls of `window_s`; fewer successes eject
    success_calls: int = 10  # so many calls must there have been
    window_s: float = 30.0
    base_s: float = 5.0  # length of the first ejection; doubles with each further one
    max_s: float = 60.0  # longest, before jitter
    jitter: float = 0.5  # share by which it may be longer
    forgive_s: float = 300.0  # so long after its return a replica begins at `base_s` again
    slow_start_s: float = 30.0  # in which the share of a replica that comes back grows to the whole; 0: none

    def __post_init__(self) -> None:
        for name in ("failures", "connect_errors", "first_event_timeouts", "success_calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the ejection must be at least 1")
        for name in ("window_s", "base_s", "max_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of the ejection must be more than 0 seconds")
        for name in ("jitter", "forgive_s", "slow_start_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of the ejection must not be negative")
        if not 0 <= self.success_share <= 1:
            raise ValueError("success_share of the ejection must be at least 0 and at most 1")


class Evidence(Enum):
    """What the end of an attempt says of the replica."""

    NOTHING = auto()
    GOOD = auto()
    REFUSAL = auto()  # it could not take the call, or does not suit us: no failure
    LEAVING = auto()  # it gave the call up: it is about to end
    FAILURE = auto()
    UNREACHED = auto()
    SILENCE = auto()  # no first event in time
    DEAD_SILENCE = auto()  # and not a byte for any other call either


# By the labels of ends: to hash a whole end takes longer than all that follows.
_BY_LABEL = {
    **dict.fromkeys((attempt.BUG.label, attempt.NO_ENDPOINT.label), Evidence.NOTHING),  # our own
    attempt.MISCONFIGURED.label: Evidence.REFUSAL,  # also of one route only; the health checks look at it
    attempt.ABORTED.label: Evidence.LEAVING,
    attempt.CONNECT.label: Evidence.UNREACHED,
}
_BY_VERDICT = {
    Verdict.SUCCESS: Evidence.GOOD,
    Verdict.CLIENT_FAULT: Evidence.NOTHING,
    Verdict.CANCELLED: Evidence.NOTHING,
    Verdict.OVERLOAD: Evidence.REFUSAL,
    Verdict.FAULT_BEFORE_SENDING: Evidence.FAILURE,
    Verdict.FAULT_AFTER_SENDING: Evidence.FAILURE,
}
# What a replica is ejected for anew when the call that tries it ends so.
CAUSES = {
    Evidence.LEAVING: Cause.DRAINING,
    Evidence.FAILURE: Cause.FAILURES,
    Evidence.UNREACHED: Cause.UNREACHED,
    Evidence.SILENCE: Cause.SILENT,
    Evidence.DEAD_SILENCE: Cause.SILENT,
}


def evidence(end: End, *, silent: bool, lasted_s: float) -> Evidence:
    """What an end says.

    Args:
        silent: not a byte of an answer came from the replica since the attempt began, for whichever call.
        lasted_s: seconds the attempt took.
    """
    if end is attempt.TTFT:
        return Evidence.DEAD_SILENCE if silent else Evidence.SILENCE
    if end is attempt.TOTAL:  # a long answer, or a client in a hurry, unless nothing came for long
        return Evidence.DEAD_SILENCE if silent and lasted_s >= _PATIENCE_S else Evidence.NOTHING
    return _BY_LABEL.get(end.label) or _BY_VERDICT[end.verdict]


def note(conduct: Conduct, found: Evidence, now: float, config: BreakerConfig) -> Cause | None:
    """Take the end of an attempt into account.

    Returns:
        What the replica ought to be ejected for now; None: nothing.
    """
    if found is Evidence.NOTHING:
        return None
    if found is Evidence.GOOD:
        note_good(conduct, now, config)
        return None
    _punish(conduct, now)
    if found is Evidence.REFUSAL:
        return None
    if found is Evidence.LEAVING:
        return Cause.DRAINING
    _slot(conduct, now, config)[2] += 1
    conduct.failures += 1
    if found is Evidence.UNREACHED:
        conduct.unreached += 1
        conduct.doubted = True
    elif found is not Evidence.FAILURE:
        conduct.silences += 1
        if found is Evidence.DEAD_SILENCE:
            return Cause.SILENT
    return _due(conduct, config)


def note_good(conduct: Conduct, now: float, config: BreakerConfig) -> None:
    """Take a good end of an attempt into account."""
    conduct.failures = conduct.unreached = conduct.silences = 0
    if not conduct.calm:
        conduct.doubted = False
        conduct.penalty *= _HEALED
    _slot(conduct, now, config)[1] += 1


def _due(conduct: Conduct, config: BreakerConfig) -> Cause | None:
    if conduct.unreached >= config.connect_errors:
        return Cause.UNREACHED
    if conduct.silences >= config.first_event_timeouts:
        return Cause.SILENT
    if conduct.failures >= config.failures:
        return Cause.FAILURES
    good = sum(entry[1] for entry in conduct.lately)
    calls = good + sum(entry[2] for entry in conduct.lately)
    if calls >= config.success_calls and good < config.success_share * calls:
        return Cause.RATE
    return None


def _punish(conduct: Conduct, now: float, by: float = 1.0) -> None:
    conduct.penalty = min(_PENALTY_MAX, penalty(conduct, now) + by)
    conduct.penalty_at = now
    conduct.calm = False


def _slot(conduct: Conduct, now: float, config: BreakerConfig) -> list[int]:
    second = int(now)
    lately = conduct.lately
    if lately and lately[-1][0] >= second:
        return lately[-1]
    while lately and lately[0][0] <= second - config.window_s:
        lately.popleft()
    lately.append([second, 0, 0])
    return lately[-1]


def penalty(conduct: Conduct, now: float) -> float:
    """How much the replica is avoided, in [0, 9]: it gets 1 / (1 + this) of its fair share."""
    if not conduct.penalty:
        return 0.0
    left = conduct.penalty * 0.5 ** (max(0.0, now - conduct.penalty_at) / _PENALTY_HALF_S)
    return left if left >= _PENALTY_LEAST else 0.0


def may_eject(replica: Replica, pool: Iterable[Replica]) -> bool:
    """Whether the pool can spare it: never more than half are ejected, and never the last."""
    others = [other for other in pool if other is not replica]
    out = sum(other.conduct.cause is not None for other in others)
    left = any(other.usable and other.conduct.cause is None for other in others)
    return left and 2 * (out + 1) <= len(others) + 1


def keep(conduct: Conduct, now: float) -> None:
    """It ought to be ejected and must not be: it gets as few calls as a penalty allows."""
    _punish(conduct, now, _PENALTY_MAX)


def eject(
    conduct: Conduct, cause: Cause, now: float, now_wall: float, config: BreakerConfig, jitter: float
) -> float:
    """Take the replica out of rotation, or leave it out for longer.

    Args:
        now_wall: seconds since the epoch, shown to people.
        jitter: drawn by the caller, in [0, 1).

    Returns:
        Seconds until a call may try.
    """
    if conduct.cause is None:
        conduct.since, conduct.ejected_at = now_wall, now
        if now - conduct.back_at >= config.forgive_s:
            conduct.ejections = 0
    length_s = min(config.max_s, config.base_s * 2.0 ** min(conduct.ejections, 32))
    length_s *= 1 + config.jitter * jitter
    conduct.cause = cause
    conduct.until = now + length_s
    conduct.ejections += 1
    conduct.trial_at = None
    conduct.ramp_from = conduct.ramp_to = 0.0
    conduct.failures = conduct.unreached = conduct.silences = 0
    conduct.calm = False
    return length_s


def may_try(replica: Replica, now: float) -> bool:
    """Whether one call may try an ejected replica: its time is up, no other tries, and none hangs there."""
    conduct = replica.conduct
    if conduct.trial_at is not None or now < conduct.until:
        return False
    return conduct.cause is not Cause.WEDGED or replica.in_flight == 0


def put_off(conduct: Conduct, now: float) -> None:
    """A try told nothing: let another one follow, but not at once."""
    conduct.trial_at = None
    conduct.until = max(conduct.until, now + _AGAIN_S)


def hold(conduct: Conduct, now: float, config: BreakerConfig) -> None:
    """It is still stuck: no call may try for another while."""
    conduct.until = max(conduct.until, now + config.base_s)


def come_back(conduct: Conduct, now: float, now_wall: float, config: BreakerConfig) -> None:
    """Let the replica take calls again, few at first."""
    forget(conduct)
    conduct.since, conduct.back_at = now_wall, now
    conduct.ramp_from, conduct.ramp_to = now, now + config.slow_start_s
    conduct.credit = 0.0
    conduct.calm = config.slow_start_s <= 0


def forget(conduct: Conduct) -> None:
    """The process behind the address is gone: what it did says nothing of the next one."""
    conduct.failures = conduct.unreached = conduct.silences = 0
    conduct.lately.clear()
    conduct.penalty = 0.0
    conduct.doubted = False
    conduct.cause = conduct.trial_at = None


def ramp(conduct: Conduct, now: float) -> float:
    """How far a slow start has come, from a tenth to 1; without one 1."""
    if now >= conduct.ramp_to:
        return 1.0
    done = (now - conduct.ramp_from) / (conduct.ramp_to - conduct.ramp_from)
    return RAMP_FLOOR + (1 - RAMP_FLOOR) * max(0.0, done)


def share(conduct: Conduct, now: float) -> float:
    """Which part of its fair share of the calls it is to get, in [0, 1]; 0: where no other is left."""
    if conduct.doubted:
        return 0.0
    return ramp(conduct, now) / (1 + penalty(conduct, now))


def settle(conduct: Conduct, now: float) -> None:
    """Note that nothing here matters any more, where that is so."""
    conduct.calm = (
        conduct.cause is None and not conduct.doubted and now >= conduct.ramp_to and not penalty(conduct, now)
    )
    if conduct.calm:
        conduct.penalty = 0.0
