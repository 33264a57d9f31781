"""`POST /models/compare`: the same text or conversation to several models at once.

Each model's part is a call of its own on the data plane, with its own limits, retries, metrics and log line;
one that fails is told as failed and leaves the others alone.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from pointsman import patience
from pointsman.body import Body, check_media_type
from pointsman.call import Operation
from pointsman.control.forms import headers as told_headers
from pointsman.control.forms import operate
from pointsman.control.forms.schema import described
from pointsman.errors import ENGINE_CUT, OWN_TIMEOUT, ErrorKind, RouterError
from pointsman.guard import Guard
from pointsman.keys import Need
from pointsman.plane import EXTENSION, Plane
from pointsman.routes import Match, Route
from pointsman.surfaces.base import read_fields, read_in_turns
from pointsman.surfaces.comparison import Comparison, models_in, told
from pointsman.turns import LARGE_BYTES, give_way

PATH = "/models/compare"
BODY_MAX_BYTES = 2 << 20  # each part reads it anew
GUARD_CLASS = f"POST {PATH}"
_IGNORED = b"x-pointsman-ignored: "
_surface = Comparison()
_route = Route("POST", PATH, PATH, Operation.GENERATE, _surface, lambda fields: _surface)


class Collected:
    """Implements `answer.Wire`: keeps one part's answer."""

    def __init__(self, body: bytes) -> None:
        self.loop = asyncio.get_running_loop()
        self.disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        self.refused: ErrorKind | None = None
        self._asked: bytes | None = body
        self._told: list[bytes] = []
        self._lines: list[bytes] = []
        self._whole = False

    def take(self) -> bytes | None:
        body, self._asked = self._asked, None
        return body

    def begin(self, status: int, lines: bytes, length: int | None, *, close: bool = False) -> None:
        self._lines = lines.split(b"\r\n")

    async def put(self, block: bytes, *, last: bool) -> None:
        self._told.append(block)
        self._whole = last

    def abort(self) -> None:
        self.disconnected = True

    def leave(self) -> None:
        """The client has left."""
        self.disconnected = True
        if self.on_disconnect is not None:
            self.on_disconnect()

    def result(self, model: str, request_id: str) -> dict[str, Any]:
        """The part of the answer that is this model's."""
        if not self._whole:
            return {"model": model, "error": told(RouterError(ENGINE_CUT), request_id)}
        ignored = [line[len(_IGNORED) :].decode("ascii") for line in self._lines if line.startswith(_IGNORED)]
        found = msgspec.json.decode(b"".join(self._told), type=dict[str, Any])
        return {"model": model, **found, **({"ignored": ignored[0]} if ignored else {})}


def router(plane: Plane, guard: Guard, need: Need, most_bytes: int) -> APIRouter:
    """The route.

    Args:
        need: whether it needs an API key.
        most_bytes: the largest body of any route.
    """
    routes = APIRouter(tags=["models"])
    told_of = described(operate.COMPARE, told_headers.parameters(told_headers.OF_PARTS))

    @routes.post(PATH, summary="The same to up to four models", openapi_extra=told_of)
    async def compare(request: Request) -> dict[str, Any]:
        started, headers = monotonic(), dict(request.scope["headers"])
        patience_s = patience.read(request.scope["headers"])  # once, not by each part
        caller = guard.authenticate(request.state.caller, headers, need, GUARD_CLASS)
        check_media_type(headers)
        body = Body(request.receive, headers)
        content = await _read(body, min(most_bytes, BODY_MAX_BYTES), patience_s)
        large = len(content) > LARGE_BYTES
        fields = await read_in_turns(content) if large else read_fields(content)
        names = models_in(fields)
        # What is wrong with the body is said once, and before any model is asked.
        _surface.decode(_route.operation, fields, content, stream=False)
        if large:
            await give_way()
        own_id = request.state.request_id
        parts = [
            (name, f"{own_id[:120]}-{number}", Collected(content)) for number, name in enumerate(names, 1)
        ]

        def leave() -> None:
            for _, _, wire in parts:
                wire.leave()

        if patience_s is not None:
            headers[patience.HEADER] = b"%.3f" % max(patience_s - (monotonic() - started), 0.001)
        async with body.heeding(leave), asyncio.TaskGroup() as group:
            for name, part_id, wire in parts:
                scope = _scope(part_id, headers, wire)
                group.create_task(plane.serve(Match(_route, name), scope, _silent, _unsent, caller))
        return {"results": [wire.result(name, part_id) for name, part_id, wire in parts]}

    return routes


async def _read(body: Body, most: int, patience_s: float | None) -> bytes:
    """The whole body, unless that takes longer than the client waits.

    Raises:
        RouterError: OWN_TIMEOUT; what reading raises.
    """
    try:
        async with asyncio.timeout(patience_s):
            return await body.read(most)
    except TimeoutError:
        raise RouterError(OWN_TIMEOUT) from None


def _scope(part_id: str, sent: dict[bytes, bytes], wire: Collected) -> dict[str, Any]:
    """A request as the data plane takes it; what concerns the caller was settled with the whole."""
    headers = [(b"content-type", b"application/json"), (b"x-request-id", part_id.encode("ascii"))]
    headers += [(name, sent[name]) for name in (b"traceparent", patience.HEADER) if name in sent]
    return {"client": None, "headers": headers, "extensions": {EXTENSION: wire}}


async def _silent() -> dict[str, Any]:
    return {"type": "http.disconnect"}  # not asked: the whole body is taken from the wire


async def _unsent(message: dict[str, Any]) -> None:
    """Not called: answers go to the wire."""
