"""The headers that generation routes take and give, as `/openapi.json` shows them."""

from typing import Any

from pointsman.patience import LONGEST_S
from pointsman.waiting import Priority

Headers = dict[str, tuple[dict[str, Any], str]]  # schema and description by name

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_ID = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
_SECONDS = {"type": "number", "minimum": 0.001, "maximum": LONGEST_S}

TAKEN: Headers = {
    "X-Request-ID": (_ID, "Names the request in logs and in its answer; one that does not fit is replaced."),
    "X-Request-Timeout": (
        _SECONDS,
        "Seconds that you wait for the whole answer, queue and retries included; then it is 504.",
    ),
    "X-Pointsman-Priority": (
        {"type": "string", "enum": [one.value for one in Priority]},
        "The class of the request where requests wait; a key may lower its own.",
    ),
    "X-Pointsman-Cache": (
        {"type": "string", "enum": ["use"]},
        "Takes an answer that was given before to the same request.",
    ),
}
# Of routes that do several things at once, each of which has that time.
OF_PARTS: Headers = {
    "X-Request-Timeout": (_SECONDS, "Seconds that you wait; a part that takes longer is told as such."),
}
GIVEN = {
    "X-Request-ID": (_TEXT, "Yours, if you sent a fit one."),
    "X-Process-Time": (_TEXT, "Seconds until the answer began."),
    "X-Pointsman-Model": (_TEXT, "The model that answers; another than you asked for, where that fell back."),
    "X-Pointsman-Replica": (_TEXT, "The replica that answers."),
    "X-Pointsman-Attempts": (_COUNT, "How often a replica was asked, the fallbacks' included."),
    "X-Pointsman-Ignored": (_TEXT, "What the answer does without, with a comma between; absent: nothing."),
    "X-Pointsman-Trimmed": (_COUNT, "How many old messages were left out so that the others fit."),
    "X-Pointsman-Cache": (_TEXT, "What came of `X-Pointsman-Cache`: hit, miss, shared, or bypass with why."),
}
_LATER = {"Retry-After": {"schema": _COUNT, "description": "Seconds after which to come again."}}


def parameters(taken: Headers = TAKEN) -> list[dict[str, Any]]:
    """The headers that a request may have."""
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
        for name, (schema, text) in taken.items()
    ]


def of_answer() -> dict[str, Any]:
    """The headers of an answer."""
    return {name: {"schema": schema, "description": text} for name, (schema, text) in GIVEN.items()}


def of_error(status: int) -> dict[str, Any]:
    """The headers of an error."""
    return _LATER if status in (429, 503) else {}
