"""The line of those who wait for a slot of one model: who is next, and who has to go when it is full.

Pure: no clock, no sleep; `admission` drives it. Source: `reliability.md` section 7.

Classes share slots and room in the line by weight, so that none starves. Within a class the parties take
turns, whatever each has waiting; a party's own calls go first come, first served. While the oldest of a class
waits too long, its newest go first: the oldest will hardly be served in time anyway, and so the others are.
"""

import math
from collections.abc import Iterator
from enum import StrEnum
from heapq import heapify, heappop, heapreplace
from typing import Generic, TypeVar

_UNKNOWN_S = 5.0  # a model that has served nobody yet may take so long
_RETRY_AFTER_MAX_S = 30.0
_REMEMBERED = 256  # parties that were served and have nobody waiting now


class Priority(StrEnum):
    """Class of a call, the first first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


WEIGHTS = {Priority.HIGH: 16, Priority.NORMAL: 4, Priority.LOW: 1}  # of slots and of room, where all wait


class Waiter:
    """One call that waits. `since` is in monotonic seconds."""

    __slots__ = ("number", "party", "priority", "since")

    def __init__(self, party: str, priority: Priority, since: float) -> None:
        self.party = party
        self.priority = priority
        self.since = since
        self.number = 0  # in the order of joining


_W = TypeVar("_W", bound=Waiter)


class _Party(Generic[_W]):
    """Those of one party and class who wait, in the order in which they came."""

    __slots__ = ("round", "waiters")

    def __init__(self, turn: int) -> None:
        self.round = turn  # that it is to be served in next
        self.waiters: dict[_W, None] = {}


class _Class(Generic[_W]):
    def __init__(self, weight: int) -> None:
        self.stride = 1 / weight
        self.passed = 0.0  # grows by the stride with each that is served; the least is next
        self.round = 0  # of the parties, the earliest that is being served
        self.waiters: dict[_W, None] = {}
        self.parties: dict[str, _Party[_W]] = {}
        self.served: dict[str, int] = {}  # rounds of parties that left while others had not had their turn

    def add(self, waiter: _W) -> None:
        party = self.parties.get(waiter.party)
        if party is None:
            turn = max(self.served.pop(waiter.party, 0), self.round)
            party = self.parties[waiter.party] = _Party(turn)
        party.waiters[waiter] = self.waiters[waiter] = None

    def remove(self, waiter: _W, *, served: bool) -> None:
        party = self.parties[waiter.party]
        if served:
            self.round = min(one.round for one in self.parties.values())
            self.passed += self.stride
            party.round += 1
        del party.waiters[waiter], self.waiters[waiter]
        if not party.waiters:
            del self.parties[waiter.party]
            if party.round > self.round:
                self.served[waiter.party] = party.round
                if len(self.served) > _REMEMBERED:
                    del self.served[next(iter(self.served))]

    def late(self, due: float) -> bool:
        """Whether its oldest has waited since `due` or longer."""
        return bool(self.waiters) and next(iter(self.waiters)).since <= due

    def order(self, *, newest_first: bool) -> Iterator[_W]:
        """Those who wait in the order of their turns."""
        turns = []
        sign = -1 if newest_first else 1
        for party in self.parties.values():
            rest = reversed(party.waiters) if newest_first else iter(party.waiters)
            first = next(rest)
            turns.append((party.round, sign * first.number, first, rest))
        heapify(turns)
        while turns:
            turn, _, waiter, rest = turns[0]
            yield waiter
            follower = next(rest, None)
            if follower is None:
                heappop(turns)
            else:
                heapreplace(turns, (turn + 1, sign * follower.number, follower, rest))


class Line(Generic[_W]):
    """Those who wait for one model.

    Args:
        newest_first_after_s: seconds that the oldest of a class may wait before its newest go first.
    """

    def __init__(self, newest_first_after_s: float) -> None:
        self._patience_s = newest_first_after_s
        self._classes: dict[Priority, _Class[_W]] = {kind: _Class(WEIGHTS[kind]) for kind in Priority}
        self._passed = 0.0  # of the class that was served last, at least
        self._count = 0
        self._joined = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, waiter: _W) -> bool:
        return waiter in self._classes[waiter.priority].waiters

    def join(self, waiter: _W) -> None:
        """Let one in; how many may wait is for the caller to see to."""
        kind = self._classes[waiter.priority]
        if not kind.waiters:
            kind.passed = max(kind.passed, self._passed)  # who was away has saved up no turns
        waiter.number = self._joined = self._joined + 1
        kind.add(waiter)
        self._count += 1

    def leave(self, waiter: _W) -> None:
        """Let one go who was not served."""
        self._classes[waiter.priority].remove(waiter, served=False)
        self._count -= 1

    def serve(self, waiter: _W) -> None:
        """Let one go who got a slot: its party and its class have had a turn."""
        self._passed = min(kind.passed for kind in self._classes.values() if kind.waiters)
        self._classes[waiter.priority].remove(waiter, served=True)
        self._count -= 1

    def order(self, now: float) -> Iterator[_W]:
        """All who wait, in the order in which slots would be handed out. Not to be used after a change."""
        turns = [
            (kind.passed, number, kind.stride, kind.order(newest_first=kind.late(now - self._patience_s)))
            for number, kind in enumerate(self._classes.values())
            if kind.waiters
        ]
        heapify(turns)
        while turns:
            passed, number, stride, waiters = turns[0]
            waiter = next(waiters, None)
            if waiter is None:
                heappop(turns)
                continue
            yield waiter
            heapreplace(turns, (passed + stride, number, stride, waiters))

    def position(self, waiter: _W, now: float) -> int:
        """How many slots must be handed out until it has one, counted from 1; 0: it does not wait."""
        return next((place for place, one in enumerate(self.order(now), 1) if one is waiter), 0)

    def displaced(self, newcomer: _W, now: float) -> _W | None:
        """Who has to go so that a newcomer can join a full line; None: the newcomer has to.

        The class with most for its weight gives way; within it the party with most waiting.
        """
        own = self._classes[newcomer.priority]
        held = {kind: len(kind.waiters) + (kind is own) for kind in self._classes.values()}
        largest = max(reversed(held), key=lambda kind: held[kind] * kind.stride)
        party = max(largest.parties.values(), key=lambda one: len(one.waiters), default=None)
        if party is None:
            return None
        if largest is own:
            mine = own.parties.get(newcomer.party)
            if len(party.waiters) <= (0 if mine is None else len(mine.waiters)) + 1:
                return None
        pick = iter if largest.late(now - self._patience_s) else reversed
        return next(pick(party.waiters))

    def crowds(self, newcomer: _W) -> bool:
        """Whether the party would have more waiting in its class than an equal share."""
        kind = self._classes[newcomer.priority]
        party = kind.parties.get(newcomer.party)
        own = 1 + (0 if party is None else len(party.waiters))
        parties = len(kind.parties) + (party is None)
        return parties > 1 and own * parties > len(kind.waiters) + 1


def retry_after_s(waiting: int, slots: int, service_s: float, jitter: float) -> int:
    """Whole seconds after which a line of so many will have been served, as far as one can tell.

    Args:
        waiting: those who wait, the one that is told counted.
        slots: of all replicas together.
        service_s: how long a call takes a slot, lately; 0: not known.
        jitter: drawn by the caller, in [0, 1): not all are to come back at once.

    Returns:
        1 to 30, and up to a quarter and a second more.
    """
    drain_s = waiting * service_s / slots if service_s and slots else _UNKNOWN_S
    wait_s = min(max(drain_s, 1.0), _RETRY_AFTER_MAX_S)
    return math.ceil(wait_s) + int(jitter * (2 + wait_s / 4))
