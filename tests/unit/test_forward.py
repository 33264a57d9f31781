"""The attempt loop: who is asked next, when, how often, and what is left behind when it ends.

Each attempt's conversation is played: it does what its act says. The rules of `retry.next_step` are tested
with that; here it is whether they are asked for, and obeyed.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import cast

import msgspec
import pytest

from clockwork import Clockwork
from pointsman import admission as admission_module
from pointsman import attempt, forward
from pointsman.admission import Admission, AdmissionConfig
from pointsman.attempt import AttemptFailed, End, Retry
from pointsman.breaker import BreakerConfig
from pointsman.call import Api, Call, Operation, Timeouts
from pointsman.errors import INVALID_PARAMETER, ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.forward import Forwarder, client_error
from pointsman.lengths import Lengths
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.outliers import Outliers
from pointsman.registry import Registry
from pointsman.replica import Endpoint, Engine, Health, Replica, State
from pointsman.retry import Again, Budget, RetryConfig
from pointsman.run import Run
from pointsman.upstream import Pool, Pools
from pointsman.watch import TICK_S, Clock, Watch

pytestmark = pytest.mark.anyio

HERE = Endpoint("http", "127.0.0.1", 9)
CHAT = Call(Api.OPENAI, Operation.CHAT, "gemma")
EMBEDDING = Call(Api.OPENAI, Operation.EMBEDDING, "gemma")
FOREVER_S = 1e6
FAILURES = [end for end in attempt.ALL_ENDS if end not in (attempt.OK, attempt.CLIENT_ABORT)]


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


class Purse(Budget):
    """Holds so many retries, and remembers what was asked of it."""

    def __init__(self, tokens: int = 99) -> None:
        super().__init__(RetryConfig())
        self.tokens = tokens
        self.requests = 0
        self.asked = 0

    def note_request(self, now: float) -> None:
        self.requests += 1

    def spend(self, now: float) -> bool:
        self.asked += 1
        self.tokens -= 1
        return self.tokens >= 0


class First:
    """A policy that takes the first candidate and remembers between whom it chose."""

    def __init__(self) -> None:
        self.chose_among: list[list[str]] = []

    def choose(self, candidates: Sequence[Replica], rng: Random) -> Replica:
        self.chose_among.append([replica.id[-1] for replica in candidates])
        return candidates[0]


class Dice(Random):
    """Always shows the same."""

    def random(self) -> float:
        return 0.5


class Client:
    """A sink that is told of broken answers."""

    def __init__(self) -> None:
        self.committed = False
        self.broken_off: list[tuple[AttemptFailed, bool]] = []
        self.reads = True

    async def begin(self) -> None:
        self.committed = True

    async def write(self, block: bytes, *, last: bool = False) -> None: ...

    async def whole(self, body: bytes, lines: bytes) -> None: ...

    async def pass_on(self, first: bytes, length: int | None) -> None: ...

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        if not self.reads:
            await asyncio.sleep(FOREVER_S)
        self.broken_off.append((failure, mid_event))


Act = BaseException | Callable[[Run], Awaitable[None]] | None  # of one attempt: raised, done, or well


@dataclass
class Stage:
    """One model whose replicas act as they are told."""

    run: Run
    registry: Registry
    purse: Purse
    policy: First
    client: Client
    acts: list[Act]
    retry: RetryConfig
    asked: list[str] = field(default_factory=list)  # numbers of the replicas
    at: list[float] = field(default_factory=list)  # seconds since the start
    fresh: list[bool] = field(default_factory=list)  # a new connection was required
    busy: list[int] = field(default_factory=list)  # leases open while each was asked
    closed: list[tuple[str, End]] = field(default_factory=list)

    @property
    def pool(self) -> list[Replica]:
        return self.run.model.pool

    @property
    def in_flight(self) -> int:
        return sum(replica.in_flight for replica in self.pool)

    async def converse(self, run: Run, replica: Replica, pool: Pool, lengths: Lengths) -> None:
        assert run is self.run
        self.asked.append(replica.id[-1])
        self.at.append(round(now() - 1000.0, 6))
        self.fresh.append(isinstance(run.step, Again) and run.step.fresh)
        self.busy.append(self.in_flight)
        act = self.acts.pop(0)
        if isinstance(act, BaseException):
            raise act
        if act is not None:
            await act(run)

    async def serve(self) -> None:
        admission = Admission(self.registry, AdmissionConfig(), Dice())
        await Forwarder(admission, cast("Pools", NoPools()), self.retry, Dice()).serve(self.run)


class Noting(Outliers):
    """Keeps how each attempt ended."""

    def __init__(self, ended: list[tuple[str, End]]) -> None:
        super().__init__(BreakerConfig(), Random())
        self.ended = ended

    def end(self, replica: Replica, end: End, begun_at: float, *, tried: bool = False) -> None:
        self.ended.append((replica.id[-1], end))
        super().end(replica, end, begun_at, tried=tried)


class NoPools:
    def of(self, replica: Replica) -> None:
        return None


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    def make(
        *acts: Act,
        replicas: int = 3,
        engines: tuple[Engine, ...] = (),
        call: Call = CHAT,
        tokens: int = 99,
        limit_s: float = 600.0,
        max_in_flight: int | None = None,
        retry: RetryConfig = RetryConfig(),  # noqa: B008 - frozen
    ) -> Stage:
        pool = tuple(
            ReplicaConfig(HERE, engine, max_in_flight=max_in_flight)
            for engine in engines or (Engine.VLLM,) * replicas
        )
        config = ModelConfig("gemma", pool, "Gemma", timeouts=Timeouts(send_s=30.0))
        closed: list[tuple[str, End]] = []
        registry = Registry([config], retry, outliers=Noting(closed))
        model = registry.models["gemma"]
        model.policy, model.budget = policy, purse = First(), Purse(tokens)
        task = asyncio.current_task()
        assert task is not None
        client, watch = Client(), Watch(Clock(asyncio.get_running_loop()), task)
        run = Run(
            call,
            model,
            Exchange("id", "/v1", "POST", now()),
            watch,
            client,
            now() + limit_s,
            model.config.timeouts,
        )
        made = Stage(run, registry, purse, policy, client, list(acts), retry, closed=closed)
        monkeypatch.setattr(forward, "converse", made.converse)
        return made

    return make


Make = Callable[..., Stage]


def failed(end: End, retry_after_s: float | None = None) -> AttemptFailed:
    return AttemptFailed(end, "10.0.0.9 said no", retry_after_s=retry_after_s)


async def commit_and_fail(run: Run) -> None:
    await run.sink.begin()
    run.exchange.mid_event = True
    raise failed(attempt.TRUNCATED)


async def told(stage: Stage) -> RouterError:
    """Serve what nobody can; what the client is told."""
    with pytest.raises(RouterError) as caught:
        await stage.serve()
    assert stage.in_flight == 0
    return caught.value


# --- one attempt


async def test_a_good_answer_takes_one_attempt(stage: Make) -> None:
    """One replica, one lease, no retry spent, and a record of it."""
    made = stage(None)
    await made.serve()
    assert (made.asked, made.busy, made.in_flight) == (["0"], [1], 0)
    assert made.closed == [("0", attempt.OK)]
    assert (made.purse.requests, made.purse.asked) == (1, 0)
    exchange = made.run.exchange
    assert (exchange.replica_id, exchange.end) == ("gemma-0", attempt.OK)
    assert [(one.replica_id, one.end, one.detail) for one in exchange.attempts] == [
        ("gemma-0", attempt.OK, "")
    ]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ClientGone(), attempt.CLIENT_ABORT),
        (RouterError(INVALID_PARAMETER), attempt.REJECTED),
        (ValueError("ours"), attempt.BUG),
        (asyncio.CancelledError(), attempt.CANCELLED),
    ],
    ids=["client left", "dialect refused", "bug", "cancelled"],
)
async def test_what_no_attempt_can_mend_is_raised_as_it_is(
    stage: Make, error: BaseException, end: End
) -> None:
    """Nobody else is asked, no retry is spent, and the lease is closed with what it was."""
    made = stage(error)
    with pytest.raises(type(error)) as caught:
        await made.serve()
    assert caught.value is error
    assert made.closed == [("0", end)]
    assert made.in_flight == made.purse.asked == 0
    assert [one.end for one in made.run.exchange.attempts] == [end]


@pytest.mark.parametrize("attempts_before", [0, 1])
async def test_a_cancelled_attempt_leaves_no_lease(stage: Make, attempts_before: int) -> None:
    """Whoever cancels the task: it ends cancelled, and the replica is free again."""

    async def wait(run: Run) -> None:
        await asyncio.sleep(FOREVER_S)

    made = stage(*[failed(attempt.CONNECT)] * attempts_before, wait)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(1.0, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await made.serve()
    task.uncancel()
    assert made.in_flight == 0
    assert len(made.closed) == attempts_before + 1
    assert made.closed[-1][1] is attempt.CANCELLED  # which nobody is blamed for


@pytest.mark.parametrize("limit_s", [0.0, -1.0])
async def test_nothing_is_asked_once_the_time_is_up(stage: Make, limit_s: float) -> None:
    """A request whose deadline passed while its body came reaches no engine: nobody waits for the answer."""
    made = stage(None, limit_s=limit_s)
    error = await told(made)
    assert error.status == 504
    assert (made.asked, made.closed) == ([], [])


# --- further attempts


_TRIES = {Retry.NEVER: 1, Retry.OTHER: 3, Retry.ONCE_OTHER: 2, Retry.FRESH: 2, Retry.REPAIR: 2}


@pytest.mark.parametrize("end", FAILURES, ids=lambda end: end.label)
async def test_a_failure_is_tried_as_often_as_its_rule_allows(stage: Make, end: End) -> None:
    """Each replica once, one lease at a time; the client is told of the last, and the caller of its end."""
    made = stage(*[failed(end)] * 9)
    error = await told(made)
    tries = min(_TRIES[end.retry], 2 if end in attempt.DEADLY else 3)
    if end.retry is Retry.FRESH:
        assert made.asked == ["0", "0"]
        assert made.fresh == [False, True]
    elif end.retry is Retry.REPAIR:
        assert made.asked[0] == "0"
    else:
        assert made.asked == ["0", "1", "2"][:tries]
        assert not any(made.fresh)
    assert made.busy == [1] * tries
    assert [one_end for _, one_end in made.closed] == [end] * tries
    assert made.purse.asked == (0 if end.retry in (Retry.REPAIR, Retry.FRESH) else tries - 1)
    assert error.kind is end.error
    assert isinstance(error.__cause__, AttemptFailed)
    assert error.__cause__.end is end
    assert not made.client.broken_off


@pytest.mark.parametrize(
    ("ends", "asked"),
    [
        ([attempt.CONNECT, attempt.REFUSED, None], "012"),
        ([attempt.CONNECT, attempt.JUNK], "01"),
        ([attempt.ENGINE_ERROR, attempt.CONNECT, attempt.RESET_NEW], "012"),
        ([attempt.CONNECT, attempt.ENGINE_ERROR, attempt.CONNECT, attempt.ENGINE_ERROR], "0123"),
        ([attempt.RESET_REUSED, attempt.RESET_REUSED], "00"),
        ([attempt.RESET_REUSED, attempt.CONNECT, attempt.RESET_REUSED], "001"),
        ([attempt.CONNECT, attempt.RESET_REUSED, None], "011"),
        ([attempt.RESET_REUSED, attempt.TRUNCATED, attempt.CONNECT, attempt.ENGINE_ERROR], "0012"),
    ],
)
async def test_what_the_attempts_used_up_is_remembered(
    stage: Make, ends: list[End | None], asked: str
) -> None:
    """A second reset, or a second fault that may have killed an engine, ends it whatever came between."""
    acts = [failed(end) if end else None for end in ends]
    made = stage(*acts, failed(attempt.BUG), replicas=6, retry=RetryConfig(max_attempts=6))
    last = ends[-1]
    if last is None:
        await made.serve()
    else:
        assert (await told(made)).kind is last.error
    assert "".join(made.asked) == asked
    assert made.run.tried.attempts == len(ends)
    assert [one.end for one in made.run.exchange.attempts] == [end or attempt.OK for end in ends]


def spending(prompt: int, completion: int, end: End | None = None) -> Act:
    """An attempt whose engine told its tokens; without an end it was a good one."""

    async def act(run: Run) -> None:
        run.exchange.prompt_tokens, run.exchange.completion_tokens = prompt, completion
        if end is not None:
            raise failed(end)

    return act


@pytest.mark.parametrize(
    ("acts", "tokens"),
    [
        ((spending(400, 11, attempt.MISFIT), spending(471, 12)), (871, 23)),
        ((spending(400, 11, attempt.MISFIT), spending(471, 12, attempt.MISFIT)), (871, 23)),
        ((spending(400, 11, attempt.MISFIT), failed(attempt.CONNECT), spending(471, 12)), (871, 23)),
        ((spending(400, 11, attempt.MISFIT), RouterError(INVALID_PARAMETER)), (400, 11)),
        ((spending(400, 11, attempt.RESET_NEW), spending(400, 12)), (400, 12)),
    ],
    ids=["mended", "not mended", "with another failure between", "refused", "no answer"],
)
async def test_a_repair_is_added_up(stage: Make, acts: tuple[Act, ...], tokens: tuple[int, int]) -> None:
    """An unfit answer cost its tokens, and so did the one in its place; a failed engine's cost none."""
    made = stage(*acts)
    with suppress(RouterError):
        await made.serve()
    assert made.acts == []
    assert (made.run.exchange.prompt_tokens, made.run.exchange.completion_tokens) == tokens


