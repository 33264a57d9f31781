"""The generation routes: which path belongs to which surface.

One table, read by the data plane and by `/docs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from pointsman.call import Fields, Operation
from pointsman.keys import Need
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import ErrorShape, Surface
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.tgi import Tgi
from pointsman.surfaces.undecided import Undecided

MODEL_PREFIX = "/models/"


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `template` is its name in metrics, logs and guard rules.

    `shape` speaks for errors until `surface_of` has told the surface from the body.
    """

    method: str
    path: str
    template: str
    operation: Operation
    shape: ErrorShape
    surface_of: Callable[[Fields], Surface]
    stream: bool = False
    need: Need = Need.IF_ANY  # of an API key

    @property
    def guard_class(self) -> str:
        """What rules call this route: its method and its template, never anything of the body."""
        return f"{self.method} {self.template}"


@dataclass(frozen=True, slots=True)
class Match:
    """A route with the model id that its path names; None: the body or the default decides."""

    route: Route
    model_id: str | None


class Routes:
    """Finds the route of a request. Each route exists at the root and below `/models/{model_id}`."""

    def __init__(
        self, media_hosts: tuple[str, ...] = (), needs: Mapping[str, Need] = MappingProxyType({})
    ) -> None:
        self.table = tuple(
            replace(route, need=needs.get(route.guard_class, route.need)) for route in _table(media_hosts)
        )
        self._root = {
            (route.method, route.path): Match(route, None)
            for route in self.table
            if not route.template.startswith(MODEL_PREFIX)
        }
        self._scoped = {
            (route.method, route.path): route
            for route in self.table
            if route.template.startswith(MODEL_PREFIX)
        }

    def find(self, method: str, path: str) -> Match | None:
        """The route of an exact path; None: not a generation route."""
        match = self._root.get((method, path))
        if match is not None or not path.startswith(MODEL_PREFIX):
            return match
        model_id, slash, rest = path[len(MODEL_PREFIX) :].partition("/")
        route = self._scoped.get((method, slash + rest or "/"))
        return Match(route, model_id) if route is not None and model_id else None


def _table(media_hosts: tuple[str, ...]) -> list[Route]:
    openai, tgi, backend_api, distilgpt2 = OpenAI(media_hosts), Tgi(media_hosts), BackendApi(), DistilGpt2()
    undecided = Undecided(tgi, backend_api, distilgpt2)
    plain: list[tuple[str, str, Operation, Surface, bool]] = [
        ("POST", "/v1/chat/completions", Operation.CHAT, openai, False),
        ("POST", "/v1/completions", Operation.COMPLETION, openai, False),
        ("POST", "/v1/embeddings", Operation.EMBEDDING, openai, False),
        ("POST", "/generate_stream", Operation.GENERATE, tgi, True),
        ("POST", "/", Operation.COMPAT, tgi, False),
        ("POST", "/tokenize", Operation.TOKENIZE, tgi, False),
        ("POST", "/chat_tokenize", Operation.CHAT_TOKENIZE, tgi, False),
        ("GET", "/info", Operation.INFO, tgi, False),
        ("POST", "/complete", Operation.COMPLETION, distilgpt2, False),
        ("POST", "/chat/completions", Operation.CHAT, distilgpt2, False),
    ]
    table = []
    for scope in ("", "/models/{model_id}"):
        for method, path, operation, surface, stream in plain:
            template = (scope + path).rstrip("/") or "/"
            table.append(
                Route(method, path, template, operation, surface, _always(surface), stream, surface.need)
            )
        table.append(
            Route(
                "POST",
                "/generate",
                f"{scope}/generate",
                Operation.GENERATE,
                undecided,
                undecided.surface_of,
                need=undecided.need,
            )
        )
    return table


def _always(surface: Surface) -> Callable[[Fields], Surface]:
    return lambda fields: surface
