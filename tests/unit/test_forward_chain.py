"""Where a model cannot answer: its fallbacks, and requests that engines die of, through the attempt loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import cast

import pytest

from clockwork import Clockwork
from pointsman import admission as admission_module
from pointsman import attempt, forward
from pointsman.admission import Admission, AdmissionConfig
from pointsman.attempt import AttemptFailed, End
from pointsman.call import Api, Call, Operation
from pointsman.conduct import Cause
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.exchange import Exchange
from pointsman.forward import Forwarder
from pointsman.lengths import Lengths
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.registry import Model, Registry
from pointsman.replica import Endpoint, Engine, Health, Replica, State
from pointsman.retry import RetryConfig
from pointsman.run import Run
from pointsman.upstream import Pool, Pools
from pointsman.watch import Clock, Watch

pytestmark = pytest.mark.anyio

HERE = Endpoint("http", "127.0.0.1", 9)
CHAT = Call(Api.OPENAI, Operation.CHAT, "a", body=b'{"messages":[]}')
DOWN, UP = Health(State.DOWN), Health(State.UP)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


@pytest.fixture(autouse=True)
def _played_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (admission_module, forward):
        monkeypatch.setattr(module, "monotonic", now)


def now() -> float:
    return asyncio.get_running_loop().time()


class Sink:
    """The client, who is told nothing here."""

    committed = False

    async def begin(self) -> None:
        self.committed = True

    async def write(self, block: bytes, *, last: bool = False) -> None: ...

    async def whole(self, body: bytes, lines: bytes) -> None: ...

    async def pass_on(self, first: bytes, length: int | None) -> None: ...

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None: ...


class First:
    """A policy that takes the first candidate."""

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        return candidates[0]


class NoPools:
    def of(self, replica: Replica) -> None:
        return None


Act = BaseException | Callable[[Run], Awaitable[None]] | None  # of a replica: raised, done, or well


@dataclass
class Stage:
    """Models a, b and c whose replicas act as they are told, call after call."""

    retry: RetryConfig = field(default_factory=RetryConfig)
    replicas: int = 3
    queue_per_slot: float = 2.0
    acts: dict[str, Act] = field(default_factory=dict)  # by the ids of replicas or models
    asked: list[str] = field(default_factory=list)  # ids of replicas

    def __post_init__(self) -> None:
        pool = tuple(ReplicaConfig(HERE, Engine.VLLM) for _ in range(self.replicas))
        models = [ModelConfig(model_id, pool, model_id) for model_id in "abc"]
        self.registry = Registry(models, self.retry)
        admission = Admission(self.registry, AdmissionConfig(queue_per_slot=self.queue_per_slot), Random(1))
        self.forwarder = Forwarder(admission, cast("Pools", NoPools()), self.retry, Random(1))
        for replica in self.registry.replicas:
            replica.health = UP

    def model(self, model_id: str) -> Model:
        return self.registry.models[model_id]

    def set(self, model_id: str, health: Health) -> None:
        for replica in self.model(model_id).pool:
            replica.health = health

    async def converse(self, run: Run, replica: Replica, pool: Pool, lengths: Lengths) -> None:
        self.asked.append(replica.id)
        act = self.acts.get(replica.id, self.acts.get(replica.model_id))
        if isinstance(act, BaseException):
            raise act
        if act is not None:
            await act(run)

    async def serve(self, chain: str = "bc", call: Call = CHAT, limit_s: float = 600.0) -> Run:
        """Have a call for `a` served."""
        task = asyncio.current_task()
        assert task is not None
        model, watch = self.model("a"), Watch(Clock(asyncio.get_running_loop()), task)
        exchange = Exchange("id", "/v1", "POST", now(), model_id="a")
        self.run = Run(call, model, exchange, watch, Sink(), now() + limit_s, model.config.timeouts)
        self.run.chain = tuple(self.model(name) for name in chain)
        await self.forwarder.serve(self.run)
        return self.run

    async def told(self, chain: str = "bc", call: Call = CHAT) -> RouterError:
        """Serve what nobody can; what the client is told."""
        with pytest.raises(RouterError) as caught:
            await self.serve(chain, call)
        assert all(replica.in_flight == 0 for replica in self.registry.replicas)
        return caught.value

    @property
    def models_asked(self) -> str:
        return "".join(replica_id[0] for replica_id in self.asked)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    def make(
        replicas: int = 3, retry: RetryConfig | None = None, queue_per_slot: float = 2.0, **acts: Act
    ) -> Stage:
        made = Stage(retry or RetryConfig(), replicas, queue_per_slot, dict(acts))
        monkeypatch.setattr(forward, "converse", made.converse)
        return made

    return make


Make = Callable[..., Stage]


def failed(end: End, retry_after_s: float | None = None) -> AttemptFailed:
    return AttemptFailed(end, "why", retry_after_s=retry_after_s)


# --- fallbacks


async def test_a_model_that_can_answer_does(stage: Make) -> None:
    """Its chain is for when it cannot."""
    made = stage()
    run = await made.serve()
    assert made.models_asked == "a"
    assert (run.exchange.model_id, run.exchange.wanted_id, run.home.id) == ("a", "", "a")


async def test_a_model_without_replicas_is_stood_in_for(stage: Make) -> None:
    """By the next of the chain, at once and without a retry of the budget; the record tells both."""
    made = stage()
    made.set("a", DOWN)
    run = await made.serve()
    assert made.models_asked == "b"
    assert (run.exchange.model_id, run.exchange.wanted_id, run.home.id) == ("b", "a", "a")
    assert run.timeouts is made.model("b").config.timeouts
    assert [one.model_id for one in run.exchange.attempts] == ["b"]
    assert made.model("a").budget._retries == 0


async def test_the_chain_is_gone_through_in_order(stage: Make) -> None:
    """Models of it without replicas are passed over."""
    made = stage()
    made.set("a", DOWN)
    made.set("b", DOWN)
    assert (await made.serve()).exchange.model_id == "c"
    made.set("c", DOWN)
    error = await made.told()
    assert (error.kind.code, error.retry_after_s) == ("no_replica", 5)
    assert "'a'" in error.message
    assert made.models_asked == "c"


async def test_an_ejected_model_is_stood_in_for_until_its_time_for_a_try(stage: Make) -> None:
    """Calls ejected all its replicas: without a chain they would be asked all the same."""
    made = stage()
    for replica in made.model("a").pool:
        replica.conduct.calm, replica.conduct.cause, replica.conduct.until = False, Cause.FAILURES, 1e12
    assert (await made.serve()).exchange.model_id == "b"
    assert (await made.serve("")).exchange.model_id == "a"
    made.set("b", DOWN)
    made.set("c", DOWN)
    assert (await made.serve()).exchange.model_id == "a"
    made.set("b", UP)
    made.model("a").pool[1].conduct.until = 0.0
    assert (await made.serve()).exchange.model_id == "a"
    assert made.asked[-1] == "a-1"


async def test_a_busy_model_is_queued_for_and_stood_in_for_where_that_is_refused(stage: Make) -> None:
    """Being busy is not being away; a full queue is, and so is a wait that took too long."""
    for per_slot, waits_s in ((0.0, 0.0), (2.0, 15.0)):
        made = stage(replicas=1, queue_per_slot=per_slot)
        (replica,) = made.model("a").pool
        leases = [made.registry.lease(replica) for _ in range(replica.slots)]
        began = now()
        run = await made.serve()
        assert run.exchange.model_id == "b"
        assert now() - began == pytest.approx(waits_s, abs=0.5)
        for lease in leases:
            lease.close(attempt.OK)


async def test_the_last_attempt_is_the_fallbacks(stage: Make) -> None:
    """Of three, two are the model's own: else a chain would be worth nothing before three replicas."""
    made = stage(a=failed(attempt.CONNECT), b=failed(attempt.CONNECT))
    error = await made.told()
    assert made.models_asked == "aab"
    assert error.kind is attempt.CONNECT.error
    assert made.run.exchange.model_id == "b"
    assert made.model("a").budget._retries == 2  # of the model that was asked for
    assert made.model("b").budget._retries == 0