async def test_only_the_attempt_after_a_reset_needs_a_new_connection(stage: Make) -> None:
    """The one after that may use what lies ready."""
    made = stage(failed(attempt.RESET_REUSED), failed(attempt.CONNECT), None)
    await made.serve()
    assert made.fresh == [False, True, False]


async def test_the_next_attempt_comes_after_a_jittered_wait(stage: Make) -> None:
    """Half of 25 ms, half of 50 ms with these dice; and nobody's slot is held meanwhile."""
    made, held = stage(failed(attempt.CONNECT), failed(attempt.CONNECT), None), list[int]()
    for at_s in (0.01, 0.03):
        asyncio.get_running_loop().call_later(at_s, lambda: held.append(made.in_flight))
    await made.serve()
    assert made.at == pytest.approx([0.0, 0.0125, 0.0375], abs=1e-6)
    assert held == [0, 0]


async def test_an_engine_that_asks_for_time_is_asked_again_when_it_is_alone(stage: Make) -> None:
    """After the time it asked for, or 0.1 s at least; for longer than 2 s the client does the waiting."""
    for asked_s, at in ((1.5, [0.0, 1.5]), (0.0, [0.0, 0.1])):
        made = stage(failed(attempt.REFUSED, asked_s), None, replicas=1)
        began = now()
        await made.serve()
        assert [round(when - made.at[0], 6) for when in made.at] == at
        assert made.asked == ["0", "0"]
        assert now() - began == pytest.approx(at[1])
    made = stage(failed(attempt.REFUSED, 2.5), replicas=1)
    assert (await told(made)).retry_after_s == 2
    assert made.asked == ["0"]


