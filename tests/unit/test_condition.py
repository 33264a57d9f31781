"""What people are told of a replica and of a model."""

from dataclasses import replace

import pytest

from pointsman.condition import WHY, Condition, best, condition
from pointsman.conduct import Cause
from pointsman.replica import Endpoint, Engine, Health, Replica, Standing, State

WELL = Health(State.UP, "answers its health checks", since=100.0)


def made(health: Health = WELL, cause: Cause | None = None) -> Replica:
    replica = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80), max_in_flight=2, health=health)
    replica.conduct.cause = cause
    replica.conduct.calm = cause is None
    replica.conduct.since = 200.0 if cause is not None else 0.0
    return replica


@pytest.mark.parametrize("state", State)
def test_health_checks_have_the_word_where_nothing_else_has_one(state: State) -> None:
    """Their state, reason and time are shown as they are."""
    health = Health(state, "because", since=50.0)
    assert condition(made(health)) == Condition(Standing(state.value), "because", 50.0)


@pytest.mark.parametrize("cause", Cause)
def test_an_ejection_is_told_with_its_cause(cause: Cause) -> None:
    """As ejected, wedged or draining, since the ejection; but who is down is down."""
    shown = condition(made(cause=cause))
    known = {Cause.WEDGED: Standing.WEDGED, Cause.DRAINING: Standing.DRAINING}
    assert shown == Condition(known.get(cause, Standing.EJECTED), WHY[cause], 200.0)
    down = replace(WELL, state=State.DOWN)
    assert condition(made(down, cause)) == Condition(Standing.DOWN, WELL.reason, 100.0)


def test_an_operators_word_comes_first() -> None:
    """Drained is drained, whatever calls showed."""
    replica = made(cause=Cause.SILENT)
    replica.draining, replica.draining_since = True, 300.0
    assert condition(replica) == Condition(Standing.DRAINING, "an operator drains it", 300.0)


def test_busy_is_who_has_no_slot_left() -> None:
    """Since the last one was taken."""
    replica = made()
    replica.in_flight, replica.full_since = 2, 400.0
    assert condition(replica) == Condition(Standing.BUSY, "all of its 2 slots are taken", 400.0)


def test_a_replica_that_came_back_says_that_it_gets_little() -> None:
    """It is up since it came back."""
    replica = made()
    replica.conduct.since, replica.conduct.calm = 250.0, False
    assert condition(replica) == Condition(
        Standing.UP, "answers its health checks; it gets few calls for now", 250.0
    )


def test_a_model_is_as_its_best_replica() -> None:
    """Of equals as the one that is so for longest; without replicas nobody knows."""
    down = made(Health(State.DOWN, "refused", since=10.0))
    young = made(replace(WELL, since=120.0))
    assert best([down, young, made(), made(cause=Cause.SILENT)]) == Condition(Standing.UP, WELL.reason, 100.0)
    assert best([down, made(cause=Cause.WEDGED)]).standing is Standing.WEDGED
    assert best([]) == Condition(Standing.UNKNOWN, "no replica is configured", 0.0)
