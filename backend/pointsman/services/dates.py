"""Dates as models write them, in ISO 8601."""

import re
from datetime import date, datetime
from email.utils import parsedate_to_datetime

from pointsman.language import Language

PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
TIME_PATTERN = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2})?$"
_DAY_FIRST = re.compile(r"(\d{1,2})[-./](\d{1,2})[-./](\d{4})")
_DAYS = {
    Language.HEBREW: ("יום שני", "יום שלישי", "יום רביעי", "יום חמישי", "יום שישי", "שבת", "יום ראשון"),
    Language.ENGLISH: ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
}


def named(day: date, language: Language) -> str:
    """A day with its name in the week."""
    return f"{day.isoformat()} ({_DAYS[language][day.weekday()]})"


def day_of(text: str | None) -> str | None:
    """The day of a date; None: it is none."""
    found = time_of(text)
    return None if found is None else found[:10]


def time_of(text: str | None) -> str | None:
    """A date, with its time where it has one; None: it is none. Of 03/08 the day is 3."""
    if text is None:
        return None
    try:
        if len(text) == 10 and text[4] == text[7] == "-":
            return date.fromisoformat(text).isoformat()
        if (found := _DAY_FIRST.fullmatch(text)) is not None:
            return date(int(found[3]), int(found[2]), int(found[1])).isoformat()
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
