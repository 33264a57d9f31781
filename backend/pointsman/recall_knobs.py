"""The settings of what is remembered: conversations, and answers to be given again."""

from pointsman.knob import section
from pointsman.recall import AnswerCacheConfig, ChatHistoryConfig
from pointsman.values import SWITCH, number, whole

_life = number(1, 30 * 86400)

CACHE = section(
    "CACHE",
    AnswerCacheConfig(),
    {
        "enabled": (SWITCH, "Whether equal calls to /v1/generate and /v1/chat get the same answer again."),
        "size": (whole(1, 100_000, "answers"), "Answers kept; beyond, the one used least recently goes."),
        "ttl_seconds": (_life, "How long an answer is kept."),
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
