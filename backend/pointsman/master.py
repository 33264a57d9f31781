"""What gunicorn's master keeps for its workers: the settings, read in one place and good.

Workers are forks of the master and are given what it has. So one that takes a dead one's place does not find
a half-edited file, and a reload with bad settings goes on with the ones before.
"""

import os
import sys
from pathlib import Path

from pointsman.app import Router, build
from pointsman.settings import Settings, SettingsError, check_workers, discover, load


class Kept:
    """The latest settings that were good."""

    def __init__(self) -> None:
        self._settings: Settings | None = None

    def renew(self, *folders: Path, workers: int = 1) -> Settings:
        """Read the settings, with the first `.env` and `config.yml` that the folders hold.

        Bad ones are told on stderr; those before stay.

        Raises:
            SettingsError: they are bad, and there were none before.
        """
        try:
            fresh = load(os.environ, discover(".env", *folders), discover("config.yml", *folders))
            check_workers(fresh, workers)
            self._settings = fresh
        except SettingsError as error:
            if self._settings is None:
                raise
            sys.stderr.write(f"pointsman: {error}\npointsman: not reloaded; the settings before are kept\n")
        return self._settings

    def app(self) -> Router:
        """A worker's app, once there are settings."""
        if self._settings is None:
            raise RuntimeError("no settings were read: start gunicorn with deploy/gunicorn.conf.py")
        return build(self._settings)


kept = Kept()  # gunicorn names things by module: its configuration fills it, workers take their app from it
app = kept.app
