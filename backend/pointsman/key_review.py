"""Keys that are for routes or models which there are not: each reading of the keys is told of once.

They are no error: a model may come later, and the file may be that of another version.
"""

import logging
from collections.abc import Iterator

from pointsman import guard_classes
from pointsman.keys import Key, KeyTable
from pointsman.registry import Registry

_TOLD = 10  # in one line; the others are counted
_log = logging.getLogger("pointsman.keyring")


class KeyReview:
    """Looks through tables of keys."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seen: KeyTable | None = None

    def look(self, table: KeyTable) -> None:
        """Warn, in one line, of what the keys name and there is not; a table is looked through once."""
        if table is self._seen:
            return
        self._seen = table
        found = [f"key {key.name} {what}" for key in table.keys for what in self._unknown(key)]
        if found:
            more = f", and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
            _log.warning("keys are for what is not there: %s%s", ", ".join(found[:_TOLD]), more)

    def _unknown(self, key: Key) -> Iterator[str]:
        for route in sorted(key.routes - guard_classes.KNOWN - guard_classes.OPEN):
            near = guard_classes.nearest(route)
            yield f"the route {guard_classes.shown(route)}" + ("" if near is None else f" (is it {near}?)")
        for name in sorted(key.models - self._registry.models.keys()):
            model = self._registry.find(name)
            hint = "" if model is None else f" (keys name {model.id} by its id)"
            yield f"the model {guard_classes.shown(name)}{hint}"
