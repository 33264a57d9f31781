"""The settings of what is remembered: conversations, and answers to be given again."""

from pointsman.knob import section
from pointsman.recall import AnswerCacheConfig, ChatHistoryConfig
from pointsman.single_flight import SingleFlightConfig
from pointsman.values import SWITCH, number, whole

_life = number(1, 30 * 86400)

CACHE = section(
    "CACHE",
    AnswerCacheConfig(),
    {
        "enabled": (SWITCH, "Whether equal calls to /v1/generate and /v1/chat get the same answer again."),
        "on_request": (SWITCH, "The same for calls on any route that ask for it by X-Pointsman-Cache."),
        "size": (whole(1, 100_000, "answers"), "Answers kept; beyond, the one used least recently goes."),
        "ttl_seconds": (_life, "How long an answer is kept."),
        "bytes": (
            whole(1024, 1 << 34, "bytes"),
            "Of all answers kept; beyond, the one used least recently goes.",
        ),
        "entry_bytes": (whole(1024, 1 << 26, "bytes"), "Of one answer; a larger one is not kept."),
    },
)
SINGLE_FLIGHT = section(
    "SINGLE_FLIGHT",
    SingleFlightConfig(),
    {
        "wait_s": (
            number(0.1, 3600),
            "Longest wait for another's answer to an equal call; then it is asked for.",
        ),
        "flights": (
            whole(1, 100_000, "calls"),
            "Calls that others may wait for; further ones are not shared.",
        ),
    },
)
CHAT_HISTORY = section(
    "CHAT_HISTORY",
    ChatHistoryConfig(),
    {
        "enabled": (SWITCH, "Whether /v1/chat remembers the conversation of a session_id."),
        "ttl_seconds": (_life, "How long a session is kept after its last turn."),
        "sessions": (
            whole(1, 100_000, "sessions"),
            "Sessions kept; beyond, the least recently used goes.",
        ),
        "turns": (whole(1, 10_000, "turns"), "Turns of one session; beyond, the oldest go."),
        "session_bytes": (whole(1024, 1 << 26, "bytes"), "Of one session; beyond, the oldest turns go."),
    },
)
