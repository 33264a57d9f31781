"""What every dialect offers, and how the answers of any engine are judged.

A dialect is the API an engine speaks: it encodes a call, reads the answer, and names its health routes.
Pure. Sources: `contracts/tgi.md` sections 4 and 6, `contracts/vllm.md` sections 4 and 5.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Protocol

import msgspec

from pointsman import attempt
from pointsman.apis.base import Reply
from pointsman.attempt import AttemptFailed
from pointsman.call import Call, Operation
from pointsman.gauges import Load
from pointsman.generation import Delta, Message, Tokens, Wish
from pointsman.replica import Engine, Facts, Replica

_encode = msgspec.json.Encoder().encode
_MESSAGE_MAX = 1000  # characters of an engine's sentence that a client may see
_INPUT = re.compile(r", 'input': .*")  # to the line's end: of pydantic's errors as vLLM writes them
_UNFIT = re.compile(
    r"://|Traceback|File \"|<(?:html|!doctype|[\w.]+ object at)|0x[0-9a-f]{6}"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b|(?<![\w/])(?:/[\w.@+-]+){2}|\w\.(?:py|rs|cpp|cu)\b",
    re.IGNORECASE,
)


class Seen(Enum):
    """What one event of a stream is; the values are its two properties."""

    QUIET = (False, False)  # role, usage, comment: does not commit
    CONTENT = (True, False)  # text, tool call, reasoning or a finish reason
    LAST = (False, True)  # the engine's own terminal event
    FINAL = (True, True)  # a terminal event that has content

    def __init__(self, content: bool, last: bool) -> None:
        self.content = content
        self.last = last


class Outgoing(msgspec.Struct, frozen=True):
    """A request for an engine. `path` is a constant of the dialect, below the endpoint's base path.

    `ignored` names fields of the call that this engine has nothing for.
    """

    method: str
    path: str
    body: bytes
    ignored: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads the answer to one call and gives it in the words of the call's API."""

    mends: bool  # whether events must be rewritten one by one
    edits: bool  # whether those are that hold one of the marks
    # One is in each event that is more than content; such events are looked at. None: no event passes unread.
    marks: tuple[bytes, ...]
    last_mark: (
        bytes  # is in a terminal event and in no other, should it be too large to hold; empty: never is
    )

    @property
    def tokens(self) -> Tokens: ...

    @property
    def headers(self) -> bytes:
        """Lines for a whole answer's head, each ended by CR LF."""

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """Take what the answer's headers tell; names in lower case."""

    def look(self, data: bytes) -> Seen:
        """Judge one event by its data.

        Raises:
            AttemptFailed: the event is an error, an abort or nonsense.
        """

    def mend(self, data: bytes) -> bytes:
        """Write anew the event that `look` has just judged good, as whole events; if `mends` or `edits`."""

    def whole(self, body: bytes) -> bytes:
        """Check a whole answer and return it in the words of the call's API.

        Raises:
            AttemptFailed: the answer is no answer, or the engine aborted it.
        """


class Source(Protocol):
    """Reads the answer to one wish, as deltas."""

    tokens: Tokens
    leaves: tuple[str, ...]  # stop sequences at which the engine does not end, or that it leaves in the text

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """Take what the answer's headers tell; names in lower case."""

    def read(self, data: bytes) -> Delta | None:
        """Read one event by its data; None: it says nothing.

        Raises:
            AttemptFailed: the event is an error, an abort or nonsense.
        """

    def whole(self, body: bytes) -> Delta:
        """Read a whole answer.

        Raises:
            AttemptFailed: the answer is no answer, or the engine aborted it.
        """


@dataclass(frozen=True)
class Tokenized:
    """A text as the engine counts it. `find_ends` takes long where the text is."""

    count: int
    find_ends: Callable[[], tuple[int, ...]] = tuple

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Where in the text each token ends, in bytes; empty: not told."""
        return self.find_ends()


class Dialect(Protocol):
    """One file per engine.

    A call that the dialect carries passes as it is, but for what this engine says otherwise; of any other
    call a wish is made, and the engine is asked for that.
    """

    engine: Engine
    idle_expiry_s: float
    health_path: str
    facts_path: str
    load_path: str
    body_max_bytes: int | None
    goes_on: bool  # a text without a length goes on to the end of the context

    def read_facts(self, payload: bytes) -> Facts: ...

    def read_load(self, page: bytes) -> Load:
        """Read the engine's metrics."""

    def read_progress(self, page: bytes) -> float | None:
        """A figure of the same page that grows while the engine works, and only then; None: it has none."""

    def template_probe(self, questions: int = 1) -> Outgoing:
        """A request that generates nothing, and fails as invalid where the model has no chat template.

        Args:
            questions: messages of the user in a row; it also fails where the template takes no more than one.
        """

    def speaks(self, call: Call) -> bool:
        """Whether the call can be answered, in whichever way."""

    def carries(self, call: Call, replica: Replica) -> bool:
        """Whether the call can pass without a wish."""

    def encode(self, call: Call, replica: Replica) -> Outgoing:
        """Write a call that is carried.

        Raises:
            RouterError: the call asks for what this engine would silently ignore or must not be asked.
        """

    def reader(self, call: Call, reply: Reply) -> Reader:
        """What reads the answer to a call that is carried."""

    def ask(self, wish: Wish, replica: Replica, *, stream: bool) -> Outgoing:
        """Ask for a wish."""

    def source(self, wish: Wish) -> Source:
        """What reads the answer to a wish."""

    def tokenize(self, text: str, replica: Replica) -> Outgoing:
        """Ask how many tokens a text has."""

    def read_tokenized(self, body: bytes, text: str) -> Tokenized:
        """Read the answer to that.

        Raises:
            AttemptFailed: it is none.
        """

    def count_chat(self, messages: tuple[Message, ...], replica: Replica) -> Outgoing:
        """Ask how many tokens a conversation has, with all that the model's template puts around it."""

    def read_counted(self, body: bytes) -> int:
        """Read the answer to that.

        Raises:
            AttemptFailed: it is none.
        """


