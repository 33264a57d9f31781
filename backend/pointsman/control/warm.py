"""`POST /models/{model_id}/warm`: every replica of a model makes one token, before users come."""

import asyncio
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from fastapi import APIRouter, Request

from pointsman import patience
from pointsman.attempt import AttemptFailed
from pointsman.body import Body, check_media_type
from pointsman.call import Api, Call, Operation, Timeouts
from pointsman.control.catalog import find_model
from pointsman.control.forms import headers as told_headers
from pointsman.control.forms import operate
from pointsman.control.forms.schema import described
from pointsman.control.operator import Desk
from pointsman.errors import ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.forward import Forwarder, client_error
from pointsman.generation import Wish
from pointsman.registry import Model, Registry
from pointsman.replica import Replica
from pointsman.run import Run
from pointsman.surfaces.comparison import told
from pointsman.watch import Clock, Watch

WAIT_S = 60.0  # for each replica; all are asked at once
_PATH = "/models/{model_id}/warm"
_CALL = Call(
    Api.PLAIN,
    Operation.GENERATE,
    None,
    wish=Wish(prompt="Hello", max_new=1, sampling=False, clamps=True),
    shape=lambda said: {},
)


class _Nobody:
    """Implements `conversation.Sink`: that an answer came is all that counts."""

    committed = False

    async def whole(self, body: bytes, lines: bytes) -> None:
        self.committed = True

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self.committed = True

    async def begin(self) -> None:
        self.committed = True

    async def write(self, block: bytes, *, last: bool = False) -> None:
        """Nobody reads it."""

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        raise client_error(failure) from failure


@dataclass(frozen=True, slots=True)
class Warmth:
    """How one replica did; `seconds` until it had answered or failed."""

    replica: str
    seconds: float
    error: dict[str, object] | None

    def view(self) -> dict[str, Any]:
        """As the answer has it."""
        told_of = {"id": self.replica, "ok": self.error is None, "seconds": self.seconds}
        return told_of if self.error is None else {**told_of, "error": self.error}


@dataclass(slots=True)
class Asking:
    """All that are asked for one client, who may leave: then every engine is left at once."""

    forwarder: Forwarder
    model: Model
    patience_s: float | None  # that the client has with each; None: it does not say
    left: bool = False
    watches: list[Watch] = field(default_factory=list)

    def leave(self) -> None:
        """The client has left."""
        self.left = True
        for watch in self.watches:
            watch.interrupt(ClientGone())

    async def ask(self, replica: Replica, request_id: str) -> Warmth:
        """Ask one, and wait for its token; what comes of it once the client has left is nobody's."""
        task, started = asyncio.current_task(), monotonic()
        assert task is not None  # noqa: S101 - each is asked in a task of its own
        alone = replace(self.model, pool=[replica])
        exchange = Exchange(request_id, _PATH, "POST", started)
        watch = Watch(Clock(asyncio.get_running_loop()), task)
        run = Run(_CALL, alone, exchange, watch, _Nobody(), started + WAIT_S, Timeouts(total_s=WAIT_S))
        if self.patience_s is not None:
            run.shorten(self.patience_s)
        self.watches.append(watch)
        error: dict[str, object] | None = None
        try:
            if self.left:  # before this one began
                raise ClientGone
            await self.forwarder.serve(run)
        except RouterError as failure:
            error = told(failure, request_id)
        except ClientGone:
            error = {}  # told to nobody
        return Warmth(replica.id, round(monotonic() - started, 3), error)


def router(registry: Registry, forwarder: Forwarder, desk: Desk) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["admin"])
    told_of = described(operate.WARM, told_headers.parameters(told_headers.OF_PARTS))

    @routes.post(_PATH, summary="One token of every replica, for operators", openapi_extra=told_of)
    async def warm(model_id: str, request: Request) -> dict[str, Any]:
        with desk.action(request, f"POST {_PATH}", "warm", changes=False) as action:
            headers = dict(request.scope["headers"])
            if b"origin" in headers:
                check_media_type(headers)  # so that a foreign page needs a preflight, which is refused
            patience_s = patience.read(request.scope["headers"])
            model = find_model(registry, model_id)
            asking, asked = Asking(forwarder, model, patience_s), []
            body = Body(request.receive, headers)
            async with body.heeding(asking.leave), asyncio.TaskGroup() as group:
                for number, one in enumerate(model.pool, 1):
                    own_id = f"{request.state.request_id[:120]}-{number}"
                    asked.append(group.create_task(asking.ask(one, own_id)))
            if asking.left:
                raise ClientGone
            found = [task.result() for task in asked]
            well = sum(one.error is None for one in found)
            action.outcome = f"ok: {well} of {len(found)} replicas of {model.id}"
        return {"model_id": model.id, "replicas": [one.view() for one in found]}

    return routes
