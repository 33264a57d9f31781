"""Who gets a slot when: at once, in turn, or not at all; and nothing is left behind by whoever waited.

Whose turn it is by the rules is tested with `waiting`; here it is whether slots are handed out at once, to
whom they may go, and what ends a wait.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from clockwork import Clockwork
from pointsman import admission as admission_module
from pointsman import attempt
from pointsman.admission import Admission, AdmissionConfig
from pointsman.attempt import AttemptFailed
from pointsman.call import Api, Call, Operation, Timeouts
from pointsman.errors import ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.registry import Lease, Model, Registry
from pointsman.replica import Endpoint, Engine, Health, Replica, State
from pointsman.retry import RetryConfig
from pointsman.run import Run
from pointsman.waiting import Priority
from pointsman.watch import TICK_S, Clock, Watch

pytestmark = pytest.mark.anyio

HERE = Endpoint("http", "127.0.0.1", 9)
CHAT = Call(Api.OPENAI, Operation.CHAT, "gemma")
EMBEDDING = Call(Api.OPENAI, Operation.EMBEDDING, "gemma")
LOOK_S = 0.25
LATE_S = 2 * TICK_S  # within which a deadline rings


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


@pytest.fixture(autouse=True)
def _played_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "monotonic", now)


def now() -> float:
    return asyncio.get_running_loop().time()


class Dice(Random):
    """Always shows the same."""

    def random(self) -> float:
        return 0.0


class Nowhere:
    """A client that is never sent anything."""

    committed = False

    async def begin(self) -> None: ...

    async def write(self, block: bytes, *, last: bool = False) -> None: ...

    async def whole(self, body: bytes, lines: bytes) -> None: ...

    async def pass_on(self, first: bytes, length: int | None) -> None: ...

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None: ...


@dataclass
class Stage:
    """One model, and calls that want its slots."""

    registry: Registry
    admission: Admission
    clock: Clock
    order: list[str] = field(default_factory=list)  # names, as they got a slot
    runs: dict[str, Run] = field(default_factory=dict)
    failed: dict[str, BaseException] = field(default_factory=dict)
    tasks: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        return self.registry.models["gemma"]

    @property
    def pool(self) -> list[Replica]:
        return self.model.pool

    @property
    def in_flight(self) -> int:
        return sum(replica.in_flight for replica in self.pool)

    async def come(self, name: str, **facts: Any) -> None:
        """A call comes, whose party is the first letter of its name, and waits if it has to."""
        self.tasks[name] = asyncio.create_task(self._serve(name, **facts))
        await settle()

    async def end(self, name: str) -> None:
        """A call that has a slot ends well."""
        self.admission.release(self.leases.pop(name), self.runs[name], attempt.OK)
        await settle()

    async def _serve(
        self,
        name: str,
        call: Call = CHAT,
        priority: Priority = Priority.NORMAL,
        asked: tuple[int, ...] = (),
        limit_s: float = 600.0,
        model: Model | None = None,
        again: bool = False,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        model = model or self.model
        run = self.runs[name] = Run(
            call,
            model,
            Exchange(name, "/v1", "POST", now()),
            Watch(self.clock, task),
            Nowhere(),
            now() + limit_s,
            model.config.timeouts,
            party=name[0],
            priority=priority,
            asked={self.pool[number] for number in asked},
        )
        try:
            lease = self.admission.at_once(run, again=again) or await self.admission.wait(run, again=again)
        except (RouterError, AttemptFailed, ClientGone) as error:
            self.failed[name] = error
            return
        self.order.append(name)
        self.leases[name] = lease

    def code(self, name: str) -> str:
        """The code of the error that a call was told."""
        error = self.failed[name]
        assert isinstance(error, RouterError)
        return error.kind.code


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(8):
        await asyncio.sleep(0)


Make = Callable[..., Stage]


@pytest.fixture
def stage() -> Make:
    def make(slots: int = 1, replicas: int = 1, engines: tuple[Engine, ...] = (), **knobs: Any) -> Stage:
        timeouts = Timeouts(**{name: knobs.pop(name) for name in ("queue_s",) if name in knobs})
        pool = tuple(
            ReplicaConfig(HERE, engine, max_in_flight=slots)
            for engine in engines or (Engine.VLLM,) * replicas
        )
        registry = Registry([ModelConfig("gemma", pool, "Gemma", timeouts=timeouts)], RetryConfig())
        config = AdmissionConfig(**knobs)
        admission = Admission(registry, config, Dice())
        return Stage(registry, admission, Clock(asyncio.get_running_loop()))

    return make


# --- a slot, at once or in turn


async def test_a_free_slot_is_had_at_once(stage: Make) -> None:
    """Nobody waits, and no time passes."""
    made = stage(slots=2)
    await made.come("a1")
    await made.come("b1")
    assert made.order == ["a1", "b1"]
    assert made.admission.queued() == {}
    assert made.runs["b1"].exchange.queued_s == 0.0


async def test_a_slot_that_gets_free_goes_to_the_next_at_once(stage: Make) -> None:
    """In turn over the parties, without a timer in between."""
    made = stage(queue_max=9, queue_per_slot=9)
    for name in ("a1", "a2", "a3", "b1"):
        await made.come(name)
    assert made.admission.queued() == {"gemma": 3}
    began = now()
    for name in ("a1", "a2", "b1", "a3"):
        assert made.order[-1] == name
        await made.end(name)
    assert made.order == ["a1", "a2", "b1", "a3"]
    assert now() - began < LOOK_S
    assert made.admission.queued() == {}
    assert made.in_flight == 0


async def test_a_newcomer_does_not_pass_those_who_wait(stage: Make) -> None:
    """Not even between the end of a call and the start of the next."""
    made = stage()
    await made.come("a1")
    await made.come("b1")
    made.tasks["c1"] = asyncio.create_task(made._serve("c1"))
    made.admission.release(made.leases.pop("a1"), made.runs["a1"], attempt.OK)
    await settle()
    assert made.order == ["a1", "b1"]
    assert made.in_flight == 1


async def test_higher_classes_wait_less(stage: Make) -> None:
    """They are handed their slots first."""
    made = stage(queue_per_slot=9)
    await made.come("a1")
    await made.come("a2", priority=Priority.LOW)
    await made.come("b1", priority=Priority.HIGH)
    await made.end("a1")
    assert made.order == ["a1", "b1"]


async def test_who_waits_is_told_its_place(stage: Make) -> None:
    """Counted from 1, and as it is when it is asked."""
    made = stage(queue_per_slot=9)
    for name in ("a1", "a2", "b1"):
        await made.come(name)
    places = [made.runs[name].exchange.place for name in ("a1", "a2", "b1")]
    assert [place and place() for place in places] == [None, 1, 2]
    await made.end("a1")
    place = made.runs["b1"].exchange.place
    assert made.runs["a2"].exchange.place is None
    assert place is not None
    assert place() == 1


async def test_a_slot_of_a_replica_that_comes_up_is_handed_out(stage: Make) -> None:
    """At once when somebody says so."""
    made = stage(replicas=2)
    made.pool[1].health = Health(State.DOWN)
    await made.come("a1")
    await made.come("a2")
    made.pool[1].health = Health(State.UP)
    made.admission.changed("other")
    await settle()
    assert made.order == ["a1"]
    made.admission.changed("gemma")
    await settle()
    assert made.order == ["a1", "a2"]


async def test_slots_that_nobody_tells_of_are_found(stage: Make) -> None:
    """A limit that grows by time alone is looked at while somebody waits, and then no longer."""
    made = stage()
    await made.come("a1")
    await made.come("a2")
    made.pool[0].slots = 2
    await asyncio.sleep(LOOK_S + 0.01)
    assert made.order == ["a1", "a2"]
    await asyncio.sleep(2 * LOOK_S)
    assert made.admission._look is not None
    assert made.admission._look.when() < now()


async def test_who_cannot_use_a_slot_does_not_hold_up_who_can(stage: Make) -> None:
    """A retry that waits for the other replica, and a call that only one engine takes."""
    made = stage(replicas=2, queue_per_slot=9)
    await made.come("a1")
    await made.come("b1")
    taken = {name: made.pool.index(made.leases[name].replica) for name in ("a1", "b1")}
    await made.come("r1", asked=(taken["a1"],))
    await made.come("c1")
    await made.end("a1")
    assert made.order[2:] == ["c1"]
    await made.end("b1")
    assert made.order[2:] == ["c1", "r1"]


async def test_an_engine_that_cannot_take_a_call_is_not_waited_for_in_vain(stage: Make) -> None:
    """Calls that only the other engine takes fill the queue; a free slot is had at once all the same."""
    made = stage(engines=(Engine.VLLM, Engine.TGI), queue_max=1)
    await made.come("a1", call=EMBEDDING)
    await made.come("a2", call=EMBEDDING)
    assert made.admission.queued() == {"gemma": 1}
    await made.come("c1")
    assert made.order == ["a1", "c1"]


async def test_a_slot_freed_by_another_model_object_of_the_same_name_counts(stage: Make) -> None:
    """An operator's call to one replica alone waits by itself, and gets what other calls give back."""
    made = stage()
    await made.come("a1")
    alone = Model(made.model.config, [made.pool[0]], made.model.policy, made.model.budget)
    await made.come("o1", model=alone)
    assert made.admission.queued() == {"gemma": 1}
    await made.end("a1")
    assert made.order == ["a1", "o1"]


