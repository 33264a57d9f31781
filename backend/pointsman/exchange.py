"""The record of one exchange: a client request with its answer, all attempts included."""

from collections.abc import Callable

import msgspec

from pointsman import attempt


class AttemptRecord(msgspec.Struct):
    """One finished attempt. Times are monotonic seconds."""

    replica_id: str
    end: attempt.End
    detail: str = ""
    model_id: str = ""


class Exchange(msgspec.Struct):
    """Facts gathered while a request is served; read once by metrics and log when it ends.

    Times are monotonic seconds; 0.0 means that the moment never came.
    """

    request_id: str
    route: str  # template, never the path that was sent
    method: str
    started_at: float
    client: str = ""
    key: str = ""  # the name of the API key that was used, which tells nobody the key
    traceparent: str = ""  # W3C trace context as received, when it was well formed
    model_id: str = ""  # of the model that answers
    wanted_id: str = ""  # of the model that was asked for, where another is to answer
    replica_id: str = ""
    stream: bool = False
    status: int = 0
    error_code: str = ""
    end: attempt.End = attempt.OK
    sent_at: float = 0.0  # the last attempt's request left
    first_event_at: float = 0.0  # first event with content, or the whole answer
    ended_at: float = 0.0
    body_bytes: int = 0  # received from the client
    answer_bytes: int = 0
    events: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ignored: tuple[str, ...] = ()  # fields of the call that the engine has nothing for
    trimmed: int = 0  # messages that were left out so that the others fit
    cache: str = ""  # what the response cache did: hit, miss, shared, bypass with a reason; empty: not asked
    queued_s: float = 0.0  # spent waiting for a slot
    place: Callable[[], int] | None = None  # in the queue, while it waits there; counted from 1
    mid_event: bool = False  # part of an event too large to hold was sent
    attempts: list[AttemptRecord] = msgspec.field(default_factory=list)
