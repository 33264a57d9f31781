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

    __slots__ = ("_held", "_saw_cr", "_searched", "_sent_cr", "oversize")

    def __init__(self) -> None:
        self._held = bytearray()  # grows in place: a large event in many small chunks costs linear time
        self._searched = 0
        self._saw_cr = False  # the held bytes have a CR
        self._sent_cr = False  # the last block ended with a CR, whose LF may follow
        self.oversize = False

    def feed(self, chunk: bytes) -> bytes:
        """Take what arrived and return all that ends on an event boundary, unchanged; maybe nothing."""
        if not self._held and not self._sent_cr and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            self.oversize = False
            return chunk  # what engines send nearly always
        held = self._held
        held += chunk
        self._saw_cr = self._saw_cr or b"\r" in chunk
        cut = self._last_boundary()
        if cut:
            self.oversize = False
        elif self.oversize or len(held) > EVENT_CAP_BYTES:
            self.oversize = True
            cut = max(0, len(held) - _REACH)
        else:
            self._searched = max(0, len(held) - _REACH)
            return b""
        block = bytes(held[:cut])
        del held[:cut]
        self._searched = 0
        self._saw_cr = b"\r" in held
        self._sent_cr = block.endswith(b"\r") and not held
        return block

    @property
    def partial(self) -> bytes:
        """The event that has begun and not ended."""
        return bytes(self._held)

    def _last_boundary(self) -> int:
        held = self._held
        if not self._saw_cr and not self._sent_cr:
            at = held.rfind(b"\n\n", self._searched)
            return at + 2 if at >= 0 else 0
        end = 0
        if self._sent_cr and held:
            self._sent_cr = False
            end = int(held.startswith(b"\n"))
        for match in _BOUNDARY.finditer(held, max(end, self._searched)):
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