async def test_an_engine_that_asks_for_time_is_not_waited_for_beside_another(stage: Make) -> None:
    """The other is asked at once."""
    made = stage(failed(attempt.REFUSED, 1.5), None, replicas=2)
    await made.serve()
    assert made.asked == ["0", "1"]
    assert made.at[1] < 0.1


async def test_an_empty_budget_gives_the_failure_to_the_client_at_once(stage: Make) -> None:
    """It is asked once for each retry and not again; what is told is the last failure."""
    for tokens, asked, kind in (
        (0, ["0"], attempt.CONNECT.error),
        (1, ["0", "1"], attempt.BAD_GATEWAY.error),
    ):
        made = stage(failed(attempt.CONNECT), failed(attempt.BAD_GATEWAY), tokens=tokens)
        began = now()
        assert (await told(made)).kind is kind
        assert made.asked == asked
        assert made.purse.asked == tokens + 1
        assert now() - began < 0.1


@pytest.mark.parametrize(("limit_s", "asked"), [(1.49, 1), (1.5, 1), (1.51, 2)])
async def test_no_attempt_begins_after_the_deadline(stage: Make, limit_s: float, asked: int) -> None:
    """A wait beyond it is not begun, and costs no retry."""
    made = stage(failed(attempt.REFUSED, 1.5), None, replicas=1, limit_s=limit_s)
    if asked == 1:
        await told(made)
    else:
        await made.serve()
    assert len(made.asked) == asked
    assert made.purse.asked == asked - 1


