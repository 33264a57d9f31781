"""A call: what a client wants, in words that every surface and every dialect shares."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from pointsman.generation import Shape, Wish

Fields = dict[str, msgspec.Raw]  # top level of a JSON object, values left undecoded


class Api(StrEnum):
    """The wire API whose words a call's body and its answer use."""

    OPENAI = "openai"
    TGI = "tgi"
    PLAIN = "plain"  # of no engine: the call has its wish, and the shape of its answer


class Operation(StrEnum):
    """What an engine is asked to do."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    GENERATE = "generate"
    COMPAT = "compat"  # TGI's POST /: generate, wrapped in a list
    TOKENIZE = "tokenize"
    CHAT_TOKENIZE = "chat_tokenize"
    INFO = "info"


class Call(msgspec.Struct, frozen=True):
    """One decoded request.

    `body` is what the client sent, byte for byte, and `fields` its top level. `wish` and `shape` are there
    in calls of `Api.PLAIN` only. `steers` names a field that steers the engine, which only trusted callers
    may send. `hides_usage`: the engine counts for us, and the client is not shown it. `lines` are headers of
    the answer, each ended by CR LF. `otherwise` is the answer where no engine gives a good one; None: that is
    an error.
    """

    api: Api
    operation: Operation
    model: str | None  # as the client named it; None: the route or the default decides
    stream: bool = False
    body: bytes | None = None
    fields: Fields = msgspec.field(default_factory=dict)
    wish: Wish | None = None
    shape: Shape | None = None
    steers: str | None = None
    hides_usage: bool = False
    lines: bytes = b""
    otherwise: bytes | None = None
    session: str | None = None  # whose history comes before the messages, and is to hold them
    repeats: bool = False  # an answer to the same call may be given again, where the operator wants that


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds an exchange may spend in each phase (`reliability.md` section 9)."""

    queue_s: float = 15.0  # for a slot of a replica
    connect_s: float = 2.0
    first_event_s: float = 120.0  # streams: from sending the request to the first event with content
    byte_idle_s: float = 60.0  # between any two bytes of a stream, comments included
    token_idle_s: float = 60.0  # between any two data events of a stream
    total_s: float = 600.0  # whole exchange without streaming, queue and retries included
    total_stream_s: float = 1800.0
    send_s: float = 30.0  # one write to a client that does not read
    open_after_s: float = 10.0  # silence after which a stream is opened with a comment; 0: never
