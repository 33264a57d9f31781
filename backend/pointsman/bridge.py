"""Gives the answer of one engine in the words of another API: deltas in, events out.

The one meeting point of all APIs and all dialects; neither knows of the other.
"""

from pointsman import attempt
from pointsman.apis.base import Writer
from pointsman.attempt import AttemptFailed
from pointsman.engines.base import Seen, Source
from pointsman.generation import Delta, Tokens, Wish
from pointsman.pii import Redactor
from pointsman.stops import Stops


class Bridge:
    """A `Reader` of a source's answer that a writer says."""

    mends = True
    edits = False
    marks: tuple[bytes, ...] = ()
    last_mark = b""

    def __init__(self, source: Source, writer: Writer, wish: Wish) -> None:
        self._source = source
        self._writer = writer
        stops = () if wish.keeps_stop else source.leaves
        self._stops = Stops(stops, bare=wish.bare) if stops or wish.bare else None
        self._redactor = Redactor() if wish.redacts else None
        self._begun = False
        self._finished = False
        self._out = b""  # the events that the last one read became

    @property
    def tokens(self) -> Tokens:
        return self._source.tokens

    @property
    def headers(self) -> bytes:
        return lines_of(self.tokens)

    def heed(self, headers: dict[bytes, bytes]) -> None:
        self._source.heed(headers)

    def look(self, data: bytes) -> Seen:
        self._out = b""
        delta = self._source.read(data) if data else None
        if delta is None:
            return Seen.QUIET
        if self._stops is not None:
            delta = self._stops.cut(delta)
        if self._redactor is not None:
            delta = _redacted(delta, self._redactor, whole=False)
        self._out = self._writer.write(delta)
        finishes = delta.finish is not None
        content = bool(self._out) or finishes
        self._begun = self._begun or content
        self._finished = self._finished or finishes
        if delta.last:
            if self._begun and not self._finished:
                raise AttemptFailed(attempt.TRUNCATED, "ended without a reason")
            self._out += self._writer.end(self.tokens)
            return Seen.FINAL if self._begun else Seen.LAST
        return Seen.CONTENT if content else Seen.QUIET

    def mend(self, data: bytes) -> bytes:
        return self._out

    def whole(self, body: bytes) -> bytes:
        delta = self._source.whole(body)
        if self._stops is not None:
            delta = self._stops.cut(delta)
        if self._redactor is not None:
            delta = _redacted(delta, self._redactor, whole=True)
        return self._writer.whole(delta, self.tokens)


def lines_of(tokens: Tokens) -> bytes:
    """What the head of a whole answer tells of its tokens, each line ended by CR LF."""
    return b"x-prompt-tokens: %d\r\nx-generated-tokens: %d\r\n" % (tokens.prompt, tokens.completion)


def _redacted(delta: Delta, redactor: Redactor, *, whole: bool) -> Delta:
    """What may be said now; the rest of the text comes with its end."""
    text = redactor.feed(delta.text)
    if whole or delta.last or delta.finish is not None:
        text += redactor.flush()
    return Delta(text, finish=delta.finish, last=delta.last)
