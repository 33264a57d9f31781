"""`GET /admin/events`: what happened lately, at every worker."""

from typing import Any

from fastapi import APIRouter, Request

from pointsman.channel import Channel
from pointsman.control.forms import pools
from pointsman.control.forms.schema import described
from pointsman.control.operator import Desk
from pointsman.events import ENTRIES_MAX, Events
from pointsman.surfaces.base import invalid

_PATH = "/admin/events"
_USUAL = 100


class Chronicle:
    """The events of all workers; each tells its own on the channel."""

    def __init__(self, events: Events, channel: Channel) -> None:
        self._events = events
        self._channel = channel
        channel.on("events", lambda most: [event.view() for event in events.latest(int(most))])

    async def latest(self, most: int) -> list[dict[str, Any]]:
        """The latest entries of all, the youngest first, each with the worker that tells it."""
        own = [event.view() for event in self._events.latest(most)]
        found = [{**event, "worker": self._channel.worker} for event in own]
        for reply in await self._channel.ask("events", most):
            found += [{**event, "worker": reply.worker} for event in reply.answer or []]
        return sorted(found, key=lambda event: str(event["time"]), reverse=True)[:most]


def router(chronicle: Chronicle, desk: Desk) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["admin"])

    @routes.get(
        _PATH, summary="What happened lately, the youngest first", openapi_extra=described(pools.EVENTS)
    )
    async def show(request: Request, limit: int = _USUAL) -> dict[str, Any]:
        desk.check(request, f"GET {_PATH}", changes=False)
        if not 1 <= limit <= ENTRIES_MAX:
            raise invalid("limit", f"be a whole number from 1 to {ENTRIES_MAX}")
        return {"events": await chronicle.latest(limit)}

    return routes