@pytest.mark.parametrize("most", [1, 2])
async def test_the_number_of_attempts_is_the_operators(stage: Make, most: int) -> None:
    """One means no retry."""
    made = stage(*[failed(attempt.CONNECT)] * 9, retry=RetryConfig(max_attempts=most))
    await told(made)
    assert len(made.asked) == most


async def test_a_deadline_that_rang_does_not_end_the_next_attempt(stage: Make) -> None:
    """The first is over, its lease closed, before the second begins; its cause is not raised again."""

    async def late(run: Run) -> None:
        run.watch.set(now() + 1.0, attempt.first_event_late)
        await asyncio.sleep(FOREVER_S)

    async def slow(run: Run) -> None:
        await asyncio.sleep(100.0)

    made = stage(late, slow, retry=RetryConfig(retry_on_first_event_timeout=True))
    await made.serve()
    assert made.asked == ["0", "1"]
    assert made.busy == [1, 1]
    assert made.at[1] == pytest.approx(1.0 + 0.0125, abs=2 * TICK_S)
    assert made.closed == [("0", attempt.TTFT), ("1", attempt.OK)]


async def test_a_client_that_leaves_between_two_attempts_ends_it(stage: Make) -> None:
    """At once, and no further attempt is begun."""
    made = stage(failed(attempt.REFUSED, 1.5), None, replicas=1)
    asyncio.get_running_loop().call_later(0.5, made.run.watch.interrupt, ClientGone())
    began = now()
    with pytest.raises(ClientGone):
        await made.serve()
    assert made.asked == ["0"]
    assert now() - began == pytest.approx(0.5)


