"""How one attempt at a replica ended: one verdict that retry, health, metrics and log all read."""

from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import partial

from pointsman import errors
from pointsman.errors import ErrorKind


class Verdict(StrEnum):
    """Who is to blame for the end of an attempt."""

    SUCCESS = "success"
    CLIENT_FAULT = "client_fault"
    FAULT_BEFORE_SENDING = "fault_before_sending"
    FAULT_AFTER_SENDING = "fault_after_sending"
    OVERLOAD = "overload"
    CANCELLED = "cancelled"


class Retry(Enum):
    """What the retry table of `reliability.md` section 2 allows after an end."""

    NEVER = "never"
    OTHER = "on another replica"
    ONCE_OTHER = "once, on another replica"
    REPAIR = "once, with the fault told, the same replica allowed"
    FRESH = "once, on a fresh connection, the same replica allowed"


RESTART_S = 5.0  # after a shutdown another router, or this one anew, is worth to be asked


@dataclass(frozen=True, slots=True)
class End:
    """One way an attempt can end: label for logs and metrics, verdict, retry rule, error for the client."""

    label: str
    verdict: Verdict
    retry: Retry
    error: ErrorKind


_BEFORE, _AFTER = Verdict.FAULT_BEFORE_SENDING, Verdict.FAULT_AFTER_SENDING

OK = End("ok", Verdict.SUCCESS, Retry.NEVER, errors.INTERNAL)
CLIENT_ABORT = End("client_abort", Verdict.CANCELLED, Retry.NEVER, errors.INTERNAL)
CANCELLED = End("cancelled", Verdict.CANCELLED, Retry.NEVER, errors.INTERNAL)  # by nobody we know
SHUTDOWN = End("shutdown", Verdict.CANCELLED, Retry.NEVER, errors.SHUTTING_DOWN)  # the drain is over
SLOW_CLIENT = End("slow_client", Verdict.CANCELLED, Retry.NEVER, errors.INTERNAL)
CONNECT = End("connect", _BEFORE, Retry.OTHER, errors.ENGINE_UNREACHABLE)
RESET_REUSED = End("reset_reused", Verdict.CANCELLED, Retry.FRESH, errors.ENGINE_CUT)
RESET_NEW = End("reset_new", _AFTER, Retry.ONCE_OTHER, errors.ENGINE_CUT)
REFUSED = End("refused", Verdict.OVERLOAD, Retry.OTHER, errors.ENGINE_OVERLOADED)
ABORTED = End("abort", Verdict.OVERLOAD, Retry.OTHER, errors.ENGINE_OVERLOADED)
REJECTED = End("rejected", Verdict.CLIENT_FAULT, Retry.NEVER, errors.ENGINE_REJECTED)
MISCONFIGURED = End("misconfigured", _BEFORE, Retry.OTHER, errors.ENGINE_MISCONFIGURED)
BAD_GATEWAY = End("bad_gateway", _AFTER, Retry.OTHER, errors.ENGINE_FAILED)
GATEWAY_TIMEOUT = End("gateway_timeout", _AFTER, Retry.NEVER, errors.TOTAL_TIMEOUT)
ENGINE_ERROR = End("engine_error", _AFTER, Retry.ONCE_OTHER, errors.ENGINE_FAILED)
TTFT = End("ttft", _AFTER, Retry.NEVER, errors.FIRST_EVENT_TIMEOUT)
IDLE = End("idle", _AFTER, Retry.NEVER, errors.IDLE_TIMEOUT)
TOTAL = End("total", _AFTER, Retry.NEVER, errors.TOTAL_TIMEOUT)
DEADLINE = End("deadline", Verdict.CANCELLED, Retry.NEVER, errors.OWN_TIMEOUT)
TRUNCATED = End("truncated", _AFTER, Retry.ONCE_OTHER, errors.ENGINE_CUT)
JUNK = End("junk", _AFTER, Retry.NEVER, errors.ENGINE_JUNK)
MISFIT = End("misfit", Verdict.SUCCESS, Retry.REPAIR, errors.ANSWER_UNFIT)  # the model's doing
QUEUE_FULL = End("queue_full", Verdict.OVERLOAD, Retry.NEVER, errors.QUEUE_FULL)
QUEUE_TIMEOUT = End("queue_timeout", Verdict.OVERLOAD, Retry.NEVER, errors.QUEUE_TIMEOUT)
BUFFER_FULL = End("buffer_full", Verdict.OVERLOAD, Retry.NEVER, errors.BUFFER_FULL)
NO_ENDPOINT = End("no_endpoint", _BEFORE, Retry.NEVER, errors.NO_REPLICA)
BUG = End("bug", _AFTER, Retry.NEVER, errors.INTERNAL)

# In these ways an engine ends that dies while it has a request; they may have other causes too.
DEADLY = frozenset((RESET_REUSED, RESET_NEW, BAD_GATEWAY, ENGINE_ERROR, TRUNCATED))

# How an exchange ends that was refused before any attempt, or between two of them.
QUEUE_ENDS = {
    errors.QUEUE_FULL: QUEUE_FULL,
    errors.OVER_SHARE: QUEUE_FULL,
    errors.QUEUE_TIMEOUT: QUEUE_TIMEOUT,
    errors.BUFFER_FULL: BUFFER_FULL,
}

ALL_ENDS: tuple[End, ...] = tuple(v for v in globals().values() if isinstance(v, End))


class AttemptFailed(Exception):
    """An attempt ended otherwise than well.

    Args:
        end: how.
        detail: for the log only; never shown to a client.
        retry_after_s: what the engine asked for, in seconds.
        client_message: the engine's own words about the client's mistake, cleaned (`REJECTED` only).
        status: the engine's status where it is passed on (`REJECTED` only).
    """

    def __init__(
        self,
        end: End,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        client_message: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(f"{end.label}: {detail}" if detail else end.label)
        self.end = end
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.client_message = client_message
        self.status = status


# What the deadlines of an attempt raise when they pass.
first_event_late = partial(AttemptFailed, TTFT)
idle_too_long = partial(AttemptFailed, IDLE)
time_is_up = partial(AttemptFailed, TOTAL)
patience_over = partial(AttemptFailed, DEADLINE)
client_too_slow = partial(AttemptFailed, SLOW_CLIENT)


def shutting_down() -> AttemptFailed:
    """What ends an exchange that runs when the time of the router's end is over."""
    return AttemptFailed(SHUTDOWN, retry_after_s=RESTART_S)