@pytest.mark.parametrize(("most", "asked"), [(1, "a"), (2, "ab"), (5, "aaab")])
async def test_the_number_of_attempts_is_that_of_all_models_together(
    stage: Make, most: int, asked: str
) -> None:
    """The operator's number; with one there is no retry, elsewhere either."""
    made = stage(a=failed(attempt.CONNECT), retry=RetryConfig(max_attempts=most))
    if most == 1:
        await made.told()
    else:
        await made.serve()
    assert made.models_asked == asked


async def test_a_connection_that_was_stale_costs_no_replica_its_turn(stage: Make) -> None:
    """The replica died: both its attempts count as one, and the other replica comes before another model."""
    deaths = [failed(attempt.RESET_REUSED), failed(attempt.CONNECT)]

    async def die(run: Run) -> None:
        if deaths:
            raise deaths.pop(0)

    made = stage(replicas=2, a=die)
    made.model("a").policy = First()
    await made.serve()
    assert made.asked == ["a-0", "a-0", "a-1"]


async def test_a_model_with_one_replica_falls_back_after_one_failure(stage: Make) -> None:
    """There is nobody else to ask; a full engine is not waited for where another model is free."""
    for end in (attempt.CONNECT, attempt.ENGINE_ERROR):
        made = stage(replicas=1, a=failed(end))
        await made.serve()
        assert made.models_asked == "ab"
    made = stage(replicas=1, a=failed(attempt.REFUSED, 1.0))
    began = now()
    await made.serve()
    assert made.models_asked == "ab"
    assert now() - began < 0.1


