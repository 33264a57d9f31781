"""The less loaded of two random candidates.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996). Routers that share
nothing do not all run to the same replica, as they would to the least loaded one.
"""

from collections.abc import Sequence
from random import Random

from pointsman.replica import Replica


class TwoChoices:
    """Draws two distinct candidates, each pair with the same chance; load is `in_flight / weight`."""

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        count = len(candidates)
        if count == 1:
            return candidates[0]
        here = int(rng.random() * count)
        there = int(rng.random() * (count - 1))
        if there >= here:
            there += 1
        one, other = candidates[here], candidates[there]
        # A tie goes to the first drawn, which is either of the two with the same chance.
        return other if other.in_flight / other.weight < one.in_flight / one.weight else one