# --- the ends of a wait


async def test_a_wait_has_an_end(stage: Make) -> None:
    """After TIMEOUT__QUEUE_S it is 503, with the time after which a new try is worth it."""
    made = stage(queue_s=3.0)
    await made.come("a1")
    began = now()
    await made.come("a2")
    await made.tasks["a2"]
    assert 3.0 <= now() - began <= 3.0 + LATE_S
    assert made.code("a2") == "queue_timeout"
    error = made.failed["a2"]
    assert isinstance(error, RouterError)
    assert error.retry_after_s == 5
    assert isinstance(error.__cause__, AttemptFailed)
    assert error.__cause__.end is attempt.QUEUE_TIMEOUT
    assert made.runs["a2"].exchange.queued_s == pytest.approx(3.0, abs=LATE_S)
    assert made.admission.queued() == {}


async def test_a_wait_ends_with_the_time_of_the_exchange(stage: Make) -> None:
    """What the client is told then is not about the queue."""
    made = stage()
    await made.come("a1")
    began = now()
    await made.come("a2", limit_s=2.0)
    await made.tasks["a2"]
    assert 2.0 <= now() - began <= 2.0 + LATE_S
    error = made.failed["a2"]
    assert isinstance(error, AttemptFailed)
    assert error.end is attempt.TOTAL
    assert made.admission.queued() == {}


