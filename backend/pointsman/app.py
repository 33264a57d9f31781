"""Puts the router together. The only module that knows everyone.

`build` returns an ASGI app: the data plane's routes are answered by `plane`, all others by FastAPI.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

from fastapi import FastAPI

from pointsman import __version__, descriptors
from pointsman.cache import ResponseCache
from pointsman.channel import Channel
from pointsman.control import plg
from pointsman.edition import Edition
from pointsman.events import Kind
from pointsman.families import (
    BUFFERED,
    CONNECTIONS,
    LIMITS_LOCAL,
    LOCALLY_LIMITED,
    RELOAD_OK,
    RELOADED_AT,
    TURNED_AWAY,
    Family,
)
from pointsman.joined_page import join
from pointsman.keyring import Keyring
from pointsman.log import Sink, configure
from pointsman.parts import Parts
from pointsman.probe import Prober
from pointsman.registry import Registry
from pointsman.reload import Reloader
from pointsman.replica import Health, Replica, State
from pointsman.routes import Routes
from pointsman.settings import Settings
from pointsman.source import Source
from pointsman.store.base import Unavailable

_ASIDE_S = 0.5
_log = logging.getLogger("pointsman.app")


class Router(FastAPI):
    """What a server is given: it hands each request to the edition of the settings that is in force."""

    leaving = False  # set by our server: the end has begun
    replaced: Callable[[], bool] = staticmethod(lambda: False)  # set by gunicorn's master
    clients: Collection[object] = ()  # set by our server: connections that are open
    turned_away: Callable[[], int] = staticmethod(int)  # the same: how many were not taken so far

    def __init__(
        self, settings: Settings, source: Source | None = None, channel_folder: Path | None = None
    ) -> None:
        super().__init__(title="Pointsman", version=__version__, lifespan=self._live, openapi_url=None)
        self.workers: int | None = 1  # processes that serve this app, as who runs it says; None: several
        self.addresses: list[str] = []  # set by our server; others lack what the data plane is best with
        self.channel = Channel(channel_folder)
        self.channel.on("metrics", lambda _: self._own_metrics().decode())
        self.parts = Parts(settings, self.channel, lambda: self.workers)
        self._inventory = self.parts.inventory(self)
        self.channel.on("state", lambda _: self._inventory.take())
        self._sink: Sink | None = None  # while it serves
        self.reloader: Reloader | None = None
        if source is not None:
            self.reloader = Reloader(source, settings, lambda: self.workers, self._renew, self.parts.events)
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

    async def render_metrics(self) -> bytes:
        """The page of all metrics; with several workers each series says whose it is."""
        own = self._own_metrics()
        if not self.channel.connects:
            return own
        pages = {self.channel.worker: own.decode()}
        for reply in await self.channel.ask("metrics"):
            if reply.error is None:
                pages[reply.worker] = str(reply.answer)
        return (await asyncio.to_thread(join, pages)).encode()

    def _own_metrics(self) -> bytes:
        parts, reloader = self.parts, self.reloader
        figures: dict[Family, float] = {
            BUFFERED: parts.buffer.held,
            CONNECTIONS: len(self.clients),
            TURNED_AWAY: self.turned_away(),
            LIMITS_LOCAL: int(parts.limits_local[0]),
            LOCALLY_LIMITED: parts.limits_local[1],
        }
        if reloader is not None:
            figures |= {RELOAD_OK: int(reloader.good), RELOADED_AT: reloader.at}
        tables = {**parts.tables, **self.edition.tables}
        return parts.metrics.render(parts.access_log.dropped, tables, parts.admission.queued(), figures)

    async def _renew(self, settings: Settings) -> str:
        """Serve by other settings from the next request on; gives what changed."""
        edition = await asyncio.to_thread(Edition, settings, self.parts, self)  # it takes some time
        parts, before = self.parts, {model.id: model for model in self.settings.models}
        change = parts.renew(settings)
        self._take(edition)
        parts.crew.take(change)
        if self._sink is not None:
            self._sink.renew(settings.log_level)
        other = sum(before.get(model.id) != model for model in settings.models)
        return (
            f"{len(settings.models)} models, {other} of them new or changed; "
            f"{len(change.added)} replicas added, {len(change.removed)} taken out"
        )

    async def states(self) -> list[dict[str, Any]]:
        """What each worker holds; of one that does not answer, why."""
        replies = await self.channel.ask("state")
        return [
            self._inventory.take(),
            *(
                {"worker": one.worker, "error": one.error} if one.error is not None else one.answer
                for one in replies
            ),
        ]

    def _take(self, edition: Edition) -> None:
        self.edition = edition
        self.parts.following.edition = sha256(repr(edition.settings).encode()).hexdigest()
        self._prefix = edition.settings.root_path.rstrip("/")

    def _note_health(self, replica: Replica, before: Health) -> None:
        now = replica.health
        what = f"replica {replica.id}: {before.state} -> {now.state}: {now.reason}"
        self.parts.events.note(Kind.REPLICA, what)
        self.parts.admission.changed(replica.model_id)
        model = plg.chat_model(self.registry)
        if model is not None and any(one.health.state is not State.UNKNOWN for one in model.pool):
            self.parts.availability.note(model.available, monotonic())
        if replica.health.state is State.DOWN:
            self.parts.forwarder.poison.died(replica.id, monotonic())

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
            short = descriptors.make_room(settings.front.max_connections)
            if short is not None:
                _log.warning("%s", short)
        else:
            _log.warning(
                "started by a server without Pointsman's HTTP protocol: header limits are off and a client's "
                "leaving is noticed later; start with `pointsman serve` or `--http pointsman.server:Protocol`"
            )

    @asynccontextmanager
    async def _live(self, _: FastAPI) -> AsyncIterator[None]:
        settings, parts = self.settings, self.parts
        sink = self._sink = configure(settings.log_level, settings.log_format)
        parts.share.workers = self.workers or 2  # several: nobody says how many
        self._tell_of_start()
        parts.access_log.start(asyncio.get_running_loop())
        parts.keyring.look()
        await self.channel.open()
        await parts.following.join()
        prober = parts.crew.prober = Prober(
            self.registry.replicas,
            settings.health,
            tls=settings.upstream.tls(),
            on_change=self._note_health,
            outliers=parts.outliers,
            progress=settings.progress,
            resolver=parts.pools.resolver,
        )
        try:
            async with prober, self._kept():
                yield
        finally:
            await self.channel.close()
            parts.crew.close()
            await parts.census.close()
            parts.pools.close()
            parts.access_log.close()
            self._sink = None
            sink.close()

    async def _try_store(self) -> None:
        with suppress(Unavailable):  # it tells of that itself
            await self.parts.store.check()

    @asynccontextmanager
    async def _kept(self) -> AsyncIterator[None]:
        """Look after the files, and heed SIGHUP, where it is ours to heed."""
        keepers = [
            asyncio.create_task(self.parts.keyring.keep(), name="keyring"),
            asyncio.create_task(self._try_store(), name="store"),
        ]
        reloader, heeds = self.reloader, False
        if reloader is not None:
            keepers.append(asyncio.create_task(reloader.keep(), name="reload"))
            heeds = threading.current_thread() is threading.main_thread()
        loop = asyncio.get_running_loop()
        if heeds and reloader is not None:
            loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        try:
            yield
        finally:
            if heeds:
                loop.remove_signal_handler(signal.SIGHUP)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its end is under way
            for keeper in keepers:
                keeper.cancel()


def build(settings: Settings, source: Source | None = None, channel_folder: Path | None = None) -> Router:
    """Make the app; nothing is started before its lifespan begins.

    Args:
        source: where the settings are read again; None: they stay as they are.
        channel_folder: where the workers of one router find each other; None: there are no others, or they
            cannot.
    """
    return Router(settings, source, channel_folder)
