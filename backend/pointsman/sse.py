"""Server-sent events as bytes: where events end, and what data they carry.

Pure. Source: WHATWG HTML, 9.2.5 and 9.2.6: lines end with LF, CR LF or CR, a blank line ends an event.
"""

import re

EVENT_CAP_BYTES = 1 << 20  # a partial event larger than this is passed on as it comes

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\r\n|\r\n\n|\n\n|\r\r(?!\n)|\n\r(?!\n)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Cuts a byte stream into whole events; holds back at most one partial event.

    `oversize` turns true while an event larger than the cap passes through as it comes.
    """

    __slots__ = ("_held", "_searched", "oversize")

    def __init__(self) -> None:
        self._held = b""
        self._searched = 0
        self.oversize = False

    def feed(self, chunk: bytes) -> bytes:
        """Take what arrived and return all that ends on an event boundary, unchanged; maybe nothing."""
        if self._held:
            chunk = self._held + chunk
        cut = self._last_boundary(chunk)
        if cut:
            self.oversize = False
            self._held = chunk[cut:]
            self._searched = 0
            return chunk[:cut] if self._held else chunk
        if self.oversize or len(chunk) > EVENT_CAP_BYTES:
            self.oversize = True
            keep = 3  # a boundary may be half here; CR LF CR LF is the longest
            self._held, self._searched = chunk[-keep:], 0
            return chunk[:-keep]
        self._held, self._searched = chunk, max(0, len(chunk) - 3)
        return b""

    @property
    def partial(self) -> bytes:
        """The event that has begun and not ended."""
        return self._held

    def _last_boundary(self, data: bytes) -> int:
        if b"\r" not in data:  # engines send LF alone
            at = data.rfind(b"\n\n", self._searched)
            return at + 2 if at >= 0 else 0
        end = 0
        for match in _BOUNDARY.finditer(data, self._searched):
            if match.end() == len(data) and data.endswith(b"\r"):
                break  # an LF may follow and belong to this line end
            end = match.end()
        return end


def events(block: bytes) -> list[bytes]:
    """Cut a block of whole events into events, each with its blank line."""
    if b"\r" not in block:
        return [part + b"\n\n" for part in block.split(b"\n\n") if part]
    found, start = [], 0
    for match in _BOUNDARY.finditer(block):
        if match.start() > start:
            found.append(block[start : match.end()])
        start = match.end()
    if start < len(block):
        found.append(block[start:])
    return found


def data(event: bytes) -> bytes:
    """Join the data lines of one event; empty for comments and other fields."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2:
        return event[6:-2]
    lines = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)


def frame(payload: bytes) -> bytes:
    """Make one event of a JSON text that holds no line end."""
    return b"data: " + payload + b"\n\n"


def comment(text: str) -> bytes:
    """Make a comment; readers skip it. `text` must be one line of ASCII."""
    return b": " + text.encode("ascii") + b"\n\n"