async def test_an_expired_call_is_not_handed_a_slot(stage: Make) -> None:
    """Even where its time ran out but a moment ago, and nobody has told it yet."""
    made = stage(queue_s=3.0)
    await made.come("a1")
    await made.come("a2")
    await asyncio.sleep(1.0)
    await made.come("b1")
    asyncio.get_running_loop().call_at(
        made.runs["a2"].exchange.started_at + 3.001,
        lambda: made.admission.release(made.leases.pop("a1"), made.runs["a1"], attempt.OK),
    )
    await made.tasks["b1"]
    assert made.order == ["a1", "b1"]
    await made.tasks["a2"]
    assert made.code("a2") == "queue_timeout"


async def test_who_leaves_is_out_of_the_queue_at_once(stage: Make) -> None:
    """The next moves up, and gets the next slot."""
    made = stage(queue_per_slot=9)
    for name in ("a1", "b1", "c1"):
        await made.come(name)
    made.runs["b1"].watch.interrupt(ClientGone())
    await settle()
    assert isinstance(made.failed["b1"], ClientGone)
    assert made.admission.queued() == {"gemma": 1}
    await made.end("a1")
    assert made.order == ["a1", "c1"]


@pytest.mark.parametrize("how", ["leaves first", "has it first"])
async def test_who_leaves_in_the_moment_of_its_turn_gives_the_slot_on(stage: Make, how: str) -> None:
    """No slot is lost between the two, in whichever order they come."""
    made = stage(queue_per_slot=9)
    for name in ("a1", "b1", "c1"):
        await made.come(name)
    steps: list[Callable[[], None]] = [
        lambda: made.runs["b1"].watch.interrupt(ClientGone()),
        lambda: made.admission.release(made.leases.pop("a1"), made.runs["a1"], attempt.OK),
    ]
    for step in steps if how == "leaves first" else reversed(steps):
        step()
    await settle()
    assert isinstance(made.failed["b1"], ClientGone)
    assert made.order == ["a1", "c1"]
    assert made.in_flight == 1
    await made.end("c1")
    assert made.in_flight == 0
    assert made.admission.queued() == {}


