"""What is remembered: a session's turns before its messages, and answers that are given again."""

import json
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint
from msgspec import structs

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.cache import ResponseCache
from pointsman.call import Api, Call, Operation, Timeouts
from pointsman.errors import ENGINE_FAILED, HISTORY_AWAY, ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.generation import Finish, Message, Said, Tokens
from pointsman.history import History, HistoryConfig
from pointsman.kept import Kept
from pointsman.recall import AnswerCacheConfig, ChatHistoryConfig, Recall, joined, make
from pointsman.registry import Model
from pointsman.replay import Asked, Replay
from pointsman.run import Run
from pointsman.single_flight import SingleFlight
from pointsman.store.base import Most, Shelf, Unavailable
from pointsman.store.memory import MemoryStore
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.llm_service import LlmService
from pointsman.watch import Watch

pytestmark = pytest.mark.anyio


class Shop(MemoryStore):
    """A store in memory that can be away."""

    away = False

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []  # keys

    async def write(self, shelf: Shelf, key: str, owner: str, value: bytes, ttl_s: float) -> bool:
        self.written.append(key)
        return await super().write(shelf, key, owner, value, ttl_s)

    async def items(self, shelf: Shelf, key: str, owner: str) -> list[bytes]:
        self._ask()
        return await super().items(shelf, key, owner)

    async def append(
        self, shelf: Shelf, key: str, owner: str, item_id: str, value: bytes, ttl_s: float, most: Most
    ) -> bool:
        self._ask()
        return await super().append(shelf, key, owner, item_id, value, ttl_s, most)

    async def read(self, shelf: Shelf, key: str, owner: str) -> bytes | None:
        self._ask()
        return await super().read(shelf, key, owner)

    def _ask(self) -> None:
        if self.away:
            raise Unavailable("it is away")


class Sink:
    """The client's side, as far as whole answers go."""

    committed = False

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    async def whole(self, body: bytes, lines: bytes) -> None:
        self.bodies.append(json.loads(body))

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        self.bodies.append({"error": failure.end.label})


class Engine:
    """Answers each call with the next number; knows what it was asked."""

    def __init__(self, act: Callable[[Run], Awaitable[None]] | None = None) -> None:
        self.asked: list[tuple[Message, ...]] = []
        self.reserves: list[int | None] = []
        self.silent = False
        self._act = act

    async def serve(self, run: Run) -> None:
        wish, shape = run.call.wish, run.call.shape
        assert wish is not None
        assert shape is not None
        self.asked.append(wish.messages or (Message("prompt", wish.prompt),))
        self.reserves.append(wish.reserve)
        if self._act is not None:
            await self._act(run)
        if run.exchange.end is not attempt.OK:
            await run.sink.break_off(AttemptFailed(run.exchange.end), mid_event=False)
            return
        said = Said("" if self.silent else f"answer {len(self.asked)}", Finish.END, Tokens(1, 2), "m", 0.1)
        await run.sink.whole(json.dumps(shape(said)).encode(), b"")


class Watching:
    """A watch that watches nothing."""

    def __enter__(self) -> None:
        """Nothing to begin."""

    def __exit__(self, *what: object) -> None:
        """Nothing to end."""

    def set(self, due: float, error: object) -> None:
        """Nothing rings."""


class Named:
    """A model, by its id."""

    id = "m"


