"""What gunicorn's master keeps for its workers: good settings, read in one place, and where they meet.

Workers are forks of the master and are given what it has. So one that takes a dead one's place does not find
a half-edited file, and a reload with bad settings goes on with the ones before.
"""

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from mmap import mmap
from pathlib import Path

from pointsman.app import Router, build
from pointsman.mark import Mark
from pointsman.settings import Settings, SettingsError
from pointsman.sockets import count_given
from pointsman.source import Source


class Kept:
    """The latest settings that were good, and the folder in which workers find each other."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._source = Source(os.environ)
        self._seen: dict[Path, Mark | None] = {}
        self._had: tuple[Path, ...] = ()
        self._folder: Path | None = None
        self._generation = memoryview(mmap(-1, 8)).cast("Q")  # of workers; seen by all forks
        self._outlived = False  # systemd's sockets outlast us: who comes between two of us waits

    def renew(self, *folders: Path, workers: int = 1) -> Settings:
        """Read the settings, with the first `.env` and `config.yml` that the folders hold.

        Bad ones are told on stderr; those before stay.

        Raises:
            SettingsError: they are bad, and there were none before.
        """
        self._source = Source.of(os.environ, *folders)
        self._generation[0] += 1
        self._outlived = self._outlived or count_given(os.environ) > 0  # gunicorn forgets it once it started
        try:
            self._read(workers)
        except SettingsError as error:
            if self._settings is None:
                raise
            sys.stderr.write(f"pointsman: {error}\npointsman: not reloaded; the settings before are kept\n")
        return self._good

    def catch_up(self, workers: int) -> None:
        """Before a worker is made: take what the others took by themselves when a file changed.

        They have told of bad settings already.
        """
        if self._settings is None or self._source.marks(self._settings) == self._seen:
            return
        try:
            self._read(workers)
        except SettingsError:
            return

    def open(self, uid: int, gid: int) -> None:
        """Make the folder, for workers that run as that user.

        Raises:
            OSError: it cannot be made.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="pointsman-"))
        if uid != os.geteuid():
            os.chown(self._folder, uid, gid)

    def close(self) -> None:
        """Take the folder away."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def app(self) -> Router:
        """A worker's app, once there are settings."""
        settings = self._good
        if self._outlived:
            settings = replace(settings, front=replace(settings.front, grace_s=0.0))
        router = build(settings, self._source, self._folder)
        mine = self._generation[0]
        router.replaced = lambda: self._generation[0] != mine  # by workers with the settings read since
        return router

    @property
    def _good(self) -> Settings:
        if self._settings is None:
            raise RuntimeError("no settings were read: start gunicorn with deploy/gunicorn.conf.py")
        return self._settings

    def _read(self, workers: int) -> None:
        marks = {} if self._settings is None else self._source.marks(self._settings)
        self._seen = marks
        fresh = self._source.read(workers, self._had)
        self._settings = fresh
        self._seen = {**self._source.marks(fresh), **marks}
        self._had = tuple(path for path, mark in self._seen.items() if mark is not None)


kept = Kept()  # gunicorn names things by module: its configuration fills it, workers take their app from it
app = kept.app
