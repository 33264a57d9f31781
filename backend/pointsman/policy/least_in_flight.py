"""The candidate with the fewest of our own requests in flight for its weight."""

from collections.abc import Sequence
from random import Random

from pointsman.replica import Replica


class LeastInFlight:
    """Least `in_flight / weight`; ties are broken at random, each with the same chance.

    It counts what this worker process sent and has not seen end, not what the engine says of itself.
    An idle pool is one big tie, so weights show only under load.
    """

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        best = candidates[0]
        if len(candidates) == 1:
            return best
        least = best.in_flight / best.weight
        ties = 0
        for replica in candidates:
            load = replica.in_flight / replica.weight
            if load < least:
                best, least, ties = replica, load, 1
            elif load == least:
                # Reservoir of one: the k-th of equals takes the place with probability 1/k.
                ties += 1
                if rng.random() * ties < 1.0:
                    best = replica
        return best