class Stage:
    """One recall with all around it."""

    def __init__(self, act: Callable[[Run], Awaitable[None]] | None = None) -> None:
        self.store, self.engine = Shop(), Engine(act)
        self.history = History(self.store, HistoryConfig(armed=True))
        self.cache = ResponseCache(self.store)
        flights: SingleFlight[Kept | None] = SingleFlight()
        self.recall = Recall(Replay(self.engine, self.cache, flights, everyone=True), self.history)
        self._number = 0

    async def kept(self) -> tuple[int, int]:
        """How many sessions and answers are kept."""
        shelves = Shelf("history"), Shelf("cache")
        sessions, answers = [(await self.store.size(shelf)).entries for shelf in shelves]
        return sessions, answers

    async def ask(
        self, operation: Operation = Operation.CHAT, tenant: str = "t", **more: Any
    ) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": "Hi"}], **more}
        request_id = body.pop("request_id", None)
        redacts = body.pop("redacts", False)
        if operation is Operation.GENERATE:
            body = {"prompt": "Hi", **more}
        raw = json.dumps(body).encode()
        call = LlmService().decode(operation, read_fields(raw), raw, stream=False)
        if redacts and call.wish is not None:
            call = structs.replace(call, wish=structs.replace(call.wish, redacts=True))
        self._number += 1
        exchange = Exchange(request_id or f"r{self._number}", "/v1/chat", "POST", 0.0)
        sink = Sink()
        run = Run(
            call,
            cast("Model", Named()),
            exchange,
            cast("Watch", Watching()),
            cast("Any", sink),
            float("inf"),
            Timeouts(),
            tenant,
        )
        await self.recall.serve(run)
        return sink.bodies[-1]


def says(text: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


async def test_three_turns_hear_of_each_other() -> None:
    """Each turn of a session is asked with all before it; the engine is told how much room to leave."""
    stage = Stage()
    for text in ("one", "two", "three"):
        await stage.ask(messages=says(text), session_id="שיחה\r\n1")
    assert stage.engine.asked[-1] == (
        Message("user", "one"),
        Message("assistant", "answer 1"),
        Message("user", "two"),
        Message("assistant", "answer 2"),
        Message("user", "three"),
    )
    assert stage.engine.reserves == [None, 512, 512]


async def test_without_a_session_nothing_is_remembered() -> None:
    """No session, no history; and a session of another name or another tenant is another one."""
    stage = Stage()
    await stage.ask(messages=says("one"))
    assert await stage.kept() == (0, 1)
    await stage.ask(messages=says("two"), session_id="s", tenant="a")
    await stage.ask(messages=says("three"), session_id="s", tenant="b")
    await stage.ask(messages=says("four"), session_id="S", tenant="a")
    assert [len(asked) for asked in stage.engine.asked] == [1, 1, 1, 1]


async def test_a_retry_is_kept_once() -> None:
    """The same turn under the same request id is kept once; another turn under that id is another turn."""
    stage = Stage()
    await stage.ask(messages=says("one"), session_id="s", request_id="same")
    await stage.ask(messages=says("one"), session_id="s", request_id="same", max_tokens=7)
    assert len(await stage.history.read("t", "s")) == 2
    await stage.ask(messages=says("two"), session_id="s", request_id="same")
    assert len(await stage.history.read("t", "s")) == 4


async def test_an_answer_is_given_again() -> None:
    """The same call needs no engine, and says `cached`; defaults that are said count as the same."""
    stage = Stage()
    first, second = await stage.ask(), await stage.ask(max_tokens=512, temperature=0.7)
    assert (first["cached"], second["cached"]) == (False, True)
    assert {**second, "cached": False} == first
    assert len(stage.engine.asked) == 1
    for other in ({"tenant": "u"}, {"max_tokens": 3}, {"messages": says("Ho")}, {"temperature": 0}):
        assert not (await stage.ask(**other))["cached"]
    again = [(await stage.ask(Operation.GENERATE))["cached"] for _ in range(2)]
    assert again == [False, True]


async def test_an_empty_answer_is_not_given_again() -> None:
    """It may have been a bad moment of the engine; the next one is kept."""
    stage = Stage()
    stage.engine.silent = True
    assert not (await stage.ask())["cached"]
    stage.engine.silent = False
    assert [(await stage.ask())["cached"] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b'{"text":"x","finish":"LATER","prompt_tokens":1,"completion_tokens":1}']
)
async def test_an_answer_in_another_form_is_none(value: bytes) -> None:
    """What another release kept, or nobody can read, is a miss."""
    stage = Stage()
    await stage.ask()
    await stage.store.write(Shelf("cache"), stage.store.written[-1], "t", value, 60.0)
    assert not (await stage.ask())["cached"]
    assert (await stage.ask())["cached"]


