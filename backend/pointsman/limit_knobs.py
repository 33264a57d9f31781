"""The settings of callers' limits and of the store that counts them."""

import re

from pointsman.knob import section
from pointsman.limits import LimitsConfig, SurfaceLimits
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryConfig
from pointsman.values import FILE, NAME, NETWORKS, SWITCH, Kind, number, whole

_PASSWORD = re.compile(r"(?<=://)[^@/]*@")
_STORE = Kind(
    "memory://, redis://host:6379/0, rediss://… or unix:///path",
    lambda text, name: text,
    lambda url: _PASSWORD.sub("…@", url),  # user and password are nobody's business
)
_rate = number(0.01, 1e9, "per minute")
_table = whole(100, 10_000_000, "entries")

LIMITS = section(
    "LIMITS",
    LimitsConfig(),
    {
        "requests_per_minute": (_rate, "Requests of each key without its own limit, else of each address."),
        "burst": (whole(1, 1_000_000, "requests"), "How many may come at once; unset: those of a minute."),
        "tokens_per_minute": (_rate, "Tokens, those of prompts included; a key may have its own limit."),
        "concurrency": (whole(1, 1_000_000, "requests"), "Requests at once; a key may have its own limit."),
        "exempt": (NETWORKS, "Addresses that are not limited without a key, such as a gateway's."),
        "shadow": (SWITCH, "Refuses nobody; log and metrics tell who would have been."),
    },
)
RATE_LIMIT = section(
    "RATE_LIMIT",
    SurfaceLimits(),
    {
        "enabled": (SWITCH, "Whether /v1/generate and /v1/chat have a limit of their own."),
        "requests_per_minute": (_rate, "That limit, for keys that have none themselves."),
        "burst_size": (whole(1, 1_000_000, "requests"), "How many may come at once there."),
    },
)
MEMORY = section(
    "MEMORY",
    MemoryConfig(),
    {
        "rates": (
            _table,
            "Keys and addresses whose rates are counted; beyond, the one used least recently goes.",
        ),
        "leases": (_table, "Requests at once of all that are limited so; further ones are refused."),
        "nonces": (_table, "Signed requests within their time; further ones are refused."),
    },
)
STORE = section(
    "STORE",
    StoreConfig(),
    {
        "url": (_STORE, "Where limits, history and cache are kept: in this process, or in Redis for all."),
        "ca_file": (FILE, "Certificates (PEM) that rediss:// is checked with; unset: the system's."),
        "client_cert": (FILE, "Certificate (PEM) shown to a Redis that asks for one."),
        "client_key": (FILE, "Its private key (PEM), unless in the same file."),
        "prefix": (NAME, "Begins each key in Redis; two installations on one Redis need two."),
        "timeout_s": (number(0.001, 10), "For one operation of Redis, connecting included."),
        "connections": (whole(1, 10_000), "To Redis, at most."),
        "pause_s": (number(0.01, 60), "After a failure of Redis: time until the first trial; doubles."),
        "pause_max_s": (number(0.01, 600), "Longest time between two trials."),
    },
)
