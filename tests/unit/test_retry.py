"""Retry rules: which failure may be tried again, where, when, and how often in all."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import attempt
from pointsman.attempt import ALL_ENDS, AttemptFailed, End, Retry
from pointsman.retry import Again, Budget, RetryConfig, Step, Stop, Tried, next_step, parse_retry_after

CONFIG = RetryConfig()
FRESH = Again(0.0, same_replica=True, fresh=True)
ONWARD = Again(0.0)
REPAIR = Again(0.0, same_replica=True)
STOP = Stop()

# What follows the first failure of a kind, its repetition, and a failure without another replica.
TABLE = [
    (attempt.CONNECT, ONWARD, ONWARD, STOP),
    (attempt.RESET_REUSED, FRESH, STOP, FRESH),
    (attempt.RESET_NEW, ONWARD, STOP, STOP),
    (attempt.REFUSED, ONWARD, ONWARD, STOP),
    (attempt.ABORTED, ONWARD, ONWARD, STOP),
    (attempt.BAD_GATEWAY, ONWARD, ONWARD, STOP),
    (attempt.MISCONFIGURED, ONWARD, ONWARD, STOP),
    (attempt.GATEWAY_TIMEOUT, STOP, STOP, STOP),
    (attempt.ENGINE_ERROR, ONWARD, STOP, STOP),
    (attempt.TRUNCATED, ONWARD, STOP, STOP),
    (attempt.JUNK, STOP, STOP, STOP),
    (attempt.MISFIT, REPAIR, STOP, REPAIR),
    (attempt.REJECTED, STOP, STOP, STOP),
    (attempt.TTFT, STOP, STOP, STOP),
    (attempt.IDLE, STOP, STOP, STOP),
    (attempt.TOTAL, STOP, STOP, STOP),
    (attempt.DEADLINE, STOP, STOP, STOP),
    (attempt.CLIENT_ABORT, STOP, STOP, STOP),
    (attempt.SLOW_CLIENT, STOP, STOP, STOP),
    (attempt.NO_ENDPOINT, STOP, STOP, STOP),
    (attempt.QUEUE_FULL, STOP, STOP, STOP),
    (attempt.QUEUE_TIMEOUT, STOP, STOP, STOP),
    (attempt.BUFFER_FULL, STOP, STOP, STOP),
    (attempt.SHUTDOWN, STOP, STOP, STOP),
    (attempt.BUG, STOP, STOP, STOP),
    (attempt.OK, STOP, STOP, STOP),
    (attempt.CANCELLED, STOP, STOP, STOP),
]


def step(
    end: End,
    attempts: int = 1,
    others: int = 1,
    config: RetryConfig = CONFIG,
    jitter: float = 0.0,
    retry_after_s: float | None = None,
    fresh_used: bool = False,
    once_used: bool = False,
    repaired: bool = False,
) -> Step:
    failure = AttemptFailed(end, retry_after_s=retry_after_s)
    tried = Tried(attempts, fresh_used, once_used, repaired)
    return next_step(failure, tried, others, config, jitter)


@pytest.mark.parametrize(
    ("end", "first", "second", "alone"),
    TABLE,
    ids=lambda value: value.label if isinstance(value, End) else "",
)
def test_each_row_of_the_table(end: End, first: Step, second: Step, alone: Step) -> None:
    """The retry table of reliability.md section 2 is obeyed row by row."""
    assert step(end) == first
    assert step(end, attempts=2, fresh_used=True, once_used=True, repaired=True) == second
    assert step(end, others=0) == alone


def test_the_table_has_a_row_for_each_end() -> None:
    """A new way to fail must be judged here before it ships."""
    assert {row[0] for row in TABLE} == set(ALL_ENDS)


@pytest.mark.parametrize("end", ALL_ENDS, ids=lambda end: end.label)
def test_three_attempts_are_the_most(end: End) -> None:
    """After the third attempt no end leads to a fourth, and `max_attempts: 1` forbids all retries."""
    assert step(end, attempts=3, others=9) == STOP
    assert step(end, attempts=1, others=9, config=RetryConfig(max_attempts=1)) == STOP


def test_two_killed_engines_are_enough() -> None:
    """A request that failed one engine by a reset and one by a 500 gets no third."""
    assert step(attempt.ENGINE_ERROR, attempts=2, others=5, once_used=True) == STOP
    assert step(attempt.RESET_NEW, attempts=2, others=5, once_used=True) == STOP
    assert step(attempt.REFUSED, attempts=2, others=5, once_used=True) == ONWARD


def test_a_stale_connection_is_not_a_second_chance_for_others() -> None:
    """The fresh try is given once; a stale connection after it ends the exchange."""
    assert step(attempt.RESET_REUSED, attempts=2, fresh_used=True) == STOP
    assert step(attempt.RESET_REUSED, attempts=2, once_used=True) == FRESH


def test_a_late_first_event_is_retried_only_on_demand() -> None:
    """The prompt was accepted; asking again elsewhere costs a second prefill, so it is an option."""
    willing = RetryConfig(retry_on_first_event_timeout=True)
    assert step(attempt.TTFT, config=willing) == ONWARD
    assert step(attempt.TTFT, config=willing, others=0) == STOP
    assert step(attempt.IDLE, config=willing) == STOP


@pytest.mark.parametrize(
    ("asked", "others", "expected"),
    [
        (None, 0, STOP),
        (0.0, 0, Again(0.1, same_replica=True)),
        (1.0, 0, Again(1.0, same_replica=True)),
        (2.0, 0, Again(2.0, same_replica=True)),
        (3.0, 0, STOP),
        (1.0, 1, ONWARD),
        (60.0, 1, ONWARD),
    ],
)
def test_retry_after_is_honoured_by_the_only_replica(
    asked: float | None, others: int, expected: Step
) -> None:
    """Up to 2 s we wait for the only replica; a longer wait is the client's, and others are asked at once."""
    assert step(attempt.REFUSED, others=others, retry_after_s=asked) == expected


