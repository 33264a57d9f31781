"""Pointsman with several worker processes: `gunicorn --config deploy/gunicorn.conf.py`, from any folder.

Needs the extra `gunicorn` (pip install 'pointsman[gunicorn]'; the lock files hold it). Where to listen, how
long to drain and all else are Pointsman's own settings (HOST, LISTEN, DRAIN_S, ...), from the environment,
`.env` and `config.yml` of the working directory, else of the project's root. WEB_CONCURRENCY is the number of
workers.

Each worker has its own connections, health checks and retry budget; /metrics answers for all, with the label
`worker`. One worker carries thousands of streams; more of them are for more processors. Workers talk by unix
sockets in a folder of their own (TMPDIR), so that what operators change holds for all of them.
A changed `config.yml` or `.env` is read by each worker and dropped by none; SIGHUP reads it too, and replaces
the workers. Bad settings are told, and the ones before hold. New code needs a restart.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

from pointsman.front import UnixAddress
from pointsman.master import kept
from pointsman.settings import SettingsError

workers = int(os.environ.get("WEB_CONCURRENCY") or min(4, len(os.sched_getaffinity(0))))

try:
    _front = kept.renew(Path(), Path(__file__).resolve().parent.parent, workers=workers).front
except SettingsError as error:
    sys.stderr.write(f"pointsman: {error}\n")
    raise SystemExit(2) from None

# What is served, and by what: uvicorn with our protocol, as `pointsman serve` runs it.
wsgi_app = "pointsman.master:app()"
worker_class = "pointsman.worker.Worker"

# gunicorn binds, so that all workers share the sockets. Its unix sockets are open to every user by default,
# and whoever may connect there may name any client address: owner and group only, as with `pointsman serve`.
bind = [str(address) for address in _front.listen]
umask = 0o117 if any(isinstance(address, UnixAddress) for address in _front.listen) else 0o022
backlog = 2048

# A worker that stands still for so long is replaced; one that drains does not stand still.
timeout = 30
# After SIGTERM workers take requests for GRACE_S more, and finish their answers within DRAIN_S; gunicorn ends
# by force what is left 10 s later.
graceful_timeout = math.ceil(_front.grace_s + _front.drain_s) + 10

# The router writes one line per request itself; gunicorn's own lines go to standard error.
accesslog = None
errorlog = "-"
# No control socket: it would want a writable home directory. Signals do what is needed.
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Once, before the first worker."""
    kept.open(server.cfg.uid, server.cfg.gid)


def pre_fork(server: Any, worker: Any) -> None:
    """Before each worker."""
    kept.catch_up(server.cfg.workers)


def on_exit(server: Any) -> None:
    """After the last worker."""
    kept.close()
