"""Replicas are ejected by how their calls end, tried by one call, and taken back."""

import logging
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import attempt, breaker
from pointsman.attempt import End
from pointsman.breaker import BreakerConfig
from pointsman.conduct import Cause
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.outliers import Outliers
from pointsman.registry import Lease, Registry
from pointsman.replica import Endpoint, Engine, Health, Replica, Standing, State
from pointsman.retry import RetryConfig

WALL = 1_700_000_000.0


class NoDice(Random):
    """Always 0: no jitter."""

    def random(self) -> float:
        return 0.0


class Stage:
    """A pool, its registry and a clock; calls begin and end when the test says so."""

    def __init__(self, count: int) -> None:
        self.now = 1000.0
        self.suspected: list[Replica] = []
        self.ejected: list[tuple[str, Cause | None]] = []  # None: it is back
        self.outliers = Outliers(BreakerConfig(), NoDice(), lambda: self.now, lambda: WALL + self.now)
        ends = tuple(ReplicaConfig(Endpoint("http", "h", 8000 + n), Engine.VLLM) for n in range(count))
        self.registry = Registry([ModelConfig("m", ends, "M")], RetryConfig(), outliers=self.outliers)
        self.pool = self.registry.models["m"].pool
        self.outliers.on_suspicion = self.suspected.append
        self.outliers.on_change = lambda replica, cause: self.ejected.append((replica.id, cause))
        for replica in self.pool:
            replica.health = Health(State.UP)

    def begin(self, place: int = 0) -> Lease:
        return self.registry.lease(self.pool[place])

    def call(self, end: End, place: int = 0, *, lasts_s: float = 0.1) -> None:
        lease = self.begin(place)
        self.now += lasts_s
        lease.close(end)

    def standing(self) -> Standing:
        return self.pool[0].standing

    def cause(self, place: int = 0) -> Cause | None:
        return self.pool[place].conduct.cause


def test_five_failures_eject_for_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    """It is told, logged without an address, and counted; then one call may try."""
    stage = Stage(2)
    for _ in range(5):
        assert stage.cause() is None
        stage.call(attempt.ENGINE_ERROR)
    assert stage.cause() is Cause.FAILURES
    assert stage.standing() is Standing.EJECTED
    assert stage.pool[0].conduct.since == WALL + stage.now
    assert stage.ejected == [("m-0", Cause.FAILURES)]
    assert len(stage.suspected) == 5
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "replica m-0: ejected for 5.0 s: too many of its answers in a row were failures"


@pytest.mark.parametrize("end", [attempt.OK, attempt.REJECTED, attempt.REFUSED, attempt.CLIENT_ABORT])
def test_nobody_is_ejected_or_suspected_for_what_is_no_fault(end: End) -> None:
    """However often it happens."""
    stage = Stage(2)
    for _ in range(50):
        stage.call(end)
    assert (stage.cause(), stage.suspected, stage.ejected) == (None, [], [])


def test_the_last_one_is_kept_and_spared() -> None:
    """The only replica is not ejected by failures, but gets little where another is taken in."""
    stage = Stage(1)
    for _ in range(20):
        stage.call(attempt.ENGINE_ERROR)
    assert stage.cause() is None
    assert breaker.share(stage.pool[0].conduct, stage.now) == pytest.approx(0.1)


def test_one_silence_ejects_where_nothing_came_meanwhile() -> None:
    """A byte of any other answer in that time makes it two."""
    stage = Stage(2)
    stage.call(attempt.TTFT, lasts_s=2.0)
    assert stage.cause() is Cause.SILENT
    lease = stage.begin(1)
    stage.now += 1.0
    stage.pool[1].heard_at = stage.now
    stage.now += 1.0
    lease.close(attempt.TTFT)
    assert stage.cause(1) is None


def test_the_call_that_tries_decides() -> None:
    """Good: back, with a slow start. Bad: out again for twice as long. In between no other call tries."""
    stage = Stage(2)
    stage.call(attempt.TTFT, lasts_s=2.0)
    stage.now += 5.0
    tries, other = stage.begin(), stage.begin()
    assert (tries.tries, other.tries) == (True, False)
    stage.now += 2.0
    other.close(attempt.ENGINE_ERROR)
    assert stage.pool[0].conduct.trial_at is not None
    tries.close(attempt.ENGINE_ERROR)
    assert stage.pool[0].conduct.until == stage.now + 10.0
    stage.now += 10.0
    stage.call(attempt.OK)
    assert stage.cause() is None
    assert breaker.share(stage.pool[0].conduct, stage.now) == pytest.approx(0.1)
    assert [cause for _, cause in stage.ejected] == [Cause.SILENT, Cause.FAILURES, None]


@pytest.mark.parametrize("end", [attempt.REJECTED, attempt.CLIENT_ABORT, attempt.REFUSED, attempt.CANCELLED])
def test_a_try_that_tells_nothing_is_followed_by_another(end: End) -> None:
    """After a second, since nothing is known yet; the ejection is no longer than before."""
    stage = Stage(2)
    stage.call(attempt.TTFT)
    stage.now += 5.0
    stage.call(end)
    assert stage.cause() is Cause.SILENT
    assert not stage.begin().tries
    stage.now += 1.0
    assert stage.begin().tries
    assert len(stage.ejected) == 1


def test_the_beginning_of_an_answer_is_enough() -> None:
    """A long stream that tries needs not to end first."""
    stage = Stage(2)
    stage.call(attempt.TTFT)
    stage.now += 5.0
    lease = stage.begin()
    stage.outliers.look(stage.pool[0])
    assert stage.cause() is Cause.SILENT
    stage.now += 1.0
    stage.pool[0].answered_at = stage.now
    stage.outliers.look(stage.pool[0])
    assert stage.cause() is None
    lease.close(attempt.OK)
    assert stage.cause() is None