async def test_a_cancelled_task_leaves_nothing_behind(stage: Make) -> None:
    """A cancellation from outside passes, and the queue is as if it had never come."""
    made = stage()
    await made.come("a1")
    await made.come("b1")
    made.tasks["b1"].cancel()
    with pytest.raises(asyncio.CancelledError):
        await made.tasks["b1"]
    assert made.admission.queued() == {}
    await made.end("a1")
    assert made.in_flight == 0


async def test_nobody_waits_for_replicas_that_are_gone(stage: Make) -> None:
    """A model none of whose replicas is up refuses at once; who waits when the last goes is told at once."""
    made = stage(replicas=2)
    for name in ("a1", "b1", "c1"):
        await made.come(name)
    for replica in made.pool:
        replica.health = Health(State.DOWN)
    began = now()
    await made.come("d1")
    made.admission.changed("gemma")
    await settle()
    assert [made.code(name) for name in ("c1", "d1")] == ["no_replica"] * 2
    assert now() == began
    assert made.admission.queued() == {}


async def test_a_replica_not_yet_known_is_waited_for(stage: Make) -> None:
    """At the start nobody knows better: calls go there, and those beyond its slots wait."""
    made = stage()
    assert made.pool[0].health.state is State.UNKNOWN
    await made.come("a1")
    await made.come("a2")
    assert made.admission.queued() == {"gemma": 1}


async def test_the_routers_end_ends_a_wait(stage: Make) -> None:
    """With its own error, and nothing is left in the queue."""
    made = stage()
    await made.come("a1")
    await made.come("a2")
    made.runs["a2"].watch.end(attempt.shutting_down())
    await settle()
    error = made.failed["a2"]
    assert isinstance(error, AttemptFailed)
    assert error.end is attempt.SHUTDOWN
    assert made.admission.queued() == {}


async def test_new_settings_change_the_slots_of_replicas_that_stay(stage: Make) -> None:
    """Who waits has what they add, as soon as somebody says that they have changed."""
    made = stage()
    await made.come("a1")
    await made.come("a2")
    config = made.model.config
    more = tuple(replace(one, max_in_flight=None, usual_slots=2) for one in config.replicas)
    made.registry.renew([replace(config, replicas=more)], RetryConfig())
    assert [replica.slots for replica in made.pool] == [2]
    made.admission.changed("gemma")
    await settle()
    assert made.order == ["a1", "a2"]


# --- a full queue


async def test_a_full_queue_refuses_at_once(stage: Make) -> None:
    """Twice as many as there are slots wait, and no more; the next is told when to come again."""
    made = stage(slots=2)
    for number in range(7):
        await made.come(f"a{number}")
    assert made.admission.queued() == {"gemma": 4}
    assert made.code("a6") == "queue_full"
    error = made.failed["a6"]
    assert isinstance(error, RouterError)
    assert error.status == 503
    assert error.retry_after_s == 5
    assert now() == 1000.0


