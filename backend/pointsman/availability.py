"""For which share of the time there was an engine to answer. Per worker process."""


class Availability:
    """Adds up the time since the first health check. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._since = 0.0
        self._up = False
        self._up_s = 0.0

    def note(self, up: bool, now: float) -> None:
        """Say how it is from now on."""
        if self._begun is None:
            self._begun = now
        elif self._up:
            self._up_s += now - self._since
        self._since, self._up = now, up

    def percent(self, now: float) -> float:
        """In [0, 100]; 0 before anything is known."""
        if self._begun is None:
            return 0.0
        whole_s = now - self._begun
        if whole_s <= 0:
            return 100.0 if self._up else 0.0
        return 100 * (self._up_s + (now - self._since if self._up else 0.0)) / whole_s
