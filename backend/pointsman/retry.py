"""Whether to try again, where and after how long.

Pure: no clock, no sleep, no dice of its own. `forward` drives the loop.
Source: `reliability.md` section 2; RFC 9110 10.2.3 (Retry-After).
"""

from collections import deque
from dataclasses import dataclass

import msgspec

from pointsman.attempt import TTFT, AttemptFailed, Retry, Verdict

RETRY_AFTER_HONOURED_S = 2.0  # a longer wait is the client's to do
HURT_MAX = 2  # engines that may have died of one request; it gets no further one
_WINDOW_S = 10
_SLOTS_PER_S = 10  # how finely the window moves: with whole seconds, bursts at its edges would count twice


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """Knobs of the attempt loop; the budget is per model and worker process."""

    max_attempts: int = 3  # tries in all; 1: no retry
    backoff_base_s: float = 0.025  # doubled per attempt, then drawn from [0, that]
    backoff_max_s: float = 0.25
    same_replica_min_s: float = 0.1  # before a replica is asked a second time
    retry_on_first_event_timeout: bool = False
    budget_share: float = 0.2  # of the requests of the last 10 s
    budget_floor_per_s: float = 2.0  # besides, whatever the traffic; what is not used adds up over 10 s
    poison_s: float = 60.0  # how long a request that two engines failed over goes to no third; 0: not at all


@dataclass(frozen=True, slots=True)
class Stop:
    """Give the failure to the client."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `after_s` seconds (at least 0).

    `same_replica`: the replica that failed is allowed. `fresh`: the connection must be new.
    """

    after_s: float
    same_replica: bool = False
    fresh: bool = False


Step = Stop | Again


class Tried(msgspec.Struct):
    """What the attempts of one exchange have used up.

    `hurt`: ids of the replicas that failed in a way in which engines die.
    """

    attempts: int = 0
    fresh_used: bool = False
    once_used: bool = False
    repaired: bool = False
    hurt: set[str] = msgspec.field(default_factory=set)


def next_step(failure: AttemptFailed, tried: Tried, others: int, config: RetryConfig, jitter: float) -> Step:
    """Decide what follows a failed attempt of an exchange that is not committed.

    Args:
        failure: how it ended.
        tried: attempts so far, this one included; the caller notes what the answer uses up.
        others: candidates not tried yet.
        jitter: drawn by the caller, in [0, 1).
    """
    rule = failure.end.retry
    if failure.end is TTFT and config.retry_on_first_event_timeout:
        rule = Retry.OTHER
    if rule is Retry.NEVER or tried.attempts >= config.max_attempts or len(tried.hurt) >= HURT_MAX:
        return Stop()
    backoff = jitter * min(config.backoff_max_s, config.backoff_base_s * 2 ** (tried.attempts - 1))
    if rule is Retry.FRESH:  # the engine closed an idle connection: nobody's fault, no wait
        return Stop() if tried.fresh_used else Again(0.0, same_replica=True, fresh=True)
    if rule is Retry.REPAIR:
        return Stop() if tried.repaired else Again(0.0, same_replica=True)
    if rule is Retry.ONCE_OTHER and tried.once_used:
        return Stop()
    if others:
        return Again(backoff)
    asked = failure.retry_after_s
    if failure.end.verdict is Verdict.OVERLOAD and asked is not None and asked <= RETRY_AFTER_HONOURED_S:
        return Again(max(asked, config.same_replica_min_s, backoff), same_replica=True)
    return Stop()


class Budget:
    """Retries a model may spend in any 10 s: a share of its requests of that time, and the floor.

    All further attempts of a request cost one each, those at a fallback model too. Under traffic that only
    fails there are no more than 1 + share + floor / rate attempts for each request, over 30 s and more.
    Times are monotonic seconds, passed in; they never go back by more than a slot.
    """

    __slots__ = ("_requests", "_retries", "_slots", "config")

    def __init__(self, config: RetryConfig) -> None:
        self.config = config
        self._slots: deque[list[int]] = deque()  # [tenth of a second, requests, retries]
        self._requests = self._retries = 0  # of all slots

    def note_request(self, now: float) -> None:
        self._slot(now)[1] += 1
        self._requests += 1

    def spend(self, now: float) -> bool:
        """Take one retry; False when none is left."""
        slot = self._slot(now)
        allowed = self.config.budget_share * self._requests + self.config.budget_floor_per_s * _WINDOW_S
        if self._retries + 1 > allowed:
            return False
        slot[2] += 1
        self._retries += 1
        return True

    def _slot(self, now: float) -> list[int]:
        number = int(now * _SLOTS_PER_S)
        slots = self._slots
        if slots and slots[-1][0] >= number:
            return slots[-1]
        while slots and slots[0][0] <= number - _WINDOW_S * _SLOTS_PER_S:
            _, requests, retries = slots.popleft()
            self._requests -= requests
            self._retries -= retries
        slots.append([number, 0, 0])
        return slots[-1]


def parse_retry_after(value: str | None) -> float | None:
    """Read Retry-After in its delay form, seconds in [0, 3600]; None for dates and nonsense."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 4:
        return None
    seconds = float(value)
    return seconds if seconds <= 3600 else None
