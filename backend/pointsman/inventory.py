"""All that this process holds now: for operators, and for tests that look for leaks.

It holds no content, no key and no engine's address; request ids are the clients' own where they sent one.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from pointsman.admission import Admission
from pointsman.answer import Answer
from pointsman.body import Buffer
from pointsman.registry import Registry
from pointsman.running import Running
from pointsman.upstream import Pools

PATH = "/debug/state"  # requests for it are not counted
LISTED_MAX = 1000  # of running requests, the oldest
_UNNAMED = re.compile(r"Task-\d+")
_DESCRIPTORS = Path("/proc/self/fd")


class Served(Protocol):
    """What the server tells of itself."""

    clients: Collection[object]  # open connections
    leaving: bool  # the end has begun


@dataclass(frozen=True, slots=True)
class Inventory:
    """Looks at the parts that hold something for a request.

    Args:
        tables: entries of the stores' tables, by name; `leases` are held for requests.
        memory_bytes: what is resident.
    """

    served: Served
    running: Running
    registry: Registry
    pools: Pools
    admission: Admission
    flights: Sized
    buffer: Buffer
    tables: Callable[[], Mapping[str, int]]
    memory_bytes: Callable[[], int]

    def take(self) -> dict[str, Any]:
        """What is held; `idle` when nothing is held for any request."""
        now, loop_now = monotonic(), asyncio.get_running_loop().time()
        requests = [one for one in self.running.requests if one.route != PATH]
        replicas = self._replicas()
        tables = self.tables()
        held = {
            "exchanges": len(self.running.exchanges),
            "requests": len(requests),
            "in_flight": sum(one["in_flight"] for one in replicas.values()),
            "connections": sum(one["connections"]["active"] for one in replicas.values()),
            "queued": sum(self.admission.queued().values()),
            "flights": len(self.flights),
            "leases": tables.get("leases", 0),
            "buffered_bytes": self.buffer.held,
        }
        deadlines = [watch.due for watch in self.running.exchanges.values()]
        return {
            "worker": os.getpid(),
            "idle": not any(held.values()),
            "leaving": self.served.leaving,
            "held": held,
            "exchanges": [_exchange(one, now) for one in islice(self.running.exchanges, LISTED_MAX)],
            "requests": [
                {"id": one.request_id, "route": one.route, "age_s": round(loop_now - one.started_at, 3)}
                for one in requests[:LISTED_MAX]
            ],
            "replicas": replicas,
            "queued": self.admission.queued(),
            "deadlines": sum(due < float("inf") for due in deadlines),
            "tables": dict(tables),
            "clients": len(self.served.clients),
            "tasks": _tasks(),
            "descriptors": _descriptors(),
            "memory_bytes": self.memory_bytes(),
        }

    def _replicas(self) -> dict[str, Any]:
        """Calls and connections of each replica, those of replicas that were taken out too."""
        in_flight = {replica.id: replica.in_flight for replica in self.registry.replicas}
        found: dict[str, Any] = {}
        for replica, pool in self.pools.known():
            entry = found.setdefault(replica.id, _entry(in_flight.pop(replica.id, replica.in_flight)))
            entry["connections"]["active"] += pool.active
            entry["connections"]["idle"] += pool.idle
        return found | {name: _entry(count) for name, count in in_flight.items()}


def _entry(in_flight: int) -> dict[str, Any]:
    return {"in_flight": in_flight, "connections": {"active": 0, "idle": 0}}


def _exchange(answer: Answer, now: float) -> dict[str, Any]:
    exchange = answer.exchange
    return {
        "id": exchange.request_id,
        "route": exchange.route,
        "model": exchange.model_id,
        "replica": exchange.replica_id,
        "stream": exchange.stream,
        "state": _state(answer),
        "age_s": round(now - exchange.started_at, 3),
        "body_bytes": exchange.body_bytes,
        "answer_bytes": exchange.answer_bytes,
        "events": exchange.events,
        "attempts": len(exchange.attempts),
    }


def _state(answer: Answer) -> str:
    if answer.finished:
        return "finished"
    if answer.committed:
        return "answering"
    if answer.exchange.place is not None:
        return "queued"
    if not answer.exchange.model_id:
        return "reading"
    return "opened" if answer.opened else "asking"


def _tasks() -> dict[str, int]:
    """Tasks by name; those without one by what they run."""
    found: Counter[str] = Counter()
    for task in asyncio.all_tasks():
        name = task.get_name()
        if _UNNAMED.fullmatch(name):
            name = getattr(task.get_coro(), "__qualname__", "unnamed")
        found[name] += 1
    return dict(sorted(found.items()))


def _descriptors() -> int | None:
    """Open file descriptors; None where the system does not tell."""
    try:
        return len(os.listdir(_DESCRIPTORS))  # noqa: PTH208 - one look, and no object for each
    except OSError:
        return None
