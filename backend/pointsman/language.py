"""Which of two languages somebody writes, or asks for: Hebrew or English."""

import re
from enum import StrEnum

_HEBREW = re.compile("[\u05d0-\u05ea]")
_LATIN = re.compile("[A-Za-z]")
_LOOKED_AT = 4000  # characters
_NAMES = {
    "he": ("he", "heb", "iw", "hebrew", "עברית"),
    "en": ("en", "eng", "english", "אנגלית"),
}


class Language(StrEnum):
    """A language that we can give instructions in, by its ISO 639 code."""

    HEBREW = "he"
    ENGLISH = "en"


def language_of(text: str) -> Language:
    """The language of a text by its letters; a quarter of them makes it Hebrew, full of foreign words."""
    text = text[:_LOOKED_AT]
    hebrew = len(_HEBREW.findall(text))
    return Language.HEBREW if hebrew and 3 * hebrew >= len(_LATIN.findall(text)) else Language.ENGLISH


def language_named(name: str) -> Language | None:
    """The language of a name or a tag such as `he-IL`; None: it is another one."""
    first = re.split("[-_]", name.strip().lower(), maxsplit=1)[0]
    return next((Language(code) for code, names in _NAMES.items() if first in names), None)
