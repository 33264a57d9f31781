"""The HTTP server: uvicorn with our protocol, and an end of our own.

Source of the end: `reliability.md` section 8. uvicorn is pinned to a minor version:
`tests/unit/test_server.py` names each attribute of its server that is used here.
"""

import asyncio
import gc
import logging
import typing
from collections.abc import Callable, Collection
from socket import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from pointsman.door import Door
from pointsman.front import FrontConfig
from pointsman.protocol import Protocol
from pointsman.sockets import hold_little, listen, shown

LOOP = "uvloop"
_LAST_WORDS_S = 3.0  # for clients to take what they are told once the time is over
_CANCEL_S = 1.0  # for tasks to end once their connections are closed, and once more when they are cancelled
_CLOSE_S = 3.0  # for the app to let go of engines, store and log
AFTER_S = _LAST_WORDS_S + 2 * _CANCEL_S + _CLOSE_S  # from the end of the drain to the process's, at most
_TICK_S = 0.05
_GC_THRESHOLDS = (20_000, 20, 50)  # a request's own objects go without the collector
_log = logging.getLogger("pointsman.server")


class Served(typing.Protocol):
    """An app that our protocol serves, and what the server tells it."""

    addresses: list[str]
    clients: Collection[object]  # the connections that are open
    turned_away: Callable[[], int]  # how many were not taken so far
    leaving: bool  # the end has begun: not ready any more
    replaced: Callable[[], bool]  # whether others serve in this process's place already

    def cut(self) -> None:
        """The time is over: end whatever runs, with an answer, and refuse whatever comes."""


class Connections(ServerState):
    """What all connections share."""

    leaving = False  # each answer is the last one of its connection


class Server(uvicorn.Server):
    """Ends in steps: not ready, a time of grace, no more accepting, drain, error frames.

    Args:
        grace_s: from the first step to the third.
        hurries: whether a second signal to end cuts the end short; some supervisors repeat theirs.
    """

    def __init__(
        self, app: Served, config: uvicorn.Config, front: FrontConfig, *, grace_s: float, hurries: bool = True
    ) -> None:
        super().__init__(config)
        self._app = app
        self._grace_s = grace_s
        self._drain_s = front.drain_s
        self._hurries = hurries
        state = self.server_state = Connections()
        app.clients = state.connections
        door: Door | None = getattr(config, "door", None)
        app.turned_away = lambda: 0 if door is None else door.refused
        self._state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end. uvicorn would raise it again in the end; a clean end is no failure."""
        if not self.should_exit:
            self.leave()
        elif self._hurries:
            self.hurry()

    def leave(self) -> None:
        """Begin the end: not ready from now on, unless the router as a whole goes on."""
        self._app.leaving = not self._app.replaced()
        self.should_exit = True

    def hurry(self) -> None:
        """Begin the end, and wait for nothing but that everybody is told."""
        self.leave()
        self.force_exit = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self.should_exit = True  # where nobody said so, as after gunicorn's max_requests, others go on
        await self._grace()
        await self._stop_accepting(sockets or [])
        running = len(self._state.tasks)
        _log.info("no longer accepting; answers under way: %d, for up to %g s", running, self._drain_s)
        if await self._wait(self._over, self._drain_s):
            _log.info("every answer is finished")
        else:
            await self._cut()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self.lifespan.shutdown()
        except TimeoutError:
            _log.error("the app did not close within %g s and is left", _CLOSE_S)

    async def _grace(self) -> None:
        how = "not ready any more" if self._app.leaving else "others go on"
        _log.info("told to end: %s; accepting for %g s more", how, self._grace_s)
        self._state.leaving = True
        for connection in self._open():
            connection.leave()
        await self._wait(lambda: False, self._grace_s)

    async def _stop_accepting(self, sockets: list[socket]) -> None:
        await asyncio.sleep(0)  # the loop accepts who is there already; closing would reset them
        for server in self.servers:
            server.close()
        for one in sockets:
            one.close()
        await asyncio.sleep(_TICK_S)  # who was just let in is a connection of ours only a turn later

    def _over(self) -> bool:
        """Whether nothing is left to be answered; closes the connections on which nothing is."""
        for connection in self._open():
            connection.shutdown()
        return not (self._state.connections or self._state.tasks)

    async def _cut(self) -> None:
        _log.warning("the time is over: %d answers are broken off", len(self._state.tasks))
        self._app.cut()
        self.force_exit = False  # everybody is told, however great the hurry
        if await self._wait(self._over, _LAST_WORDS_S):
            return
        left = self._open()
        _log.warning("%d connections are closed whose clients do not read, or still send", len(left))
        for connection in left:
            connection.transport.abort()
        if not await self._wait(self._over, _CANCEL_S):
            for task in self._state.tasks:
                task.cancel()
            await self._wait(self._over, _CANCEL_S)

    async def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is done, the time is over, or somebody is in a hurry; whether it is done."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not done():
            if loop.time() >= end or self.force_exit:
                return False
            await asyncio.sleep(_TICK_S)
            await self.on_tick(0)  # answers have a date
        return True

    def _open(self) -> list[Protocol]:
        return [one for one in self._state.connections if isinstance(one, Protocol)]


class Config(uvicorn.Config):
    """uvicorn's configuration, with what our protocol looks for in it."""

    def __init__(self, app: Any, front: FrontConfig, **more: Any) -> None:
        super().__init__(app, **more)
        self.front = front
        self.door = Door(front.max_connections)


def config_for(app: Any, front: FrontConfig) -> Config:
    """uvicorn's configuration; also for other runners of our protocol."""
    return Config(
        app,
        front,
        http=Protocol,
        loop=LOOP,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )


def settle(app: Served, sockets: Collection[socket]) -> None:
    """What any runner does once the app is built and before the loop turns, in the process that serves."""
    gc.collect()
    gc.freeze()  # what the start made stays; only what requests make is looked through
    gc.set_threshold(*_GC_THRESHOLDS)
    for one in sockets:
        hold_little(one)
    app.addresses = [shown(one) for one in sockets]


def serve(app: Served, front: FrontConfig, given: list[socket] | None = None) -> None:
    """Run until SIGTERM or SIGINT, then finish what runs.

    Args:
        given: sockets that listen already and outlast this process, instead of the configured addresses.
            Who connects after the end waits for the next process, so there is no time of grace.

    Raises:
        OSError: an address cannot be bound.
    """
    sockets = given or listen(front)
    settle(app, sockets)
    grace_s = 0.0 if given else front.grace_s
    Server(app, config_for(app, front), front, grace_s=grace_s).run(sockets=sockets)