@pytest.mark.parametrize("end", [attempt.JUNK, attempt.TTFT, attempt.GATEWAY_TIMEOUT, attempt.REJECTED])
async def test_what_must_not_be_tried_again_is_not_tried_on_another_model(stage: Make, end: End) -> None:
    """A fallback is a retry."""
    made = stage(replicas=1, a=failed(end))
    assert (await made.told()).kind is end.error
    assert made.models_asked == "a"


async def test_a_committed_answer_stays_with_its_model(stage: Make) -> None:
    """What was sent cannot be taken back."""

    async def fail(run: Run) -> None:
        await run.sink.begin()
        raise failed(attempt.TRUNCATED)

    made = stage(replicas=1, a=fail)
    run = await made.serve()
    assert made.models_asked == "a"
    assert run.exchange.end is attempt.TRUNCATED


async def test_an_empty_budget_keeps_calls_from_the_fallback_too(stage: Make) -> None:
    """S4: whatever fails, and wherever it is tried again, all of it is paid by one budget."""
    frugal = RetryConfig(budget_share=0.0, budget_floor_per_s=0.1)
    made = stage(replicas=1, retry=frugal, a=failed(attempt.CONNECT))
    await made.serve()
    assert (await made.told()).kind is attempt.CONNECT.error
    assert made.models_asked == "aba"


@pytest.mark.parametrize(("chain", "end"), [("", attempt.REFUSED), ("bc", attempt.CONNECT)])
async def test_a_storm_over_a_chain_stays_within_a_quarter(stage: Make, chain: str, end: End) -> None:
    """S4: 30 s at 100/s, everything failing everywhere: 1.25 attempts a request, and 3 for none."""
    made = stage(a=failed(end), b=failed(end), c=failed(end))
    begin = now()
    for number in range(3000):
        await asyncio.sleep(max(0.0, begin + number / 100 - now()))
        before = len(made.asked)
        await made.told(chain, Call(Api.OPENAI, Operation.CHAT, "a", body=b"%d" % number))
        assert len(made.asked) - before <= 3
    assert 3000 <= len(made.asked) <= 1.25 * 3000


@pytest.mark.parametrize(
    "unfit",
    [
        RouterError(INVALID_PARAMETER, "the prompt does not fit into b"),
        AttemptFailed(attempt.REJECTED, client_message="b has no tools", status=400),
    ],
    ids=["refused by us", "refused by the engine"],
)
@pytest.mark.parametrize("down", [True, False])
async def test_a_fallback_that_cannot_take_the_call_is_not_told(
    stage: Make, unfit: BaseException, *, down: bool
) -> None:
    """The client asked for another model, and hears what became of that one."""
    made = stage(replicas=1, a=failed(attempt.CONNECT), b=unfit)
    if down:
        made.set("a", DOWN)
    error = await made.told()
    assert error.kind.code == ("no_replica" if down else "engine_unreachable")
    assert made.models_asked == ("b" if down else "ab")
    if not down:
        assert isinstance(error.__cause__, AttemptFailed)
        assert error.__cause__.end is attempt.CONNECT


async def test_a_fallbacks_own_failure_is_told(stage: Make) -> None:
    """It was the last to be tried."""
    made = stage(replicas=1, a=failed(attempt.CONNECT), b=failed(attempt.ENGINE_ERROR))
    assert (await made.told("b")).kind is attempt.ENGINE_ERROR.error


async def test_the_clients_time_is_for_all_models_together(stage: Make) -> None:
    """What is left of it is the fallback's."""

    async def slow(run: Run) -> None:
        await asyncio.sleep(5.0)
        raise failed(attempt.CONNECT)

    made = stage(replicas=1, a=slow)
    with pytest.raises(RouterError) as caught:
        await made.serve(limit_s=4.0)
    assert made.models_asked == "a"
    assert caught.value.kind is attempt.CONNECT.error


