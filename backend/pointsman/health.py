"""What active health checks make of a replica, and when to check it next.

Pure: `probe` calls the engine and draws the dice. Source of the rules: `reliability.md` section 6.
"""

from dataclasses import dataclass
from enum import Enum, auto

from pointsman.replica import Health, State


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Knobs of the active health checks, per replica and worker process.

    Raises:
        ValueError: one sentence that names the knob.
    """

    interval_s: float = 5.0  # between two checks, from the end of one to the start of the next
    interval_changing_s: float = 1.0  # the same while the state is in doubt or freshly down
    timeout_s: float = 3.0  # for one check, all its calls together; above 0
    fall: int = 3  # failures in a row that bring a replica down, at least 1
    rise: int = 2  # successes in a row that bring it back, at least 1
    jitter: float = 0.15  # share of the interval by which it varies either way, in [0, 1)
    eager_s: float = 600.0  # so long after going down it is checked at the shorter interval
    stall_s: float = 1.0  # a check during which our own event loop stood still for longer says nothing

    def __post_init__(self) -> None:
        for name in ("interval_s", "interval_changing_s", "timeout_s", "stall_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of the health checks must be more than 0 seconds")
        for name in ("fall", "rise"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the health checks must be at least 1")
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter of the health checks must be at least 0 and less than 1")
        if not self.eager_s >= 0:
            raise ValueError("eager_s of the health checks must not be negative")


class Outcome(Enum):
    """What one check found."""

    OK = auto()
    FAILED = auto()  # may be chance: it takes several in a row
    GONE = auto()  # the engine says so itself: status 503
    ABSENT = auto()  # nobody listens: it does not run, or loads its model, and listens only after that
    MISCONFIGURED = auto()  # the engine lives, but waiting will not help: a person must


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One check. `reason` is a clause for people, without address, key or the engine's own text."""

    outcome: Outcome
    reason: str


OK = ProbeResult(Outcome.OK, "answers its health checks")


def failed(reason: str) -> ProbeResult:
    """It did not answer as a well engine does; one of several in a row counts."""
    return ProbeResult(Outcome.FAILED, reason)


def gone(reason: str) -> ProbeResult:
    """It is not there: down at once."""
    return ProbeResult(Outcome.GONE, reason)


def absent(reason: str) -> ProbeResult:
    """Nobody listens: down at once, or not up yet."""
    return ProbeResult(Outcome.ABSENT, reason)


def misconfigured(reason: str) -> ProbeResult:
    """It is alive, but it and our settings do not fit; the reason says what to change."""
    return ProbeResult(Outcome.MISCONFIGURED, reason)


def observe(health: Health, result: ProbeResult, now_wall: float, config: HealthConfig) -> Health:
    """Take one check into account.

    The first check decides alone; after it `fall` failures in a row make down and `rise` successes make up.
    Gone, absent and misconfigured hold at once. An engine at which nobody listens from the beginning is taken
    to load its model, for about `eager_s`; once it listens it is up. `since` changes with the state only,
    `reason` with every check.

    Args:
        now_wall: seconds since the epoch, shown to people.
    """
    good = result.outcome is Outcome.OK
    rises = health.rises + 1 if good else 0
    falls = 0 if good else health.falls + 1
    state = _next_state(health.state, result.outcome, rises, falls, config)
    since = health.since if state is health.state else now_wall
    return Health(state, _reason(state, result, rises, falls, config), since, rises, falls)


def _next_state(state: State, outcome: Outcome, rises: int, falls: int, config: HealthConfig) -> State:
    first = state in (State.UNKNOWN, State.LOADING)
    match outcome:
        case Outcome.MISCONFIGURED:
            return State.MISCONFIGURED
        case Outcome.GONE:
            return State.DOWN
        case Outcome.ABSENT:
            loads = first and falls * config.interval_changing_s < config.eager_s
            return State.LOADING if loads else State.DOWN
        case Outcome.FAILED:
            return State.DOWN if state is State.UNKNOWN or falls >= config.fall else state
        case Outcome.OK:
            return State.UP if first or rises >= config.rise else state


def _reason(state: State, result: ProbeResult, rises: int, falls: int, config: HealthConfig) -> str:
    if state is State.LOADING:
        return f"{result.reason}: it may be loading its model"
    if state is State.UP and falls:
        return f"failed {falls} of {config.fall} checks: {result.reason}"
    if state in (State.DOWN, State.MISCONFIGURED) and rises:
        return f"answers again, {rises} of {config.rise} checks"
    return result.reason


def next_delay_s(health: Health, state_age_s: float, config: HealthConfig, jitter: float) -> float:
    """Seconds to wait before the next check.

    Short while checks contradict the state, and for `eager_s` after going down, since most engines that go
    down are restarting. Misconfigured is not hurried: a person has to act first.

    Args:
        state_age_s: monotonic seconds since the state last changed.
        jitter: drawn by the caller, in [0, 1).
    """
    match health.state:
        case State.UNKNOWN | State.LOADING:
            hurry = True
        case State.UP:
            hurry = health.falls > 0
        case State.DOWN:
            hurry = health.rises > 0 or state_age_s < config.eager_s
        case State.MISCONFIGURED:
            hurry = health.rises > 0
    interval_s = config.interval_changing_s if hurry else config.interval_s
    return interval_s * (1 + config.jitter * (2 * jitter - 1))
