"""The router by one reading of the settings: who may come in, which routes there are, how calls are answered.

Made anew at each reload, whole, and then taken instead of the one before. A request ends with the one that it
began with.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fastapi import FastAPI

from pointsman import __version__
from pointsman.control import (
    admin,
    catalog,
    compare,
    debug,
    docs,
    faults,
    happenings,
    plg,
    replicas,
    status,
    usage,
    warm,
)
from pointsman.control import cache as control_cache
from pointsman.control.front import ControlFront
from pointsman.control.operator import Desk
from pointsman.front import StreamErrorTermination
from pointsman.guard import Guard
from pointsman.guard_classes import control_needs
from pointsman.limits import Limiter
from pointsman.load import LoadReader
from pointsman.parts import Parts
from pointsman.plane import Plane, PlaneConfig
from pointsman.recall import make as recall_make
from pointsman.replay import Replay
from pointsman.routes import Routes
from pointsman.settings import Settings
from pointsman.surfaces.llm_service import LlmService

_NO_DOCS: dict[str, Any] = dict.fromkeys(("docs_url", "redoc_url", "openapi_url"))


class Process(Protocol):
    """What routes ask of the process that serves them."""

    leaving: bool  # the end has begun

    async def render_metrics(self) -> bytes:
        """The page of all metrics, of all workers."""

    async def states(self) -> list[dict[str, Any]]:
        """What each worker holds."""


class Edition:
    """The planes of one configuration; `api` is the control plane."""

    def __init__(self, settings: Settings, parts: Parts, process: Process) -> None:
        self.settings = settings
        self.routes = _routes(settings, parts)
        self.limiter = Limiter(
            settings.limits, parts.counter, settings.surface_limits, parts.metrics.note_limited
        )
        self.guard = Guard(settings.access, settings.cors, parts.keyring, parts.failures)
        answers, forwarder, self.cache = settings.answer_cache, parts.forwarder, parts.cache
        replay = Replay(
            forwarder, parts.cache, parts.flights, everyone=answers.enabled, on_request=answers.on_request
        )
        server = recall_make(replay, forwarder, parts.store, settings.chat_history, answers)
        aborts = settings.front.stream_error_termination is StreamErrorTermination.ABORT
        self.plane = Plane(
            parts.registry,
            server,
            self.guard,
            self.limiter,
            PlaneConfig(settings.max_body_bytes, aborts, settings.security.enable_pii_filter),
            (parts.metrics.observe, parts.census.observe, parts.usage.observe, parts.access_log.observe),
            parts.running,
            parts.buffer,
        )
        self.api = FastAPI(
            title="Pointsman",
            version=__version__,
            root_path=settings.root_path,
            **({} if settings.docs else _NO_DOCS),
        )
        self._loads = LoadReader(settings.upstream.tls, resolver=parts.pools.resolver)
        self._add_control_routes(parts, process)
        docs.install(self.api, self.routes)
        faults.install(self.api)
        largest = {compare.PATH: settings.max_body_bytes}
        self.control = ControlFront(
            self.api,
            self.guard,
            self.limiter,
            settings.cors,
            settings.key_needs,
            largest,
            parts.running,
            settings.root_path,
        )

    @property
    def tables(self) -> dict[str, int]:
        """Entries of the tables that callers fill, by name."""
        return {**self.guard.sizes(), "rules": len(self.limiter), "load_pages": len(self._loads)}

    def _add_control_routes(self, parts: Parts, process: Process) -> None:
        settings, registry = self.settings, parts.registry
        metrics: Callable[[], Awaitable[bytes]] | None = (
            process.render_metrics if settings.metrics.enabled else None
        )
        desk = Desk(self.guard, parts.events)
        changes = replicas.Changes(
            parts.roster, parts.following, settings.admin.replica_networks, lambda: process.leaving
        )
        need = control_needs(settings.key_needs)[compare.GUARD_CLASS]
        rate_limited = settings.surface_limits[LlmService.name].enabled
        sources = plg.Sources(
            registry,
            parts.census,
            self._loads,
            parts.availability,
            settings.gpu_metrics_url,
        )
        for routes in (
            status.router(registry, settings.access, lambda: process.leaving, metrics),
            catalog.router(registry, settings.public_url, parts.admission.queued),
            admin.router(registry, desk, parts.following),
            replicas.router(parts.roster, desk, changes),
            happenings.router(parts.chronicle, desk),
            debug.router(desk, process.states),
            warm.router(registry, parts.forwarder, desk),
            compare.router(self.plane, self.guard, need, settings.max_body_bytes),
            usage.router(self.limiter, parts.together),
            control_cache.router(
                registry, parts.together, settings.answer_cache, desk, rate_limited=rate_limited
            ),
            plg.router(sources),
        ):
            self.api.include_router(docs.completed(routes))


def _routes(settings: Settings, parts: Parts) -> Routes:
    return Routes(
        settings.media_hosts,
        settings.key_needs,
        settings.llm_service,
        settings.security.max_prompt_chars,
        settings.plg,
        parts.census,
        remembers=settings.chat_history.enabled,
    )
