"""Puts the router together. The only module that knows everyone.

`build` returns an ASGI app: the data plane's routes are answered by `plane`, all others by FastAPI.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

from fastapi import FastAPI

from pointsman import __version__
from pointsman.cache import ResponseCache
from pointsman.control import plg
from pointsman.edition import Edition
from pointsman.keyring import Keyring
from pointsman.log import configure
from pointsman.parts import Parts
from pointsman.probe import Prober
from pointsman.registry import Registry
from pointsman.replica import Health, Replica, State
from pointsman.routes import Routes
from pointsman.settings import Settings

_ASIDE_S = 0.5
_log = logging.getLogger("pointsman.app")


class Router(FastAPI):
    """What a server is given: it hands each request to the edition of the settings that is in force."""

    leaving = False  # set by our server: the end has begun
    replaced: Callable[[], bool] = staticmethod(lambda: False)  # set by gunicorn's master
    clients: Collection[object] = ()  # set by our server: connections that are open

    def __init__(self, settings: Settings) -> None:
        super().__init__(title="Pointsman", version=__version__, lifespan=self._live, openapi_url=None)
        self.workers: int | None = 1  # processes that serve this app, as who runs it says; None: several
        self.addresses: list[str] = []  # set by our server; others lack what the data plane is best with
        self.parts = Parts(settings)
        self._take(Edition(settings, self.parts, self))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        now = self.edition
        path = scope["path"]
        if self._prefix and path.startswith(self._prefix):
            path = path[len(self._prefix) :]
        match = now.routes.find(scope["method"], path)
        if match is not None:
            await now.plane.serve(match, scope, receive, send)
        else:
            await now.control(scope, receive, send)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.edition.settings

    @property
    def registry(self) -> Registry:
        """The models and their replicas."""
        return self.parts.registry

    @property
    def keyring(self) -> Keyring:
        """The API keys."""
        return self.parts.keyring

    @property
    def cache(self) -> ResponseCache:
        """The cache of answers."""
        return self.edition.cache

    @property
    def routes_table(self) -> Routes:
        """The generation routes."""
        return self.edition.routes

    def openapi(self) -> dict[str, Any]:
        """What `/openapi.json` tells, whether or not it is served."""
        return self.edition.api.openapi()

    def cut(self) -> None:
        """The time of the end is over: end whatever runs with an answer, and refuse whatever comes."""
        self.parts.running.cut()
        # Requests that hold exchanges of the data plane, as a comparison does, end with those.
        asyncio.get_running_loop().call_later(_ASIDE_S, self.parts.running.cut_requests)

    def render_metrics(self) -> bytes:
        """The page of all metrics of this process."""
        parts = self.parts
        return parts.metrics.render(log_dropped=parts.access_log.dropped, tables=parts.tables)

    def _take(self, edition: Edition) -> None:
        self.edition = edition
        self._prefix = edition.settings.root_path.rstrip("/")

    def _note_availability(self, replica: Replica, before: Health) -> None:
        model = plg.chat_model(self.registry)
        if model is not None and any(one.health.state is not State.UNKNOWN for one in model.pool):
            self.parts.availability.note(model.available, monotonic())

    def _tell_of_start(self) -> None:
        settings, share = self.settings, self.parts.share
        if share.workers > 1 and settings.store.in_memory:
            _log.warning(
                "%d workers share no store: each enforces its part of the limits (STORE__URL=redis://…)",
                share.workers,
            )
        for notice in settings.notices:
            _log.warning("%s", notice)
        if not self.registry.models:
            _log.warning("no engines are configured: set TGI_<NAME>_ENDPOINT or VLLM_<NAME>_ENDPOINT")
        if self.addresses:
            _log.info("listening on %s", ", ".join(self.addresses))
        else:
            _log.warning(
                "started by a server without Pointsman's HTTP protocol: header limits are off and a client's "
                "leaving is noticed later; start with `pointsman serve` or `--http pointsman.server:Protocol`"
            )

    @asynccontextmanager
    async def _live(self, _: FastAPI) -> AsyncIterator[None]:
        settings, parts = self.settings, self.parts
        sink = configure(settings.log_level, settings.log_format)
        parts.share.workers = self.workers or 2  # several: nobody says how many
        self._tell_of_start()
        parts.access_log.start(asyncio.get_running_loop())
        parts.keyring.look()
        keeper = asyncio.create_task(parts.keyring.keep(), name="keyring")
        try:
            async with Prober(
                self.registry.replicas,
                settings.health,
                tls=settings.upstream.tls(),
                on_change=self._note_availability,
                outliers=parts.outliers,
                progress=settings.progress,
            ):
                yield
        finally:
            keeper.cancel()
            await parts.census.close()
            parts.pools.close()
            parts.access_log.close()
            sink.close()


def build(settings: Settings) -> Router:
    """Make the app of one configuration; nothing is started before its lifespan begins."""
    return Router(settings)
