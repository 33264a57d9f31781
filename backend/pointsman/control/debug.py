"""`GET /debug/state`: all that is held now, for operators."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from pointsman.control.forms import operate
from pointsman.control.forms.schema import described
from pointsman.control.operator import Desk
from pointsman.inventory import PATH

States = Callable[[], Awaitable[list[dict[str, Any]]]]


def router(desk: Desk, states: States) -> APIRouter:
    """The route.

    Args:
        states: of all workers; of one that did not answer, why.
    """
    routes = APIRouter(tags=["admin"])

    @routes.get(PATH, summary="All that is held now, by worker", openapi_extra=described(operate.STATE))
    async def state(request: Request) -> dict[str, Any]:
        desk.check(request, f"GET {PATH}", changes=False)
        found = await states()
        return {"idle": all(one.get("idle") for one in found), "workers": found}

    return routes
