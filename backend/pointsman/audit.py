"""The audit log: who changed what, when, and how it ended; never anything of a request's content.

One line for each admin action and each change of the key file, by the logger `pointsman.audit`. It is written
whatever LOG_LEVEL says.
"""

import logging

LOGGER = "pointsman.audit"
_log = logging.getLogger(LOGGER)


def note(who: str, what: str, outcome: str, request_id: str | None = None) -> None:
    """Write a line.

    Args:
        who: `address 10.0.0.1`, `key 1a2b3c4d at 10.0.0.1` or `key file`.
        what: the action, by names that are ours: a route's template, a model's id.
        outcome: `ok` with what is so now, or the code of the error.
    """
    facts = {"who": who, "what": what, "outcome": outcome}
    if request_id is not None:
        facts["request_id"] = request_id
    _log.info("%s: %s: %s", who, what, outcome, extra={"facts": facts})
