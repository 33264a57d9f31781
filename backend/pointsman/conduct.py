"""What traffic told of a replica, as plain figures; `breaker` writes and reads them.

Per worker process. Times are monotonic seconds, but for `since`.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum


class Cause(StrEnum):
    """Why a replica that passes its health checks is out of rotation."""

    FAILURES = "failures"  # too many of its answers in a row were faults of its own
    UNREACHED = "unreached"  # too many connections in a row did not come about
    RATE = "rate"  # too large a share of its calls failed lately
    SILENT = "silent"  # it took calls and gave no first event
    WEDGED = "wedged"  # calls run, and neither bytes nor its own counters move
    DRAINING = "draining"  # the engine gives up what it is asked: it is about to end


@dataclass(slots=True)
class Conduct:
    """How a replica behaved towards calls. `calm`: nothing here matters now, so nobody need look."""

    calm: bool = True
    failures: int = 0  # in a row, those to connect among them
    unreached: int = 0  # in a row
    silences: int = 0  # in a row
    lately: deque[list[int]] = field(default_factory=deque)  # [second, good, bad] of the window
    penalty: float = 0.0  # as of `penalty_at`; it fades
    penalty_at: float = 0.0
    doubted: bool = False  # no connection came about since its last good check or call
    cause: Cause | None = None  # of its ejection, while it lasts
    since: float = 0.0  # wall-clock seconds, for people: when it was ejected or came back
    ejected_at: float = 0.0
    until: float = 0.0  # from then on one call at a time may try
    trial_at: float | None = None  # when the call that tries began
    ejections: int = 0  # before five good minutes
    back_at: float = 0.0  # when the last ejection ended
    ramp_from: float = 0.0  # slow start; equal to `ramp_to`: none
    ramp_to: float = 0.0
    credit: float = 0.0  # calls that it may have, of the share it is allowed
