"""Who may take a call where replicas misbehaved or came back, whatever the policy."""

import heapq
from random import Random

import pytest

from pointsman import breaker, candidates
from pointsman.breaker import BreakerConfig, Evidence
from pointsman.call import Api, Call, Operation
from pointsman.candidates import eligible, none_left, pick, reachable
from pointsman.conduct import Cause
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.policy import POLICIES
from pointsman.registry import Model, Registry
from pointsman.replica import Endpoint, Engine, Health, Replica, State
from pointsman.retry import RetryConfig

CONFIG = BreakerConfig()
CALL = Call(Api.OPENAI, Operation.CHAT, "m")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(candidates, "monotonic", made)
    return made


def model(count: int, policy: str = "least_in_flight", max_in_flight: int | None = None) -> Model:
    """A model with that many replicas that are up."""
    ends = [
        ReplicaConfig(Endpoint("http", "h", 8000 + n), Engine.VLLM, max_in_flight=max_in_flight)
        for n in range(count)
    ]
    registry = Registry([ModelConfig("m", tuple(ends), "M", policy=policy)], RetryConfig())
    found = registry.models["m"]
    for replica in found.pool:
        replica.health = Health(State.UP)
    return found


def eject(replica: Replica, clock: Clock, cause: Cause = Cause.FAILURES) -> None:
    breaker.eject(replica.conduct, cause, clock.now, 0.0, CONFIG, 0.0)


def there(found: Model, asked: set[Replica] | None = None) -> list[int]:
    """Places in the pool of those that may take a call."""
    chosen = eligible(found, CALL, asked or set(), again=False)
    assert bool(chosen) == reachable(found, CALL, asked or set(), again=False)
    return [found.pool.index(replica) for replica in chosen]


def test_an_ejected_replica_is_asked_when_its_time_has_come(clock: Clock) -> None:
    """By one call, and by no other while that one runs."""
    found = model(3)
    eject(found.pool[1], clock)
    assert there(found) == [0, 2]
    clock.now += 5.0
    assert there(found) == [0, 2, 1]
    found.pool[1].conduct.trial_at = clock.now
    assert there(found) == [0, 2]


def test_where_all_are_ejected_none_is(clock: Clock) -> None:
    """Those that answer at all come before those that are silent; who is down is never asked."""
    found = model(4)
    found.pool[3].health = Health(State.DOWN)
    causes = (Cause.SILENT, Cause.FAILURES, Cause.WEDGED, Cause.RATE)
    for replica, cause in zip(found.pool, causes, strict=True):
        eject(replica, clock, cause)
    assert there(found) == [1]
    found.pool[1].health = Health(State.DOWN)
    assert there(found) == [0, 2]
    found.pool[0].draining = found.pool[2].draining = True
    assert there(found) == []


def test_a_retry_is_not_sent_into_silence(clock: Clock) -> None:
    """Where the others were asked already it goes to one that answers badly, but not to one that hangs."""
    found = model(2)
    eject(found.pool[1], clock)
    assert there(found, {found.pool[0]}) == [1]
    found.pool[1].conduct.cause = Cause.SILENT
    assert there(found, {found.pool[0]}) == []


def test_a_full_pool_is_no_reason_to_ask_the_ejected(clock: Clock) -> None:
    """Who waits gets a slot of a good replica."""
    found = model(2, max_in_flight=1)
    eject(found.pool[1], clock)
    found.pool[0].in_flight = 1
    assert eligible(found, CALL, set(), again=False) == []
    assert reachable(found, CALL, set(), again=False)


def test_slots_grow_with_a_slow_start(clock: Clock) -> None:
    """A tenth of them at first, half in the middle, all in the end; a restart of all spares nobody."""
    found = model(2, max_in_flight=20)
    breaker.come_back(found.pool[0].conduct, clock.now, 0.0, CONFIG)
    slots = []
    for _ in range(4):
        there(found)
        slots.append(found.pool[0].slots)
        clock.now += 10.0
    assert slots == [2, 8, 14, 20]
    assert found.pool[1].slots == 20
    assert all(replica.conduct.calm for replica in found.pool)
    for replica in found.pool:
        breaker.come_back(replica.conduct, clock.now, 0.0, CONFIG)
    there(found)
    assert [replica.slots for replica in found.pool] == [20, 20]


