"""The rate rule: never more than burst and rate allow, never less for long."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.gcra import Arrival, Rate, ahead_s, charge, remaining, take

SEED_002 = Rate(10, 15)  # the bucket of seed 002: 10 per minute, 15 at once

rates = st.builds(Rate, st.floats(0.1, 1e6), st.integers(1, 1000))
steps = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=100)


def test_the_bucket_of_seed_002() -> None:
    """15 at once, then one each six seconds; the sixteenth is told to wait six seconds."""
    arrival = None
    for number in range(15):
        assert remaining(SEED_002, ahead_s(arrival, 100.0)) == 15 - number
        arrival, wait = take(SEED_002, arrival, 100.0)
        assert wait == 0
    assert take(SEED_002, arrival, 100.0) == (arrival, 6.0)
    assert take(SEED_002, arrival, 103.0).wait_s == 3.0
    assert take(SEED_002, arrival, 106.0).wait_s == 0
    assert remaining(SEED_002, ahead_s(arrival, 190.0)) == 15


@given(rates, steps)
def test_no_window_admits_more_than_burst_and_rate(rate: Rate, sequence: list[tuple[float, float]]) -> None:
    """In any window of t seconds, at most burst + rate * t is let through."""
    arrival, now = None, 0.0
    taken: list[tuple[float, float]] = []
    for pause, share in sequence:
        now += pause
        cost = share * rate.burst
        arrival, wait = take(rate, arrival, now, cost)
        if not wait:
            taken.append((now, cost))
    for first, (begin, _) in enumerate(taken):
        total = 0.0
        for end, cost in taken[first:]:
            total += cost
            allowed = rate.burst + (end - begin + 1e-6 * len(taken)) * rate.per_minute / 60
            assert total <= allowed * (1 + 1e-9)


@given(rates, steps)
def test_who_waits_as_told_is_let_through(rate: Rate, sequence: list[tuple[float, float]]) -> None:
    """After the wait that a refusal names, the same cost is taken; and half that wait is too short."""
    arrival, now = None, 0.0
    for pause, share in sequence:
        now += pause
        cost = share * rate.burst
        arrival, wait = take(rate, arrival, now, cost)
        if wait > 1e-3:
            assert take(rate, arrival, now + wait / 2, cost).wait_s > 0
        if wait:
            now += wait + 1e-6
            arrival, wait = take(rate, arrival, now, cost)
            assert wait == 0


@given(rates, steps, st.floats(0, 1e9))
def test_a_clock_that_goes_back_does_no_harm(
    rate: Rate, sequence: list[tuple[float, float]], jump: float
) -> None:
    """When the clock goes back, no time has passed: nobody waits longer than before, nothing is won."""
    arrival, now = None, 2e9
    for pause, share in sequence:
        now += pause
        arrival, _ = take(rate, arrival, now, share * rate.burst)
    assert ahead_s(arrival, now - jump) <= (0.0 if arrival is None else arrival.ahead_s)
    later = take(rate, arrival, now - jump, float(rate.burst))
    assert later.wait_s <= rate.depth_s
    if not later.wait_s and later.arrival is not None:
        assert take(rate, later.arrival, now - jump, 1.0).wait_s > 0


def test_a_cost_beyond_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() -> None:
    """A long prompt is not refused for ever; the next pays with its time."""
    rate = Rate(60, 10)
    arrival, wait = take(rate, None, 0.0, 30.0)
    assert (arrival, wait) == (Arrival(0.0, 30.0), 0.0)
    assert remaining(rate, ahead_s(arrival, 0.0)) == 0
    assert take(rate, arrival, 0.0, 1.0).wait_s == 21.0
    assert take(rate, arrival, 20.5, 30.0).wait_s == 9.5
    assert take(rate, arrival, 30.0, 30.0).wait_s == 0


@given(rates, st.floats(0, 1), st.floats(0, 1))
def test_settling_an_estimate_is_as_if_it_had_been_right(rate: Rate, reserved: float, used: float) -> None:
    """Reserved and settled at once, in either direction, leaves the state of what was really used."""
    first, _ = take(rate, None, 5.0, reserved * rate.burst)
    settled = charge(rate, ahead_s(first, 5.0), 5.0, (used - reserved) * rate.burst)
    right, _ = take(rate, None, 5.0, used * rate.burst)
    assert ahead_s(settled, 5.0) == pytest.approx(ahead_s(right, 5.0), abs=1e-6 * rate.depth_s)


def test_giving_back_fills_no_bucket_beyond_its_brim() -> None:
    """Whatever is given back, a full bucket holds the burst; it needs no state."""
    assert charge(SEED_002, 12.0, 0.0, -100.0) is None
    assert charge(SEED_002, 0.0, 0.0, 0.0) is None


def test_small_costs_do_not_drift_on_a_wall_clock() -> None:
    """Ten thousand takes at two billion seconds are as exact as at zero."""
    rate = Rate(7, 10_000)
    arrival = None
    for _ in range(10_000):
        arrival, wait = take(rate, arrival, 2e9)
        assert wait == 0
    assert take(rate, arrival, 2e9).wait_s == pytest.approx(60 / 7, abs=1e-3)


@pytest.mark.parametrize(
    ("per_minute", "burst"), [(0, 1), (-1, 1), (float("inf"), 1), (float("nan"), 1), (1, 0)]
)
def test_a_rate_out_of_range_is_refused(per_minute: float, burst: int) -> None:
    """A rate that would never or always allow is a mistake."""
    with pytest.raises(ValueError, match="must be"):
        Rate(per_minute, burst)


def test_an_arrival_is_plain_data() -> None:
    """Its two numbers are all a store has to keep."""
    assert msgspec.structs.astuple(Arrival(1.0, 2.0)) == (1.0, 2.0)
