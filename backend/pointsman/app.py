"""Puts the router together. The only module that knows everyone.

`build` returns an ASGI app: the data plane's routes are answered by `plane`, all others by FastAPI.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from random import Random
from time import monotonic
from typing import Any

from fastapi import FastAPI

from pointsman import __version__
from pointsman.availability import Availability
from pointsman.control import admin, catalog, compare, docs, faults, plg, status, usage, warm
from pointsman.control import cache as control_cache
from pointsman.control.front import ControlFront
from pointsman.control.operator import Desk
from pointsman.forward import Forwarder
from pointsman.front import StreamErrorTermination
from pointsman.guard import Guard
from pointsman.keyring import Keyring
from pointsman.keys import Need
from pointsman.limits import Limiter
from pointsman.load import LoadReader
from pointsman.log import AccessLog, configure
from pointsman.metrics import Metrics
from pointsman.plane import Plane, PlaneConfig
from pointsman.probe import Prober
from pointsman.recall import make as recall_make
from pointsman.recent import Recent
from pointsman.registry import Registry
from pointsman.replica import Health, Replica, State
from pointsman.routes import Routes
from pointsman.sessions import Sessions
from pointsman.settings import Settings
from pointsman.store import make as make_store
from pointsman.store.fallback import Local, Share
from pointsman.store.memory import MemoryStore
from pointsman.surfaces.llm_service import LlmService
from pointsman.upstream import Pools
from pointsman.usage import Usage

_NO_DOCS: dict[str, Any] = dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))
_log = logging.getLogger("pointsman.app")


class Router(FastAPI):
    """FastAPI for the control plane; generation requests never get that far."""

    leaving = False  # set by our server: the end has begun
    clients: Collection[object] = ()  # set by our server: connections that are open

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            title="Pointsman",
            version=__version__,
            lifespan=self._live,
            root_path=settings.root_path,
            **({} if settings.docs else _NO_DOCS),
        )
        self.settings = settings
        self.workers: int | None = 1  # processes that serve this app, as who runs it says; None: several
        self.addresses: list[str] = []  # set by our server; others lack what the data plane is best with
        self.registry = Registry(
            settings.models, settings.retry, settings.default_model, surfaces=settings.surfaces
        )
        self.access_log = AccessLog(settings.log_format, settings.log_level)
        self.sessions, self.recent, self.availability = Sessions(), Recent(), Availability()
        self.routes_table = self._routes(settings)
        self.metrics = Metrics(self.registry, self.routes_table.templates)
        self.store = make_store(settings.store)
        self.share = Share(MemoryStore(), 1)  # of the limits, where nothing is shared
        counter = self.share if settings.store.in_memory else Local(self.store, self.share)
        self.limiter = Limiter(settings.limits, counter, settings.surface_limits, self.metrics.note_limited)
        self.usage = Usage()
        self.keyring = Keyring(settings.keys_file, settings.security.own_keys)
        guard = self._guard = Guard(settings.access, settings.cors, self.keyring)
        self.pools = Pools(settings.upstream)
        forwarder = self._forwarder = Forwarder(self.registry, self.pools, settings.retry, Random())
        self._prefix = settings.root_path.rstrip("/")
        aborts = settings.front.stream_error_termination is StreamErrorTermination.ABORT
        recall, self.cache = recall_make(forwarder, self.store, settings.chat_history, settings.answer_cache)
        self._plane = Plane(
            self.registry,
            recall or forwarder,
            guard,
            self.limiter,
            PlaneConfig(settings.max_body_bytes, aborts, settings.security.enable_pii_filter),
            (self.metrics.observe, self.recent.observe, self.usage.observe, self.access_log.observe),
        )
        largest = {compare.PATH: settings.max_body_bytes}
        self._control = ControlFront(
            super().__call__, guard, self.limiter, settings.cors, settings.key_needs, largest
        )
        self._add_control_routes(settings)
        docs.install(self, self.routes_table)
        faults.install(self)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path = scope["path"]
        if self._prefix and path.startswith(self._prefix):
            path = path[len(self._prefix) :]
        match = self.routes_table.find(scope["method"], path)
        if match is not None:
            await self._plane.serve(match, scope, receive, send)
        else:
            await self._control(scope, receive, send)

    def cut(self) -> None:
        """The time of the end is over: end whatever runs with an answer, and refuse whatever comes."""
        self._plane.cut()

    def _routes(self, settings: Settings) -> Routes:
        return Routes(
            settings.media_hosts,
            settings.key_needs,
            settings.llm_service,
            settings.security.max_prompt_chars,
            settings.plg,
            self.sessions,
            remembers=settings.chat_history.enabled,
        )

    def _add_control_routes(self, settings: Settings) -> None:
        metrics = self._render_metrics if settings.metrics.enabled else None
        self.include_router(status.router(self.registry, settings.access, lambda: self.leaving, metrics))
        self.include_router(catalog.router(self.registry, settings.public_url))
        desk = Desk(self._guard)
        self.include_router(admin.router(self.registry, desk, lambda: self.workers))
        self.include_router(warm.router(self.registry, self._forwarder, desk))
        need = settings.key_needs.get(compare.GUARD_CLASS, Need.IF_ANY)
        self.include_router(compare.router(self._plane, self._guard, need, settings.max_body_bytes))
        self.include_router(usage.router(self.limiter, self.usage))
        rate_limited = settings.surface_limits[LlmService.name].enabled
        self.include_router(control_cache.router(self.registry, self.cache, rate_limited=rate_limited))
        sources = plg.Sources(
            self.registry,
            self.sessions,
            self.recent,
            LoadReader(settings.upstream.tls),
            self.availability,
            settings.gpu_metrics_url,
        )
        self.include_router(plg.router(sources))

    def _note_availability(self, replica: Replica, before: Health) -> None:
        model = plg.chat_model(self.registry)
        if model is not None and any(one.health.state is not State.UNKNOWN for one in model.pool):
            self.availability.note(model.available, monotonic())

    def _render_metrics(self) -> bytes:
        tables = {**self.store.sizes(), **self.share.sizes(), "usage": len(self.usage)}
        return self.metrics.render(log_dropped=self.access_log.dropped, tables=tables)

    @asynccontextmanager
    async def _live(self, _: FastAPI) -> AsyncIterator[None]:
        settings = self.settings
        sink = configure(settings.log_level, settings.log_format)
        self.share.workers = self.workers or 2  # several: nobody says how many
        if self.share.workers > 1 and settings.store.in_memory:
            _log.warning(
                "%d workers share no store: each enforces its part of the limits (STORE__URL=redis://…)",
                self.share.workers,
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
        self.access_log.start(asyncio.get_running_loop())
        self.keyring.look()
        keeper = asyncio.create_task(self.keyring.keep(), name="keyring")
        try:
            async with Prober(
                self.registry.replicas,
                settings.health,
                tls=settings.upstream.tls(),
                on_change=self._note_availability,
            ):
                yield
        finally:
            keeper.cancel()
            self.pools.close()
            self.access_log.close()
            sink.close()


def build(settings: Settings) -> Router:
    """Make the app of one configuration; nothing is started before its lifespan begins."""
    return Router(settings)