async def test_a_client_that_left_causes_no_attempt(stage: Make) -> None:
    """No engine hears of it, and the lease that was taken is given back."""
    made = stage(None)
    made.run.watch.interrupt(ClientGone())
    with pytest.raises(ClientGone):
        await made.serve()
    assert made.asked == []
    assert made.closed == [("0", attempt.CLIENT_ABORT)]
    assert made.in_flight == 0


# --- committed answers


@pytest.mark.parametrize("end", FAILURES, ids=lambda end: end.label)
async def test_a_committed_answer_is_broken_off_never_tried_again(stage: Make, end: End) -> None:
    """Whatever its rule says: once, with the failure; and the caller has nothing more to tell."""

    async def fail(run: Run) -> None:
        await run.sink.begin()
        raise failed(end)

    made = stage(fail, None)
    await made.serve()
    assert made.asked == ["0"]
    assert [(failure.end, mid_event) for failure, mid_event in made.client.broken_off] == [(end, False)]
    assert made.closed == [("0", end)]
    assert made.run.exchange.end is end
    assert made.run.exchange.attempts[0].detail == "10.0.0.9 said no"
    assert made.purse.asked == made.in_flight == 0


async def test_a_later_attempt_may_commit_and_fail(stage: Make) -> None:
    """The line is drawn where content was sent, not at the first attempt; where the event stood is told."""
    made = stage(failed(attempt.CONNECT), commit_and_fail, None)
    await made.serve()
    assert made.asked == ["0", "1"]
    assert [(failure.end, mid_event) for failure, mid_event in made.client.broken_off] == [
        (attempt.TRUNCATED, True)
    ]
    assert made.closed == [("0", attempt.CONNECT), ("1", attempt.TRUNCATED)]


async def test_a_deadline_that_broke_an_answer_leaves_time_to_say_so(stage: Make) -> None:
    """The error frame is sent though the watch has rung."""

    async def idle(run: Run) -> None:
        await run.sink.begin()
        run.watch.set(now() + 1.0, attempt.idle_too_long)
        await asyncio.sleep(FOREVER_S)

    made = stage(idle)
    await made.serve()
    assert [failure.end for failure, _ in made.client.broken_off] == [attempt.IDLE]


