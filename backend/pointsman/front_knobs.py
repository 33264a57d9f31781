"""The settings of what a client may cost us by being slow, or many."""

from pointsman.front import FrontConfig
from pointsman.knob import Knob
from pointsman.values import number, whole

_front = FrontConfig()
_wait = number(0.1, 600)

CLIENTS = (
    Knob(
        "REQUEST_HEAD_S",
        _wait,
        _front.head_s,
        "From a request's first byte, or a connection's begin, to the end of its headers.",
    ),
    Knob(
        "REQUEST_BODY_S",
        _wait,
        _front.body_s,
        "For a request's body; a larger one may go on while 8 KiB come each second.",
    ),
    Knob(
        "MAX_CONNECTIONS",
        whole(1, 1_000_000, "connections"),
        _front.max_connections,
        "Clients that are connected at once, per worker; beyond, they are told 503.",
    ),
)
