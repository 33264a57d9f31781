"""`/admin/replicas`: who is in the pools, and its change while the router runs."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request

from pointsman.body import Body, check_media_type
from pointsman.control.addition import read_addition
from pointsman.control.catalog import is_ops
from pointsman.control.forms import pools
from pointsman.control.forms.schema import described
from pointsman.control.operator import Action, Desk
from pointsman.control.roster import Roster
from pointsman.following import Followed, Following
from pointsman.membership import entry_seat, seat_of
from pointsman.orders import ENTRIES_MAX, Orders, Seat
from pointsman.replica import Networks
from pointsman.surfaces.base import invalid, read_fields

WAIT_MAX_S = 300.0
_PATH = "/admin/replicas"
_ONE = "/admin/replicas/{replica_id}"
_BODY_MAX_BYTES = 8192
_LOOK_EVERY_S = 0.25


def router(
    roster: Roster,
    desk: Desk,
    following: Following,
    networks: Networks,
    leaving: Callable[[], bool],
) -> APIRouter:
    """The routes.

    Args:
        networks: where added replicas may be.
        leaving: whether the process was told to end.
    """
    routes = APIRouter(tags=["admin"])
    registry = roster.registry

    async def answer(
        seat: Seat, request: Request, followed: Followed, action: Action, wait_s: float = 0.0
    ) -> dict[str, Any]:
        end = monotonic() + wait_s
        view = await roster.one(seat, for_ops=is_ops(request))
        while view is not None and view["in_flight"] and monotonic() < end and not leaving():
            await asyncio.sleep(_LOOK_EVERY_S)
            view = await roster.one(seat, for_ops=is_ops(request))
        running = 0 if view is None else view["in_flight"]
        action.outcome = f"ok: {running} calls run there; {followed.workers} workers follow"
        followed.check()
        return {"replica": view, "in_flight": running, "workers": followed.workers}

    def configured(seat: Seat) -> bool:
        model = registry.models.get(seat.model)
        return model is not None and any(entry_seat(model.id, one) == seat for one in model.config.replicas)

    @routes.get(_PATH, summary="All replicas, as every worker sees them", openapi_extra=described(pools.LIST))
    async def show(request: Request) -> dict[str, Any]:
        desk.check(request, f"GET {_PATH}", changes=False)
        found = await roster.view(for_ops=is_ops(request))
        gone = [{"model": seat.model, "engine": seat.engine} for seat in registry.orders.removed]
        return {"replicas": found, "removed": gone}

    @routes.post(_PATH, summary="Adds a replica, until the next start", openapi_extra=described(pools.ADD))
    async def add(request: Request) -> dict[str, Any]:
        with desk.action(request, f"POST {_PATH}", "replica added", changes=True) as action:
            headers = dict(request.scope["headers"])
            check_media_type(headers)
            fields = read_fields(await Body(request.receive, headers).read(_BODY_MAX_BYTES))
            addition = await read_addition(fields, registry, networks)
            seat = addition.seat

            def write(orders: Orders) -> Orders:
                _check_room(orders)
                return orders.adding(addition, configured=configured(seat))

            followed = await following.order(write, action.who)
            return await answer(seat, request, followed, action)

    @routes.delete(
        _ONE,
        summary="Takes a replica out, until the next start; what runs there is finished",
        openapi_extra=described(pools.REMOVE),
    )
    async def remove(replica_id: str, request: Request, wait: float = 0.0) -> dict[str, Any]:
        with desk.action(
            request, f"DELETE {_ONE}", f"replica {_safe(replica_id)} removed", changes=True
        ) as act:
            wait_s, seat = _wait(wait), seat_of(roster.find(replica_id))

            def write(orders: Orders) -> Orders:
                _check_room(orders)
                return orders.removing(seat, configured=configured(seat))

            followed = await following.order(write, act.who)
            return await answer(seat, request, followed, act, wait_s)

    @routes.post(
        f"{_ONE}/drain",
        summary="Gives a replica no new work; what runs there is finished",
        openapi_extra=described(pools.DRAIN),
    )
    async def drain(replica_id: str, request: Request, wait: float = 0.0) -> dict[str, Any]:
        with desk.action(
            request, f"POST {_ONE}/drain", f"replica {_safe(replica_id)} drained", changes=True
        ) as act:
            _check_page(request)
            wait_s, seat = _wait(wait), seat_of(roster.find(replica_id))

            def write(orders: Orders) -> Orders:
                _check_room(orders)
                return orders.draining(seat)

            followed = await following.order(write, act.who)
            return await answer(seat, request, followed, act, wait_s)

    @routes.post(
        f"{_ONE}/resume", summary="Gives a replica work again", openapi_extra=described(pools.RESUME)
    )
    async def resume(replica_id: str, request: Request) -> dict[str, Any]:
        with desk.action(
            request, f"POST {_ONE}/resume", f"replica {_safe(replica_id)} resumed", changes=True
        ) as act:
            _check_page(request)
            seat = seat_of(roster.find(replica_id))
            followed = await following.order(lambda orders: orders.resuming(seat), act.who)
            return await answer(seat, request, followed, act)

    return routes


def _safe(replica_id: str) -> str:
    return replica_id if len(replica_id) <= 128 and replica_id.isascii() and replica_id.isprintable() else "?"


def _wait(wait: float) -> float:
    if not 0 <= wait <= WAIT_MAX_S:
        raise invalid("wait", f"be a number of seconds from 0 to {WAIT_MAX_S:g}")
    return wait


def _check_room(orders: Orders) -> None:
    if orders.full:
        raise invalid("replica", f"be one of {ENTRIES_MAX} changes at most; reload settings that hold them")


def _check_page(request: Request) -> None:
    headers = dict(request.scope["headers"])
    if b"origin" in headers:
        check_media_type(headers)  # so that a foreign page needs a preflight, which is refused
