"""The candidate whose last turn is longest ago."""

from collections.abc import Sequence
from random import Random

from pointsman.replica import Replica

REMEMBERED = 4096  # replica ids; beyond it those that are no candidates are forgotten


class RoundRobin:
    """Gives each candidate its turn.

    An index into the list would favour whoever stands behind a replica that comes and goes; a turn per
    replica does not. Who never had a turn is next, drawn at random, so that workers that start together
    do not march in step; who was away gets one turn early, not all the turns it missed.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[str, int] = {}  # replica id -> number of its last turn

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        last = self._last
        turns = [last.get(replica.id, 0) for replica in candidates]
        oldest = min(turns)
        chosen = candidates[turns.index(oldest)]
        if oldest == 0:
            chosen = rng.choice([r for r, turn in zip(candidates, turns, strict=True) if turn == 0])
        self._turn += 1
        last[chosen.id] = self._turn
        if len(last) > REMEMBERED:
            self._last = {replica.id: last[replica.id] for replica in candidates if replica.id in last}
        return chosen
