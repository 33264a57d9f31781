"""No tenant ever sees another's: ten thousand random calls with cancels, on memory and on a real Redis.

Tenants ask the same questions in sessions of the same names. Each answer names for whom it was made and what
was asked; the engine looks at what it is told of the past, and each client at what it gets.
"""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast

import pytest
from msgspec import structs

from nginx import short_folder
from pointsman import attempt
from pointsman.apis.plain import PlainWriter
from pointsman.attempt import AttemptFailed
from pointsman.cache import CacheConfig, ResponseCache
from pointsman.call import Call, Operation, Timeouts
from pointsman.conversation import reply_to
from pointsman.errors import ENGINE_FAILED, ClientGone, RouterError
from pointsman.exchange import Exchange
from pointsman.generation import Delta, Finish, Tokens
from pointsman.history import History, HistoryConfig
from pointsman.kept import Kept
from pointsman.recall import Recall
from pointsman.registry import Model
from pointsman.replay import Replay
from pointsman.run import Run
from pointsman.single_flight import SingleFlight
from pointsman.store.base import Store
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryStore
from pointsman.surfaces.base import Surface, read_fields
from pointsman.surfaces.llm_service import LlmService
from pointsman.surfaces.openai import OpenAI
from pointsman.watch import Clock, Watch
from redis_server import RedisServer

pytestmark = pytest.mark.anyio

CALLS = 10_000
AT_ONCE = 40
LIMIT_S = 300.0
TENANTS = ("red", "green", "blue", "grey", "")
_MARK = re.compile(r"<(\w*) (q\d+) \d+>")
_SERVICE, _OPENAI = LlmService(), OpenAI()


class Named:
    """A model, by its id."""

    id = "m"


class Client:
    """The client's side: what it got so far."""

    def __init__(self) -> None:
        self.committed = False
        self.whole_answer = False
        self.got = b""

    async def whole(self, body: bytes, lines: bytes) -> None:
        self.committed, self.whole_answer = True, True
        self.got = body

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self.committed = True

    async def begin(self) -> None:
        self.committed = True

    async def write(self, block: bytes, *, last: bool = False) -> None:
        self.got += block
        self.whole_answer = last
        await asyncio.sleep(0)

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        self.got += b"broken"


class Engine:
    """Says for whom and on what, after a while; breaks off or fails now and then."""

    def __init__(self, rng: Random) -> None:
        self.asked = 0
        self.remembered = 0
        self._rng = rng

    async def serve(self, run: Run) -> None:
        wish = run.call.wish
        turns = () if wish is None else wish.messages
        for turn in turns:
            if turn.role == "assistant":
                tenant, _ = mark(turn.content)
                assert tenant == run.tenant, (run.tenant, turn.content)
                self.remembered += 1
        self.asked += 1
        question = turns[-1].content if turns else json.loads(run.call.body or b"{}")["prompt"]
        text = f"<{run.tenant} {question} {self.asked}>"
        fate = self._rng.random()
        with run.watch:
            for _ in range(self._rng.randint(0, 8)):
                await asyncio.sleep(0)
            if fate < 0.03:
                raise RouterError(ENGINE_FAILED)
            await self._answer(run, text, breaks=fate < 0.08)

    async def _answer(self, run: Run, text: str, *, breaks: bool) -> None:
        for place, block in enumerate(blocks := self._blocks(run, text)):
            last = place == len(blocks) - 1
            if not run.call.stream:
                await run.sink.whole(block, b"")
                return
            await run.sink.begin()
            if last and breaks:
                run.exchange.end = attempt.TRUNCATED
                await run.sink.break_off(AttemptFailed(attempt.TRUNCATED), mid_event=False)
                return
            await run.sink.write(block, last=last)

    def _blocks(self, run: Run, text: str) -> list[bytes]:
        tokens, end = Tokens(1, 1), Delta(text, finish=Finish.END)
        if run.call.shape is None:
            return [text[:5].encode(), text[5:].encode()] if run.call.stream else [text.encode()]
        writer = PlainWriter(run.call.shape, reply_to(run))
        if not run.call.stream:
            return [writer.whole(end, tokens)]
        return [writer.write(Delta(text)), writer.write(Delta(finish=Finish.END)) + writer.end(tokens)]


def mark(text: str) -> tuple[str, str]:
    """For whom an answer is, and on what."""
    found = _MARK.search(text)
    assert found is not None, text
    return found[1], found[2]