async def test_the_queue_has_an_upper_bound(stage: Make) -> None:
    """Whatever the slots; 0 is no queue at all."""
    made = stage(slots=2, queue_max=1)
    for number in range(4):
        await made.come(f"a{number}")
    assert made.admission.queued() == {"gemma": 1}
    assert made.code("a3") == "queue_full"
    off = stage(queue_max=0)
    await off.come("a1")
    await off.come("a2")
    assert off.code("a2") == "queue_full"


async def test_who_crowds_gives_way_to_who_does_not(stage: Make) -> None:
    """It is told 429: others are served, and it is over its share."""
    made = stage(slots=2)
    for number in range(6):
        await made.come(f"a{number}")
    await made.come("b1")
    assert made.code("a5") == "over_share"
    error = made.failed["a5"]
    assert isinstance(error, RouterError)
    assert error.status == 429
    assert made.admission.queued() == {"gemma": 4}
    await made.come("a7")
    assert made.code("a7") == "over_share"
    await made.end("a0")
    await made.end("a1")
    assert made.order == ["a0", "a1", "a2", "b1"]


async def test_the_slots_of_dead_replicas_do_not_count(stage: Make) -> None:
    """The room in the queue is that of who is there."""
    made = stage(replicas=2)
    made.pool[1].health = Health(State.DOWN)
    for number in range(4):
        await made.come(f"a{number}")
    assert made.admission.queued() == {"gemma": 2}
    assert made.code("a3") == "queue_full"


async def test_retry_after_follows_the_pace(stage: Make) -> None:
    """What calls took of late, times those who wait, over the slots."""
    made = stage(slots=2)
    await made.come("a0")
    made.runs["a0"].exchange.sent_at = now()
    await asyncio.sleep(8.0)
    await made.end("a0")
    assert made.model.service_s == pytest.approx(8.0)
    for number in range(7):
        await made.come(f"b{number}")
    error = made.failed["b6"]
    assert isinstance(error, RouterError)
    assert error.retry_after_s == 20  # five of 8 s on two slots
    made.runs["b0"].exchange.sent_at = now()
    await asyncio.sleep(3.0)
    await made.end("b0")
    assert made.model.service_s == pytest.approx(7.5)


async def test_failures_tell_nothing_of_the_pace(stage: Make) -> None:
    """An engine that fails at once is not quick."""
    made = stage()
    await made.come("a1")
    made.runs["a1"].exchange.sent_at = now()
    made.admission.release(made.leases.pop("a1"), made.runs["a1"], attempt.ENGINE_ERROR)
    assert made.model.service_s == 0.0


async def test_ten_times_as_many_as_can_be_served_leave_no_slot_idle(stage: Make) -> None:
    """All slots are busy all the time, whoever comes and goes, and nothing is left behind."""
    made = stage(slots=4)
    rng = Random(7)
    busy_s, finished = 0.0, 0

    async def one(name: str) -> None:
        nonlocal busy_s, finished
        await made._serve(name)
        if name not in made.leases:
            return
        begun = now()
        await asyncio.sleep(1.0)
        busy_s += now() - begun
        finished += 1
        made.admission.release(made.leases.pop(name), made.runs[name], attempt.OK)

    tasks = []
    for number in range(2000):  # 40 a second for 50 s, on 4 slots of 1 s
        tasks.append(asyncio.create_task(one(f"{rng.choice('abcdef')}{number}")))
        if rng.random() < 0.1:
            gone = rng.choice(list(made.runs.values())) if made.runs else None
            if gone is not None and gone.exchange.place is not None:
                gone.watch.interrupt(ClientGone())
        await asyncio.sleep(0.025)
    span_s = now() - 1000.0
    await asyncio.gather(*tasks)
    assert finished >= 0.97 * 4 * span_s
    assert made.in_flight == 0
    assert made.admission.queued() == {}
    codes = {
        type(error).__name__ if not isinstance(error, RouterError) else error.kind.code
        for error in made.failed.values()
    }
    assert codes <= {"queue_full", "over_share", "ClientGone"}
