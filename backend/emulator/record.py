"""What the emulator has seen, for tests: `GET /__stats`, `POST /__reset`."""

import time
from collections import Counter, deque
from typing import Any

from emulator.message import Request
from emulator.schedule import Aborted

_LAST = 500  # requests and aborts kept
_BODY = 1 << 16  # bytes of each body kept


class Record:
    """Counts and the last requests, since the start or the last reset."""

    def __init__(self) -> None:
        """Everything at zero."""
        self.open_connections = 0
        self.total_connections = 0
        self.reset()

    def reset(self) -> None:
        """Forget all but the open connections."""
        self.total_connections = self.open_connections
        self.requests = 0
        self.answered = 0
        self.routes: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.disconnects = 0
        self.aborted_total = 0
        self._aborted: deque[dict[str, Any]] = deque(maxlen=_LAST)
        self._last: deque[dict[str, Any]] = deque(maxlen=_LAST)

    def received(self, request: Request, connection: int) -> None:
        """A request, before it is answered."""
        self.requests += 1
        self.routes[f"{request.method} {request.path}"] += 1
        self._last.append(
            {
                "method": request.method,
                "path": request.path,
                "target": request.target,
                "version": request.version,
                "headers": [list(pair) for pair in request.headers],
                "body": request.body[:_BODY].decode("utf-8", "replace"),
                "body_bytes": len(request.body),
                "connection": connection,
                "reused": request.reused,
                "at": time.time(),
                "monotonic": time.monotonic(),
            }
        )

    def ended(self, status: int) -> None:
        """An answer was written to its end."""
        self.answered += 1
        self.statuses[status] += 1

    def aborted(self, route: str, aborts: list[Aborted], age_s: float, since_gone_s: float | None) -> None:
        """A request ended early. `since_gone_s`: from disconnect to abort; `None`: not the peer's doing."""
        if since_gone_s is not None:
            self.disconnects += 1
        for abort in aborts:
            self.aborted_total += 1
            self._aborted.append(
                {
                    "route": route,
                    "phase": abort.phase,
                    "tokens": abort.tokens,
                    "age_ms": round(age_s * 1000, 3),
                    "time_to_abort_ms": None if since_gone_s is None else round(since_gone_s * 1000, 3),
                    "at": time.time(),
                    "monotonic": time.monotonic(),
                }
            )

    def show(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "routes": dict(self.routes),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "open_connections": self.open_connections,
            "total_connections": self.total_connections,
            "disconnects": self.disconnects,
            "aborted": self.aborted_total,
            "aborts": list(self._aborted),
            "last_requests": list(self._last),
        }
