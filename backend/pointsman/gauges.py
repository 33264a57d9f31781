"""Reads gauges from a page in Prometheus' text format 0.0.4; what is not wanted is passed over."""

import math

import msgspec


class Load(msgspec.Struct, frozen=True):
    """Requests that an engine is working on, and those that wait; None: it does not say."""

    running: int | None = None
    waiting: int | None = None


def total(page: bytes, name: bytes) -> float | None:
    """The sum of a gauge over all its labels; None where no line of the page has it."""
    found = None
    at = page.find(name)
    while at >= 0:
        end = page.find(b"\n", at)
        line = page[at : end if end >= 0 else len(page)]
        if at == 0 or page[at - 1 : at] == b"\n":
            value = _value(line[len(name) :])
            if value is not None:
                found = (found or 0.0) + value
        at = page.find(name, at + len(name))
    return found


def total_of(page: bytes, names: tuple[bytes, ...]) -> float | None:
    """The sum of several; None where the page has none of them."""
    told = [value for value in (total(page, name) for name in names) if value is not None]
    return sum(told) if told else None


def _value(rest: bytes) -> float | None:
    """The value that follows a name, its labels if any, and a blank; None: another name begins so."""
    if rest.startswith(b"{"):
        rest = rest.rpartition(b"}")[2]
    elif not rest.startswith((b" ", b"\t")):
        return None
    told = rest.split()
    try:
        value = float(told[0]) if told else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def count(page: bytes, name: bytes) -> int | None:
    """A gauge that counts; None where the page does not have it."""
    value = total(page, name)
    return None if value is None else max(0, round(value))
