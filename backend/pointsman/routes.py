"""The generation routes: which path belongs to which surface.

One table, read by the data plane and by `/docs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pointsman.call import Fields, Operation
from pointsman.keys import Need, need_of
from pointsman.screening import SecurityConfig
from pointsman.services.summary import Summary
from pointsman.services.tasks import Tasks
from pointsman.services.title import Title
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import ErrorShape, Surface
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.llm_service import LlmService, LlmServiceConfig
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.plg import DEFAULTS, Ear, Plg, PlgConfig
from pointsman.surfaces.tgi import Tgi
from pointsman.surfaces.undecided import Undecided

MODEL_PREFIX = "/models/"
_OWN = frozenset({"/models/compare"})  # below the prefix, and yet no model's: the control plane has it


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
    guard_class: str = field(init=False)  # its method and its template: never anything of the body

    def __post_init__(self) -> None:
        object.__setattr__(self, "guard_class", f"{self.method} {self.template}")


@dataclass(frozen=True, slots=True)
class Match:
    """A route with the model id that its path names; None: the body or the default decides."""

    route: Route
    model_id: str | None


class Routes:
    """Finds the route of a request. Each route exists at the root and below `/models/{model_id}`."""

    def __init__(
        self,
        media_hosts: tuple[str, ...] = (),
        needs: Mapping[str, Need] = MappingProxyType({}),
        llm_service: LlmServiceConfig | None = None,
        max_prompt_chars: int = SecurityConfig().max_prompt_chars,
        plg: PlgConfig = DEFAULTS,
        ear: Ear | None = None,
        *,
        remembers: bool = False,
    ) -> None:
        table = (
            *_table(media_hosts),
            *_llm_service(llm_service, max_prompt_chars, remembers),
            *_plg(plg, ear),
        )
        self.table = tuple(
            replace(route, need=need_of(route.guard_class, route.need, needs)) for route in table
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

    @property
    def templates(self) -> list[str]:
        """What logs and metrics call the routes."""
        return [*(route.template for route in self.table), *sorted(_OWN)]

    def find(self, method: str, path: str) -> Match | None:
        """The route of an exact path; None: not a generation route."""
        match = self._root.get((method, path))
        if match is not None or not path.startswith(MODEL_PREFIX) or path in _OWN:
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


def _llm_service(config: LlmServiceConfig | None, max_chars: int, remembers: bool) -> list[Route]:
    """Its errors name their path, so each route has a surface of its own."""
    plain = [("/v1/generate", Operation.GENERATE), ("/v1/chat", Operation.CHAT)]
    table = []
    for scope in ("", "/models/{model_id}"):
        for path, operation in plain:
            surface = LlmService(scope + path, config, max_chars, remembers=remembers)
            table.append(
                Route("POST", path, scope + path, operation, surface, _always(surface), need=surface.need)
            )
    return table


def _plg(config: PlgConfig, ear: Ear | None) -> list[Route]:
    plain: list[tuple[str, Surface]] = [
        ("/api/chat/stream", Plg(config, ear)),
        ("/api/tasks/extract", Tasks(config)),
        ("/api/summarization/summarize", Summary(config)),
        ("/api/title/generate", Title(config)),
    ]
    return [
        Route("POST", path, scope + path, Operation.CHAT, surface, _always(surface), need=surface.need)
        for scope in ("", "/models/{model_id}")
        for path, surface in plain
    ]


def _always(surface: Surface) -> Callable[[Fields], Surface]:
    return lambda fields: surface