async def test_a_turn_from_the_cache_is_remembered_too() -> None:
    """Seed 002 lost such turns: here the history has them."""
    stage = Stage()
    await stage.ask(messages=says("one"), session_id="a")
    assert (await stage.ask(messages=says("one"), session_id="b"))["cached"]
    await stage.ask(messages=says("two"), session_id="b")
    assert [turn.content for turn in stage.engine.asked[-1]] == ["one", "answer 1", "two"]


async def test_streams_are_remembered_but_not_given_again() -> None:
    """A stream's turn is in the history; the cache neither serves nor keeps it."""
    stage = Stage()
    for _ in range(2):
        await stage.ask(session_id="s", stream=True)
    assert await stage.kept() == (1, 0)
    assert len(stage.engine.asked[-1]) == 3


@pytest.mark.parametrize("kind", ["refused", "gone", "broken"])
async def test_what_failed_is_not_kept(kind: str) -> None:
    """An error, a client that leaves and a broken stream leave no trace in history or cache."""

    async def fail(run: Run) -> None:
        if kind == "refused":
            raise RouterError(ENGINE_FAILED)
        if kind == "gone":
            raise ClientGone
        run.exchange.end = attempt.TRUNCATED

    stage = Stage(fail)
    try:
        await stage.ask(session_id="s")
    except (RouterError, ClientGone):
        assert kind != "broken"
    assert await stage.kept() == (0, 0)


async def test_a_history_that_cannot_be_read_is_503() -> None:
    """A session without its past would answer nonsense, so it is refused; calls without one go on."""
    stage = Stage()
    stage.store.away = True
    with pytest.raises(RouterError) as caught:
        await stage.ask(session_id="s")
    assert caught.value.kind is HISTORY_AWAY
    assert caught.value.retry_after_s
    assert not (await stage.ask())["cached"]


