"""Finds personal data by its form, in whole texts and in texts that come in pieces.

What is found: e-mail addresses; payment card numbers of 16 digits, written together or in four groups of four
with one blank or one hyphen between; US social security numbers written 123-45-6789. No digit may stand
directly before or behind a number. Work is linear in the text, whatever the text.
"""

import re
from enum import StrEnum

import msgspec

_LOCAL_MAX, _DOMAIN_MAX = 64, 255  # characters (RFC 5321, 4.5.3.1)
# The most that is ever held back: an address, and a number that runs into it.
HELD_MAX = 19 + _LOCAL_MAX + 1 + _DOMAIN_MAX
_LOCAL = re.compile(r"[\w.%+-]*")
_DOMAIN = re.compile(rf"[\w.-]{{1,{_DOMAIN_MAX}}}")
_HOST = re.compile(r"\w[\w.-]*\.[^\W\d_]{2,63}(?!\w)")  # up to the last name of letters
# It begins with a plain class of characters, which the matcher skips to; so the look-behind comes after it.
_NUMBERS = re.compile(
    r"[0-9](?<![0-9]{2})"
    r"(?:[0-9]{2}-[0-9]{2}-[0-9]{4}|[0-9]{15}|[0-9]{3}(?:[ -][0-9]{4}){3})(?![0-9])"
)
_SSN_DASH = 3  # where a social security number has its first hyphen, and a card has none
_SSN_BEGUN = r"[0-9]{1,3}|[0-9]{3}-[0-9]{0,2}|[0-9]{3}-[0-9]{2}-[0-9]{0,4}"
_CARD_BEGUN = r"[0-9]{1,16}|(?:[0-9]{4}[ -]){1,3}[0-9]{0,4}"
_NUMBER_BEGUN = re.compile(rf"(?<![0-9])(?:{_SSN_BEGUN}|{_CARD_BEGUN})\Z")
_NUMBER_MAX = 19


class PiiMode(StrEnum):
    """What is done with personal data in what a client sends; in answers it is always redacted."""

    OFF = "off"
    REJECT = "reject"
    REDACT = "redact"


class Kind(StrEnum):
    """A kind of personal data, with what stands in its place."""

    EMAIL = "[EMAIL]"
    CARD = "[CARD]"
    SSN = "[SSN]"


class Span(msgspec.Struct, frozen=True):
    """Where in a text something was found; spans that overlap are one, called after the first."""

    start: int
    end: int
    kind: Kind


def find(text: str) -> list[Span]:
    """Everything that is found in a whole text, from left to right."""
    return _merged(_emails(text, 0)[0] + _numbers(text, 0)[0])


def redact(text: str) -> str:
    """The text with each find replaced by the name of its kind."""
    spans = find(text)
    return _replaced(text, spans, 0, len(text)) if spans else text


class Redactor:
    """Redacts a text that comes in pieces: however it is cut, what is given is `redact` of the whole.

    What could be the beginning of a find is held back, HELD_MAX characters at most; in plain prose that is
    the last word.
    """

    def __init__(self) -> None:
        self._before = ""  # the last character that was decided
        self._held = ""

    def feed(self, piece: str) -> str:
        """What may be said now."""
        return self._take(piece, last=False)

    def flush(self) -> str:
        """The rest, at the end of the text."""
        return self._take("", last=True)

    def _take(self, piece: str, *, last: bool) -> str:
        begin = len(self._before)
        text = self._before + self._held + piece
        emails, email_held = _emails(text, begin)
        numbers, number_held = _numbers(text, begin)
        spans = _merged(emails + numbers)
        end = len(text) if last else min(email_held, number_held)
        for span in reversed(spans):
            if span.start < end < span.end:
                end = span.start
        said = _replaced(text, [span for span in spans if span.end <= end], begin, end)
        self._before, self._held = text[max(end - 1, 0) : end], text[end:]
        return said


def _emails(text: str, begin: int) -> tuple[list[Span], int]:
    """The addresses behind `begin`, and from where on more text could change what is found."""
    spans: list[Span] = []
    held = len(text)
    free = begin  # behind the last address
    at = text.find("@", begin)
    while at >= 0:
        start = _local_start(text, free, at)
        if start < at:
            domain = _DOMAIN.match(text, at + 1)
            reach = domain.end() if domain is not None else at + 1
            if reach == len(text) and reach <= at + _DOMAIN_MAX:
                held = min(held, start)
            host = _HOST.match(text, at + 1, reach)
            if host is not None:
                free = host.end()
                spans.append(Span(start, free, Kind.EMAIL))
        at = text.find("@", at + 1)
    return spans, min(held, _local_start(text, free, len(text)))


def _local_start(text: str, least: int, end: int) -> int:
    """Where the part of an address before its @ begins that ends at `end`; `end` where there is none."""
    backwards = text[max(least, end - _LOCAL_MAX) : end][::-1]
    found = _LOCAL.match(backwards)
    return end if found is None else end - found.end()


def _numbers(text: str, begin: int) -> tuple[list[Span], int]:
    """The same for numbers."""
    spans = [
        Span(found.start(), found.end(), Kind.SSN if found[0][_SSN_DASH] == "-" else Kind.CARD)
        for found in _NUMBERS.finditer(text, begin)
    ]
    free = max([span.end for span in spans if span.end < len(text)], default=begin)
    begun = _NUMBER_BEGUN.search(text, max(free, len(text) - _NUMBER_MAX))
    return spans, len(text) if begun is None else begun.start()


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        before = merged[-1] if merged else None
        if before is not None and span.start < before.end:
            merged[-1] = Span(before.start, max(before.end, span.end), before.kind)
        else:
            merged.append(span)
    return merged


def _replaced(text: str, spans: list[Span], begin: int, end: int) -> str:
    parts: list[str] = []
    for span in spans:
        parts += (text[begin : span.start], span.kind.value)
        begin = span.end
    return "".join([*parts, text[begin:end]])
