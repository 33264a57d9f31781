"""Turns in proportion to weight, spread evenly.

The method is nginx's smooth weighted round robin (commit 52327e0627f4, 2012): weights 5, 1, 1 give
a a b a c a a and not a a a a a b c.
"""

from collections.abc import Sequence
from math import inf
from random import Random

from pointsman.replica import Replica

REMEMBERED = 4096  # replica ids; beyond it those that are no candidates are forgotten


class Weighted:
    """Each choice credits every candidate with its share of one turn and charges the chosen one with a turn.

    Shares and not bare weights, as nginx has it: otherwise a turn is dearer in a longer list, and the ratio
    of two replicas changes when a third comes and goes. The credit of an absent replica stands still.
    Equal credits are settled at random, so that workers that start together do not march in step.
    """

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}  # replica id -> turns owed to it, above -1

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        best = candidates[0]
        if len(candidates) == 1:
            return best
        credit = self._credit
        total = sum([replica.weight for replica in candidates])
        ties = 0
        most = -inf
        for replica in candidates:
            owed = credit[replica.id] = credit.get(replica.id, 0.0) + replica.weight / total
            if owed > most:
                best, most, ties = replica, owed, 1
            elif owed == most:
                ties += 1
                if rng.random() * ties < 1.0:
                    best = replica
        credit[best.id] -= 1.0
        if len(credit) > REMEMBERED:
            self._credit = {replica.id: credit[replica.id] for replica in candidates}
        return best
