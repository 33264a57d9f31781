"""What each API key has used since this process began; `GET /usage` tells a key its own."""

from collections import OrderedDict

import msgspec

from pointsman.exchange import Exchange

_KEPT = 10_000  # keys; the one used least recently goes first


class Used(msgspec.Struct):
    """Counts of one key."""

    requests: int = 0
    errors: int = 0  # of those requests
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Usage:
    """An observer of exchanges."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Used] = OrderedDict()

    def observe(self, exchange: Exchange) -> None:
        """Note an exchange that has ended."""
        name = exchange.key
        if not name:
            return
        used = self._of.get(name)
        if used is None:
            used = self._of[name] = Used()
            if len(self._of) > _KEPT:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(name)
        used.requests += 1
        used.errors += exchange.status >= 400
        used.prompt_tokens += exchange.prompt_tokens
        used.completion_tokens += exchange.completion_tokens

    def of(self, name: str) -> Used:
        """The counts of a key, by its name."""
        return self._of.get(name) or Used()

    def __len__(self) -> int:
        return len(self._of)
