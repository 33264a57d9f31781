"""The HTTP server: uvicorn with our protocol."""

import gc
import typing
from collections.abc import Iterable
from socket import socket
from typing import Any

import uvicorn

from pointsman.front import FrontConfig
from pointsman.protocol import Protocol
from pointsman.sockets import listen, shown

LOOP = "uvloop"
_GC_THRESHOLDS = (20_000, 20, 50)  # a request's own objects go without the collector


class Served(typing.Protocol):
    """An app that wants to know where our protocol serves it."""

    addresses: list[str]


def config_for(app: Any, front: FrontConfig) -> uvicorn.Config:
    """uvicorn's configuration; also for other runners of our protocol."""
    return uvicorn.Config(
        app,
        http=Protocol,
        loop=LOOP,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(front.keep_alive_s),
        timeout_graceful_shutdown=int(front.drain_s),
    )


def settle(app: Served, sockets: Iterable[socket]) -> None:
    """What any runner does once the app is built and before the loop turns, in the process that serves."""
    gc.collect()
    gc.freeze()  # what the start made stays; only what requests make is looked through
    gc.set_threshold(*_GC_THRESHOLDS)
    app.addresses = [shown(one) for one in sockets]


def serve(app: Served, front: FrontConfig) -> None:
    """Run until SIGTERM or SIGINT, then finish what runs.

    Raises:
        OSError: an address cannot be bound.
    """
    sockets = listen(front)
    settle(app, sockets)
    uvicorn.Server(config_for(app, front)).run(sockets=sockets)
