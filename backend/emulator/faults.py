"""Every fault the emulator can show, in one table, and which of them apply to a request.

A fault is armed for ever (flag `--fault`), or by `POST /__faults` for the next n requests or for those
whose body holds a marker. What it does stands where it acts: connection, answer, frames or engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any


class Scope(Enum):
    """Which requests a fault meets unless a route is given."""

    GENERATE = "generation routes"
    HEALTH = "health routes"
    METRICS = "/metrics"
    ERRORS = "every route"
    ACCEPT = "new connections"
    PROCESS = "at once"


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table; `argument` is "" for none, and `default` counts when it is left out."""

    summary: str
    argument: str = ""
    default: str | None = None
    scope: Scope = Scope.GENERATE


class FaultError(ValueError):
    """A fault that does not exist or whose argument makes no sense; the message is a sentence."""


_HEALTH, _METRICS = Scope.HEALTH, Scope.METRICS

FAULTS: Mapping[str, Kind] = MappingProxyType(
    {
        # the connection
        "reset_on_accept": Kind("reset new connections", scope=Scope.ACCEPT),
        "refuse": Kind("stop listening for S seconds, then listen again", "S", scope=Scope.PROCESS),
        "crash": Kind("reset every connection, then refuse for S seconds", "S", scope=Scope.PROCESS),
        "idle_close": Kind("close a connection S seconds after its last answer", "S", scope=Scope.PROCESS),
        "reset_before_headers": Kind("read the request, then reset the connection"),
        "reset_if_reused": Kind("as reset_before_headers, on reused connections only"),
        "close_before_headers": Kind("read the request, then end the connection without a byte"),
        "close_if_reused": Kind("as close_before_headers, on reused connections only"),
        "die": Kind("read the request, then the process is gone, as by SIGKILL"),
        # instead of the answer
        "hang_before_headers": Kind("never answer"),
        "delay": Kind("answer S seconds late", "S"),
        "status": Kind("answer this status with the engine's own body", "NNN[:RETRY_AFTER]"),
        "redirect": Kind("answer 307 with this Location", "URL", "http://127.0.0.1:9/"),
        "html": Kind("answer 200 with an HTML page"),
        "bad_json": Kind("answer 200 with JSON that breaks off"),
        "not_http": Kind("answer bytes that are no HTTP"),
        # around the answer
        "wrong_content_length": Kind("Content-Length off by DELTA on whole bodies", "DELTA", "10"),
        "huge_headers": Kind("BYTES of extra headers", "BYTES", "65536"),
        "cl_te": Kind("Content-Length and Transfer-Encoding together"),
        "junk_headers": Kind("Set-Cookie, Server and hop-by-hop headers in the answer"),
        "interim": Kind("a 1xx answer first", "CODE", "103"),
        "no_length": Kind("a body without length that ends with the connection"),
        # the engine
        "slow_first_token": Kind("the first token S seconds later", "S"),
        "hang_first_event": Kind("headers at once, then nothing; the request stays running"),
        "hang_after": Kind("nothing after K data events; the request stays running", "K"),
        "comments_after": Kind("after K data events only comments, one each INTERVAL s", "K[:INTERVAL]"),
        "abort": Kind("the engine gives up after K tokens (vLLM: finish_reason abort)", "K", "0"),
        "empty": Kind("a good answer without any text"),
        "say": Kind("exactly this text, whatever is asked for", "TEXT"),
        "empty_tokens": Kind("K tokens without text first", "K", "3"),
        # the frames
        "comment_first": Kind("a comment before the first frame"),
        "error_first": Kind("an error as the first frame", "TYPE", "overloaded"),
        "error_after": Kind("an error after K data events", "K[:TYPE]"),
        "eof_after": Kind("a proper end of body after K data events, no final frame, no [DONE]", "K"),
        "no_done": Kind("everything but the last frame ([DONE], TGI: the final frame)"),
        "usage_only": Kind("a chunk with empty choices and usage first (OpenAI routes)"),
        "big_event": Kind(
            "one event of BYTES first (an extra field in a copy of the first frame)", "BYTES", "1200000"
        ),
        "crlf": Kind("CRLF instead of LF in frames"),
        "no_space": Kind("`data:` without the space, as TGI up to 2.0.4"),
        # the bytes
        "split_at": Kind("each frame in two segments, cut at byte N", "N"),
        "split_every": Kind("segments of N bytes", "N", "1"),
        "coalesce": Kind("K frames in one segment", "K", "3"),
        "cut_bytes": Kind(
            "stop after exactly N body bytes: reset, fin, or a well-formed end", "N[:reset|fin|end]"
        ),
        "slow_body": Kind("the body at N bytes per second", "N"),
        # other routes
        "health_hang": Kind("/health never answers", scope=_HEALTH),
        "health_status": Kind("/health answers this status", "NNN", "503", scope=_HEALTH),
        "metrics_hang": Kind("/metrics never answers", scope=_METRICS),
        "metrics_stale": Kind("/metrics keeps the figures it had when first asked", scope=_METRICS),
        "metrics_missing": Kind("/metrics without the engine's gauges", scope=_METRICS),
        "metrics_old_names": Kind("/metrics with the names of vLLM 0.8", scope=_METRICS),
        "flat_errors": Kind("error bodies of vLLM up to 0.10.0 (no `error` object)", scope=Scope.ERRORS),
    }
)

