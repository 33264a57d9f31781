"""Active health checks: when a replica is up, when it is not, and how often we ask."""

from dataclasses import replace
from itertools import product

import pytest

from pointsman.health import (
    OK,
    HealthConfig,
    Outcome,
    ProbeResult,
    absent,
    failed,
    gone,
    misconfigured,
    next_delay_s,
    observe,
)
from pointsman.replica import Health, State

CONFIG = HealthConfig()
SLOW, GONE, WRONG = failed("timed out after 3 s"), gone("answered 503"), misconfigured("wants a key")
NOBODY = absent("connection refused")
BY_LETTER = {"+": OK, "-": SLOW, "x": GONE, "o": NOBODY, "?": WRONG}


def after(checks: str, config: HealthConfig = CONFIG) -> Health:
    """Health after these checks, made at seconds 1, 2, 3 …"""
    health = Health()
    for second, letter in enumerate(checks, start=1):
        health = observe(health, BY_LETTER[letter], float(second), config)
    return health


@pytest.mark.parametrize(
    ("checks", "state"),
    [
        ("", State.UNKNOWN),
        ("+", State.UP),
        ("-", State.DOWN),
        ("x", State.DOWN),
        ("?", State.MISCONFIGURED),
        ("+-", State.UP),
        ("+--", State.UP),
        ("+---", State.DOWN),
        ("+--+--+--", State.UP),
        ("+x", State.DOWN),
        ("+?", State.MISCONFIGURED),
        ("-+", State.DOWN),
        ("-++", State.UP),
        ("-+-+-+", State.DOWN),
        ("x+x++", State.UP),
        ("?+", State.MISCONFIGURED),
        ("?++", State.UP),
        ("?-", State.MISCONFIGURED),
        ("?--", State.DOWN),
        ("?x", State.DOWN),
        ("x?", State.MISCONFIGURED),
        ("+--?", State.MISCONFIGURED),
        ("o", State.LOADING),
        ("ooooo", State.LOADING),
        ("oo+", State.UP),
        ("o-", State.LOADING),
        ("o--", State.DOWN),
        ("ox", State.DOWN),
        ("o?", State.MISCONFIGURED),
        ("+o", State.DOWN),
        ("xo", State.DOWN),
        ("?o", State.DOWN),
        ("o+o", State.DOWN),
    ],
)
def test_state_after_checks(checks: str, state: State) -> None:
    """The first check decides; then 3 failures make down, 2 successes up, gone and misconfigured at once."""
    assert after(checks).state is state


def test_thresholds_are_knobs() -> None:
    """`fall` and `rise` are obeyed, down to 1."""
    quick, slow = HealthConfig(fall=1, rise=1), HealthConfig(fall=5, rise=4)
    assert after("+-", quick).state is State.DOWN
    assert after("+-+", quick).state is State.UP
    assert after("+----", slow).state is State.UP
    assert after("+-----", slow).state is State.DOWN
    assert after("x+++", slow).state is State.DOWN
    assert after("x++++", slow).state is State.UP


def test_checks_need_no_jitter() -> None:
    """Without one they come when they are due."""
    assert next_delay_s(Health(State.UP), 0.0, replace(CONFIG, jitter=0.0), 0.9) == CONFIG.interval_s


def test_an_engine_loads_no_longer_than_we_are_eager() -> None:
    """Nobody tells a model that loads from an engine that is not there: after ten minutes it is down."""
    assert after("o" * 599).state is State.LOADING
    assert after("o" * 600).state is State.DOWN
    assert after("o" * 600 + "+").state is State.DOWN
    assert after("o", replace(CONFIG, eager_s=0.0)).state is State.DOWN
    rarely = replace(CONFIG, eager_s=10.0, interval_changing_s=2.0)
    assert [after("o" * checks, rarely).state for checks in (4, 5)] == [State.LOADING, State.DOWN]


def test_since_is_the_moment_of_the_last_change() -> None:
    """Over all sequences of five checks, `since` moves when the state does and only then."""
    for checks in product("+-xo?", repeat=5):
        health = Health()
        for second, letter in enumerate(checks, start=1):
            before = health
            health = observe(before, BY_LETTER[letter], float(second), CONFIG)
            moved = health.state is not before.state
            assert health.since == (float(second) if moved else before.since), checks


def test_runs_are_counted() -> None:
    """`rises` and `falls` count the last run of successes or of anything else."""
    assert (after("-x-++").rises, after("-x-++").falls) == (2, 0)
    assert (after("++-x?").rises, after("++-x?").falls) == (0, 3)


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ("", "not probed yet"),
        ("+", "answers its health checks"),
        ("+--", "failed 2 of 3 checks: timed out after 3 s"),
        ("+--+", "answers its health checks"),
        ("+---", "timed out after 3 s"),
        ("+---x", "answered 503"),
        ("+o", "connection refused"),
        ("oo", "connection refused: it may be loading its model"),
        ("x+", "answers again, 1 of 2 checks"),
        ("?", "wants a key"),
        ("?x", "answered 503"),
    ],
)
def test_the_reason_is_that_of_the_last_check(checks: str, reason: str) -> None:
    """Whoever reads the reason learns what the newest check found, also while the state holds."""
    assert after(checks).reason == reason


def test_the_record_is_not_changed() -> None:
    """`observe` returns a new record and leaves the old one alone."""
    before = after("+-")
    copy = replace(before)
    observe(before, GONE, 9.0, CONFIG)
    assert before == copy


@pytest.mark.parametrize(
    ("checks", "age_s", "delay_s"),
    [
        ("", 0.0, 1.0),
        ("+", 0.0, 5.0),
        ("+", 9999.0, 5.0),
        ("+-", 50.0, 1.0),
        ("x", 0.0, 1.0),
        ("x", 599.0, 1.0),
        ("x", 600.0, 5.0),
        ("x+", 9999.0, 1.0),
        ("o", 9999.0, 1.0),
        ("?", 1.0, 5.0),
        ("?+", 1.0, 1.0),
    ],
)
def test_checks_hurry_while_something_changes(checks: str, age_s: float, delay_s: float) -> None:
    """1 s while checks contradict the state or for the first 10 minutes of being down, otherwise 5 s."""
    assert next_delay_s(after(checks), age_s, CONFIG, 0.5) == pytest.approx(delay_s)


def test_jitter_spreads_evenly_by_fifteen_percent() -> None:
    """Dice from 0 to 1 give delays from 4.25 s to 5.75 s, in proportion."""
    up = after("+")
    delays = [next_delay_s(up, 0.0, CONFIG, step / 100) for step in range(101)]
    assert delays[0] == pytest.approx(4.25)
    assert delays[100] == pytest.approx(5.75)
    assert sum(delays) / 101 == pytest.approx(5.0)
    assert delays == sorted(delays)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("interval_s", 0.0),
        ("interval_changing_s", -1.0),
        ("timeout_s", float("nan")),
        ("fall", 0),
        ("rise", 0),
        ("jitter", 1.0),
        ("jitter", -0.1),
        ("eager_s", -1.0),
    ],
)
def test_a_bad_knob_is_named(knob: str, value: float) -> None:
    """A value that cannot work is refused with a sentence that names the knob."""
    with pytest.raises(ValueError, match=knob):
        replace(CONFIG, **{knob: value})  # type: ignore[arg-type]  # the values are wrong on purpose


def test_every_outcome_has_a_state() -> None:
    """No outcome leaves a replica unknown."""
    for outcome in Outcome:
        assert observe(Health(), ProbeResult(outcome, "r"), 1.0, CONFIG).state is not State.UNKNOWN
