"""What becomes of each field of one API's call where the engine speaks another: one table per such pair.

The README shows the tables; a test walks them.
"""

import re
from enum import StrEnum

import msgspec

from pointsman.call import Fields
from pointsman.errors import INVALID_PARAMETER, RouterError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOLD_MAX = 20  # names in one answer's header


class Fate(StrEnum):
    """What is done with a field."""

    TRANSLATED = "translated"
    IGNORED = "ignored"
    REFUSED = "refused"


class Field(msgspec.Struct, frozen=True):
    """A row. `harmless` are values, as JSON, that ask for nothing, and so are neither ignored nor refused."""

    fate: Fate
    note: str = ""
    harmless: tuple[bytes, ...] = ()


Table = dict[str, Field]


def translated(note: str = "") -> Field:
    """A field that keeps its meaning."""
    return Field(Fate.TRANSLATED, note)


def ignored(note: str = "", *harmless: bytes) -> Field:
    """A field without a counterpart, whose absence spoils no answer."""
    return Field(Fate.IGNORED, note, harmless)


def refused(note: str, *harmless: bytes) -> Field:
    """A field without a counterpart, on which the answer's meaning or shape depends."""
    return Field(Fate.REFUSED, note, harmless)


def sort_out(fields: Fields, table: Table) -> tuple[str, ...]:
    """The fields that are ignored, among them those the table does not know.

    Raises:
        RouterError: INVALID_PARAMETER, naming the field that is refused, and why.
    """
    told = []
    for name, raw in fields.items():
        row = table.get(name)
        if row is not None and row.fate is Fate.TRANSLATED:
            continue
        value = bytes(raw)
        if value in (b"null", b"false") or (row is not None and value in row.harmless):
            continue
        if row is not None and row.fate is Fate.REFUSED:
            raise RouterError(INVALID_PARAMETER, f"`{name}` {row.note}.", param=name)
        if _NAME.fullmatch(name):
            told.append(name)
    return tuple(told[:_TOLD_MAX])
