"""What every policy owes its callers, and what each of them promises beyond it."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from math import sqrt
from random import Random

import pytest

from pointsman.policy import DEFAULT, POLICIES, Policy, make
from pointsman.policy.least_in_flight import LeastInFlight
from pointsman.policy.round_robin import RoundRobin
from pointsman.policy.two_choices import TwoChoices
from pointsman.policy.weighted import Weighted
from pointsman.replica import Endpoint, Engine, Replica


def replica(name: str, in_flight: int = 0, weight: int = 1) -> Replica:
    """A vLLM replica that nobody calls."""
    endpoint = Endpoint("http", "127.0.0.1", 9)
    return Replica(name, "m", Engine.VLLM, endpoint, weight=weight, in_flight=in_flight)


def pool(*loads: int) -> list[Replica]:
    """Replicas a, b, c … with these many requests in flight."""
    return [replica(chr(ord("a") + place), load) for place, load in enumerate(loads)]


def fresh(kind: type[Policy], candidates: list[Replica], rng: Random) -> Replica:
    """The first choice of a policy without memory."""
    return kind().choose(candidates, rng)


def tally(choose: Callable[[], Replica], draws: int) -> Counter[str]:
    """How often each replica was chosen in so many draws."""
    return Counter(choose().id for _ in range(draws))


def even(counts: Counter[str], names: str, draws: int) -> bool:
    """Whether each one-letter name came up equally often, within five standard deviations."""
    share = 1 / len(names)
    slack = 5 * sqrt(draws * share * (1 - share))
    return set(counts) == set(names) and all(abs(counts[n] - draws * share) <= slack for n in names)


@pytest.fixture(params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> Policy:
    return make(request.param)


def test_the_only_candidate_is_chosen(policy: Policy) -> None:
    """One candidate leaves no choice, whatever its load."""
    only = replica("a", in_flight=99)
    assert all(policy.choose([only], Random(seed)) is only for seed in range(20))


def test_the_choice_is_a_candidate(policy: Policy) -> None:
    """Over candidate lists that change at random, the choice is always in the list and nothing is counted."""
    rng = Random(7)
    replicas = [replica(f"r{n}", rng.randrange(5), rng.randrange(1, 5)) for n in range(12)]
    loads = [r.in_flight for r in replicas]
    for _ in range(3000):
        candidates = rng.sample(replicas, rng.randrange(1, 13))
        before = list(candidates)
        assert policy.choose(candidates, rng) in candidates
        assert candidates == before
    assert [r.in_flight for r in replicas] == loads


def test_the_same_dice_give_the_same_choices() -> None:
    """A policy has no dice and no clock of its own."""
    for name in POLICIES:
        first, second = make(name), make(name)
        dice, same = Random(3), Random(3)
        replicas = pool(1, 0, 0, 2, 0)
        choices = [first.choose(replicas, dice) for _ in range(200)]
        assert choices == [second.choose(replicas, same) for _ in range(200)]


def test_replicas_that_come_and_go_do_not_pile_up(policy: Policy) -> None:
    """Thousands of replica ids that never come back leave a bounded memory."""
    rng = Random(1)
    for number in range(6000):
        policy.choose([replica(f"{number}-a"), replica(f"{number}-b")], rng)
    memories = [value for value in vars(policy).values() if isinstance(value, dict)]
    assert all(len(memory) <= 4096 for memory in memories)


def test_make_knows_its_names() -> None:
    """Each name gives a new policy, and an unknown one a sentence that lists the known ones."""
    assert type(make(DEFAULT)) is POLICIES["least_in_flight"]
    assert make("round_robin") is not make("round_robin")
    with pytest.raises(ValueError, match=r"'fastest'.*least_in_flight, round_robin, two_choices, weighted"):
        make("fastest")


def test_least_in_flight_nobody_is_less_loaded() -> None:
    """Whatever the loads and weights, nobody has a lower load than the chosen one."""
    rng = Random(11)
    for _ in range(2000):
        candidates = [
            replica(f"r{n}", rng.randrange(9), rng.randrange(1, 5)) for n in range(rng.randrange(1, 9))
        ]
        chosen = LeastInFlight().choose(candidates, rng)
        assert chosen.in_flight / chosen.weight == min(r.in_flight / r.weight for r in candidates)


def test_least_in_flight_load_is_per_weight() -> None:
    """Three in flight at weight 4 are less than one at weight 1."""
    light, heavy = replica("light", in_flight=1), replica("heavy", in_flight=3, weight=4)
    assert LeastInFlight().choose([light, heavy], Random(0)) is heavy


def test_least_in_flight_ties_are_broken_evenly() -> None:
    """Equals are chosen equally often, wherever they stand, and nobody else is."""
    for loads, names in (((0, 0), "ab"), ((0,) * 8, "abcdefgh"), ((3, 1, 2, 1, 1), "bde"), ((1, 1, 2), "ab")):
        rng, candidates = Random(5), pool(*loads)
        counts = tally(partial(fresh, LeastInFlight, candidates, rng), 12_000)
        assert even(counts, names, 12_000), (loads, counts)


def test_two_choices_each_candidate_is_sampled_evenly() -> None:
    """With equal loads each candidate is chosen equally often."""
    for names in ("ab", "abc", "abcdefg"):
        rng, candidates = Random(2), pool(*[1] * len(names))
        counts = tally(partial(fresh, TwoChoices, candidates, rng), 12_000)
        assert even(counts, names, 12_000), counts


def test_two_choices_the_less_loaded_is_always_chosen() -> None:
    """Both of two candidates are always in the sample, in either order."""
    rng, (busy, idle) = Random(4), pool(5, 4)
    assert all(TwoChoices().choose([busy, idle], rng) is idle for _ in range(500))
    assert all(TwoChoices().choose([idle, busy], rng) is idle for _ in range(500))


def test_two_choices_every_pair_is_equally_likely() -> None:
    """With loads 0 to 4, a replica wins just the pairs in which it is the lowest: 4, 3, 2, 1, 0 of 10."""
    rng, candidates, draws = Random(6), pool(0, 1, 2, 3, 4), 20_000
    counts = tally(partial(fresh, TwoChoices, candidates, rng), draws)
    for place, name in enumerate("abcde"):
        expected = draws * (4 - place) / 10
        assert abs(counts[name] - expected) <= 5 * (draws * 0.25) ** 0.5, counts
    assert counts["e"] == 0


def test_two_choices_load_is_per_weight() -> None:
    """Three in flight at weight 4 are less than one at weight 1."""
    light, heavy = replica("light", in_flight=1), replica("heavy", in_flight=3, weight=4)
    assert all(TwoChoices().choose([light, heavy], Random(seed)) is heavy for seed in range(50))


def test_round_robin_everybody_has_one_turn_per_round() -> None:
    """Any n choices in a row from n candidates are n different replicas, in an order that stays."""
    policy, rng, candidates = RoundRobin(), Random(8), pool(9, 0, 3, 0, 5)
    order = [policy.choose(candidates, rng).id for _ in range(5)]
    assert sorted(order) == list("abcde")
    for _ in range(4):
        rng.shuffle(candidates)
        assert [policy.choose(candidates, rng).id for _ in range(5)] == order


def test_round_robin_the_neighbour_of_a_flapping_replica_gets_no_more() -> None:
    """When b is there every other time only, a, c and d still share the rest evenly."""
    policy, rng = RoundRobin(), Random(8)
    a, b, c, d = pool(0, 0, 0, 0)
    counts: Counter[str] = Counter()
    for number in range(4000):
        counts[policy.choose([a, b, c, d] if number % 2 else [a, c, d], rng).id] += 1
    assert max(counts[n] for n in "acd") - min(counts[n] for n in "acd") <= 2, counts
    assert abs(counts["b"] - 1000) <= 2, counts


def test_round_robin_a_replica_that_returns_is_not_flooded() -> None:
    """Who was away for a thousand turns gets one turn first and then as many as everybody."""
    policy, rng = RoundRobin(), Random(8)
    a, b, c = pool(0, 0, 0)
    for _ in range(30):
        policy.choose([a, b, c], rng)
    for _ in range(1000):
        policy.choose([a, b], rng)
    assert policy.choose([a, b, c], rng) is c
    assert tally(partial(policy.choose, [a, b, c], rng), 30) == {"a": 10, "b": 10, "c": 10}


def test_round_robin_first_turns_are_drawn_evenly() -> None:
    """Workers that start together begin at different replicas."""
    rng, candidates = Random(9), [replica(n) for n in "abcd"]
    counts = tally(partial(fresh, RoundRobin, candidates, rng), 8000)
    assert even(counts, "abcd", 8000), counts


def test_weighted_shares_follow_the_weights_in_every_period() -> None:
    """Each period as long as the sum of weights holds each replica exactly weight times."""
    rng = Random(3)
    for weights in ((5, 1, 1), (1, 1, 1), (2, 3, 7, 1), (10, 10, 1)):
        policy = Weighted()
        candidates = [replica(chr(97 + place), weight=w) for place, w in enumerate(weights)]
        for _ in range(5):
            counts = tally(partial(policy.choose, candidates, rng), sum(weights))
            assert [counts[r.id] for r in candidates] == list(weights)


def test_weighted_turns_are_spread_and_not_bunched() -> None:
    """Weights 5, 1, 1: the heavy one never has more than three turns in a row, over period borders too."""
    policy, rng = Weighted(), Random(3)
    candidates = [replica("a", weight=5), replica("b"), replica("c")]
    turns = "".join(policy.choose(candidates, rng).id for _ in range(700))
    assert "aaaaa" not in turns
    assert turns[:7].count("aaa") == 0


def test_weighted_an_absent_replica_changes_no_other_share() -> None:
    """While c is away every other time, a and b keep their 3 to 1."""
    policy, rng = Weighted(), Random(3)
    a, b, c = replica("a", weight=3), replica("b", weight=1), replica("c", weight=4)
    counts: Counter[str] = Counter()
    for number in range(8000):
        counts[policy.choose([a, b, c] if number % 2 else [a, b], rng).id] += 1
    assert abs(counts["a"] - 3 * counts["b"]) <= 24, counts
    assert abs(counts["c"] - 2000) <= 8, counts


def test_weighted_equal_weights_start_anywhere() -> None:
    """Workers that start together begin at different replicas."""
    rng, candidates = Random(9), [replica(n, weight=2) for n in "abcd"]
    counts = tally(partial(fresh, Weighted, candidates, rng), 8000)
    assert even(counts, "abcd", 8000), counts