def test_the_only_replica_is_not_asked_before_the_backoff_is_over() -> None:
    """However little it asks for itself."""
    again = step(
        attempt.REFUSED,
        attempts=5,
        others=0,
        retry_after_s=0.0,
        jitter=0.9,
        config=RetryConfig(max_attempts=9),
    )
    assert isinstance(again, Again)
    assert again.after_s == pytest.approx(0.225)


def test_a_fault_does_not_return_to_its_replica() -> None:
    """Retry-After counts for overload alone."""
    assert step(attempt.ENGINE_ERROR, others=0, retry_after_s=1.0) == STOP


@given(attempts=st.integers(1, 9), jitter=st.floats(0, 1, exclude_max=True))
def test_backoff_is_full_jitter_under_a_cap(attempts: int, jitter: float) -> None:
    """The wait is drawn from 0 to min(250 ms, 25 ms doubled per attempt)."""
    again = step(attempt.CONNECT, attempts=attempts, config=RetryConfig(max_attempts=10), jitter=jitter)
    assert isinstance(again, Again)
    assert again.after_s == pytest.approx(jitter * min(0.25, 0.025 * 2 ** (attempts - 1)))


@given(
    end=st.sampled_from(ALL_ENDS),
    attempts=st.integers(1, 3),
    others=st.integers(0, 3),
    asked=st.none() | st.floats(0, 3600),
)
def test_the_same_replica_is_never_asked_at_once_except_afresh(
    end: End, attempts: int, others: int, asked: float | None
) -> None:
    """Going back to a replica takes 100 ms, or a connection that merely was stale, or a good answer of it."""
    again = step(end, attempts, others, retry_after_s=asked)
    if end.retry is Retry.REPAIR:
        assert again in (REPAIR, STOP)
    elif isinstance(again, Again) and again.same_replica:
        assert again.fresh == (end.retry is Retry.FRESH)
        assert again.fresh or again.after_s >= CONFIG.same_replica_min_s
    elif isinstance(again, Again):
        assert others > 0


def test_two_hurt_engines_end_it_whatever_the_table_says() -> None:
    """Once two engines may have died of a request, not even a refused connection leads to a third."""
    for end in ALL_ENDS:
        failure = AttemptFailed(end, retry_after_s=1.0)
        hurt = Tried(attempts=2, hurt={"gemma-0", "gemma-1"})
        assert next_step(failure, hurt, 5, RetryConfig(max_attempts=9), 0.0) == STOP
        one = next_step(failure, Tried(attempts=2, hurt={"gemma-0"}), 5, CONFIG, 0.0)
        assert one == step(end, attempts=2, others=5)


def test_an_engine_may_die_in_each_way_that_ends_a_connection_or_its_work() -> None:
    """A stale connection is among them: a dying engine looks the same. What it says of itself is not."""
    labels = {end.label for end in attempt.DEADLY}
    assert labels == {"reset_reused", "reset_new", "bad_gateway", "engine_error", "truncated"}


def retries_spent(arrivals: Sequence[float], budget: Budget | None = None) -> int:
    """Retries that a budget grants where each request fails and would try twice again."""
    budget, retries = budget or Budget(CONFIG), 0
    for now in arrivals:
        budget.note_request(now)
        for _ in range(2):
            if not budget.spend(now):
                break
            retries += 1
    return retries


def evenly(rate_per_s: float, seconds: float, start: float = 1000.0) -> list[float]:
    return [start + tick / rate_per_s for tick in range(round(rate_per_s * seconds))]


