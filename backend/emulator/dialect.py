"""What both engines have in common, seen from the server."""

import json
from dataclasses import dataclass
from typing import Protocol

from emulator.answer import Headers, Outlet
from emulator.faults import Plan, Scope
from emulator.message import Request
from emulator.schedule import Batch


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is known as a whole."""

    status: int
    body: bytes = b""
    media: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def compact(value: object) -> bytes:
    """JSON as both engines write it: UTF-8, no blanks."""
    return _encode(value).encode("utf-8", "replace")


def as_json(value: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Whole:
    """A JSON answer."""
    return Whole(status, compact(value), "application/json", headers)


@dataclass(slots=True)
class Exchange:
    """One request with its answer and the faults it meets."""

    request: Request
    outlet: Outlet
    plan: Plan
    batch: Batch | None = None  # what the engine does for it

    async def reply(self, whole: Whole) -> None:
        """Write a whole answer."""
        await self.outlet.reply(whole.status, whole.body, whole.media, whole.headers)


class Dialect(Protocol):
    """An engine's protocol."""

    common: Headers  # on every answer
    malformed: bytes  # the whole answer to bytes that are no HTTP
    body_limit: int

    def scope(self, path: str, method: str) -> Scope:
        """Which faults a route meets."""

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request."""

    def refusal(self, status: int, plan: Plan) -> Whole:
        """The engine's own body for an error status."""

    def error_frames(self, path: str, kind: str) -> list[bytes]:
        """What the engine writes into a stream for an error of `faults.ERROR_TYPES`, ends included."""

    def error_answer(self, kind: str, plan: Plan) -> Whole:
        """The same error before a stream has begun, or on a whole answer."""
