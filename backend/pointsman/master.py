"""What gunicorn's master keeps for its workers: the settings, read in one place and good.

Workers are forks of the master and are given what it has. So one that takes a dead one's place does not find
a half-edited file, and a reload with bad settings goes on with the ones before.
"""

import os
import sys
from dataclasses import replace
from mmap import mmap
from pathlib import Path

from pointsman.app import Router, build
from pointsman.settings import Settings, SettingsError, check_workers, discover, load
from pointsman.sockets import count_given


class Kept:
    """The latest settings that were good, and how often they were read."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._readings = memoryview(mmap(-1, 8)).cast("Q")  # seen by all forks
        self._outlived = False  # systemd's sockets outlast us: who comes between two of us waits

    def renew(self, *folders: Path, workers: int = 1) -> Settings:
        """Read the settings, with the first `.env` and `config.yml` that the folders hold.

        Bad ones are told on stderr; those before stay.

        Raises:
            SettingsError: they are bad, and there were none before.
        """
        self._readings[0] += 1
        self._outlived = self._outlived or count_given(os.environ) > 0  # gunicorn forgets it once it started
        try:
            fresh = load(os.environ, discover(".env", *folders), discover("config.yml", *folders))
            check_workers(fresh, workers)
            self._settings = self._timed(fresh)
        except SettingsError as error:
            if self._settings is None:
                raise
            sys.stderr.write(f"pointsman: {error}\npointsman: not reloaded; the settings before are kept\n")
        return self._settings

    def _timed(self, fresh: Settings) -> Settings:
        return replace(fresh, front=replace(fresh.front, grace_s=0.0)) if self._outlived else fresh

    def app(self) -> Router:
        """A worker's app, once there are settings."""
        if self._settings is None:
            raise RuntimeError("no settings were read: start gunicorn with deploy/gunicorn.conf.py")
        router = build(self._settings)
        mine = self._readings[0]
        router.replaced = lambda: self._readings[0] != mine  # by workers with the settings read since
        return router


kept = Kept()  # gunicorn names things by module: its configuration fills it, workers take their app from it
app = kept.app
