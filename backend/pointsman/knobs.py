"""All settings that are not models, in one table: the loader, `.env.example` and the README walk it.

A name with `__` is a section and a key: TIMEOUT__CONNECT_S is `connect_s` under `timeout` in `config.yml`,
and the field of that name in the section's config object. Defaults are those objects' own. A section may
stand in another: SURFACES__TGI__MODEL is `model` under `tgi` under `surfaces`.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pointsman.access import AccessConfig, ForwardedHeader
from pointsman.call import Timeouts
from pointsman.front import FrontConfig, StreamErrorTermination
from pointsman.health import HealthConfig
from pointsman.origin import CorsConfig
from pointsman.registry import SurfaceConfig
from pointsman.retry import RetryConfig
from pointsman.surfaces import NAMES
from pointsman.upstream import UpstreamConfig
from pointsman.values import (
    FILE,
    HOST,
    HOSTS,
    LISTEN,
    NAME,
    NEEDS,
    NETWORKS,
    ORIGINS,
    PATH,
    PATH_PREFIX,
    SWITCH,
    URL,
    Kind,
    choice,
    number,
    switch,
    whole,
)


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting.

    `also` are further names that the environment may use. `in_file`: `config.yml` may hold it.
    """

    name: str
    kind: Kind
    default: Any  # of the kind; None: not set
    sentence: str
    also: tuple[str, ...] = ()
    in_file: bool = True

    @property
    def section(self) -> str:
        """The part before the last `__`; empty for a plain name."""
        return self.name.rpartition("__")[0]

    @property
    def key(self) -> str:
        """The name in `config.yml`, within its section, and the field of the section's config object."""
        return self.name.rpartition("__")[2].lower()

    @property
    def default_text(self) -> str:
        """The default as one would write it; empty where not set."""
        return "" if self.default is None else self.kind.show(self.default)


def _section(name: str, defaults: object, rows: dict[str, tuple[Kind, str]]) -> tuple[Knob, ...]:
    return tuple(
        Knob(f"{name}__{field.upper()}", kind, getattr(defaults, field), sentence)
        for field, (kind, sentence) in rows.items()
    )


SURFACES = "SURFACES"  # holds a section for each surface
_access, _cors, _front = AccessConfig(), CorsConfig(), FrontConfig()
_wait = number(0.05, 3600)
_total = number(0.1, 86400)
_short = number(0, 60)

_FRONT = (
    Knob("HOST", HOST, "0.0.0.0", "Address to listen on."),
    Knob("PORT", whole(0, 65535), 8000, "Port to listen on; 0 takes any free one."),
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
        "LOG_LEVEL", choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")), "INFO", "Least level logged."
    ),
    Knob("LOG_FORMAT", choice(LogFormat, LogFormat), LogFormat.JSON, "How log lines look."),
    Knob("CONFIG_FILE", FILE, None, "The config file; unset: config.yml, where it exists.", in_file=False),
)
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
_SURFACES = tuple(
    knob
    for name in NAMES
    for knob in _section(
        f"{SURFACES}__{name.upper()}",
        SurfaceConfig(),
        {"model": (NAME, f"Serves requests to the surface {name} that name no model; unset: DEFAULT_MODEL.")},
    )
)
DEFAULT_MODELS = ("DEFAULT_MODEL", *(knob.name for knob in _SURFACES))  # each names a model
_TIMEOUT = _section(
    "TIMEOUT",
    Timeouts(),
    {
        "connect_s": (number(0.05, 60), "To connect to an engine, TLS included."),
        "first_event_s": (_wait, "From sending a request to the first event of its stream."),
        "byte_idle_s": (_wait, "Between two bytes of a stream, comments included."),
        "token_idle_s": (_wait, "Between two events of a stream."),
        "total_s": (_total, "For a whole exchange without streaming, retries included."),
        "total_stream_s": (_total, "For a whole exchange with streaming."),
        "send_s": (number(0.1, 600), "For one write to a client that does not read."),
        "open_after_s": (number(0, 600), "Silence after which a stream is opened with a comment; 0: never."),
    },
)
_RETRY = _section(
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
        "budget_floor_per_s": (number(0, 1000, "per second"), "Retries allowed whatever the traffic."),
    },
)
_HEALTH = _section(
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
)
_UPSTREAM = (
    Knob(
        "UPSTREAM__CA_FILE",
        FILE,
        UpstreamConfig().ca_file,
        "Certificates (PEM) that engines' TLS is checked with; unset: the system's.",
        also=("UPSTREAM_CA_FILE",),
    ),
    *_section(
        "UPSTREAM",
        UpstreamConfig(),
        {
            "client_cert": (FILE, "Certificate (PEM) shown to engines."),
            "client_key": (FILE, "Its private key (PEM), unless in the same file."),
            "idle_expiry_s": (
                number(0.1, 3600),
                "How long idle connections are kept; unset: what fits the engine.",
            ),
        },
    ),
)

GROUPS: dict[str, tuple[Knob, ...]] = {
    "HTTP front": _FRONT,
    "Who may come in": _ACCESS,
    "API keys": _KEYS,
    "Models": _MODELS,
    "Models by surface; the README tells which routes are whose": _SURFACES,
    "Timeouts, in seconds; a model in config.yml may have its own": _TIMEOUT,
    "Retries; the budget is per model and worker process": _RETRY,
    "Health checks": _HEALTH,
    "Connections to engines": _UPSTREAM,
}
KNOBS: dict[str, Knob] = {knob.name: knob for group in GROUPS.values() for knob in group}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(knob.section for knob in KNOBS.values() if knob.section))


def section_knobs(section: str) -> dict[str, Knob]:
    """The knobs of a section by key; of the plain names for the empty section."""
    return {knob.key: knob for knob in KNOBS.values() if knob.section == section}


def keys_in(section: str) -> tuple[str, ...]:
    """What a section of `config.yml` may hold, the whole file for the empty one: knobs, then sections."""
    begin = f"{section}__" if section else ""
    plain = [key for key, knob in section_knobs(section).items() if knob.in_file]
    inner = [name.removeprefix(begin).partition("__")[0] for name in SECTIONS if name.startswith(begin)]
    return tuple(dict.fromkeys([*plain, *(name.lower() for name in inner)]))
