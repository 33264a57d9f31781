"""How many clients may be connected to a worker at once."""

import logging
import re

from pointsman.errors import TOO_MANY_CONNECTIONS
from pointsman.refusal import Refused

_SURPLUS_SHARE = 8  # beyond the cap, one connection in this many of it is answered; others are closed
_TELL_S = 10.0  # between two lines of the log
# A supervisor that hears nothing would end us, and with us everybody who is connected.
_HEALTH_CHECK = re.compile(rb"(?:GET|HEAD) /(?:health|live|ready)[ ?]")
_log = logging.getLogger("pointsman.front")


class Door:
    """Counts whom it turns away. One for all connections of a worker process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hardest = most + max(8, most // _SURPLUS_SHARE)
        self._told_at = -_TELL_S
        self._untold = 0
        self.refused = 0  # since the start

    def crowded(self, connections: int) -> bool:
        """Whether the newest of so many connections is one too many: only health checks are answered."""
        return connections > self._most

    def shut(self, connections: int) -> bool:
        """Whether it is not even told so."""
        return connections > self._hardest

    def refuse(self, now: float) -> Refused:
        """Count one; what it is to be told. `now`: the loop's time."""
        self.refused += 1
        self._untold += 1
        if now - self._told_at >= _TELL_S:
            _log.warning(
                "%d connections are the most this worker takes (MAX_CONNECTIONS): turned away %d, %d so far",
                self._most,
                self._untold,
                self.refused,
            )
            self._told_at, self._untold = now, 0
        return Refused(TOO_MANY_CONNECTIONS, TOO_MANY_CONNECTIONS.message, retry_after_s=1)


def is_health_check(data: bytes) -> bool:
    """Whether the first bytes of a connection are those of a health check."""
    return _HEALTH_CHECK.match(data) is not None