def engine_message(body: bytes) -> str | None:
    """Find the sentence in an engine's error body, in whichever of the known shapes; None if unfit to show.

    A sentence with an address, a path of a program or a traceback in it is unfit. vLLM shows each value
    that it rejects at the end of a line, maybe a whole prompt: that is taken out.
    """
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        payload = body.decode("utf-8", "replace")
    found = payload
    if isinstance(found, dict):
        found = found.get("error", found.get("message", found.get("detail")))
        if isinstance(found, dict):
            found = found.get("message")
    if not isinstance(found, str) or not found.strip():
        return None
    if _UNFIT.search(found):
        return None
    return _INPUT.sub("}", found).strip()[:_MESSAGE_MAX]


def judge_status(
    status: int, body: bytes, operation: Operation, retry_after_s: float | None = None
) -> AttemptFailed | None:
    """Classify an answer by its status; None when it is good so far.

    On our constant paths 401, 403, 404 and 405 mean that router and engine do not fit; redirects are junk.
    """
    if 200 <= status < 300:
        return None
    said = f"status {status}"
    if status in (429, 503):
        return AttemptFailed(attempt.REFUSED, said, retry_after_s=retry_after_s)
    if status == 404 and operation is Operation.EMBEDDING:
        return AttemptFailed(
            attempt.REJECTED, said, client_message="This model makes no embeddings.", status=400
        )
    if status in (401, 403, 404, 405):
        return AttemptFailed(attempt.MISCONFIGURED, said)
    if status == 502:
        return AttemptFailed(attempt.BAD_GATEWAY, said)
    if status == 504:
        return AttemptFailed(attempt.GATEWAY_TIMEOUT, said)
    if status in (424, 500) or (status > 501 and status < 600):
        return AttemptFailed(attempt.ENGINE_ERROR, said)
    if 400 <= status < 500 or status == 501:
        passed_on = status if status in (400, 413, 422) else 400
        return AttemptFailed(attempt.REJECTED, said, client_message=engine_message(body), status=passed_on)
    return AttemptFailed(attempt.JUNK, said)


def judge_error(payload: dict[str, object], operation: Operation) -> AttemptFailed:
    """Classify an error that came as an event or as a body under status 200.

    Shapes: vLLM nested and flat, TGI native, TGI's OpenAI routes (where `http_status_code` is 422 whatever
    the cause, so the sentence decides).
    """
    error = payload.get("error", payload)
    body = msgspec.json.encode(payload)
    message = engine_message(body) or ""
    told = error if isinstance(error, dict) else payload
    kind = str(payload.get("error_type") or told.get("type") or "").lower()
    if "overloaded" in kind or "unavailable" in kind or message == "Model is overloaded":
        return AttemptFailed(attempt.REFUSED, "error event")
    if kind in ("validation", "template_error", "missing_template_variable", "tool_error"):
        return AttemptFailed(attempt.REJECTED, "error event", client_message=message, status=422)
    if "http_status_code" in told or "error_type" in payload:
        if message.startswith("Input validation error"):
            return AttemptFailed(attempt.REJECTED, "error event", client_message=message, status=422)
        return AttemptFailed(attempt.ENGINE_ERROR, "error event")
    code = told.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        return judge_status(code, body, operation) or AttemptFailed(attempt.ENGINE_ERROR, "error event")
    return AttemptFailed(attempt.ENGINE_ERROR, "error event")


def join(fields: dict[str, msgspec.Raw]) -> bytes:
    """Write an object from raw values: order, numbers and nested bytes as they were."""
    parts: list[bytes | msgspec.Raw] = []
    before = b"{"
    for name, value in fields.items():
        parts += (before, _encode(name), b":", value)
        before = b","
    parts.append(b"}" if parts else b"{}")
    return b"".join(parts)  # the one copy: a value may be megabytes