def test_what_began_before_the_ejection_ends_none() -> None:
    """An old stream that ends well says nothing of what is asked now."""
    stage = Stage(2)
    old = stage.begin()
    for _ in range(5):
        stage.call(attempt.RESET_NEW)
    old.close(attempt.OK)
    assert stage.cause() is Cause.FAILURES
    stage.now += 1.0
    stage.call(attempt.OK)  # asked against the rule, since no other was left
    assert stage.cause() is None


@pytest.mark.parametrize(
    ("end", "times", "kept"),
    [(attempt.TTFT, 1, True), (attempt.ENGINE_ERROR, 5, True), (attempt.CONNECT, 3, False)],
)
def test_a_good_check_ends_only_what_it_disproves(end: End, times: int, *, kept: bool) -> None:
    """It shows that one can connect; that an engine generates it does not show."""
    stage = Stage(2)
    for _ in range(times):
        stage.call(end)
    assert stage.cause() is not None
    stage.outliers.checked(stage.pool[0], good=True, gone=False, back=False)
    assert stage.cause() is not None  # it was made in the same moment
    stage.now += 1.0
    stage.outliers.checked(stage.pool[0], good=True, gone=False, back=False)
    assert (stage.cause() is not None) == kept
    stage.outliers.checked(stage.pool[0], good=True, gone=False, back=True)
    assert (stage.cause() is not None) == kept


def test_a_new_process_begins_anew_and_slowly() -> None:
    """What the old one did is forgotten when it is gone; the new one has a slow start."""
    stage = Stage(2)
    stage.call(attempt.TTFT)
    stage.pool[0].health = Health(State.DOWN)
    stage.outliers.checked(stage.pool[0], good=False, gone=True, back=False)
    assert stage.cause() is None
    assert stage.standing() is Standing.DOWN
    stage.pool[0].health = Health(State.UP)
    stage.outliers.checked(stage.pool[0], good=True, gone=False, back=True)
    assert breaker.share(stage.pool[0].conduct, stage.now + 15.0) == pytest.approx(0.55)


def test_the_first_good_check_gives_the_whole_share() -> None:
    """At the start of the router nothing is slow."""
    stage = Stage(2)
    stage.outliers.checked(stage.pool[0], good=True, gone=False, back=False)
    assert stage.pool[0].conduct.calm


def test_an_engine_that_gives_up_is_draining() -> None:
    """However few there are; a call that is answered shows that it stays."""
    stage = Stage(1)
    stage.call(attempt.ABORTED)
    assert stage.standing() is Standing.DRAINING
    stage.now += 5.0
    stage.call(attempt.ABORTED)
    assert stage.standing() is Standing.DRAINING
    stage.now += 10.0
    stage.call(attempt.OK)
    assert stage.standing() is Standing.UP


def test_a_wedged_engine_is_out_until_something_moves() -> None:
    """However few there are, and for as long as calls hang there; then one may try."""
    stage = Stage(1)
    hangs = stage.begin()
    stage.outliers.stuck(stage.pool[0])
    assert stage.standing() is Standing.WEDGED
    stage.now += 100.0
    assert not stage.begin().tries
    stage.outliers.stuck(stage.pool[0])
    stage.outliers.moving(stage.pool[0])
    assert stage.standing() is Standing.UP
    stage.outliers.stuck(stage.pool[0])
    hangs.close(attempt.CLIENT_ABORT)
    stage.pool[0].in_flight = 0
    stage.now += 61.0
    assert stage.begin().tries


def test_an_ejected_engine_may_turn_out_to_be_wedged() -> None:
    """It is shown as what it is, and its time out is not counted twice."""
    stage = Stage(2)
    stage.call(attempt.TTFT)
    stage.begin()
    stage.outliers.stuck(stage.pool[0])
    assert stage.cause() is Cause.WEDGED
    assert len(stage.ejected) == 1


def test_when_the_last_slot_went_is_known() -> None:
    """As is since when calls run, which is since the first of them."""
    stage = Stage(1)
    stage.pool[0].slots = 2
    stage.begin()
    stage.now += 1.0
    stage.begin()
    assert (stage.pool[0].busy_since, stage.pool[0].full_since) == (1000.0, WALL + 1001.0)
    assert stage.standing() is Standing.BUSY


def test_coming_back_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only after an ejection."""
    caplog.set_level(logging.INFO, "pointsman.outliers")
    stage = Stage(2)
    stage.call(attempt.TTFT)
    stage.now += 5.0
    for _ in range(2):
        stage.call(attempt.OK)
    assert [record.getMessage() for record in caplog.records][1:] == ["replica m-0: takes calls again"]


_STEPS = st.tuples(
    st.integers(0, 3),
    st.sampled_from([end for end in attempt.ALL_ENDS if end not in (attempt.ABORTED, attempt.NO_ENDPOINT)]),
    st.floats(0.0, 20.0),
    st.booleans(),
)


@given(st.lists(_STEPS, max_size=80))
def test_whatever_calls_do_half_of_a_pool_stays(story: list[tuple[int, End, float, bool]]) -> None:
    """At most two of four are ejected, and no more than one call at a time tries an ejected one."""
    stage = Stage(4)
    running: list[tuple[int, Lease, End]] = []
    for place, end, later_s, waits in story:
        running.append((place, stage.begin(place), end))
        stage.now += later_s
        if not waits:
            for _, lease, how in running:
                lease.close(how)
            running.clear()
        assert sum(replica.conduct.cause is not None for replica in stage.pool) <= 2
        for at, replica in enumerate(stage.pool):
            tries = [lease for where, lease, _ in running if where == at and lease.tries]
            assert len(tries) <= (replica.conduct.cause is not None)
