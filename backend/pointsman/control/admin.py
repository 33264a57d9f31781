"""`/admin/default-model`: which model answers calls that name none, changed while the router runs."""

from typing import Any

from fastapi import APIRouter, Request

from pointsman.body import Body, check_media_type
from pointsman.control.catalog import find_model
from pointsman.control.forms import operate
from pointsman.control.forms.schema import described
from pointsman.control.operator import Desk
from pointsman.following import Following
from pointsman.registry import Registry
from pointsman.surfaces.base import invalid, model_name, read_fields

_PATH = "/admin/default-model"
_BODY_MAX_BYTES = 4096


def router(registry: Registry, desk: Desk, following: Following) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["admin"])

    @routes.get(
        _PATH, summary="Which model answers calls that name none", openapi_extra=described(operate.DEFAULT)
    )
    async def show(request: Request) -> dict[str, Any]:
        desk.check(request, f"GET {_PATH}", changes=False)
        return {"model": registry.wanted(), "configured": registry.configured}

    @routes.put(
        _PATH,
        summary="Changes it until the next start; null takes back what the settings say",
        openapi_extra=described(operate.CHANGE_DEFAULT),
    )
    async def change(request: Request) -> dict[str, Any]:
        with desk.action(request, f"PUT {_PATH}", "default model", changes=True) as action:
            headers = dict(request.scope["headers"])
            check_media_type(headers)
            fields = read_fields(await Body(request.receive, headers).read(_BODY_MAX_BYTES))
            if "model" not in fields:
                raise invalid("model", "be given: the name of a model, or null")
            name = model_name(fields)
            model = None if name is None else find_model(registry, name)
            model_id, old = None if model is None else model.id, registry.wanted()
            followed = await following.order(lambda orders: orders.naming(model_id), action.who)
            new = registry.wanted()
            action.outcome = f"ok: {old} -> {new}"
            followed.check()
        return {"old": old, "model": new, "configured": registry.configured, "workers": followed.workers}

    return routes
