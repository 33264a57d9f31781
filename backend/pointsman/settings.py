"""The settings, assembled once at the start; nobody else reads the environment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pointsman import sources
from pointsman.access import AccessConfig
from pointsman.admission import AdmissionConfig
from pointsman.breaker import BreakerConfig
from pointsman.call import Timeouts
from pointsman.config_file import Section, read_config_file, read_env_file
from pointsman.egress import AdminConfig
from pointsman.front import FrontConfig, StreamErrorTermination, TcpAddress
from pointsman.health import HealthConfig
from pointsman.keyring import Keyring
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
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


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
    if env_file is not None and env_file.is_file():
        environment = Environment(environ, read_env_file(env_file), env_file.name)
    sources.refuse_unknown(environment)
    named, _ = sources.find(KNOBS["CONFIG_FILE"], flags, environment, Section({}, ""))
    if named is not None:
        config_file = KNOBS["CONFIG_FILE"].kind.read(named.text, named.called)
    file = Section({}, "config.yml")
    if config_file is not None and config_file.is_file():
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
    def section(name: str) -> dict[str, Any]:
        return {key: values[knob.name] for key, knob in section_knobs(name).items()}

    timeouts = Timeouts(**section("TIMEOUT"))
    models, more = read_models(file, named_pools(environment), environment, timeouts)
    unknown = [unknown_model(models, values[name], _called(name, given)) for name in DEFAULT_MODELS]
    return Settings(
        log_level=values["LOG_LEVEL"],
        log_format=values["LOG_FORMAT"],
        root_path=values["ROOT_PATH"],
        docs=values["DOCS"],
        public_url=values["PUBLIC_URL"],
        front=_front(values),
        access=_access(values, given),
        cors=CorsConfig(allowed_origins=values["ALLOWED_ORIGINS"], public_hosts=values["PUBLIC_HOSTS"]),
        keys_file=_keys_file(values["KEYS_FILE"], _called("KEYS_FILE", given)),
        key_needs=values["KEY_NEEDS"],
        security=SecurityConfig(**section("SECURITY")),
        metrics=MetricsConfig(**section("METRICS")),
        limits=LimitsConfig(**section("LIMITS")),
        surface_limits={LlmService.name: SurfaceLimits(**section("RATE_LIMIT"))},
        answer_cache=AnswerCacheConfig(**section("CACHE")),
        flights=SingleFlightConfig(**section("SINGLE_FLIGHT")),
        chat_history=ChatHistoryConfig(**section("CHAT_HISTORY")),
        store=_store(section("STORE"), given),
        memory=MemoryConfig(**section("MEMORY")),
        llm_service=LlmServiceConfig(**section("MODEL")),
        plg=_plg(section("PLG"), given),
        admin=AdminConfig(**section("ADMIN")),
        gpu_metrics_url=values["GPU_METRICS_URL"],
        media_hosts=values["MEDIA_HOSTS"],
        max_body_bytes=values["MAX_BODY_BYTES"],
        timeouts=timeouts,
        retry=_retry(section("RETRY"), given),
        admission=AdmissionConfig(**section("ADMISSION")),
        health=HealthConfig(**section("HEALTH")),
        ejection=BreakerConfig(**section("EJECTION")),
        progress=ProgressConfig(**section("PROGRESS")),
        upstream=_upstream(section("UPSTREAM"), given),
        default_model=values["DEFAULT_MODEL"],
        surfaces={name: SurfaceConfig(**section(f"{SURFACES}__{name.upper()}")) for name in NAMES},
        models=with_slots(mark_default(models, values["DEFAULT_MODEL"]), values["ADMISSION__SLOTS"]),
        notices=(*notices, *more, *(notice for notice in unknown if notice is not None)),
        origins=tuple(_origin(knob, values[name], given.get(name)) for name, knob in KNOBS.items()),
    )


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


def _called(name: str, given: Mapping[str, Given]) -> str:
    return given[name].called if name in given else name


def _front(values: Mapping[str, Any]) -> FrontConfig:
    return FrontConfig(
        listen=values["LISTEN"] or (TcpAddress(values["HOST"], values["PORT"]),),
        keep_alive_s=values["KEEP_ALIVE_S"],
        head_s=values["REQUEST_HEAD_S"],
        body_s=values["REQUEST_BODY_S"],
        send_s=values["TIMEOUT__SEND_S"],
        max_connections=values["MAX_CONNECTIONS"],
        grace_s=values["GRACE_S"],
        drain_s=values["DRAIN_S"],
        stream_error_termination=values["STREAM_ERROR_TERMINATION"],
    )


def _access(values: Mapping[str, Any], given: Mapping[str, Given]) -> AccessConfig:
    try:
        return AccessConfig(
            allowed=values["ALLOWED_NETWORKS"],
            denied=values["DENIED_NETWORKS"],
            trusted_proxies=values["TRUSTED_PROXIES"],
            ops=values["OPS_NETWORKS"],
            forwarded_header=values["FORWARDED_HEADER"],
            disabled=values["DISABLE_IP_RESTRICTION"],
        )
    except ValueError as error:  # begins with a setting's plain name
        name, _, rest = str(error).partition(" ")
        raise SettingsError(f"{_called(name, given)} {rest}") from None


def _keys_file(path: Path, name: str) -> Path:
    try:
        Keyring(path).load()
    except ValueError as sentence:
        raise SettingsError(f"{name}: {sentence}") from None
    return path


def _store(parts: dict[str, Any], given: Mapping[str, Given]) -> StoreConfig:
    try:
        config = StoreConfig(**parts)
    except ValueError as error:  # begins with the knob's name
        name, _, rest = str(error).partition(" ")
        raise SettingsError(f"{_called(f'STORE__{name.upper()}', given)} {rest}") from None
    if not config.in_memory and find_spec("redis") is None:
        name = _called("STORE__URL", given)
        raise SettingsError(f"{name} names Redis, which needs the extra: pip install 'pointsman[redis]'")
    return config


def _plg(parts: dict[str, Any], given: Mapping[str, Given]) -> PlgConfig:
    config = PlgConfig(**parts)
    most = config.max_context_tokens
    if (
        most is not None
        and "PLG__RESPONSE_RESERVE_TOKENS" in given
        and config.response_reserve_tokens >= most
    ):
        reserve = f"{_called('PLG__RESPONSE_RESERVE_TOKENS', given)} ({config.response_reserve_tokens})"
        context = f"{_called('PLG__MAX_CONTEXT_TOKENS', given)} ({most})"
        raise SettingsError(f"{reserve} leaves nothing of {context}; lower the one or raise the other")
    return config


def _retry(parts: dict[str, Any], given: Mapping[str, Given]) -> RetryConfig:
    config = RetryConfig(**parts)
    if config.backoff_base_s > config.backoff_max_s:
        base = f"{_called('RETRY__BACKOFF_BASE_S', given)} ({config.backoff_base_s:g})"
        most = f"{_called('RETRY__BACKOFF_MAX_S', given)} ({config.backoff_max_s:g})"
        raise SettingsError(f"{base} is more than {most}; raise the one or lower the other")
    return config


def _upstream(parts: dict[str, Any], given: Mapping[str, Given]) -> UpstreamConfig:
    config = UpstreamConfig(**parts)
    if config.client_key is not None and config.client_cert is None:
        key = _called("UPSTREAM__CLIENT_KEY", given)
        raise SettingsError(f"{key} is set without a certificate; set UPSTREAM__CLIENT_CERT too")
    files = [f"UPSTREAM__{name}" for name in ("CA_FILE", "CLIENT_CERT", "CLIENT_KEY")]
    called = [_called(name, given) for name in files if name in given]
    if called:
        try:
            config.tls()
        except OSError:  # ssl.SSLError is one
            hint = "give readable PEM files that fit together"
            raise SettingsError(f"{' and '.join(called)} cannot be used for TLS; {hint}") from None
    return config
