"""The settings, assembled once at the start; nobody else reads the environment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pointsman import sections, sources
from pointsman.access import AccessConfig
from pointsman.admission import AdmissionConfig
from pointsman.breaker import BreakerConfig
from pointsman.call import Timeouts
from pointsman.config_file import Section, is_there, read_config_file, read_env_file
from pointsman.egress import AdminConfig
from pointsman.front import FrontConfig, StreamErrorTermination
from pointsman.health import HealthConfig
from pointsman.keys import Need
from pointsman.knob import Knob
from pointsman.knobs import DEFAULT_MODELS, KNOBS, NAMESPACES, LogFormat, keys_in, section_knobs
from pointsman.limits import LimitsConfig, SurfaceLimits
from pointsman.metrics import MetricsConfig
from pointsman.model import ModelConfig
from pointsman.model_list import mark_default, read_models, unknown_model, with_slots
from pointsman.naming import named_pools, unread_urls
from pointsman.origin import CorsConfig
from pointsman.progress import ProgressConfig
from pointsman.recall import AnswerCacheConfig, ChatHistoryConfig
from pointsman.registry import SurfaceConfig
from pointsman.retry import RetryConfig
from pointsman.screening import SecurityConfig
from pointsman.single_flight import SingleFlightConfig
from pointsman.sources import Environment, Given
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryConfig
from pointsman.surface_knobs import SURFACES
from pointsman.surfaces import NAMES
from pointsman.surfaces.llm_service import LlmService, LlmServiceConfig
from pointsman.surfaces.plg import PlgConfig
from pointsman.upstream import UpstreamConfig
from pointsman.values import SettingsError

__all__ = ["LogFormat", "Origin", "Settings", "SettingsError", "discover", "load"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a knob's value comes from, for people."""

    name: str
    text: str  # empty: not set
    where: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All the app needs to know."""

    log_level: str  # DEBUG, INFO, WARNING, ERROR or CRITICAL
    log_format: LogFormat
    root_path: str  # empty, or begins with / and does not end with it
    docs: bool
    public_url: str | None  # without / at its end
    front: FrontConfig
    access: AccessConfig
    cors: CorsConfig
    keys_file: Path
    key_needs: Mapping[str, Need]  # by guard class
    security: SecurityConfig
    metrics: MetricsConfig
    limits: LimitsConfig
    surface_limits: Mapping[str, SurfaceLimits]  # by the names of the surfaces
    answer_cache: AnswerCacheConfig
    flights: SingleFlightConfig
    chat_history: ChatHistoryConfig
    store: StoreConfig
    memory: MemoryConfig
    llm_service: LlmServiceConfig
    plg: PlgConfig
    admin: AdminConfig
    gpu_metrics_url: str | None
    media_hosts: tuple[str, ...]
    max_body_bytes: int
    timeouts: Timeouts
    retry: RetryConfig
    admission: AdmissionConfig
    health: HealthConfig
    ejection: BreakerConfig
    progress: ProgressConfig
    upstream: UpstreamConfig
    default_model: str | None  # as the user wrote it
    surfaces: Mapping[str, SurfaceConfig]  # by the names of the surfaces
    models: tuple[ModelConfig, ...]
    notices: tuple[str, ...] = ()  # for the log: what was ignored, and why
    origins: tuple[Origin, ...] = ()  # of all knobs

    @property
    def abort_streams(self) -> bool:
        """Whether a stream that failed ends without its final chunk."""
        return self.front.stream_error_termination is StreamErrorTermination.ABORT


def discover(name: str, *folders: Path) -> Path | None:
    """The first of the folders' files of that name, None where there is none."""
    return next((folder / name for folder in folders if is_there(folder / name)), None)


