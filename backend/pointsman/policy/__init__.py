"""Which candidate gets an attempt. A new policy is one file and its line in `POLICIES`.

Pure: dice come in as `rng`. A policy object belongs to one pool of one worker process and may keep a memory
of its own choices, which nobody else reads.
"""

from collections.abc import Sequence
from random import Random
from typing import Protocol

from pointsman.policy.least_in_flight import LeastInFlight
from pointsman.policy.round_robin import RoundRobin
from pointsman.policy.two_choices import TwoChoices
from pointsman.policy.weighted import Weighted
from pointsman.replica import Replica

DEFAULT = "least_in_flight"


class Policy(Protocol):
    """Chooses among replicas that are all fit for the attempt."""

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        """Return one of `candidates`, which must hold at least one replica and no replica twice."""


POLICIES: dict[str, type[Policy]] = {
    "least_in_flight": LeastInFlight,
    "round_robin": RoundRobin,
    "two_choices": TwoChoices,
    "weighted": Weighted,
}


def make(name: str) -> Policy:
    """Build the policy of that name, without memory.

    Raises:
        ValueError: one sentence that lists the known names.
    """
    try:
        return POLICIES[name]()
    except KeyError:
        raise ValueError(f"unknown policy {name!r}; known are {', '.join(sorted(POLICIES))}") from None
