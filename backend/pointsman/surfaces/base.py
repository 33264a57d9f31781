"""What every surface offers, and how request bodies are read: strictly, once, values left raw.

A surface is an API we serve: it decodes a request into a `Call`, and gives answers and errors its own shape.
Source of the limits: `reliability.md` section 13.
"""

import math
from typing import Protocol

import msgspec

from pointsman.call import Call, Fields, Operation
from pointsman.errors import INVALID_PARAMETER, MALFORMED_JSON, RouterError
from pointsman.keys import Need
from pointsman.surfaces import extent
from pointsman.turns import Steps, at_once, in_turns

FIELDS_MAX = 1_000  # of the top level
MESSAGES_MAX = 10_000  # of a chat
MODEL_NAME_MAX = 256  # characters
_INT64 = range(-(2**63), 2**64)
_NUMBER = frozenset(b"-0123456789")  # how one begins
_LARGE_BYTES = 64 * 1024
_decoder = msgspec.json.Decoder(Fields)
_strings = msgspec.json.Decoder(str)


class ErrorShape(Protocol):
    """How an API says that something went wrong."""

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        """Status and JSON body of an error."""

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        """One event that ends a stream that failed."""


class Surface(ErrorShape, Protocol):
    """One file per API.

    `prefers_chat`: each call of it that names no model is better off with one that is made for chat.
    `need`: whether its routes need an API key, unless KEY_NEEDS says otherwise.
    """

    name: str
    prefers_chat: bool
    need: Need

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        """Read a request.

        Args:
            stream: the route itself says that the answer is a stream.

        Raises:
            RouterError: naming the field that is wrong.
        """


def read_fields(body: bytes) -> Fields:
    """Read the top level of a JSON object.

    Raises:
        RouterError: MALFORMED_JSON with the reason: not UTF-8, no JSON, no object, nested too deeply.
    """
    if len(body) > _LARGE_BYTES:
        return at_once(_reading(body))
    try:
        if not body.isascii():
            body.decode("utf-8")
        fields = _decoder.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise _unreadable(error) from None
    if body.count(b"{") + body.count(b"[") > extent.DEPTH_MAX:
        extent.check(body)
    return fields


async def read_in_turns(body: bytes) -> Fields:
    """As `read_fields`, for a body beyond `turns.LARGE_BYTES`: others have their turn meanwhile."""
    return await in_turns(_reading(body))


def _reading(body: bytes) -> Steps[Fields]:
    """Read a large body."""
    objects = yield from extent.measure(body)  # before it is decoded, which would take longer
    yield
    try:
        if not body.isascii():
            body.decode("utf-8")
            yield
        fields = _counted(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise _unreadable(error) from None
    if objects > MESSAGES_MAX and "messages" in fields:
        yield
        _check_messages(fields["messages"])
    return fields


def _unreadable(error: Exception) -> RouterError:
    if isinstance(error, UnicodeDecodeError):
        return RouterError(MALFORMED_JSON, "The body is not UTF-8.")
    if isinstance(error, RecursionError):
        return extent.too_deep()
    if isinstance(error.__cause__, _TooMany):
        return RouterError(MALFORMED_JSON, f"The body has more than {FIELDS_MAX:,} fields.")
    if isinstance(error, msgspec.ValidationError):
        return RouterError(MALFORMED_JSON, "The body must be a JSON object.")
    return RouterError(MALFORMED_JSON, "The body is not valid JSON.")


class _Name(str):
    """A field's name, made by us so that we can count."""

    __slots__ = ()


class _TooMany(ValueError):
    """More fields than anybody needs."""


def _counted(body: bytes) -> Fields:
    """Decode, and stop at too many fields: a million of them would hold up the loop for a second."""
    number = 0

    def name(_: type, told: str) -> _Name:
        nonlocal number
        number += 1
        if number > FIELDS_MAX:
            raise _TooMany
        return _Name(told)

    found = msgspec.json.decode(body, type=dict[_Name, msgspec.Raw], dec_hook=name)
    return {str(name): value for name, value in found.items()}  # plain names again, for encoders


def names_in(fields: Fields, name: str) -> list[str]:
    """The names of the fields of an object within a body; none where it is no object.

    Raises:
        RouterError: it has more of them than a body may have.
    """
    try:
        raw = fields[name]
        return list(_counted(bytes(raw)) if len(raw) > _LARGE_BYTES else _decoder.decode(raw))
    except msgspec.DecodeError as error:
        if isinstance(error.__cause__, _TooMany):
            raise invalid(name, f"have at most {FIELDS_MAX:,} fields") from None
        return []


def _check_messages(messages: msgspec.Raw) -> None:
    """Bound their number: they are walked through one by one. What is no list is for others to refuse."""
    try:
        found = msgspec.json.decode(messages, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        return
    if len(found) > MESSAGES_MAX:
        raise invalid("messages", f"hold at most {MESSAGES_MAX:,} messages")


def invalid(name: str, must: str) -> RouterError:
    """An error that names the field: `` `name` must … ``."""
    return RouterError(INVALID_PARAMETER, f"`{name}` must {must}.", param=name)


def text(fields: Fields, name: str, *, longest: int | None = None) -> str | None:
    """A string field; None when absent or null."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        value = _strings.decode(raw)
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid(name, "be a string") from None
    if longest is not None and len(value) > longest:
        raise invalid(name, f"have at most {longest} characters")
    return value


def flag(fields: Fields, name: str) -> bool:
    """A boolean field; False when absent or null."""
    raw = fields.get(name)
    if raw is None:
        return False
    told = bytes(raw)
    if told not in (b"true", b"false", b"null"):
        raise invalid(name, "be true or false")
    return told == b"true"


def number(
    fields: Fields, name: str, low: float, high: float, default: float, *, whole: bool = False
) -> float:
    """A finite number in [low, high]; the default when absent or null. Booleans are no numbers."""
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return default
    kind = "a whole number" if whole else "a number"
    try:
        value: float = msgspec.json.decode(raw, type=int if whole else float)
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid(name, f"be {kind} from {low:g} to {high:g}") from None
    if not math.isfinite(value) or not low <= value <= high:
        raise invalid(name, f"be {kind} from {low:g} to {high:g}")
    return value


def check_count(fields: Fields, name: str, highest: int) -> None:
    """Refuse a count that is not a whole number from 1 to `highest`; 0 and null are the engine's to judge."""
    number(fields, name, 0, highest, 1, whole=True)


def check_numbers(fields: Fields) -> None:
    """Refuse top-level integers beyond 64 bits and numbers beyond doubles: parsers disagree on them."""
    for name, raw in fields.items():
        if len(raw) > 18 and memoryview(raw)[0] not in _NUMBER:
            continue  # to copy it would cost more than to look
        text = bytes(raw)
        if text[0] not in _NUMBER or (len(text) <= 18 and b"e" not in text and b"E" not in text):
            continue
        try:
            value = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise invalid(name, "be a finite number") from None
        if isinstance(value, int) and value not in _INT64:
            raise invalid(name, "fit into 64 bits")


def model_name(fields: Fields, name: str = "model") -> str | None:
    """The model a body asks for; None when it names none."""
    return text(fields, name, longest=MODEL_NAME_MAX)


def error_object(error: RouterError, request_id: str) -> dict[str, object]:
    """The fields that every surface's error carries: code, owner, retryable, request id."""
    return {
        "code": error.kind.code,
        "owner": error.kind.owner.value,
        "retryable": error.kind.retryable,
        "request_id": request_id,
    }
