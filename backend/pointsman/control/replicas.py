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
from pointsman.following import Following
from pointsman.membership import entry_seat, seat_of
from pointsman.orders import ENTRIES_MAX, Orders, Seat
from pointsman.replica import Networks
from pointsman.surfaces.base import invalid, read_fields

WAIT_MAX_S = 300.0
_PATH = "/admin/replicas"
_ONE = "/admin/replicas/{replica_id}"
_BODY_MAX_BYTES = 8192
_LOOK_EVERY_S = 0.25


class Changes:
    """What operators do with replicas.

    Args:
        networks: where added replicas may be.
        leaving: whether the process was told to end.
    """

    def __init__(
        self, roster: Roster, following: Following, networks: Networks, leaving: Callable[[], bool]
    ) -> None:
        self._roster = roster
        self._following = following
        self._networks = networks
        self._leaving = leaving

    async def add(self, request: Request, action: Action) -> dict[str, Any]:
        """One more replica."""
        headers = dict(request.scope["headers"])
        check_media_type(headers)
        fields = read_fields(await Body(request.receive, headers).read(_BODY_MAX_BYTES))
        addition = await read_addition(fields, self._roster.registry, self._networks)
        seat = addition.seat
        return await self._order(
            seat, request, action, lambda orders: orders.adding(addition, configured=self._configured(seat))
        )

    async def remove(
        self, request: Request, action: Action, replica_id: str, wait_s: float
    ) -> dict[str, Any]:
        """One less; what runs there is finished, for which may be waited."""
        seat = seat_of(self._roster.find(replica_id))
        return await self._order(
            seat,
            request,
            action,
            lambda orders: orders.removing(seat, configured=self._configured(seat)),
            wait_s,
        )

    async def drain(self, request: Request, action: Action, replica_id: str, wait_s: float) -> dict[str, Any]:
        """No new work for one."""
        seat = seat_of(self._roster.find(replica_id))
        return await self._order(seat, request, action, lambda orders: orders.draining(seat), wait_s)

    async def resume(self, request: Request, action: Action, replica_id: str) -> dict[str, Any]:
        """Work again."""
        seat = seat_of(self._roster.find(replica_id))
        return await self._order(seat, request, action, lambda orders: orders.resuming(seat))

    async def _order(
        self,
        seat: Seat,
        request: Request,
        action: Action,
        write: Callable[[Orders], Orders],
        wait_s: float = 0.0,
    ) -> dict[str, Any]:
        def checked(orders: Orders) -> Orders:
            fresh = write(orders)
            if fresh.full:
                raise invalid("replica", f"be one of {ENTRIES_MAX} changes at most; reload settings instead")
            return fresh

        followed = await self._following.order(checked, action.who)
        end = monotonic() + wait_s
        view = await self._roster.one(seat, for_ops=is_ops(request))
        while view is not None and view["in_flight"] and monotonic() < end and not self._leaving():
            await asyncio.sleep(_LOOK_EVERY_S)
            view = await self._roster.one(seat, for_ops=is_ops(request))
        running = 0 if view is None else view["in_flight"]
        action.outcome = f"ok: {running} calls run there; {followed.workers} workers follow"
        followed.check()
        return {"replica": view, "in_flight": running, "workers": followed.workers}

    def _configured(self, seat: Seat) -> bool:
        model = self._roster.registry.models.get(seat.model)
        return model is not None and any(entry_seat(model.id, one) == seat for one in model.config.replicas)


def router(roster: Roster, desk: Desk, changes: Changes) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["admin"])

    @routes.get(_PATH, summary="All replicas, as every worker sees them", openapi_extra=described(pools.LIST))
    async def show(request: Request) -> dict[str, Any]:
        desk.check(request, f"GET {_PATH}", changes=False)
        found = await roster.view(for_ops=is_ops(request))
        gone = [{"model": seat.model, "engine": seat.engine} for seat in roster.registry.orders.removed]
        return {"replicas": found, "removed": gone}

    @routes.post(_PATH, summary="Adds a replica, until the next start", openapi_extra=described(pools.ADD))
    async def add(request: Request) -> dict[str, Any]:
        with desk.action(request, f"POST {_PATH}", "replica added", changes=True) as act:
            return await changes.add(request, act)

    @routes.delete(
        _ONE,
        summary="Takes a replica out, until the next start; what runs there is finished",
        openapi_extra=described(pools.REMOVE),
    )
    async def remove(replica_id: str, request: Request, wait: float = 0.0) -> dict[str, Any]:
        what = f"replica {_safe(replica_id)} removed"
        with desk.action(request, f"DELETE {_ONE}", what, changes=True) as act:
            return await changes.remove(request, act, replica_id, _wait(wait))

    @routes.post(
        f"{_ONE}/drain",
        summary="Gives a replica no new work; what runs there is finished",
        openapi_extra=described(pools.DRAIN),
    )
    async def drain(replica_id: str, request: Request, wait: float = 0.0) -> dict[str, Any]:
        what = f"replica {_safe(replica_id)} drained"
        with desk.action(request, f"POST {_ONE}/drain", what, changes=True) as act:
            _check_page(request)
            return await changes.drain(request, act, replica_id, _wait(wait))

    @routes.post(
        f"{_ONE}/resume", summary="Gives a replica work again", openapi_extra=described(pools.RESUME)
    )
    async def resume(replica_id: str, request: Request) -> dict[str, Any]:
        what = f"replica {_safe(replica_id)} resumed"
        with desk.action(request, f"POST {_ONE}/resume", what, changes=True) as act:
            _check_page(request)
            return await changes.resume(request, act, replica_id)

    return routes


def _safe(replica_id: str) -> str:
    return replica_id if len(replica_id) <= 128 and replica_id.isascii() and replica_id.isprintable() else "?"


def _wait(wait: float) -> float:
    if not 0 <= wait <= WAIT_MAX_S:
        raise invalid("wait", f"be a number of seconds from 0 to {WAIT_MAX_S:g}")
    return wait


def _check_page(request: Request) -> None:
    headers = dict(request.scope["headers"])
    if b"origin" in headers:
        check_media_type(headers)  # so that a foreign page needs a preflight, which is refused
