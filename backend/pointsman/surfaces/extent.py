"""The extent of a JSON body: how deeply it nests, and how many values, strings, objects and arrays it holds.

Told by whole-body operations, before anything is decoded. Those on a large body are steps of work, each of
some ten milliseconds for 8 MiB at worst. What is no JSON may be refused for its extent, or pass.
Source of the depth: `reliability.md` section 13.
"""

import re
from itertools import accumulate

from pointsman.errors import MALFORMED_JSON, RouterError
from pointsman.turns import Steps

DEPTH_MAX = 64
STRINGS_MAX = 500_000  # names of fields among them
CONTAINERS_MAX = 100_000  # objects and arrays in a body: more would hold up our loop and the engine's
VALUES_MAX = 2_000_000  # a body full of ids of tokens has fewer
_NOISE = bytes(set(range(256)) - set(b'[]{}"'))
_BUT_COMMAS = bytes(set(range(256)) - set(b'",'))
_SHAPE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # one level down, one up, as signed bytes
_STRING = re.compile(rb'"[^"]*"')
_PIECE_BYTES = 1 << 20  # of a body full of escapes, which are slow to take out
_RARE = 100


def check(body: bytes) -> None:
    """Bound the depth and the numbers of a small body, which are counted already and may be too large.

    Raises:
        RouterError: MALFORMED_JSON, with the bound.
    """
    if b"\\" in body:
        body = _bare(body)
    marks = _marks(body)
    _check_strings(marks)
    _check_containers(marks)


def measure(body: bytes) -> Steps[int]:
    """Bound the depth and the numbers of a large body, and count its opening braces, those in strings too.

    Raises:
        RouterError: MALFORMED_JSON, with the bound.
    """
    objects = _count(body, b"{")
    yield
    nested = objects + _count(body, b"[") > DEPTH_MAX
    yield
    wordy = _count(body, b'"') > 2 * STRINGS_MAX
    yield
    crowded = len(body) > 2 * VALUES_MAX and _count(body, b",") >= VALUES_MAX
    if not (nested or wordy or crowded):
        return objects
    yield
    if b"\\" in body:
        body = yield from _bare_in_pieces(body)
    marks = _marks(body)
    yield
    _check_strings(marks)
    yield
    if nested:
        _check_containers(marks)
        yield
    if crowded:
        yield from _check_values(body)
    return objects


def _count(data: bytes, mark: bytes) -> int:
    """How often a byte occurs; where it is rare, the search goes at the speed of memory."""
    found, place = 0, data.find(mark)
    while place >= 0:
        found += 1
        if found > _RARE:
            return data.count(mark)
        place = data.find(mark, place + 1)
    return found


def _bare(body: bytes) -> bytes:
    """Without escaped quotes and backslashes: each quote that is left begins or ends a string."""
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")


def _bare_in_pieces(body: bytes) -> Steps[bytes]:
    parts, begin = [], 0
    while begin < len(body):
        piece = body[begin : begin + _PIECE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # the last backslash escapes what comes next
            piece = body[begin : begin + _PIECE_BYTES + 1]
        parts.append(_bare(piece))
        begin += len(piece)
        yield
    return b"".join(parts)


def _marks(body: bytes) -> bytes:
    """Quotes and brackets alone, these of one kind."""
    return body.translate(_SHAPE, _NOISE)


def _check_strings(marks: bytes) -> None:
    if _count(marks, b'"') > 2 * STRINGS_MAX:
        raise RouterError(MALFORMED_JSON, f"The body holds more than {STRINGS_MAX:,} strings.")


def _check_containers(marks: bytes) -> None:
    marks = marks.replace(b'""', b"")  # joins strings; what is in them goes next
    if _count(marks, b'"') > CONTAINERS_MAX:  # two for each string with brackets in it
        raise RouterError(MALFORMED_JSON, "The body holds too many strings with brackets in them.")
    marks = _STRING.sub(b"", marks)
    if len(marks) > 2 * CONTAINERS_MAX:
        raise RouterError(MALFORMED_JSON, f"The body holds more than {CONTAINERS_MAX:,} objects and arrays.")
    if max(accumulate(memoryview(marks.translate(_STEPS)).cast("b")), default=0) > DEPTH_MAX:
        raise too_deep()


def _check_values(body: bytes) -> Steps[None]:
    commas = body.translate(None, _BUT_COMMAS)
    yield
    between_strings = commas.split(b'"')[::2]
    yield
    if sum(map(len, between_strings)) >= VALUES_MAX:
        raise RouterError(MALFORMED_JSON, f"The body holds more than {VALUES_MAX:,} values.")


def too_deep() -> RouterError:
    """The error of a body that nests too deeply."""
    return RouterError(MALFORMED_JSON, f"The body is nested more than {DEPTH_MAX} levels deep.")
