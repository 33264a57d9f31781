"""gunicorn's worker: several processes, each with the server that `pointsman serve` runs.

The only module that needs the extra `gunicorn`; `deploy/gunicorn.conf.py` names it. uvicorn-worker is held at
a minor version, for `run` puts our configuration in the place of its own.
"""

import asyncio
import os
import signal
import sys
from types import FrameType
from typing import Any, ClassVar, NoReturn, Protocol

from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from pointsman.front import FrontConfig
from pointsman.server import LOOP, Served, Server, config_for, settle

_HEARTBEAT_S = 1.0


class _Settings(Protocol):
    @property
    def front(self) -> FrontConfig: ...


class Configured(Served, Protocol):
    """An app that carries its settings."""

    settings: _Settings
    workers: int | None


class Worker(UvicornWorker):
    """One worker process. How it serves follows the app's settings; gunicorn binds and supervises."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {"loop": LOOP}  # `run` replaces the rest
    wsgi: Configured
    ppid: int
    sockets: list[Any]

    def init_signals(self) -> None:
        """A worker that is told to stop before or after it serves ends at once, with 0."""
        super().init_signals()
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> None:
        """Serve until SIGTERM, then finish what runs; SIGQUIT cuts it short."""
        if self.cfg.is_ssl:
            self.log.error("certfile and keyfile have no effect here: let nginx do TLS, and take them out")
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        self.sockets = [one.sock for one in self.sockets]  # without their wrapping, which dislikes two closes
        settle(self.wsgi, self.sockets)
        self.wsgi.workers = self.cfg.workers
        self.config = config_for(self.wsgi, self.wsgi.settings.front)
        self.config.limit_max_requests = self.max_requests
        super().run()

    async def _serve(self) -> None:
        front = self.wsgi.settings.front
        # gunicorn repeats SIGTERM each second where it has a worker too many: only SIGQUIT means a hurry.
        server = Server(self.wsgi, self.config, front, grace_s=front.grace_s, hurries=False)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.hurry)
        # uvicorn tells gunicorn that it lives from its main loop, which ends when the drain begins: a worker
        # that drains for longer than gunicorn's `timeout` would be killed with its streams.
        beat = asyncio.create_task(self._beat(server), name="heartbeat")
        try:
            await server.serve(sockets=self.sockets)
        finally:
            beat.cancel()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _beat(self, server: Server) -> None:
        """Tell the master that we live, and end where it does not: nobody else would ever end us."""
        while True:
            self.notify()
            await asyncio.sleep(_HEARTBEAT_S)
            if not server.should_exit and os.getppid() != self.ppid:
                self.log.error("gunicorn's master is gone: this worker finishes what runs, and ends")
                server.leave()

    @staticmethod
    def _end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)
