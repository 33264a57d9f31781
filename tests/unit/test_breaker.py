"""What ejects a replica, for how long, and how it comes back; clock and dice are passed in."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import attempt, breaker
from pointsman.attempt import ALL_ENDS, End, Verdict
from pointsman.breaker import BreakerConfig, Evidence
from pointsman.conduct import Cause, Conduct
from pointsman.replica import Endpoint, Engine, Health, Replica, State

CONFIG = BreakerConfig()
GOOD, BAD, NO_WAY = Evidence.GOOD, Evidence.FAILURE, Evidence.UNREACHED
LATE, MUTE, REFUSAL = Evidence.SILENCE, Evidence.DEAD_SILENCE, Evidence.REFUSAL


def made(number: int, *, cause: Cause | None = None, state: State = State.UP) -> Replica:
    replica = Replica(f"m-{number}", "m", Engine.VLLM, Endpoint("http", "h", 80), health=Health(state))
    replica.conduct.cause = cause
    return replica


def noted(*found: Evidence, every_s: float = 0.1, config: BreakerConfig = CONFIG) -> list[Cause | None]:
    """What each of these asks for, one after the other."""
    conduct = Conduct()
    return [breaker.note(conduct, one, 1000.0 + n * every_s, config) for n, one in enumerate(found)]


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ([BAD] * 5, Cause.FAILURES),
        ([BAD] * 4, None),
        ([*[BAD] * 4, GOOD, *[BAD] * 4], None),
        ([NO_WAY] * 3, Cause.UNREACHED),
        ([NO_WAY, NO_WAY, BAD, BAD, BAD], Cause.FAILURES),
        ([NO_WAY, NO_WAY, GOOD, NO_WAY, NO_WAY], None),
        ([MUTE], Cause.SILENT),
        ([LATE], None),
        ([LATE, LATE], Cause.SILENT),
        ([LATE, GOOD, LATE], None),
        ([Evidence.LEAVING], Cause.DRAINING),
        ([REFUSAL] * 50, None),
        ([Evidence.NOTHING] * 50, None),
        ([BAD, REFUSAL, BAD, BAD, Evidence.NOTHING, BAD, BAD], Cause.FAILURES),
        ([*[GOOD] * 7, BAD, BAD], None),
        ([*[GOOD] * 7, BAD, BAD, GOOD, BAD], Cause.RATE),
        ([*[GOOD] * 7, BAD, BAD, BAD], Cause.RATE),
        ([*[GOOD] * 8, BAD, BAD], None),
    ],
)
def test_what_ejects(found: list[Evidence], cause: Cause | None) -> None:
    """Five failures in a row, three connections, one dead silence or two others, or a fifth of all calls."""
    asked = noted(*found)
    assert asked[-1] is cause
    assert not any(asked[:-1])


def test_the_share_of_good_calls_is_that_of_the_window() -> None:
    """What is older than thirty seconds counts no more."""
    found = [BAD, GOOD, BAD, GOOD, BAD, GOOD, BAD, GOOD, BAD, GOOD, BAD]
    assert noted(*found, every_s=1.0)[-1] is Cause.RATE
    assert noted(*found, every_s=4.0)[-1] is None


@pytest.mark.parametrize("end", ALL_ENDS, ids=lambda end: end.label)
def test_who_is_not_to_blame_is_not_blamed(end: End) -> None:
    """No fault of a client, no refusal and no doing of ours is ever a failure of the replica."""
    found = breaker.evidence(end, silent=True, lasted_s=0.1)
    blamed = found in (BAD, NO_WAY, LATE, MUTE)
    faults = (Verdict.FAULT_BEFORE_SENDING, Verdict.FAULT_AFTER_SENDING)
    ours = (attempt.BUG, attempt.NO_ENDPOINT, attempt.MISCONFIGURED, attempt.TOTAL)
    assert blamed == (end.verdict in faults and end not in ours)
    assert (found is GOOD) == (end.verdict is Verdict.SUCCESS)


@pytest.mark.parametrize(
    ("end", "silent", "lasted_s", "found"),
    [
        (attempt.TTFT, True, 2.0, MUTE),
        (attempt.TTFT, False, 2.0, LATE),
        (attempt.TOTAL, True, 600.0, MUTE),
        (attempt.TOTAL, True, 1.0, Evidence.NOTHING),
        (attempt.TOTAL, False, 600.0, Evidence.NOTHING),
        (attempt.ABORTED, False, 1.0, Evidence.LEAVING),
        (attempt.REFUSED, False, 1.0, REFUSAL),
        (attempt.MISCONFIGURED, False, 1.0, REFUSAL),
    ],
)
def test_what_an_end_says(end: End, silent: bool, lasted_s: float, found: Evidence) -> None:
    """A late first event weighs more where nothing came; the end of all time only after a long silence."""
    assert breaker.evidence(end, silent=silent, lasted_s=lasted_s) is found


def test_ejections_double_up_to_a_minute_and_are_forgiven_after_five() -> None:
    """5, 10, 20, 40, 60, 60 s; after five minutes in service the next is 5 s again."""
    conduct, lengths, now = Conduct(), [], 1000.0
    for _ in range(6):
        lengths.append(breaker.eject(conduct, Cause.FAILURES, now, 0.0, CONFIG, 0.0))
        now = conduct.until
        breaker.come_back(conduct, now, 0.0, CONFIG)
        now += 299.0
    assert lengths == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert breaker.eject(conduct, Cause.FAILURES, now + 1.0, 0.0, CONFIG, 0.0) == 5.0


def test_a_failed_try_lengthens_at_once() -> None:
    """It counts as a further ejection, since when the replica is out stays, and another call may try."""
    conduct = Conduct()
    breaker.eject(conduct, Cause.SILENT, 1000.0, 77.0, CONFIG, 0.0)
    conduct.trial_at = 1005.0
    assert breaker.eject(conduct, Cause.FAILURES, 1006.0, 83.0, CONFIG, 0.0) == 10.0
    assert (conduct.since, conduct.ejected_at, conduct.until) == (77.0, 1000.0, 1016.0)
    assert conduct.cause is Cause.FAILURES
    assert conduct.trial_at is None


@given(jitter=st.floats(0, 1, exclude_max=True), ejections=st.integers(0, 10_000))
def test_an_ejection_is_never_longer_than_its_cap_and_half(jitter: float, ejections: int) -> None:
    """Between the length without jitter and one and a half times that, whatever went before."""
    conduct = Conduct(ejections=ejections, back_at=1000.0)
    length_s = breaker.eject(conduct, Cause.RATE, 1000.0, 0.0, CONFIG, jitter)
    plain_s = min(60.0, 5.0 * 2.0 ** min(ejections, 10))
    assert plain_s <= length_s <= 1.5 * plain_s


def test_one_call_tries_at_a_time() -> None:
    """Not before the time is up, not beside another, and not where calls hang in a wedged engine."""
    replica = made(0)
    breaker.eject(replica.conduct, Cause.SILENT, 1000.0, 0.0, CONFIG, 0.0)
    assert not breaker.may_try(replica, 1004.9)
    assert breaker.may_try(replica, 1005.0)
    replica.conduct.trial_at = 1005.0
    assert not breaker.may_try(replica, 1006.0)
    breaker.put_off(replica.conduct, 1006.0)
    assert not breaker.may_try(replica, 1006.5)
    assert breaker.may_try(replica, 1007.0)
    replica.conduct.cause, replica.in_flight = Cause.WEDGED, 1
    assert not breaker.may_try(replica, 1007.0)
    replica.in_flight = 0
    assert breaker.may_try(replica, 1007.0)


@given(
    causes=st.lists(st.sampled_from([None, Cause.FAILURES, Cause.WEDGED]), min_size=1, max_size=9),
    states=st.lists(st.sampled_from(list(State)), min_size=9, max_size=9),
)
def test_a_pool_is_never_emptied(causes: list[Cause | None], states: list[State]) -> None:
    """Who may be ejected leaves another in rotation, and at most half are out then."""
    pool = [made(n, cause=cause, state=states[n]) for n, cause in enumerate(causes)]
    for replica in pool:
        if replica.conduct.cause is None and breaker.may_eject(replica, pool):
            left = [one for one in pool if one is not replica and one.usable and one.conduct.cause is None]
            assert left
            assert sum(one.conduct.cause is not None for one in pool) + 1 <= len(pool) / 2


@pytest.mark.parametrize("state", [State.DOWN, State.UP])
def test_who_is_left_must_be_up_and_in_rotation(state: State) -> None:
    """A half of four may be ejected, unless what is left is down, or those that are up are ejected."""
    others = [made(1, cause=Cause.FAILURES), made(2, state=State.DOWN), made(3, state=state)]
    replica = made(0)
    assert breaker.may_eject(replica, [replica, *others]) is (state is State.UP)


@pytest.mark.parametrize(("slow_start_s", "calm"), [(0.0, True), (0.5, False)])
def test_any_slow_start_is_watched(slow_start_s: float, calm: bool) -> None:
    """Only without one there is nothing to look at when a replica comes back."""
    conduct = Conduct()
    breaker.come_back(conduct, 1000.0, 0.0, replace(CONFIG, slow_start_s=slow_start_s))
    assert conduct.calm is calm


def test_who_must_stay_gets_a_tenth() -> None:
    """What ought to be ejected and cannot be spared is avoided as far as others are there."""
    conduct = Conduct()
    breaker.keep(conduct, 1000.0)
    assert breaker.share(conduct, 1000.0) == pytest.approx(0.1)
    assert not conduct.calm


def test_what_is_still_stuck_is_out_for_longer() -> None:
    """By the length of a first ejection from now on; never for less than it was."""
    conduct = Conduct()
    breaker.eject(conduct, Cause.WEDGED, 1000.0, 0.0, CONFIG, 0.0)
    assert not conduct.calm
    breaker.hold(conduct, 1004.0, CONFIG)
    assert conduct.until == 1009.0
    breaker.hold(conduct, 1001.0, CONFIG)
    assert conduct.until == 1009.0


def test_an_engine_that_is_new_has_done_nothing() -> None:
    """Neither penalty nor calls nor failures of the one before are held against it."""
    conduct = Conduct()
    for n in range(4):
        breaker.note(conduct, BAD, 1000.0 + n, CONFIG)
    breaker.forget(conduct)
    assert breaker.share(conduct, 1004.0) == 1.0
    assert [breaker.note(conduct, BAD, 1005.0, CONFIG) for _ in range(5)] == [None] * 4 + [Cause.FAILURES]


def test_a_busy_second_costs_no_memory() -> None:
    """Its calls share a slot."""
    conduct = Conduct()
    for _ in range(1000):
        breaker.note(conduct, GOOD, 1000.5, CONFIG)
    assert [list(slot) for slot in conduct.lately] == [[1000, 1000, 0]]


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (200, 100)])
def test_half_of_a_pool_may_be_ejected(size: int, most: int) -> None:
    """One of two, one of three, two of four, and never the only one."""
    pool = [made(n) for n in range(size)]
    for replica in pool:
        if breaker.may_eject(replica, pool):
            replica.conduct.cause = Cause.FAILURES
    assert sum(one.conduct.cause is not None for one in pool) == most


@pytest.mark.parametrize(
    ("after_s", "share"), [(0.0, 0.1), (3.0, 0.19), (15.0, 0.55), (29.999, 1.0), (30.0, 1.0), (99.0, 1.0)]
)
def test_a_slow_start_grows_in_a_line(after_s: float, share: float) -> None:
    """From a tenth to the whole in thirty seconds; then nothing is left of it."""
    conduct = Conduct()
    breaker.come_back(conduct, 1000.0, 0.0, CONFIG)
    assert breaker.share(conduct, 1000.0 + after_s) == pytest.approx(share, abs=1e-4)
    breaker.settle(conduct, 1000.0 + after_s)
    assert conduct.calm == (after_s >= 30.0)


def test_without_a_slow_start_the_whole_share_is_there_at_once() -> None:
    """Where the operator wants none."""
    conduct = Conduct()
    breaker.come_back(conduct, 1000.0, 0.0, replace(CONFIG, slow_start_s=0.0))
    assert (breaker.share(conduct, 1000.0), conduct.calm) == (1.0, True)


def test_a_penalty_fades_and_heals() -> None:
    """It halves in five seconds, falls with each good call, and is forgotten in the end."""
    conduct = Conduct()
    breaker.note(conduct, REFUSAL, 1000.0, CONFIG)
    assert breaker.share(conduct, 1000.0) == pytest.approx(1 / 2)
    assert breaker.share(conduct, 1005.0) == pytest.approx(1 / 1.5)
    for _ in range(10):
        breaker.note(conduct, GOOD, 1000.0, CONFIG)
    assert breaker.penalty(conduct, 1000.0) == pytest.approx(0.9**10)
    breaker.settle(conduct, 1000.0)
    assert not conduct.calm
    breaker.settle(conduct, 1060.0)
    assert (conduct.calm, conduct.penalty) == (True, 0.0)


def test_who_fails_fast_is_avoided_more_and_more() -> None:
    """Down to a tenth of a fair share and no further; who cannot be connected to gets nothing meanwhile."""
    conduct = Conduct()
    shares = []
    for _ in range(20):
        breaker.note(conduct, BAD, 1000.0, CONFIG)
        shares.append(breaker.share(conduct, 1000.0))
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(0.1)
    breaker.note(conduct, NO_WAY, 1000.0, CONFIG)
    assert breaker.share(conduct, 1000.0) == 0.0
    breaker.note(conduct, GOOD, 1000.0, CONFIG)
    assert breaker.share(conduct, 1000.0) > 0.0


@given(st.lists(st.tuples(st.sampled_from(list(Evidence)), st.floats(0.0, 40.0)), max_size=60))
def test_whatever_happens_shares_and_records_are_bounded(story: list[tuple[Evidence, float]]) -> None:
    """A share lies in [0, 1], the window holds only its seconds, and time alone heals all but doubt."""
    conduct, now = Conduct(), 1000.0
    for found, later_s in story:
        now += later_s
        if breaker.note(conduct, found, now, CONFIG) is not None:
            breaker.eject(conduct, Cause.RATE, now, 0.0, CONFIG, 0.5)
            breaker.come_back(conduct, now, 0.0, CONFIG)
        assert 0.0 <= breaker.share(conduct, now) <= 1.0
        assert len(conduct.lately) <= CONFIG.window_s + 1
    breaker.settle(conduct, now + 100.0)
    assert conduct.calm != conduct.doubted


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("failures", 0),
        ("connect_errors", 0),
        ("first_event_timeouts", 0),
        ("success_calls", 0),
        ("window_s", 0.0),
        ("base_s", float("nan")),
        ("max_s", -1.0),
        ("jitter", -0.1),
        ("forgive_s", float("nan")),
        ("slow_start_s", -1.0),
        ("success_share", 1.1),
        ("success_share", float("nan")),
    ],
)
def test_a_bad_knob_is_named(knob: str, value: float) -> None:
    """A value that cannot work is refused with a sentence that names the knob."""
    with pytest.raises(ValueError, match=knob):
        replace(CONFIG, **{knob: value})  # type: ignore[arg-type]  # the values are wrong on purpose


@pytest.mark.parametrize(
    ("knob", "value"),
    [("failures", 1), ("window_s", 0.5), ("base_s", 0.5), ("success_share", 0.0), ("success_share", 1.0)],
)
def test_the_least_and_most_of_a_knob_can_be_used(knob: str, value: Any) -> None:
    """Short times for tests, and shares that mean never or always."""
    assert getattr(replace(CONFIG, **{knob: value}), knob) == value
