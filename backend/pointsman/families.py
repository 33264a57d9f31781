"""Every metric there is, in one table: the page, the README and the dashboards walk it."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Prometheus' name for how a family behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name as it is exposed, its labels, and its buckets if it is a histogram."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 120.0)
_PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 1.0, 2.5)
_WHOLE_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_WAIT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
_OWN_S = (0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.01, 0.05, 0.1, 0.25, 1.0)

REQUESTS = Family(
    "pointsman_requests_total", _C, ("model", "route", "status"), "Exchanges that ended, by class of status."
)
ENDS = Family("pointsman_request_end_total", _C, ("model", "end"), "Exchanges that ended, by how.")
ATTEMPTS = Family(
    "pointsman_attempts_total", _C, ("model", "replica", "end"), "Attempts at a replica that ended, by how."
)
TOKENS = Family(
    "pointsman_tokens_total",
    _C,
    ("model", "replica", "kind"),
    "Tokens as engines counted them: prompt or completion. Answers without a count add nothing.",
)
ANSWER_BYTES = Family("pointsman_answer_bytes_total", _C, ("model",), "Bytes of answers relayed to clients.")
TTFT = Family(
    "pointsman_ttft_seconds",
    _H,
    ("model", "replica"),
    "Streams: from accepting the request to relaying the first event with content.",
    _TTFT_S,
)
PER_TOKEN = Family(
    "pointsman_time_per_output_token_seconds",
    _H,
    ("model", "replica"),
    "Streams that ended well: mean time between two tokens, or two events if the engine counted no tokens.",
    _PER_TOKEN_S,
)
DURATION = Family(
    "pointsman_request_duration_seconds",
    _H,
    ("model", "route"),
    "From accepting the request to the end of the exchange.",
    _WHOLE_S,
)
OVERHEAD = Family(
    "pointsman_overhead_seconds",
    _H,
    ("model",),
    "The router's own share: from accepting the request to sending it on, where one attempt was enough "
    "and a slot was free. "
    "Reading the body from the client and connecting to the engine are within it.",
    _OWN_S,
)
# By the names that seed 002 gave them.
HTTP_REQUESTS = Family(
    "http_requests_total",
    _C,
    ("method", "endpoint", "status"),
    "Exchanges that ended, by route and status; 0: the client was sent none.",
)
GENERATED = Family("tokens_generated_total", _C, ("model",), "Tokens of answers, as engines counted them.")
HTTP_DURATION = Family(
    "http_request_duration_seconds",
    _H,
    ("method", "endpoint"),
    "From accepting the request to the end of the exchange, by route.",
    _WHOLE_S,
)
QUEUE_WAIT = Family(
    "pointsman_queue_wait_seconds",
    _H,
    ("model",),
    "Exchanges for which no slot was free: time in the queue, whether they got one or not.",
    _WAIT_S,
)
QUEUED = Family("pointsman_queue_length", _G, ("model",), "Requests that wait for a slot of a replica, now.")
SLOTS = Family("pointsman_slots", _G, ("model", "replica"), "Requests that a replica may have at once, now.")
BUFFERED = Family("pointsman_buffered_bytes", _G, (), "Bytes of all request bodies that are held, now.")
CONNECTIONS = Family("pointsman_connections", _G, (), "Client connections that are open, now.")
TURNED_AWAY = Family(
    "pointsman_turned_away_total", _C, (), "Client connections beyond MAX_CONNECTIONS, told so or closed."
)
IN_FLIGHT = Family(
    "pointsman_in_flight", _G, ("model", "replica"), "Requests sent to a replica and not ended, now."
)
REPLICA_UP = Family(
    "pointsman_replica_up",
    _G,
    ("model", "replica", "state"),
    "1 for the state in which a replica is, 0 for each other state.",
)
EJECTIONS = Family(
    "pointsman_ejections_total",
    _C,
    ("model", "replica", "cause"),
    "Times a replica was taken out of rotation because of its calls, by what they showed.",
)
LIMITED = Family(
    "pointsman_limited_total",
    _C,
    ("limit",),
    "Requests beyond a limit of their caller: requests, tokens or concurrency; in the shadow they pass.",
)
FALLBACKS = Family(
    "pointsman_fallbacks_total",
    _C,
    ("model", "fallback"),
    "Exchanges that went on to a fallback of the model that was asked for; the last one counts.",
)
REPLAYS = Family(
    "pointsman_replays_total",
    _C,
    ("model", "result"),
    "Exchanges that asked for an answer given before: hit, shared with an equal one, miss, or bypass.",
)
ENTRIES = Family(
    "pointsman_table_entries", _G, ("table",), "Entries of the tables that callers fill; each has a bound."
)
LOG_DROPPED = Family(
    "pointsman_log_dropped_total", _C, (), "Log lines lost because the sink did not take them in time."
)
LIMITS_LOCAL = Family(
    "pointsman_limits_local",
    _G,
    (),
    "1 while the shared store is away, as far as this worker knows: limits are its own share then.",
)
LOCALLY_LIMITED = Family(
    "pointsman_locally_limited_total", _C, (), "Requests that were limited by that share, or let in by it."
)
RELOAD_OK = Family(
    "pointsman_config_reload_ok", _G, (), "1 unless the settings were read again and could not be used."
)
RELOADED_AT = Family(
    "pointsman_config_reload_timestamp_seconds", _G, (), "When usable settings were read last, Unix time."
)
BUILD_INFO = Family("pointsman_build_info", _G, ("version", "python"), "Always 1; the labels say what runs.")

FAMILIES: tuple[Family, ...] = tuple(v for v in globals().values() if isinstance(v, Family))
