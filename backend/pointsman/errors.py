"""Every error a caller of the router can see, in one table.

An error knows its stable code, its status, who owns it and whether the same request may succeed later.
A surface turns it into its own body (`surfaces/`); nothing else invents codes or statuses.
The text is ours: no engine address, no engine text, no exception text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Owner(StrEnum):
    """Whose doing an error is."""

    CLIENT = "client"
    POLICY = "policy"
    ROUTER = "router"
    ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the error table.

    `status` is the HTTP status unless the surface says otherwise (TGI and seed 003 answer 422 to bad fields);
    `retryable` tells a client whether the same request may succeed later.
    """

    code: str
    status: int
    owner: Owner
    retryable: bool
    message: str


_C, _P, _R, _E = Owner.CLIENT, Owner.POLICY, Owner.ROUTER, Owner.ENGINE

MALFORMED_JSON = ErrorKind("malformed_json", 400, _C, False, "The body is not a JSON object.")
INVALID_PARAMETER = ErrorKind("invalid_parameter", 400, _C, False, "A field of the body has a bad value.")
UNKNOWN_FORM = ErrorKind(
    "unknown_form",
    422,
    _C,
    False,
    "The body fits no known form: send `inputs` (TGI), `model_id` with `prompt`, or `prompt` alone.",
)
ENGINE_REJECTED = ErrorKind("engine_rejected", 400, _C, False, "The engine refused the request as invalid.")
UNSUPPORTED = ErrorKind(
    "unsupported_by_engine", 400, _C, False, "The engine of this model does not speak this API."
)
CONTROL_FIELD = ErrorKind(
    "control_field_refused",
    400,
    _P,
    False,
    "The body has a field that steers the engine; it is not accepted.",
)
REMOTE_MEDIA = ErrorKind(
    "remote_media_refused",
    400,
    _P,
    False,
    "Media must be sent inline as a data: URL; remote URLs are refused.",
)
PROMPT_TOO_LONG = ErrorKind(
    "prompt_too_long", 400, _C, False, "The prompt has more characters than this service takes."
)
POISON_PROMPT = ErrorKind(
    "poison_prompt", 400, _P, False, "Two engines failed over this request lately; it is refused for a while."
)
PII_FOUND = ErrorKind(
    "pii_found",
    400,
    _P,
    False,
    "The body holds personal data (an e-mail address, a card number or a social security number).",
)
BAD_REQUEST = ErrorKind("bad_request", 400, _C, False, "The HTTP request is malformed.")
KEY_MISSING = ErrorKind(
    "key_missing", 401, _P, False, "This route needs a valid API key: Authorization: Bearer … or X-API-Key."
)
KEY_WRONG = ErrorKind(
    "key_wrong", 401, _P, False, "This route needs a valid API key: Authorization: Bearer … or X-API-Key."
)
KEY_FORBIDDEN = ErrorKind("key_forbidden", 403, _P, False, "Your API key does not allow this.")
RATE_LIMITED = ErrorKind(
    "rate_limited", 429, _P, True, "Too many requests, or too many tokens, in too short a time."
)
OVER_SHARE = ErrorKind(
    "over_share", 429, _P, True, "More of your requests wait for this model than your share of its queue."
)
ADDRESS_FORBIDDEN = ErrorKind("address_forbidden", 403, _P, False, "Your address may not use this service.")
ORIGIN_FORBIDDEN = ErrorKind("origin_forbidden", 403, _P, False, "This origin may not use this service.")
ROUTE_NOT_FOUND = ErrorKind("route_not_found", 404, _C, False, "No such route.")
REPLICA_NOT_FOUND = ErrorKind("replica_not_found", 404, _C, False, "No such replica.")
MODEL_NOT_FOUND = ErrorKind("model_not_found", 404, _C, False, "No such model.")
METHOD_NOT_ALLOWED = ErrorKind("method_not_allowed", 405, _C, False, "This route does not take this method.")
SEVERAL_WORKERS = ErrorKind(
    "several_workers",
    409,
    _P,
    False,
    "This would reach one of several worker processes; change the settings and reload instead.",
)
NOT_ALL_FOLLOW = ErrorKind(
    "not_all_follow", 409, _R, True, "Some worker processes do not answer; the change holds for the others."
)
CHANGE_UNDER_WAY = ErrorKind("change_under_way", 409, _R, True, "Another change is being made; try again.")
REPLICA_EXISTS = ErrorKind("replica_exists", 409, _C, False, "The model has this replica already.")
BODY_TOO_LARGE = ErrorKind("body_too_large", 413, _C, False, "The body is larger than this route takes.")
REQUEST_TIMEOUT = ErrorKind("request_timeout", 408, _C, True, "The request took too long to arrive.")
URL_TOO_LONG = ErrorKind("url_too_long", 414, _C, False, "The URL is longer than 8 KiB.")
UNSUPPORTED_MEDIA_TYPE = ErrorKind(
    "unsupported_media_type", 415, _C, False, "Send the body as Content-Type: application/json, unencoded."
)
HEADERS_TOO_LARGE = ErrorKind(
    "headers_too_large", 431, _C, False, "More than 100 headers, or more than 32 KiB of them."
)
INTERNAL = ErrorKind("internal_error", 500, _R, False, "The router failed; this is a bug.")
ENGINE_UNREACHABLE = ErrorKind("engine_unreachable", 502, _E, True, "No connection to the engine.")
ENGINE_FAILED = ErrorKind("engine_failed", 502, _E, True, "The engine failed to answer.")
ENGINE_CUT = ErrorKind("engine_cut", 502, _E, True, "The engine's answer ended before it was whole.")
ENGINE_JUNK = ErrorKind("engine_junk", 502, _E, False, "The engine's answer made no sense.")
ANSWER_UNFIT = ErrorKind(
    "answer_unfit", 502, _E, True, "The model's answer was not of the form that was asked for."
)
ENGINE_MISCONFIGURED = ErrorKind(
    "engine_misconfigured", 502, _R, False, "The engine does not accept the router's calls."
)
NO_REPLICA = ErrorKind("no_replica", 503, _R, True, "The model is known, but no replica of it is up.")
TOO_MANY_CONNECTIONS = ErrorKind("too_many_connections", 503, _R, True, "Too many clients are connected.")
STORE_AWAY = ErrorKind("store_unavailable", 503, _R, True, "The store does not answer.")
HISTORY_AWAY = ErrorKind(
    "history_unavailable", 503, _R, True, "What was said before in this session cannot be read now."
)
SHUTTING_DOWN = ErrorKind("shutting_down", 503, _R, True, "The router is shutting down.")
QUEUE_FULL = ErrorKind("queue_full", 503, _R, True, "As many requests wait for this model as may.")
QUEUE_TIMEOUT = ErrorKind(
    "queue_timeout", 503, _R, True, "No replica of the model had room for the request in time."
)
BUFFER_FULL = ErrorKind("buffer_full", 503, _R, True, "The router holds as many bytes of requests as it may.")
ENGINE_OVERLOADED = ErrorKind("engine_overloaded", 503, _E, True, "All replicas of the model are full.")
FIRST_EVENT_TIMEOUT = ErrorKind(
    "first_event_timeout", 504, _E, True, "The engine sent nothing within the time allowed."
)
IDLE_TIMEOUT = ErrorKind("idle_timeout", 504, _E, True, "The engine fell silent within its answer.")
TOTAL_TIMEOUT = ErrorKind("total_timeout", 504, _E, True, "The answer took longer than allowed.")
# The same to a program; but the limit was the client's own, whatever took the time.
OWN_TIMEOUT = ErrorKind("total_timeout", 504, _C, True, "The time that your X-Request-Timeout gives is over.")

ALL_KINDS: tuple[ErrorKind, ...] = tuple(v for v in globals().values() if isinstance(v, ErrorKind))


class RouterError(Exception):
    """An error on its way to the client.

    Args:
        kind: its row of the table.
        message: a more precise sentence than the table's; must not hold engine text, addresses or prompts.
        param: the field of the body that is wrong.
        status: overrides the table's status (an engine's 413 or 422 that is passed on).
        retry_after_s: seconds for `Retry-After`.
        more: further facts, for surfaces whose bodies tell them.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str | None = None,
        *,
        param: str | None = None,
        status: int | None = None,
        retry_after_s: int | None = None,
        more: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__(message or kind.message)
        self.kind = kind
        self.message = message or kind.message
        self.param = param
        self.status = status or kind.status
        self.retry_after_s = retry_after_s
        self.more = more


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""
