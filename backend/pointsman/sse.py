"""Server-sent events as bytes: where events end, and what data they carry.

Pure. Source: WHATWG HTML, 9.2.5 and 9.2.6: lines end with LF, CR LF or CR, a blank line ends an event.
"""

import re

EVENT_CAP_BYTES = 1 << 20  # a partial event larger than this is passed on as it comes

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_REACH = 3  # bytes of a boundary that may have come without its end; CR LF CR LF is the longest
# Signs that line readers of some clients take for line ends (contracts/clients.md 8).
_LINE_SIGNS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class Splitter:
    """Cuts a byte stream into whole events; holds back at most one partial event.

    `oversize` turns true while an event larger than the cap passes through as it comes.
    """

    __slots__ = ("_held", "_sent_cr", "_size", "_tail", "oversize")

    def __init__(self) -> None:
        self._held: list[bytes] = []  # joined once: many small chunks of a large event cost linear time
        self._size = 0
        self._tail = b""  # end of what is held, where a boundary may have begun
        self._sent_cr = False  # the last block ended with a CR, whose LF may follow
        self.oversize = False

    def feed(self, chunk: bytes) -> bytes:
        """Take what arrived and return all that ends on an event boundary, unchanged; maybe nothing."""
        tail = self._tail
        if not tail and not self._sent_cr and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            return chunk  # what engines send nearly always
        cut = self._last_boundary(tail + chunk if tail else chunk) - len(tail)
        if cut > 0:
            self.oversize = False
            block = chunk[:cut]
            if self._held:
                block = b"".join((*self._held, block))
            self._hold(chunk[cut:])
            self._sent_cr = not self._held and block.endswith(b"\r")
            return block
        self._size += len(chunk)
        if self.oversize or self._size > EVENT_CAP_BYTES:
            self.oversize = True
            block = b"".join((*self._held, chunk))
            self._hold(block[-_REACH:])
            return block[:-_REACH]
        if chunk:
            self._held.append(chunk)
            self._tail = (tail + chunk)[-_REACH:]
        return b""

    @property
    def partial(self) -> bytes:
        """The event that has begun and not ended."""
        return b"".join(self._held)

    def _hold(self, rest: bytes) -> None:
        self._held = [rest] if rest else []
        self._size = len(rest)
        self._tail = rest[-_REACH:]

    def _last_boundary(self, data: bytes) -> int:
        if not self._sent_cr and b"\r" not in data:  # engines send LF alone
            at = data.rfind(b"\n\n")
            return at + 2 if at >= 0 else 0
        end = 0
        if self._sent_cr and data:
            self._sent_cr = False
            end = int(data.startswith(b"\n"))
        for match in _BOUNDARY.finditer(data, end):
            end = match.end()
        return end


def events(block: bytes) -> list[bytes]:
    """Cut a block of whole events into events, each with its blank line."""
    if b"\r" not in block and block.endswith(b"\n\n"):
        return [part + b"\n\n" for part in block[:-2].split(b"\n\n") if part]
    found, start = [], 0
    for match in _BOUNDARY.finditer(block):
        if match.start() > start:
            found.append(block[start : match.end()])
        start = match.end()
    if start < len(block):
        found.append(block[start:])
    return found


def first_end(block: bytes) -> int:
    """Where the first event of a block ends, its blank line included."""
    match = _BOUNDARY.search(block)
    return match.end() if match is not None else len(block)


def data(event: bytes) -> bytes:
    """Join the data lines of one event; empty for comments and other fields."""
    if (
        event.startswith(b"data: ")
        and event.endswith(b"\n\n")
        and event.count(b"\n") == 2
        and b"\r" not in event
    ):
        return event[6:-2]
    lines = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)


def frame(payload: bytes) -> bytes:
    """Make one event of a JSON text that holds no line end; signs that some readers split at are escaped."""
    if not payload.isascii():
        for sign, escape in _LINE_SIGNS:
            payload = payload.replace(sign, escape)
    return b"data: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """Make a comment; readers skip it. `text` must be one line of ASCII."""
    return b": " + text.encode("ascii") + b"\n\n"
