"""What operators want otherwise than the settings say, until the router is started anew.

One value holds all of it, so that workers tell each other the whole and not single acts: the higher version
wins, and to follow it twice does nothing. A replica is named by where it is; its id is a worker's own.
"""

from typing import Self

import msgspec

ENTRIES_MAX = 1000  # of each list


class Seat(msgspec.Struct, frozen=True):
    """A replica's place in a pool: what stays the same as long as it is the same replica."""

    model: str  # the model's id
    url: str
    engine: str
    served_name: str | None = None


class Addition(msgspec.Struct, frozen=True):
    """A replica that an operator added."""

    seat: Seat
    weight: int = 1
    max_in_flight: int | None = None
    key: str | None = None

    def __repr__(self) -> str:
        return f"Addition({self.seat!r}, {self.weight}, {self.max_in_flight})"


class Orders(msgspec.Struct, frozen=True):
    """All that is wanted. `default` is a model's id; None: what the settings say."""

    version: int = 0
    default: str | None = None
    drained: tuple[Seat, ...] = ()
    removed: tuple[Seat, ...] = ()  # that the settings hold
    added: tuple[Addition, ...] = ()

    @property
    def full(self) -> bool:
        """Whether no more can be wanted."""
        return max(len(self.drained), len(self.removed), len(self.added)) >= ENTRIES_MAX

    def naming(self, default: str | None) -> Self:
        """With another default model."""
        return self._next(default=default)

    def draining(self, seat: Seat) -> Self:
        """With a replica that takes no new work."""
        return self._next(drained=(*_without(self.drained, seat), seat))

    def resuming(self, seat: Seat) -> Self:
        """With a replica that takes work again."""
        return self._next(drained=_without(self.drained, seat))

    def adding(self, addition: Addition, *, configured: bool) -> Self:
        """With one more replica; one that is `configured` and was removed is simply back."""
        seat = addition.seat
        added = tuple(one for one in self.added if one.seat != seat)
        return self._next(
            added=added if configured else (*added, addition),
            removed=_without(self.removed, seat),
            drained=_without(self.drained, seat),
        )

    def removing(self, seat: Seat, *, configured: bool) -> Self:
        """Without a replica."""
        return self._next(
            added=tuple(one for one in self.added if one.seat != seat),
            removed=(*_without(self.removed, seat), *((seat,) if configured else ())),
            drained=_without(self.drained, seat),
        )

    def _next(self, **changes: object) -> Self:
        return msgspec.structs.replace(self, version=self.version + 1, **changes)


def _without(seats: tuple[Seat, ...], seat: Seat) -> tuple[Seat, ...]:
    return tuple(one for one in seats if one != seat)