async def test_a_turn_that_cannot_be_kept_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client has its answer; the log says what is lost, and nothing of what was said."""

    async def leave(run: Run) -> None:
        stage.store.away = True

    stage = Stage(leave)
    assert (await stage.ask(session_id="s"))["message"]["content"] == "answer 1"
    assert "its turn is not kept" in caplog.text
    assert "answer 1" not in caplog.text


async def test_what_was_kept_before_the_filter_was_on_is_redacted() -> None:
    """The engine sees no personal data of old turns either."""
    stage = Stage()
    await stage.ask(messages=says("I am dana@example.com"), session_id="s")
    await stage.ask(messages=says("two"), session_id="s", redacts=True)
    assert stage.engine.asked[-1][0].content == "I am [EMAIL]"


def test_the_system_speaks_first_and_once() -> None:
    """What the new messages hold of it takes the place of the old; else the last that was told stays."""
    call = LlmService().decode(
        Operation.CHAT, read_fields(b'{"messages":[{"role":"user","content":"new"}]}'), b"", stream=False
    )
    wish = call.wish
    assert wish is not None
    old = [
        Message("system", "first"),
        Message("user", "a"),
        Message("system", "last"),
        Message("assistant", "b"),
    ]
    talk = (Message("user", "a"), Message("assistant", "b"), Message("user", "new"))
    assert joined(old, wish).messages == (Message("system", "last"), *talk)
    own = structs.replace(wish, messages=(Message("system", "own"), *wish.messages))
    assert joined(old, own).messages == (Message("system", "own"), *talk)
    assert joined([], own) is own


async def test_equal_calls_at_once_share_one_answer() -> None:
    """Of deterministic calls that come together one asks the engine; sampled ones ask for themselves."""

    async def take_time(run: Run) -> None:
        await checkpoint()

    for temperature, asked in ((0, 1), (1, 3)):
        stage = Stage(take_time)
        told: list[bool] = []

        async def ask(stage: Stage = stage, temperature: int = temperature, told: list[bool] = told) -> None:
            told.append((await stage.ask(temperature=temperature))["cached"])

        async with create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
        assert len(stage.engine.asked) == asked
        assert told.count(False) == asked


async def test_a_leader_that_fails_fails_nobody_else() -> None:
    """Who waited for an answer that never came asks for itself."""
    first = True

    async def leave_once(run: Run) -> None:
        nonlocal first
        await checkpoint()
        if first:
            first = False
            raise ClientGone

    stage = Stage(leave_once)
    ends: list[object] = []

    async def ask() -> None:
        try:
            ends.append((await stage.ask(temperature=0))["message"]["content"])
        except ClientGone:
            ends.append(None)

    async with create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
    assert ends.count(None) == 1
    assert len(ends) == 3


async def test_nothing_enabled_costs_nothing() -> None:
    """Without history and cache there is no step before the forwarder; each may be on by itself."""
    engine, store = Engine(), MemoryStore()
    flights: SingleFlight[Kept | None] = SingleFlight()
    replay = Replay(engine, ResponseCache(store), flights)
    off, on = ChatHistoryConfig(), ChatHistoryConfig(enabled=True)
    assert isinstance(make(replay, engine, store, off, AnswerCacheConfig()), Asked)
    assert isinstance(make(replay, engine, store, on, AnswerCacheConfig()), Recall)
    assert make(replay, engine, store, off, AnswerCacheConfig(enabled=True, size=7)) is replay


async def test_a_turn_is_kept_before_its_answer_is_all_sent() -> None:
    """Whoever has the answer and asks on, at whichever router, finds the turn; and so does who asks again."""
    stage = Stage()
    seen: list[tuple[int, int]] = []

    class Looking(Sink):
        async def whole(self, body: bytes, lines: bytes) -> None:
            seen.append(await stage.kept())

    for _ in range(2):
        raw = b'{"messages":[{"role":"user","content":"Hi"}],"session_id":"s","temperature":0}'
        call = LlmService().decode(Operation.CHAT, read_fields(raw), raw, stream=False)
        run = Run(
            call, cast("Model", Named()), Exchange("r", "/v1/chat", "POST", 0.0), cast("Watch", Watching()),
            cast("Any", Looking()), float("inf"), Timeouts(), "t",
        )  # fmt: skip
        await stage.recall.serve(run)
    assert seen == [(1, 1), (1, 2)]  # asked in the session's second turn, it is another question


class Fields(dict[str, msgspec.Raw]):
    """Fields of a request, of which it can be told whether anybody holds them."""


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("remembers", ["history", "answers", "both", "neither"])
async def test_who_stands_before_an_engine_holds_no_request(remembers: str, asks: bool) -> None:
    """A large one is let go when its answer begins; whoever waits for the end of it has let it go too."""
    fields = Fields(messages=msgspec.Raw(b'["long"]'))
    held, left = weakref.ref(fields), list[object]()

    class Server:
        async def serve(self, run: Run) -> None:
            run.let_go()
            left.append(held())

    store, engine = Shop(), Server()
    answers = AnswerCacheConfig(enabled=remembers in ("answers", "both"))
    flights: SingleFlight[Kept | None] = SingleFlight()
    replay = Replay(engine, ResponseCache(store), flights, everyone=answers.enabled)
    history = ChatHistoryConfig(enabled=remembers in ("history", "both"))
    run = Run(
        Call(Api.OPENAI, Operation.CHAT, "gemma", stream=True, fields=fields),
        cast("Model", Named()),
        Exchange("r1", "/v1/chat/completions", "POST", 0.0),
        cast("Watch", Watching()),
        cast("Any", Sink()),
        float("inf"),
        Timeouts(),
        takes_kept=asks,
    )
    del fields
    await make(replay, engine, store, history, answers).serve(run)
    assert left == [None]