@pytest.mark.parametrize("rate", [100, 500, 2000])
@pytest.mark.parametrize("start", [1000.0, 1000.05, 1000.099])
def test_a_storm_stays_within_a_quarter(rate: int, start: float) -> None:
    """S4: while everything fails for 30 s at 100/s or more, attempts are at most 1.25 times the requests."""
    requests = evenly(rate, 30, start)
    retries = retries_spent(requests)
    assert len(requests) + retries <= 1.25 * len(requests)
    assert retries >= 0.19 * len(requests)


@pytest.mark.parametrize("good_s", [1.0, 9.95, 10.0, 60.0])
@pytest.mark.parametrize("start", [1000.0, 1000.5, 1000.93])
def test_good_times_do_not_pay_for_a_larger_storm(good_s: float, start: float) -> None:
    """What the requests before have left is spent at once, and again when the window has passed; no more."""
    budget = Budget(CONFIG)
    for now in evenly(100, good_s, start):
        budget.note_request(now)
    requests = evenly(100, 30, start + good_s)
    assert len(requests) + retries_spent(requests, budget) <= 1.25 * len(requests)


def test_the_first_second_may_spend_what_ten_have() -> None:
    """At the start the floor of 10 s is there at once: of 100 requests, 40 are tried again, not 200."""
    assert retries_spent(evenly(100, 1)) == 40
    assert retries_spent([1000.0] * 10) == 20


@given(
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=200),
    wants=st.lists(st.integers(0, 4), min_size=200, max_size=200),
    start=st.floats(0, 1e6),
    share=st.floats(0, 1),
    floor=st.floats(0, 5),
)
def test_no_ten_seconds_grant_more_than_they_may(
    gaps: list[float], wants: list[int], start: float, share: float, floor: float
) -> None:
    """Whatever comes and fails: with each grant, the last 9.9 s are within the share and the floor."""
    budget = Budget(RetryConfig(budget_share=share, budget_floor_per_s=floor))
    requests: list[float] = []
    granted: list[float] = []
    now = start
    for gap, want in zip(gaps, wants, strict=False):
        now += gap
        budget.note_request(now)
        requests.append(now)
        given_now = [now for _ in range(want) if budget.spend(now)]
        granted += given_now
        if given_now:  # with none, what was granted before may by now outlive the requests that allowed it
            lately = sum(when > now - 9.9 for when in granted)
            of = sum(when > now - 10.1 for when in requests)
            assert lately <= share * of + floor * 10 + 1e-9


def test_little_traffic_may_always_retry_a_little() -> None:
    """The floor: twenty retries in ten seconds whatever the share says, and not one more."""
    budget = Budget(CONFIG)
    assert [budget.spend(0.5) for _ in range(22)] == [True] * 20 + [False] * 2
    assert not budget.spend(10.4)
    assert [budget.spend(10.6) for _ in range(21)] == [True] * 20 + [False]


def test_without_share_and_floor_nothing_is_tried_again() -> None:
    """An operator may want that."""
    budget = Budget(RetryConfig(budget_share=0.0, budget_floor_per_s=0.0))
    budget.note_request(0.0)
    assert not budget.spend(0.0)


def test_the_share_is_of_the_last_ten_seconds() -> None:
    """Requests of long ago pay for no retry today."""
    budget = Budget(RetryConfig(budget_floor_per_s=0.0))
    for _ in range(1000):
        budget.note_request(5.0)
    assert sum(budget.spend(6.0) for _ in range(300)) == 200
    assert sum(budget.spend(20.0) for _ in range(300)) == 0


def test_a_clock_that_lags_costs_nothing() -> None:
    """The loop's clock may be some milliseconds behind the other."""
    budget = Budget(CONFIG)
    for _ in range(10):
        budget.note_request(7.0)
    assert sum(budget.spend(6.99) for _ in range(30)) == 22
    assert not budget.spend(7.0)


def test_a_busy_moment_costs_no_memory() -> None:
    """Requests of one tenth of a second share a slot."""
    budget = Budget(CONFIG)
    for _ in range(1000):
        budget.note_request(7.0)
    assert len(budget._slots) == 1


def test_a_silent_hour_costs_no_memory() -> None:
    """The window is a hundred slots, however long the budget lives."""
    budget = Budget(CONFIG)
    for tenth in range(36_000):
        budget.note_request(tenth / 10)
    assert len(budget._slots) <= 100
    assert budget._requests <= 100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("2", 2.0),
        ("0120", 120.0),
        ("00120", None),
        ("3600", 3600.0),
        ("3601", None),
        ("99999", None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        (" 1", None),
        ("1e3", None),
        ("٣", None),
        ("²", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        (None, None),
    ],
)
def test_retry_after_parses_delays_alone(value: str | None, seconds: float | None) -> None:
    """Whole seconds up to an hour; dates and nonsense are as good as nothing."""
    assert parse_retry_after(value) == seconds