class Storm:
    """Random calls, and the checker: whatever a client gets was made for its tenant and its question."""

    def __init__(self, store: Store, rng: Random) -> None:
        self.seen: Counter[str] = Counter()
        self.engine = Engine(rng)
        self.flights: SingleFlight[Kept | None] = SingleFlight()
        cache = ResponseCache(store, CacheConfig(entries=40))
        replay = Replay(self.engine, cache, self.flights)
        self._server = Recall(replay, History(store, HistoryConfig(armed=True, turns=6, sessions=8)))
        self._rng = rng
        self._clock = Clock(asyncio.get_running_loop())

    async def work(self, worker: int) -> None:
        """One client after the other."""
        for step in range(CALLS // AT_ONCE):
            tenant, question = self._rng.choice(TENANTS), f"q{self._rng.randint(0, 7)}"
            call = self._call(question)
            client = Client()
            watch: list[Watch] = []
            task = asyncio.create_task(self._serve(f"{worker}-{step}", call, tenant, client, watch))
            leaves = self._rng.random()
            if leaves < 1 / 3:
                for _ in range(self._rng.randint(0, 15)):
                    await asyncio.sleep(0)
                if leaves < 1 / 6 or not watch:
                    task.cancel()
                else:
                    watch[0].interrupt(ClientGone())
            await self._end(task, client, tenant, question)

    async def _end(self, task: "asyncio.Task[str]", client: Client, tenant: str, question: str) -> None:
        try:
            how = await task
        except asyncio.CancelledError:
            how = "cancelled"
        except ClientGone:
            how = "gone"
        except RouterError:
            how = "failed"
        self.seen[how] += 1
        marks = _MARK.findall(client.got.decode())
        assert set(marks) <= {(tenant, question)}, (tenant, question, client.got)
        assert marks or not client.whole_answer

    async def _serve(self, name: str, call: Call, tenant: str, client: Client, watch: list[Watch]) -> str:
        task = asyncio.current_task()
        assert task is not None
        watch.append(Watch(self._clock, task))
        exchange = Exchange(name, "/x", "POST", 0.0, stream=call.stream)
        run = Run(
            call,
            cast("Model", Named()),
            exchange,
            watch[0],
            cast("Any", client),
            float("inf"),
            Timeouts(),
            tenant,
            takes_kept=self._rng.random() < 0.8,
        )
        await self._server.serve(run)
        return exchange.cache or "not asked"

    def _call(self, question: str) -> Call:
        """A call of a session, of a text or of bytes, whole or streamed; the same for all tenants."""
        stream, kind = self._rng.random() < 0.5, self._rng.random()
        fields: dict[str, Any] = {"temperature": 0, "stream": stream}
        surface: Surface = _SERVICE
        operation = Operation.CHAT
        if kind < 0.6:
            fields |= {"messages": [{"role": "user", "content": question}]}
            if kind < 0.25:
                fields["session_id"] = f"session {self._rng.randint(0, 2)}"
        else:
            surface, operation = _OPENAI, Operation.COMPLETION
            fields |= {"model": "m", "prompt": question}
        body = json.dumps(fields).encode()
        call = surface.decode(operation, read_fields(body), body, stream=False)
        return structs.replace(call, model=None)


@asynccontextmanager
async def memory() -> AsyncIterator[Store]:
    yield MemoryStore()


@asynccontextmanager
async def redis() -> AsyncIterator[Store]:
    if not os.environ.get("CI"):
        pytest.importorskip("redis", reason="the extra redis is not installed")
    from pointsman.store.redis import RedisStore

    with short_folder() as folder, RedisServer(folder) as server:
        store = RedisStore(StoreConfig(server.url, timeout_s=30.0))
        try:
            yield store
        finally:
            await store.close()


@pytest.mark.parametrize("opened", [memory, redis])
async def test_no_tenant_sees_anothers(opened: Callable[[], Any]) -> None:
    """Sessions, kept answers and shared ones stay with their tenant, whoever is cancelled or leaves when."""
    async with opened() as store:
        storm = Storm(store, Random(11))
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            for worker in range(AT_ONCE):
                group.create_task(storm.work(worker))
        assert sum(storm.seen.values()) == CALLS
        assert store.foreign == 0
        assert len(storm.flights) == 0
    least = {"hit": 500, "miss": 300, "shared": 30, "cancelled": 300, "gone": 300, "not asked": 500}
    assert all(storm.seen[how] >= number for how, number in least.items()), storm.seen
    assert storm.engine.remembered > 500
