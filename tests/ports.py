"""Ports of the loopback, for processes that are told theirs and take a while to listen."""

import random
import socket
from pathlib import Path

_FIRST = 10_000
_TRIES = 100
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_dice = random.SystemRandom()  # workers of one run must not draw the same


def free_port() -> int:
    """A port on which nobody listens.

    It is below those that the system gives to connections and to whoever asks for any: one of these may be
    another's by the time at which it is used.
    """
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    for _ in range(_TRIES if end > _FIRST + _TRIES else 0):
        port = _dice.randrange(_FIRST, end)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
