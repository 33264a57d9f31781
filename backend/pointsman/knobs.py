"""All settings that are not models, in one table: the loader, `.env.example` and the README walk it.

A name with `__` is a section and a key: TIMEOUT__CONNECT_S is `connect_s` under `timeout` in `config.yml`,
and the field of that name in the section's config object. Defaults are those objects' own. A section may
stand in another: SURFACES__TGI__MODEL is `model` under `tgi` under `surfaces`.
"""

from enum import StrEnum
from pathlib import Path

from pointsman.access import AccessConfig, ForwardedHeader
from pointsman.admin_knobs import ADMIN
from pointsman.admission_knobs import ADMISSION
from pointsman.call import Timeouts
from pointsman.ejection_knobs import EJECTION, PROGRESS
from pointsman.front import FrontConfig, StreamErrorTermination
from pointsman.front_knobs import CLIENTS
from pointsman.health import HealthConfig
from pointsman.knob import Knob, at_start, section
from pointsman.limit_knobs import LIMITS, MEMORY, RATE_LIMIT, STORE
from pointsman.metrics import MetricsConfig
from pointsman.origin import CorsConfig
from pointsman.recall_knobs import CACHE, CHAT_HISTORY, SINGLE_FLIGHT
from pointsman.retry import RetryConfig
from pointsman.screening import SecurityConfig
from pointsman.surface_knobs import LLM_SERVICE, MODELS_BY_SURFACE, PLG
from pointsman.upstream_knobs import UPSTREAM
from pointsman.values import (
    FILE,
    HOST,
    HOSTS,
    LISTEN,
    NAME,
    NEEDS,
    NETWORKS,
    ORIGINS,
    OWN_KEY,
    PATH,
    PATH_PREFIX,
    PII,
    SWITCH,
    URL,
    choice,
    number,
    switch,
    whole,
)


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    TEXT = "text"


_access, _cors, _front = AccessConfig(), CorsConfig(), FrontConfig()
_wait = number(0.05, 3600)
_total = number(0.1, 86400)
_short = number(0, 60)

