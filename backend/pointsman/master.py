"""What gunicorn's master keeps for its workers: good settings, read in one place, and where they meet.

Workers are forks of the master and are given what it has. So one that takes a dead one's place does not find
a half-edited file, and a reload with bad settings goes on with the ones before. So it is with the keys: where
none is known routes are open, so a worker must not begin without those that the others have.
"""

import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from mmap import mmap
from pathlib import Path

from pointsman.app import Router, build
from pointsman.keyring import Keyring
from pointsman.reload import Reading
from pointsman.settings import Settings, SettingsError
from pointsman.sockets import count_given
from pointsman.source import Source


class Kept:
    """The latest settings that were good, and the folder in which workers find each other."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._source = Source(os.environ)
        self._reading = Reading(0.0, {}, {})
        self._keyring = Keyring(None)
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
        self._read_keys()
        return self._good

    def catch_up(self, workers: int) -> None:
        """Before a worker is made: take what the others took by themselves when a file changed.

        They have told of bad settings already.
        """
        if self._settings is None:
            return
        if self._source.marks(self._settings) != self._reading.seen:
            with suppress(SettingsError):
                self._read(workers)
        self._read_keys()

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
        router.keyring.follow(self._keyring)
        if router.reloader is not None:
            router.reloader.follow(self._reading)
        mine = self._generation[0]
        router.replaced = lambda: self._generation[0] != mine  # by workers with the settings read since
        return router

    @property
    def _good(self) -> Settings:
        if self._settings is None:
            raise RuntimeError("no settings were read: start gunicorn with deploy/gunicorn.conf.py")
        return self._settings

    def _read(self, workers: int) -> None:
        seen = {} if self._settings is None else self._source.marks(self._settings)
        try:
            fresh = self._source.read(workers, self._reading.had)
        except SettingsError as error:
            self._reading = replace(self._reading, seen=seen, refusal=str(error))
            raise
        self._settings = fresh
        marks = self._source.marks(fresh)
        seen = {path: seen.get(path, mark) for path, mark in marks.items()}
        self._reading = Reading(time.time(), self._source.had(fresh), seen)

    def _read_keys(self) -> None:
        settings = self._good
        fresh = Keyring(settings.keys_file, settings.security.own_keys)
        fresh.follow(self._keyring)
        with suppress(ValueError):  # the workers tell of it
            fresh.load()
        self._keyring = fresh


kept = Kept()  # gunicorn names things by module: its configuration fills it, workers take their app from it
app = kept.app
