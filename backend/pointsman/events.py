"""What happened lately, for operators: one bounded list of what changed by itself or by somebody's hand.

It holds no request, no content and no secret. Per worker process; the oldest entries go first.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from typing import Any

ENTRIES_MAX = 1000
ROUTER = "router"  # who, where it was nobody's hand


class Kind(StrEnum):
    """What an event is about; a closed set."""

    REPLICA = "replica"  # a replica's state, or that it came or went
    EJECTION = "ejection"
    DRAIN = "drain"
    RELOAD = "reload"  # the settings were read anew, or could not be
    KEYS = "keys"
    ADMIN = "admin"  # an operator's act, as on the audit log
    STORE = "store"
    WORKER = "worker"  # who of several workers follows


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `at` is in wall-clock seconds."""

    number: int
    at: float
    kind: Kind
    what: str
    who: str

    def view(self) -> dict[str, Any]:
        """As `/admin/events` tells it."""
        stamp = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")
        return {
            "time": stamp.replace("+00:00", "Z"),
            "kind": self.kind.value,
            "what": self.what,
            "who": self.who,
        }


class Events:
    """The list.

    Args:
        clock: wall-clock seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._numbers = count(1)
        self._entries: deque[Event] = deque(maxlen=ENTRIES_MAX)
        self.counts: Counter[Kind] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, kind: Kind, what: str, who: str = ROUTER) -> None:
        """Add an entry.

        Args:
            what: one sentence, by names that are ours: no address of an engine, no text of a request.
            who: `router`, or who the audit log says.
        """
        self.counts[kind] += 1
        self._entries.append(Event(next(self._numbers), self._clock(), kind, what, who))

    def latest(self, most: int) -> list[Event]:
        """The latest entries, the youngest first."""
        return list(self._entries)[: -most - 1 : -1] if most > 0 else []