ERROR_TYPES = ("overloaded", "unavailable", "internal", "generation", "validation")
_CUTS = ("reset", "fin", "end")


@dataclass(slots=True)
class Armed:
    """A fault in wait. `times` left: `None` is for ever."""

    name: str
    arg: str
    times: int | None = None
    marker: str | None = None
    route: str | None = None

    def describe(self) -> dict[str, Any]:
        """As `GET /__faults` shows it."""
        return {
            "fault": self.name,
            "arg": self.arg,
            "times": self.times,
            "marker": self.marker,
            "route": self.route,
        }


class Plan(dict[str, str]):
    """The faults one request meets: name to argument."""

    def part(self, name: str, place: int = 0) -> str:
        """One colon-separated part of an argument, "" when absent."""
        parts = self.get(name, "").split(":")
        return parts[place] if place < len(parts) else ""

    def number(self, name: str, fallback: float = 0.0) -> float:
        """The first part of an argument as a number."""
        return float(self.part(name) or fallback)

    @property
    def stall_after(self) -> int | None:
        """Tokens after which the engine itself stands still."""
        if "hang_first_event" in self:
            return 0
        name = "hang_after" if "hang_after" in self else "comments_after"
        return int(self.number(name)) if name in self else None

    @property
    def abort_after(self) -> int | None:
        """Tokens after which the engine gives up."""
        return int(self.number("abort")) if "abort" in self else None

    @property
    def error(self) -> str:
        """The type of the error that a whole answer is to be, "" for none."""
        if "error_after" in self:
            return self.part("error_after", 1) or "internal"
        return self.get("error_first", "")


def parse_fault(
    text: str,
    arg: object = None,
    *,
    times: int | None = None,
    marker: str | None = None,
    route: str | None = None,
) -> Armed:
    """Read `NAME[=ARG]`; raises FaultError with a sentence."""
    name, _, inline = text.partition("=")
    kind = FAULTS.get(name)
    if kind is None:
        raise FaultError(f"There is no fault {name!r}; --help lists them.")
    if isinstance(arg, (list, tuple)):
        arg = ":".join(str(part) for part in arg)
    given = inline if arg is None else str(arg)
    if not kind.argument and given:
        raise FaultError(f"The fault {name} takes no argument.")
    if kind.argument and not given:
        if kind.default is None:
            raise FaultError(f"The fault {name} needs an argument: {name}={kind.argument}.")
        given = kind.default
    _check(name, given)
    return Armed(name, given, times, marker, route)


def _check(name: str, arg: str) -> None:
    first, _, rest = arg.partition(":")
    if arg and name not in ("redirect", "error_first", "say"):
        try:
            number = float(first)
        except ValueError:
            raise FaultError(f"The fault {name} needs a number, not {first!r}.") from None
        if number < 0 and name != "wrong_content_length":
            raise FaultError(f"The fault {name} needs a number of at least 0.")
    error_type = arg if name == "error_first" else rest if name == "error_after" else ""
    if error_type and error_type not in ERROR_TYPES:
        raise FaultError(f"The fault {name} knows the types {', '.join(ERROR_TYPES)}.")
    if name == "cut_bytes" and rest and rest not in _CUTS:
        raise FaultError(f"The fault cut_bytes ends with one of {', '.join(_CUTS)}.")


class FaultBox:
    """The armed faults of this process, and how often each has struck."""

    def __init__(self, permanent: tuple[Armed, ...] = ()) -> None:
        """Hold `permanent` faults; the others are cleared apart from them."""
        self._permanent = permanent
        self._armed: list[Armed] = []
        self.struck: dict[str, int] = {}

    def arm(self, fault: Armed) -> None:
        """Add one."""
        self._armed.append(fault)

    def clear(self) -> None:
        """Forget all but those given by flag."""
        self._armed.clear()

    def armed(self) -> list[dict[str, Any]]:
        """All of them, for people."""
        return [fault.describe() for fault in (*self._permanent, *self._armed)]

    def take(self, path: str, scope: Scope, body: bytes, *, reused: bool) -> Plan:
        """The faults this request meets; counted ones lose one of their times."""
        plan = Plan()
        for fault in (*self._permanent, *self._armed):
            if _meets(fault, path, scope, body, reused):
                plan[fault.name] = fault.arg
                self._strike(fault)
        return plan

    def on_accept(self) -> bool:
        """Whether a new connection is to be reset."""
        for fault in (*self._permanent, *self._armed):
            if fault.name == "reset_on_accept":
                self._strike(fault)
                return True
        return False

    def _strike(self, fault: Armed) -> None:
        self.struck[fault.name] = self.struck.get(fault.name, 0) + 1
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self._armed = [other for other in self._armed if other is not fault]


def _meets(fault: Armed, path: str, scope: Scope, body: bytes, reused: bool) -> bool:
    kind = FAULTS[fault.name]
    if kind.scope in (Scope.ACCEPT, Scope.PROCESS):
        return False
    if fault.name.endswith("_if_reused") and not reused:
        return False
    if fault.route is not None:
        if fault.route not in ("*", path):
            return False
    elif kind.scope not in (scope, Scope.ERRORS):
        return False
    if fault.marker is None:
        return True
    escaped = json.dumps(fault.marker)[1:-1].encode()
    return fault.marker.encode() in body or escaped in body