# --- requests that engines die of


async def test_a_request_hurts_two_engines_at_most(stage: Make) -> None:
    """Sent again and again: whoever answers it would die, and no third is asked; others are served by all."""
    made = stage(replicas=6, retry=RetryConfig(max_attempts=6), a=failed(attempt.RESET_REUSED))
    for _ in range(6):
        await made.told("")
    assert len(set(made.asked)) == 2
    made.acts.clear()
    made.asked.clear()
    for number in range(40):
        await made.serve("", Call(Api.OPENAI, Operation.CHAT, "a", body=b"%d" % number))
    assert len(set(made.asked)) == 6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (attempt.ENGINE_ERROR, attempt.BAD_GATEWAY),
        (attempt.BAD_GATEWAY, attempt.BAD_GATEWAY),
        (attempt.RESET_NEW, attempt.ENGINE_ERROR),
        (attempt.BAD_GATEWAY, attempt.TRUNCATED),
    ],
)
async def test_two_deaths_of_one_call_end_it_in_whichever_way(stage: Make, first: End, second: End) -> None:
    """Also where the table allows a further try after each."""
    deaths = [failed(first), failed(second)]

    async def die(run: Run) -> None:
        raise deaths.pop(0)

    made = stage(replicas=5, retry=RetryConfig(max_attempts=5), a=die)
    assert (await made.told("")).kind is second.error
    assert len(made.asked) == 2


async def test_no_fallback_is_hurt_by_what_hurt_two(stage: Make) -> None:
    """Nor one for one: the engines of all models count together."""
    made = stage(replicas=1, a=failed(attempt.ENGINE_ERROR), b=failed(attempt.ENGINE_ERROR))
    for _ in range(3):
        await made.told()
    assert set(made.asked) == {"a-0", "b-0"}


async def test_it_is_refused_once_both_were_found_dead(stage: Make) -> None:
    """With an error that no client tries again by itself, and without any attempt."""
    made = stage(replicas=4, a=failed(attempt.RESET_NEW))
    await made.told("")
    for replica_id in set(made.asked):
        made.forwarder.poison.died(replica_id, now())
    made.asked.clear()
    error = await made.told()
    assert (error.kind.code, error.status, error.kind.retryable) == ("poison_prompt", 400, False)
    assert made.asked == []


async def test_a_refused_connection_shows_who_died(stage: Make) -> None:
    """The client's next try meets only the two; when both refuse it, the one after is refused by us."""
    made = stage(replicas=4, a=failed(attempt.RESET_NEW))
    await made.told("")
    dead = set(made.asked)
    made.acts = {"a": failed(attempt.CONNECT)}
    assert (await made.told("")).kind is attempt.CONNECT.error
    assert set(made.asked) == dead
    assert (await made.told("")).kind.code == "poison_prompt"


async def test_while_the_two_are_away_it_goes_to_nobody(stage: Make) -> None:
    """A replica that is down may have died of it."""
    made = stage(replicas=4, a=failed(attempt.RESET_NEW))
    await made.told("")
    for replica in made.model("a").pool:
        if replica.id in made.asked:
            replica.health = DOWN
    assert (await made.told()).kind.code == "poison_prompt"
    assert len(made.asked) == 2


async def test_a_death_after_content_counts_too(stage: Make) -> None:
    """The client was told, and tries again; the second engine is the last."""

    async def die(run: Run) -> None:
        await run.sink.begin()
        raise failed(attempt.TRUNCATED)

    made = stage(replicas=4, a=die)
    for _ in range(8):
        await made.serve("")
    assert len(set(made.asked)) == 2


async def test_a_good_answer_sets_it_free(stage: Make) -> None:
    """Then all replicas may be asked again."""
    made = stage(replicas=4, a=failed(attempt.ENGINE_ERROR))
    await made.told("")
    made.acts.clear()
    for _ in range(40):
        await made.serve("")
    assert len(set(made.asked)) == 4
    assert len(made.forwarder.poison) == 0


async def test_it_can_be_switched_off(stage: Make) -> None:
    """RETRY__POISON_S=0, by a reload too: each call for itself hurts two."""
    made = stage(replicas=6, a=failed(attempt.ENGINE_ERROR))
    made.forwarder.retry = RetryConfig(poison_s=0.0)
    for _ in range(40):
        await made.told("")
    assert len(set(made.asked)) == 6
