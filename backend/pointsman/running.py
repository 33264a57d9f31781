"""What is being answered now, each with what can end it. Lasts as long as the process."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from pointsman.answer import Answer
from pointsman.attempt import RESTART_S, shutting_down
from pointsman.errors import SHUTTING_DOWN, RouterError
from pointsman.watch import Watch


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request of the control plane."""

    request_id: str
    scope: MutableMapping[str, Any]
    started_at: float  # the loop's time

    @property
    def route(self) -> str:
        """The template, once it is known; never the path that was sent."""
        template: str = getattr(self.scope.get("route"), "path", "")
        return template


class Running:
    """Exchanges of the data plane, and requests of the control plane."""

    def __init__(self) -> None:
        self.exchanges: dict[Answer, Watch] = {}
        self.requests: dict[Asked, Watch] = {}
        self.over = False  # the router ends: nothing is begun any more

    def cut(self) -> None:
        """End every exchange with an error, or with an error frame where content was sent."""
        self.over = True
        for watch in self.exchanges.values():
            watch.end(shutting_down())

    def cut_requests(self) -> None:
        """End the control plane's requests with an error."""
        for watch in self.requests.values():
            watch.end(RouterError(SHUTTING_DOWN, retry_after_s=round(RESTART_S)))