async def test_a_client_that_does_not_take_the_error_frame_is_left(stage: Make) -> None:
    """After the time of one write; the engine's failure stays the attempt's end, and its slot is free."""
    made = stage(commit_and_fail)
    made.client.reads = False
    began = now()
    with pytest.raises(ClientGone):
        await made.serve()
    assert now() - began == pytest.approx(30.0, abs=2 * TICK_S)
    assert made.closed == [("0", attempt.TRUNCATED)]
    assert made.in_flight == 0


# --- who is asked


@pytest.mark.parametrize(
    ("state", "fit"),
    [(State.UP, True), (State.UNKNOWN, True), (State.DOWN, False), (State.MISCONFIGURED, False)],
)
async def test_only_replicas_that_are_not_known_to_fail_are_asked(
    stage: Make, state: State, *, fit: bool
) -> None:
    """The policy chooses among those, and is not asked where there is no choice."""
    made = stage(None)
    made.pool[0].health = Health(state)
    await made.serve()
    assert made.policy.chose_among == [["0", "1", "2"] if fit else ["1", "2"]]
    for replica in made.pool[:2]:
        replica.health = Health(State.DOWN)
    alone = stage(None)
    for replica in alone.pool[:2]:
        replica.health = Health(State.DOWN)
    await alone.serve()
    assert alone.asked == ["2"]
    assert alone.policy.chose_among == []


async def test_a_replica_that_could_not_be_connected_to_comes_last(stage: Make) -> None:
    """Until a check found it good again; of several such all are asked, as nobody else is left."""
    made = stage(failed(attempt.CONNECT), None, None, None, failed(attempt.TRUNCATED), None)
    await made.serve()
    assert [replica.conduct.doubted for replica in made.pool] == [True, False, False]
    for _ in range(2):
        made.run.asked.clear()
        made.run.tried.attempts = 0
        await made.serve()
    assert made.asked == ["0", "1", "1", "1"]


async def test_a_full_replica_is_not_asked(stage: Make) -> None:
    """Its limit counts what is in flight, and it is a candidate again when one of that ends."""
    made = stage(None, None, max_in_flight=1)
    busy = made.registry.lease(made.pool[0])
    await made.serve()
    busy.close(attempt.OK)
    made.run.asked.clear()
    await made.serve()
    assert made.asked == ["1", "0"]


async def test_an_engine_that_does_not_speak_the_api_is_not_asked(stage: Make) -> None:
    """Neither at first nor as the other of a failed one."""
    made = stage(failed(attempt.CONNECT), call=EMBEDDING, engines=(Engine.TGI, Engine.VLLM, Engine.TGI))
    assert (await told(made)).kind is attempt.CONNECT.error
    assert made.asked == ["1"]


@pytest.mark.parametrize(
    ("engine", "state", "full", "code", "retry_after_s"),
    [
        (Engine.TGI, State.UP, False, "unsupported_by_engine", None),
        (Engine.TGI, State.DOWN, True, "unsupported_by_engine", None),
        (Engine.VLLM, State.DOWN, False, "no_replica", 5),
        (Engine.VLLM, State.DOWN, True, "no_replica", 5),
    ],
)
async def test_who_can_not_be_served_is_told_why(
    stage: Make, engine: Engine, state: State, code: str, retry_after_s: int | None, *, full: bool
) -> None:
    """At once, without an attempt or a lease, and when to come back where that may help."""
    made = stage(call=EMBEDDING, engines=(engine,) * 2, max_in_flight=1)
    for replica in made.pool:
        replica.health = Health(state)
    leases = [made.registry.lease(replica) for replica in made.pool if full]
    began = now()
    with pytest.raises(RouterError) as caught:
        await made.serve()
    assert (caught.value.kind.code, caught.value.retry_after_s) == (code, retry_after_s)
    assert now() == began
    assert made.asked == []
    assert made.run.exchange.attempts == []
    assert made.in_flight == len(leases)


async def test_an_idle_replica_that_does_not_speak_the_api_does_not_hide_that_the_other_is_down(
    stage: Make,
) -> None:
    """Its free slots are no overload of anybody."""
    made = stage(call=EMBEDDING, engines=(Engine.TGI, Engine.VLLM))
    made.pool[1].health = Health(State.DOWN)
    assert (await told(made)).kind.code == "no_replica"


