"""How many exchanges there were lately, and how they went: a ring of minutes. Per worker process."""

from dataclasses import dataclass

from pointsman.attempt import OK, Verdict
from pointsman.exchange import Exchange

DAY_S = 24 * 3600
_MINUTES = DAY_S // 60
_FAULTS = (Verdict.FAULT_BEFORE_SENDING, Verdict.FAULT_AFTER_SENDING, Verdict.OVERLOAD)


@dataclass(frozen=True, slots=True)
class Figures:
    """Exchanges of a stretch of time. `seconds`: how long those together took that were no errors."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0

    @property
    def error_rate(self) -> float:
        """Share in [0, 1]; 0 where there were no requests."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean_s(self) -> float:
        """Mean time of those that were no errors; 0 where there were none."""
        good = self.requests - self.errors
        return self.seconds / good if good else 0.0


def failed(exchange: Exchange) -> bool:
    """Whether an exchange counts as an error."""
    end = exchange.end
    return exchange.status >= 500 or (end is not OK and end.verdict in _FAULTS)


def count_of(exchange: Exchange) -> Figures:
    """What one exchange counts for."""
    return Figures(1, 1) if failed(exchange) else Figures(1, 0, exchange.ended_at - exchange.started_at)


class Recent:
    """Counts of the last 24 hours. An error is what the client is not to blame for."""

    def __init__(self) -> None:
        self._ring: list[list[float]] = [[-1, 0, 0, 0.0] for _ in range(_MINUTES)]  # minute and its figures

    def observe(self, exchange: Exchange) -> None:
        """Take an exchange that ended; to be called once for each."""
        minute = int(exchange.ended_at // 60)
        slot = self._ring[minute % _MINUTES]
        if slot[0] != minute:
            slot[:] = (minute, 0, 0, 0.0)
        slot[1] += 1
        if failed(exchange):
            slot[2] += 1
        else:
            slot[3] += exchange.ended_at - exchange.started_at

    def figures(self, now: float, window_s: float = DAY_S) -> Figures:
        """Those of the last minutes, the one that runs among them. `now` is in monotonic seconds."""
        last = int(now // 60)
        first = last - int(window_s // 60) + 1
        slots = [slot for slot in self._ring if first <= slot[0] <= last]
        return Figures(
            sum([int(slot[1]) for slot in slots]),
            sum([int(slot[2]) for slot in slots]),
            sum([slot[3] for slot in slots]),
        )