class Traffic:
    """An open loop of calls to a model; one replica may fail each call at once."""

    def __init__(self, found: Model, clock: Clock, fails: Replica | None = None) -> None:
        self._model, self._clock, self._fails = found, clock, fails
        self._rng = Random(7)
        self._running: list[tuple[float, int]] = []

    def run(self, for_s: float, per_s: float = 100.0, service_s: float = 0.2) -> list[int]:
        """How many calls each replica gets."""
        pool, clock, rng = self._model.pool, self._clock, self._rng
        got = [0] * len(pool)
        end = clock.now + for_s
        while clock.now < end:
            clock.now += rng.expovariate(per_s)
            while self._running and self._running[0][0] <= clock.now:
                pool[heapq.heappop(self._running)[1]].in_flight -= 1
            chosen = pick(self._model, eligible(self._model, CALL, set(), again=False), rng)
            place = pool.index(chosen)
            got[place] += 1
            if chosen is self._fails:
                breaker.note(chosen.conduct, Evidence.FAILURE, clock.now, CONFIG)
                continue
            chosen.in_flight += 1
            heapq.heappush(self._running, (clock.now + rng.expovariate(1 / service_s), place))
        return got


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [2, 3, 10])
def test_a_replica_that_comes_back_gets_little_at_first(policy: str, size: int, clock: Clock) -> None:
    """At most a fifth of a fair share in the first tenth of its slow start, and a fair one after the end."""
    found = model(size, policy)
    breaker.come_back(found.pool[0].conduct, clock.now, 0.0, CONFIG)
    traffic = Traffic(found, clock)
    got = traffic.run(3.0, per_s=200.0)
    fair = sum(got) / size
    assert 0 < got[0] <= 0.2 * fair
    traffic.run(30.0)
    got = traffic.run(30.0)
    assert got[0] == pytest.approx(sum(got) / size, rel=0.2)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_slow_start_has_its_share_all_the_way(policy: str, clock: Clock) -> None:
    """It is not starved either: over the whole of it a replica gets about half of a fair share."""
    found = model(3, policy)
    breaker.come_back(found.pool[0].conduct, clock.now, 0.0, CONFIG)
    got = Traffic(found, clock).run(30.0)
    assert got[0] / (sum(got) / 3) == pytest.approx(0.55, rel=0.15)


@pytest.mark.parametrize("policy", POLICIES)
def test_who_fails_fast_draws_no_calls(policy: str, clock: Clock) -> None:
    """A replica that fails each call at once is idle all the time, and gets about a tenth of a fair share."""
    found = model(2, policy)
    got = Traffic(found, clock, fails=found.pool[0]).run(20.0)
    assert got[0] <= 0.12 * sum(got) / 2 + 5


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_hold_beside_a_slow_start(policy: str, clock: Clock) -> None:
    """Replicas that are well share what is left as if the third were not there."""
    found = model(3, policy)
    found.pool[2].weight = 3
    breaker.come_back(found.pool[0].conduct, clock.now, 0.0, CONFIG)
    got = Traffic(found, clock).run(3.0, per_s=400.0)
    alone = model(2, policy)
    alone.pool[1].weight = 3
    clock.now += 100.0
    other = Traffic(alone, clock).run(3.0, per_s=400.0)
    assert got[2] / got[1] == pytest.approx(other[1] / other[0], rel=0.15)
    assert got[0] <= 0.2 * sum(got) / 5


def test_a_model_that_lost_its_last_replica_is_told_to_be_down() -> None:
    """An operator removed it: the client asked for nothing wrong, and may come again."""
    error = none_left(model(0), CALL)
    assert (error.status, error.kind.code, error.kind.retryable) == (503, "no_replica", True)
