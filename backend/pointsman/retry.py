"""Whether to try again, where and after how long.

Pure: no clock, no sleep, no dice of its own. `forward` drives the loop.
Source: `reliability.md` section 2; RFC 9110 10.2.3 (Retry-After).
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from pointsman.attempt import TTFT, AttemptFailed, Retry, Verdict

RETRY_AFTER_HONOURED_S = 2.0  # a longer wait is the client's to do
_WINDOW_S = 10


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """Knobs of the attempt loop; the budget is per model and worker process."""

    max_attempts: int = 3  # tries in all; 1: no retry
    backoff_base_s: float = 0.025  # doubled per attempt, then drawn from [0, that]
    backoff_max_s: float = 0.25
    same_replica_min_s: float = 0.1  # before a replica is asked a second time
    retry_on_first_event_timeout: bool = False
    budget_share: float = 0.2  # of the requests of the last 10 s
    budget_floor_per_s: float = 3.0  # retries allowed whatever the traffic


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
    """What the attempts of one exchange have used up."""

    attempts: int = 0
    fresh_used: bool = False
    once_used: bool = False
    repaired: bool = False


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
    if rule is Retry.NEVER or tried.attempts >= config.max_attempts:
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


@dataclass(slots=True)
class Budget:
    """Retries a model may spend: a share of its requests in the last 10 s, plus a floor.

    Times are monotonic seconds, passed in.
    """

    config: RetryConfig
    _requests: deque[list[float]] = field(default_factory=deque)  # [second, requests, retries]

    def _slot(self, now: float) -> list[float]:
        second = float(int(now))
        while self._requests and self._requests[0][0] <= second - _WINDOW_S:
            self._requests.popleft()
        if not self._requests or self._requests[-1][0] != second:
            self._requests.append([second, 0.0, 0.0])
        return self._requests[-1]

    def note_request(self, now: float) -> None:
        self._slot(now)[1] += 1

    def spend(self, now: float) -> bool:
        """Take one retry; False when none is left."""
        slot = self._slot(now)
        requests = sum(entry[1] for entry in self._requests)
        retries = sum(entry[2] for entry in self._requests)
        allowed = self.config.budget_share * requests
        if retries >= allowed and slot[2] >= self.config.budget_floor_per_s:
            return False
        slot[2] += 1
        return True


def parse_retry_after(value: str | None) -> float | None:
    """Read Retry-After in its delay form, seconds in [0, 3600]; None for dates and nonsense."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 4:
        return None
    seconds = float(value)
    return seconds if seconds <= 3600 else None
