"""The settings of how a replica loses its calls, and gets them back."""

from pointsman.breaker import BreakerConfig
from pointsman.knob import section
from pointsman.progress import ProgressConfig
from pointsman.values import number, whole

_some = whole(1, 1000, "calls")
_time = number(0.05, 3600)

EJECTION = section(
    "EJECTION",
    BreakerConfig(),
    {
        "failures": (_some, "Failures in a row that eject a replica."),
        "connect_errors": (_some, "Connections in a row that do not come about and eject it."),
        "first_event_timeouts": (
            _some,
            "First events in a row that come too late and eject it; one, if nothing came from it at all.",
        ),
        "success_share": (number(0, 1, "share"), "A smaller share of good calls ejects it; 0: none does."),
        "success_calls": (whole(1, 100_000, "calls"), "How many calls the window must hold for that."),
        "window_s": (_time, "The window in which they are counted."),
        "base_s": (_time, "Length of the first ejection; doubles with each further one."),
        "max_s": (_time, "Longest ejection, before jitter."),
        "jitter": (number(0, 10, "share"), "By how much an ejection may be longer."),
        "forgive_s": (number(0, 86400), "Without an ejection: time after which the length begins anew."),
        "slow_start_s": (
            number(0, 3600),
            "In which a replica that comes back gets its whole share; 0: none.",
        ),
    },
)
PROGRESS = section(
    "PROGRESS",
    ProgressConfig(),
    {
        "wedged_after_s": (
            number(0, 3600),
            "Without a byte and with counters that stand still: a replica with calls hangs; 0: no look.",
        ),
        "deep_probe_s": (
            number(0, 86400),
            "Without an answer: time after which the router itself asks a replica for one token; 0: never.",
        ),
    },
)
