"""Guard classes: what rules and keys call routes, a method and a template; which there are, of both planes.

Those of the data plane follow from its table. The control plane's are listed, since settings are read
and keys are made without FastAPI; a test compares the list with its routes. What a setting switches off is
there all the same, so that a rule does not depend on other settings.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from pointsman.keys import Need, need_of
from pointsman.routes import Routes

OPEN_PATHS = frozenset({"/health", "/live", "/ready"})  # for load balancers; they tell strangers little
# What each needs unless a rule says otherwise. Operators' routes and `/usage` ask by themselves besides.
CONTROL: Mapping[str, Need] = {
    **dict.fromkeys(
        (
            *("GET /v1/models", "GET /v1/models/{name}", "GET /models/{model_id}/v1/models"),
            "POST /models/compare",
        ),
        Need.IF_ANY,
    ),
    **dict.fromkeys(
        (
            *("GET /", "GET /model-info", "GET /status", "GET /metrics", "GET /usage"),
            *("GET /docs", "GET /redoc", "GET /openapi.json"),
            *("GET /models", "GET /models/{model_id}", "GET /models/{model_id}/health"),
            *("POST /models/{model_id}/warm", "GET /cache", "DELETE /cache", "GET /debug/state"),
            *("GET /admin/default-model", "PUT /admin/default-model", "GET /admin/events"),
            *("GET /admin/replicas", "POST /admin/replicas", "DELETE /admin/replicas/{replica_id}"),
            *("POST /admin/replicas/{replica_id}/drain", "POST /admin/replicas/{replica_id}/resume"),
            *("GET /ping", "GET /api/health", "GET /api/metrics"),
        ),
        Need.NEVER,
    ),
}
_DATA = Routes()
KNOWN = frozenset({*CONTROL, *(route.guard_class for route in _DATA.table)})
OPEN = frozenset(f"GET {path}" for path in OPEN_PATHS)
_SHOWN_CHARS = 64


def _pattern(guard_class: str) -> re.Pattern[str]:
    """Its requests, as `METHOD path`; a model's `name` may hold slashes, as those of the hub do."""
    parts = re.split(r"(\{\w+\})", guard_class)
    kinds = {"{name}": ".*"}
    return re.compile(
        "".join(kinds.get(part, "[^/]+") if part[:1] == "{" else re.escape(part) for part in parts)
    )


_TEMPLATES = tuple((_pattern(one), one) for one in CONTROL if "{" in one)


def control_class(method: str, path: str) -> str | None:
    """The guard class of a request to the control plane; None: there is no such route."""
    path = path.removesuffix("\n")  # as Starlette's patterns take it, which end with $
    asked = f"{method} {path}"
    if asked in CONTROL:
        return asked
    return next((one for pattern, one in _TEMPLATES if pattern.fullmatch(asked)), None)


def control_needs(rules: Mapping[str, Need]) -> dict[str, Need]:
    """What each guard class of the control plane needs by these rules."""
    return {one: need_of(one, usual, rules) for one, usual in CONTROL.items()}


def check(guard_class: str) -> None:
    """Check that there is such a guard class.

    Raises:
        ValueError: one sentence without an end that names it, and the nearest that there is.
    """
    if guard_class in OPEN:
        raise ValueError(f"{guard_class} is open to everybody, and neither rule nor key changes that")
    if guard_class not in KNOWN:
        near = nearest(guard_class)
        hint = "write it like POST /v1/completions" if near is None else f"did you mean {near}?"
        raise ValueError(f"{shown(guard_class)} is no route of this router; {hint}")


def nearest(guard_class: str) -> str | None:
    """What was meant by one that is not there: the route of one model's path, else what is written alike."""
    method, _, path = guard_class.partition(" ")
    match = _DATA.find(method, path)
    meant = control_class(method, path) if match is None else match.route.guard_class
    return meant or next(iter(get_close_matches(guard_class, sorted(KNOWN), n=1, cutoff=0.75)), None)


def shown(name: str) -> str:
    """A name that is not known, for a message: quoted, and cut where it is long."""
    return repr(name if len(name) <= _SHOWN_CHARS else name[: _SHOWN_CHARS - 1] + "…")
