"""What each API offers to the bridge between it and an engine that speaks another."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from pointsman.call import Fields
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Delta, Tokens

_T = TypeVar("_T")


class Reply(msgspec.Struct, frozen=True):
    """To what an answer is the reply.

    `name` is the model as the client called it; `unix_s` is when the request came, and
    `elapsed` tells the seconds since.
    """

    request_id: str
    name: str
    model_id: str
    unix_s: int
    elapsed: Callable[[], float]


class Writer(Protocol):
    """Writes one answer, whole or in events."""

    def write(self, delta: Delta) -> bytes:
        """The events of one delta; empty where it has nothing to show yet."""

    def end(self, tokens: Tokens) -> bytes:
        """The last events."""

    def whole(self, delta: Delta, tokens: Tokens) -> bytes:
        """A whole answer."""


def decode(fields: Fields, name: str, kind: type[_T]) -> _T:
    """Read a field; an absent one is null.

    Raises:
        RouterError: INVALID_PARAMETER, naming the field, or the part of it, that is of another kind.
    """
    try:
        return msgspec.json.decode(fields.get(name, b"null"), type=kind)
    except msgspec.ValidationError as error:
        told, _, where = str(error).partition(" - at `$")
        name += where.strip("`")
        raise RouterError(INVALID_PARAMETER, f"`{name}` is of the wrong kind: {told}.", param=name) from None
    except msgspec.DecodeError:
        raise RouterError(INVALID_PARAMETER, f"`{name}` is not readable.", param=name) from None
