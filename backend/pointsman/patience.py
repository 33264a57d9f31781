"""How long a client is willing to wait: its header `X-Request-Timeout`."""

import re
from collections.abc import Iterable

from pointsman.errors import BAD_REQUEST, RouterError

HEADER = b"x-request-timeout"
LONGEST_S = 86400.0  # as long as a timeout of ours can be
_SECONDS = re.compile(rb"[0-9]{1,6}(?:\.[0-9]{1,20})?")
_MUST = f"`X-Request-Timeout` must be seconds, more than 0 and at most {LONGEST_S:g}, such as 30 or 2.5."


def read(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """The seconds that a client gives to the whole of its exchange; None: it does not say.

    Raises:
        RouterError: BAD_REQUEST; the header is no such number, or there twice.
    """
    told = [value.strip(b" \t") for name, value in headers if name == HEADER]  # RFC 9110 5.5
    if not told:
        return None
    seconds = float(told[0]) if len(told) == 1 and _SECONDS.fullmatch(told[0]) else 0.0
    if not 0 < seconds <= LONGEST_S:
        raise RouterError(BAD_REQUEST, _MUST, param="X-Request-Timeout")
    return seconds
