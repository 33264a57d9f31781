"""The app for servers that are given a name to import: `cd backend && uvicorn main:app`.

Reads `.env` and `config.yml` from the working directory, else from the project's root. Where to listen is
the server's own business here, so HOST, PORT and LISTEN have no effect; `pointsman serve` heeds them.
"""

import os
import sys
from multiprocessing import parent_process
from pathlib import Path

from pointsman.app import Router, build
from pointsman.settings import SettingsError
from pointsman.source import Source


def _app() -> Router:
    folders = (Path(), Path(__file__).resolve().parent.parent)
    source = Source.of(os.environ, *folders)
    try:
        built = build(source.read(), source)
    except SettingsError as error:
        sys.stderr.write(f"pointsman: {error}\n")
        raise SystemExit(2) from None
    if parent_process() is not None:  # uvicorn's --workers and --reload do not tell how many of us there are
        built.workers = None
    return built


app = _app()