async def test_one_full_replica_among_the_dead_is_waited_for(stage: Make) -> None:
    """A slot may be free soon: another case than that none is up. It waits its time, and no longer."""
    made = stage(replicas=2, max_in_flight=1)
    made.pool[0].health = Health(State.DOWN)
    lease = made.registry.lease(made.pool[1])
    began = now()
    with pytest.raises(RouterError) as caught:
        await made.serve()
    lease.close(attempt.OK)
    assert caught.value.kind.code == "queue_timeout"
    assert 15.0 <= now() - began <= 15.0 + 2 * TICK_S
    assert made.asked == []


async def test_a_retry_waits_for_a_busy_replica(stage: Make) -> None:
    """It is asked when its slot is free, within the time of the exchange."""
    made = stage(failed(attempt.CONNECT), None, replicas=2, max_in_flight=1)
    lease = made.registry.lease(made.pool[1])
    asyncio.get_running_loop().call_later(3.0, lease.close, attempt.OK)
    await made.serve()
    assert made.asked == ["0", "1"]
    assert 3.0 <= made.at[1] <= 3.3  # nobody told that it is free: a look finds it
    assert made.run.exchange.queued_s == pytest.approx(made.at[1] - made.at[0], abs=0.1)


async def test_a_retry_does_not_wait_beyond_the_time_of_the_exchange(stage: Make) -> None:
    """Then it is the whole exchange that took too long."""
    made = stage(failed(attempt.CONNECT), replicas=2, max_in_flight=1, limit_s=4.0)
    lease = made.registry.lease(made.pool[1])
    with pytest.raises(RouterError) as caught:
        await made.serve()
    lease.close(attempt.OK)
    assert caught.value.kind is attempt.TOTAL.error
    assert made.asked == ["0"]
    assert now() == pytest.approx(1004.0, abs=2 * TICK_S)


# --- what the client is told


@pytest.mark.parametrize(
    ("end", "asked_s", "told_s"),
    [
        (attempt.REFUSED, None, 1),
        (attempt.REFUSED, 0.2, 1),
        (attempt.REFUSED, 7.6, 8),
        (attempt.ABORTED, None, 1),
        (attempt.ENGINE_ERROR, 9.0, None),
        (attempt.CONNECT, None, None),
    ],
)
def test_retry_after_is_told_of_overload_alone(end: End, asked_s: float | None, told_s: int | None) -> None:
    """In whole seconds, at least one."""
    assert client_error(failed(end, asked_s)).retry_after_s == told_s


@pytest.mark.parametrize("end", FAILURES, ids=lambda end: end.label)
def test_the_detail_is_for_the_log_alone(end: End) -> None:
    """A client reads our own sentence."""
    error = client_error(failed(end))
    assert (error.kind, error.message, error.status) == (end.error, end.error.message, end.error.status)


def test_an_engines_word_on_the_clients_mistake_is_passed_on() -> None:
    """With the status it came with."""
    failure = AttemptFailed(attempt.REJECTED, "x", client_message="`n` is too large.", status=422)
    error = client_error(failure)
    assert (error.message, error.status) == ("`n` is too large.", 422)


class Fields(dict[str, msgspec.Raw]):
    """Fields of a request, of which it can be told whether anybody holds them."""


@pytest.mark.parametrize("fails", [0, 1, 2])
async def test_a_request_that_is_let_go_is_held_by_nobody(stage: Make, fails: int) -> None:
    """Not by who asked before in vain either, whose failure is kept while another is asked."""
    fields = Fields(messages=msgspec.Raw(b'["long"]'))
    held, left = weakref.ref(fields), list[object]()

    async def fail(run: Run) -> None:
        call = run.call  # as whoever writes a request holds it
        assert call.fields
        raise failed(attempt.CONNECT)

    async def answer(run: Run) -> None:
        run.let_go()
        left.append(held())

    made = stage(*[fail] * fails, answer, call=Call(Api.OPENAI, Operation.CHAT, "gemma", fields=fields))
    del fields
    await made.serve()
    assert left == [None]
