"""The rate rule: the generic cell rate algorithm (ITU-T I.371), which is a token bucket without a timer.

Pure: the time comes in. A key's state is its *arrival*: when it was last touched, and how far its theoretical
arrival time lies ahead of that. Kept in this form, no rounding of a wall clock's large seconds adds up, and a
clock that goes back takes nothing away: no time has passed then. No state means a full bucket.

`store.scripts` says the same in Lua. Both do the same operations on the same doubles, in the same order, so
they agree to the last bit; change them together.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

SLACK_S = 1e-6  # an earlier attempt than allowed by less than this is on time: rounding of doubles, not greed


@dataclass(frozen=True, slots=True)
class Rate:
    """How much per time, and how much at once. The unit is the caller's: requests or tokens.

    Raises:
        ValueError: a value out of range.
    """

    per_minute: float  # above 0
    burst: int  # at least 1; a bucket holds so much, and starts full
    interval_s: float = field(init=False)  # in which one unit comes back
    depth_s: float = field(init=False)  # in which an empty bucket gets full

    def __post_init__(self) -> None:
        if not 0 < self.per_minute < float("inf"):
            raise ValueError("a rate must be more than 0 per minute")
        if self.burst < 1:
            raise ValueError("the burst of a rate must be at least 1")
        object.__setattr__(self, "interval_s", 60.0 / self.per_minute)
        object.__setattr__(self, "depth_s", self.burst * self.interval_s)


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """What is known of one key."""

    at: float  # when it was touched last, seconds of the clock that `now` is read from
    ahead_s: float  # seconds until the bucket is full again, counted from `at`; more than `depth_s`: a debt


def ahead_s(arrival: Arrival | None, now: float) -> float:
    """Seconds from `now` until the bucket is full again, at least 0."""
    if arrival is None:
        return 0.0
    ahead = arrival.ahead_s
    passed = now - arrival.at
    if passed > 0.0:
        ahead -= passed
    return max(ahead, 0.0)


def wait_s(rate: Rate, ahead: float, cost: float) -> float:
    """Seconds until a cost may be taken; 0: now.

    A cost larger than the burst would have to wait for ever. It is allowed once the bucket is full, and
    leaves a debt that delays the next: a long prompt is served, and paid for afterwards.

    Args:
        ahead: what `ahead_s` says.
        cost: in the rate's unit, at least 0.
    """
    need = cost * rate.interval_s
    depth = rate.depth_s
    wait = ahead + min(need, depth) - depth
    return wait if wait > SLACK_S else 0.0


def charge(rate: Rate, ahead: float, now: float, cost: float) -> Arrival | None:
    """The state after a cost was taken, allowed or not; None: the bucket is full and nothing is to be kept.

    Args:
        ahead: what `ahead_s` says.
        cost: in the rate's unit. The difference of what was used and what was reserved settles an estimate:
            below 0 it gives back, never beyond a full bucket; above 0 it may leave a debt.
    """
    ahead += cost * rate.interval_s
    return Arrival(now, ahead) if ahead > 0.0 else None


def remaining(rate: Rate, ahead: float) -> int:
    """Whole units that could be taken at once, from 0 to the burst."""
    left_s = rate.depth_s - ahead + SLACK_S
    return int(left_s / rate.interval_s) if left_s > 0.0 else 0


class Taken(NamedTuple):
    """What came of asking for a cost."""

    arrival: Arrival | None  # unchanged when refused
    wait_s: float  # 0: taken; else seconds until it may be


def take(rate: Rate, arrival: Arrival | None, now: float, cost: float = 1.0) -> Taken:
    """Take a cost if the rate allows it now; `now` is in seconds of any one clock."""
    ahead = ahead_s(arrival, now)
    wait = wait_s(rate, ahead, cost)
    return Taken(arrival, wait) if wait else Taken(charge(rate, ahead, now, cost), 0.0)