def load(
    environ: Mapping[str, str],
    env_file: Path | None,
    config_file: Path | None,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Settings:
    """Read, check and assemble the settings.

    Args:
        environ: the process environment.
        env_file: the `.env` file; skipped where it does not exist.
        config_file: the config file unless CONFIG_FILE names another; skipped where it does not exist.
        flags: knobs by name as the command line gives them; they beat everything.

    Raises:
        SettingsError: one sentence that says which setting is wrong and what to do.
    """
    environment = Environment(environ, {})
    if env_file is not None and is_there(env_file):
        environment = Environment(environ, read_env_file(env_file), env_file.name)
    sources.refuse_unknown(environment)
    named, _ = sources.find(KNOBS["CONFIG_FILE"], flags, environment, Section({}, ""))
    if named is not None:
        config_file = KNOBS["CONFIG_FILE"].kind.read(named.text, named.called)
    file = Section({}, "config.yml")
    if config_file is not None and is_there(config_file):
        file = Section(read_config_file(config_file), config_file.name)
        named = named or Given(str(config_file), "", "found")
    _check_keys(file)
    notices = [*sources.lookalikes(environment), *unread_urls(environment)]
    notices += sources.unread(environment, file)

    values: dict[str, Any] = {}
    given: dict[str, Given] = {}
    for knob in KNOBS.values():
        found, lost = sources.find(knob, flags, environment, file)
        found = named if knob.name == "CONFIG_FILE" else found
        notices += lost
        values[knob.name] = knob.default if found is None else knob.kind.read(found.text, found.called)
        if found is not None:
            given[knob.name] = found
    return _assemble(values, given, environment, file, notices)


def _check_keys(file: Section) -> None:
    file.refuse_unknown([*keys_in(""), "models"])
    for name in dict.fromkeys((*(name.partition("__")[0] for name in NAMESPACES), *NAMESPACES)):
        file.below(name).refuse_unknown(keys_in(name))


def _assemble(
    values: Mapping[str, Any],
    given: Mapping[str, Given],
    environment: Environment,
    file: Section,
    notices: Iterable[str],
) -> Settings:
    section = partial(_section, values)
    timeouts = Timeouts(**section("TIMEOUT"))
    models, more = read_models(file, named_pools(environment), environment, timeouts)
    unknown = [unknown_model(models, values[name], sections.called(name, given)) for name in DEFAULT_MODELS]
    return Settings(
        log_level=values["LOG_LEVEL"],
        log_format=values["LOG_FORMAT"],
        root_path=values["ROOT_PATH"],
        docs=values["DOCS"],
        public_url=values["PUBLIC_URL"],
        front=sections.front(values),
        access=sections.access(values, given),
        cors=CorsConfig(allowed_origins=values["ALLOWED_ORIGINS"], public_hosts=values["PUBLIC_HOSTS"]),
        keys_file=sections.keys_file(values["KEYS_FILE"], sections.called("KEYS_FILE", given)),
        key_needs=values["KEY_NEEDS"],
        security=SecurityConfig(**section("SECURITY")),
        metrics=MetricsConfig(**section("METRICS")),
        limits=LimitsConfig(**section("LIMITS")),
        surface_limits={LlmService.name: SurfaceLimits(**section("RATE_LIMIT"))},
        answer_cache=AnswerCacheConfig(**section("CACHE")),
        flights=SingleFlightConfig(**section("SINGLE_FLIGHT")),
        chat_history=ChatHistoryConfig(**section("CHAT_HISTORY")),
        store=sections.store(section("STORE"), given),
        memory=MemoryConfig(**section("MEMORY")),
        llm_service=LlmServiceConfig(**section("MODEL")),
        plg=sections.plg(section("PLG"), given),
        admin=AdminConfig(**section("ADMIN")),
        gpu_metrics_url=values["GPU_METRICS_URL"],
        media_hosts=values["MEDIA_HOSTS"],
        max_body_bytes=values["MAX_BODY_BYTES"],
        timeouts=timeouts,
        retry=sections.retry(section("RETRY"), given),
        admission=AdmissionConfig(**section("ADMISSION")),
        health=HealthConfig(**section("HEALTH")),
        ejection=BreakerConfig(**section("EJECTION")),
        progress=ProgressConfig(**section("PROGRESS")),
        upstream=sections.upstream(section("UPSTREAM"), given),
        default_model=values["DEFAULT_MODEL"],
        surfaces={name: SurfaceConfig(**section(f"{SURFACES}__{name.upper()}")) for name in NAMES},
        models=with_slots(mark_default(models, values["DEFAULT_MODEL"]), values["ADMISSION__SLOTS"]),
        notices=(*notices, *more, *(notice for notice in unknown if notice is not None)),
        origins=tuple(_origin(knob, values[name], given.get(name)) for name, knob in KNOBS.items()),
    )


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: values[knob.name] for key, knob in section_knobs(name).items()}


def check_workers(settings: Settings, workers: int) -> None:
    """Check that so many processes can serve these settings.

    Raises:
        SettingsError: what they would need.
    """
    if workers > 1 and settings.chat_history.enabled and settings.store.in_memory:
        raise SettingsError(
            f"CHAT_HISTORY__ENABLED with {workers} workers needs a store that they share: set "
            "STORE__URL=redis://…, or take one worker (WEB_CONCURRENCY=1)"
        )


def _origin(knob: Knob, value: Any, found: Given | None) -> Origin:
    text = "" if value is None else knob.kind.show(value)
    return Origin(knob.name, text, "default" if found is None else found.where)