_FRONT = (
    Knob("HOST", HOST, "0.0.0.0", "Address to listen on.", ("LLM_API_HOST", "APP__HOST")),
    Knob(
        "PORT",
        whole(0, 65535),
        8000,
        "Port to listen on; 0 takes any free one.",
        ("LLM_API_PORT", "APP__PORT"),
    ),
    Knob("LISTEN", LISTEN, (), "Addresses to listen on, instead of HOST and PORT."),
    Knob("ROOT_PATH", PATH_PREFIX, "", "Path under which a proxy serves us."),
    Knob("PUBLIC_URL", URL, None, "Our URL as clients see it; unset: as the request tells."),
    Knob("DOCS", switch("on", "off"), True, "Whether /docs and /openapi.json are served."),
    Knob("MAX_BODY_BYTES", whole(1024, 1 << 30, "bytes"), 8 << 20, "Largest request body taken."),
    Knob(
        "KEEP_ALIVE_S", number(0.1, 3600), _front.keep_alive_s, "How long an idle client connection is kept."
    ),
    Knob("GRACE_S", number(0, 300), _front.grace_s, "At the end: from not ready to no longer accepting."),
    Knob("DRAIN_S", number(0, 3600), _front.drain_s, "At the end: time for running answers to finish."),
    Knob(
        "STREAM_ERROR_TERMINATION",
        choice(StreamErrorTermination, StreamErrorTermination),
        _front.stream_error_termination,
        "How a stream ends after an error: in good form, or with a break that raw HTTP clients see.",
    ),
    Knob(
        "LOG_LEVEL",
        choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
        "INFO",
        "Least level logged.",
        ("LLM_API_LOG_LEVEL", "LOGGING__LEVEL", "APP__LOG_LEVEL"),
    ),
    Knob(
        "LOG_FORMAT",
        choice(LogFormat, LogFormat),
        LogFormat.JSON,
        "How log lines look.",
        ("LOGGING__FORMAT",),
    ),
    Knob("METRICS__ENABLED", SWITCH, MetricsConfig().enabled, "Whether /metrics is there."),
    Knob("GPU_METRICS_URL", URL, None, "Metrics of the GPUs (DCGM exporter or alike), for /api/metrics."),
    Knob("CONFIG_FILE", FILE, None, "The config file; unset: config.yml, where it exists.", in_file=False),
)
_AT_START = ("HOST", "PORT", "LISTEN", "KEEP_ALIVE_S", "GRACE_S", "DRAIN_S", "LOG_FORMAT")
_ACCESS = (
    Knob("ALLOWED_NETWORKS", NETWORKS, _access.allowed, "Who may use the service."),
    Knob("DENIED_NETWORKS", NETWORKS, _access.denied, "Who may not, whatever else is allowed."),
    Knob("TRUSTED_PROXIES", NETWORKS, _access.trusted_proxies, "Proxies that may name the client."),
    Knob("OPS_NETWORKS", NETWORKS, _access.ops, "Who may use admin routes and see engine addresses."),
    Knob("DISABLE_IP_RESTRICTION", SWITCH, _access.disabled, "Lets everybody in who is not denied."),
    Knob(
        "FORWARDED_HEADER",
        choice(ForwardedHeader, ForwardedHeader),
        _access.forwarded_header,
        "The one header in which trusted proxies name the client.",
    ),
    Knob("ALLOWED_ORIGINS", ORIGINS, _cors.allowed_origins, "Web pages that may call us (CORS)."),
    Knob("PUBLIC_HOSTS", HOSTS, _cors.public_hosts, "Names under which browsers reach us."),
    Knob("MEDIA_HOSTS", HOSTS, (), "Hosts that images in a request may point to; others must come inline."),
)
_KEYS = (
    Knob("KEYS_FILE", PATH, Path("keys.json"), "The API keys, made by `pointsman keys`; it need not exist."),
    Knob("KEY_NEEDS", NEEDS, {}, "Routes that need an API key, or none, other than by default."),
)
_MODELS = (
    Knob("DEFAULT_MODEL", NAME, None, "Serves requests that name no model; unset: the first that suits."),
)
DEFAULT_MODELS = ("DEFAULT_MODEL", *(knob.name for knob in MODELS_BY_SURFACE))  # each names a model
_SECURITY = section(
    "SECURITY",
    SecurityConfig(),
    {
        "api_key": (OWN_KEY, "One more API key, beside those of KEYS_FILE."),
        "max_prompt_chars": (
            whole(1, 1 << 24, "characters"),
            "Longest prompt, or new turn of a conversation, on /v1/generate and /v1/chat.",
        ),
        "enable_pii_filter": (PII, "What is done with personal data, on all routes; true is reject."),
    },
)
_TIMEOUT = section(
    "TIMEOUT",
    Timeouts(),
    {
        "queue_s": (number(0, 3600), "For a slot of a replica, where all are taken."),
        "connect_s": (number(0.05, 60), "To connect to an engine, TLS included."),
        "first_event_s": (_wait, "From sending a request to the first event of its stream."),
        "byte_idle_s": (_wait, "Between two bytes of a stream, comments included."),
        "token_idle_s": (_wait, "Between two events of a stream."),
        "total_s": (_total, "For a whole exchange without streaming, retries included."),
        "total_stream_s": (_total, "For a whole exchange with streaming."),
        "send_s": (number(0.1, 600), "For one write to a client that does not read."),
        "open_after_s": (number(0, 600), "Silence after which a stream is opened with a comment; 0: never."),
    },
    first_event_s=("LLM_API_REQUEST_TIMEOUT",),
    total_s=("LLM_API_REQUEST_TIMEOUT",),
)
_RETRY = section(
    "RETRY",
    RetryConfig(),
    {
        "max_attempts": (whole(1, 10), "Tries per request in all; 1: no retry."),
        "backoff_base_s": (_short, "Longest wait before the first retry; doubles with each."),
        "backoff_max_s": (_short, "Longest wait before any retry."),
        "same_replica_min_s": (_short, "Shortest wait before a replica is asked a second time."),
        "retry_on_first_event_timeout": (
            SWITCH,
            "Whether to try another replica when the first event is late.",
        ),
        "budget_share": (number(0, 1, "share"), "Retries allowed, as a share of the last 10 s' requests."),
        "budget_floor_per_s": (number(0, 1000, "per second"), "Retries allowed besides, whatever comes."),
        "poison_s": (
            number(0, 3600),
            "How long a request over which two engines failed goes to no third; 0: not at all.",
        ),
    },
)
_HEALTH = section(
    "HEALTH",
    HealthConfig(),
    {
        "interval_s": (_wait, "Between two probes of a replica."),
        "interval_changing_s": (_wait, "The same while its state is changing."),
        "timeout_s": (number(0.05, 60), "For one probe."),
        "fall": (whole(1, 100, "probes"), "Failures in a row that take a replica out."),
        "rise": (whole(1, 100, "probes"), "Successes in a row that bring it back."),
        "eager_s": (number(0, 86400), "After going down: time of probing at the shorter interval."),
        "stall_s": (_wait, "A probe during which the router itself stood still for longer does not count."),
        "jitter": (number(0, 0.5, "share"), "By how much intervals vary either way."),
    },
    timeout_s=("LLM_API_HEALTH_CHECK_TIMEOUT",),
)
GROUPS: dict[str, tuple[Knob, ...]] = {
    "HTTP front": (*at_start(_FRONT, *_AT_START), *at_start(CLIENTS)),
    "Who may come in": _ACCESS,
    "API keys": _KEYS,
    "Limits of callers": LIMITS,
    "Limits of /v1/generate and /v1/chat": RATE_LIMIT,
    "Store": at_start(STORE),
    "Tables of limits in a worker's own memory": at_start(MEMORY),
    "Models": _MODELS,
    "Models by surface; the README tells which routes are whose": MODELS_BY_SURFACE,
    "What /v1/generate and /v1/chat take where a call does not say": LLM_SERVICE,
    "What /api/chat/stream and its services take where a call does not say": PLG,
    "Answers that are given again": CACHE,
    "Equal calls at the same time, of which one asks the engine; per worker process": SINGLE_FLIGHT,
    "Conversations that /v1/chat remembers": CHAT_HISTORY,
    "Keys, lengths and personal data, as seed 002 calls them": _SECURITY,
    "Timeouts, in seconds; a model in config.yml may have its own": _TIMEOUT,
    "Retries; the budget is per model and worker process": _RETRY,
    "Slots and queues, per worker process": ADMISSION,
    "Health checks": _HEALTH,
    "Ejection of replicas whose calls fail, per worker process": EJECTION,
    "Engines that hang": PROGRESS,
    "Connections to engines": at_start(UPSTREAM),
    "What operators may do while the router runs": ADMIN,
}
KNOBS: dict[str, Knob] = {knob.name: knob for group in GROUPS.values() for knob in group}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(knob.section for knob in KNOBS.values() if knob.section))
# Settings of earlier services that say nothing to a router, with the reason for who sets them.
UNREAD: dict[str, str] = {
    "APP__NAME": "the service is called Pointsman",
    "APP__VERSION": "the version is the router's own",
    "MODEL__SOURCE": "the engines load the models",
    "MODEL__DEVICE": "the engines run the models",
    "METRICS__ENDPOINT": "the metrics are at /metrics",
    "LOGGING__INCLUDE_REQUEST_BODY": "bodies are never logged",
    "LLM_API_FRONTEND_PORT": "name the pages that may call in ALLOWED_ORIGINS",
    "LLM_API_API_PORT": "name the pages that may call in ALLOWED_ORIGINS",
    "LLM_API_CLOUD_IP": "name the pages that may call in ALLOWED_ORIGINS",
    "LLM_API_MCP_PORT": "tools are not called",
    "LLM_API_CONNECTION_POOL_SIZE": "connections to engines have no limit; give replicas a max_in_flight",
    "LLM_API_MAX_KEEPALIVE_CONNECTIONS": "idle connections to engines have no limit but time",
    "LLM_API_API_KEY": "make keys with `pointsman keys`",
    "LLM_API_REQUIRE_API_KEY": "say which routes need a key in KEY_NEEDS",
}
_IN_FILE = (
    *(name for knob in KNOBS.values() for name in knob.names_in_file),
    *(name for name in UNREAD if "__" in name),
)
# All sections that may stand in `config.yml`, and in which an unknown name stops the start.
NAMESPACES: tuple[str, ...] = tuple(
    dict.fromkeys(name.rpartition("__")[0] for name in _IN_FILE if "__" in name)
)


def section_knobs(name: str) -> dict[str, Knob]:
    """The knobs of a section by key; of the plain names for the empty section."""
    return {knob.key: knob for knob in KNOBS.values() if knob.section == name}


def keys_in(name: str) -> tuple[str, ...]:
    """What a section of `config.yml` may hold, the whole file for the empty one: knobs, then sections."""
    begin = f"{name}__" if name else ""
    rests = [inner.removeprefix(begin) for inner in _IN_FILE if inner.startswith(begin)]
    ordered = sorted(rests, key=lambda rest: "__" in rest)
    return tuple(dict.fromkeys(rest.partition("__")[0].lower() for rest in ordered))
