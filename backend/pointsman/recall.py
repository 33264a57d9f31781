"""Remembers conversations, and answers to be given again, around the forwarding of a call.

What was said before goes in front of a session's messages; the turn is kept once its answer is whole, before
its last byte is sent. A kept answer is given again without an engine. Each tenant has its own of both.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import msgspec
from msgspec import structs

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.cache import CacheConfig, ResponseCache, request_key
from pointsman.conversation import Run, Sink
from pointsman.errors import HISTORY_AWAY, ClientGone, RouterError
from pointsman.generation import Finish, Message, Said, Shape, Tokens, Wish
from pointsman.history import History, HistoryConfig
from pointsman.pii import redact
from pointsman.single_flight import SingleFlight
from pointsman.store.base import Store, Unavailable, digest

_log = logging.getLogger("pointsman.recall")
_RETRY_AFTER_S = 1  # after it the store may be there again


@dataclass(frozen=True, slots=True)
class AnswerCacheConfig:
    """What seed 002 calls the cache; names are those of its settings."""

    enabled: bool = False
    size: int = 100  # answers
    ttl_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class ChatHistoryConfig:
    """What seed 002 calls the chat history, and bounds that it lacked."""

    enabled: bool = False
    ttl_seconds: float = 7200.0  # from a session's last turn
    sessions: int = 1000
    turns: int = 50  # of one session
    session_bytes: int = 64 * 1024


class Server(Protocol):
    """What serves a call: the forwarder, or what stands before it."""

    async def serve(self, run: Run) -> None:
        """Get an answer for the call and send it to the sink."""


class Kept(msgspec.Struct, frozen=True):
    """An answer as it is kept."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


Keep = Callable[[Said], Awaitable[None]]


async def _forget(said: Said) -> None:
    """Keep nothing."""


class _KeepingSink:
    """Has an answer kept before its last byte leaves, so that who asks next, anywhere, finds it."""

    def __init__(self, sink: Sink, keep: Callable[[], Awaitable[None]]) -> None:
        self._sink = sink
        self._keep = keep

    @property
    def committed(self) -> bool:
        return self._sink.committed

    async def whole(self, body: bytes, lines: bytes) -> None:
        await self._keep()
        await self._sink.whole(body, lines)

    async def pass_on(self, first: bytes, length: int | None) -> None:
        await self._sink.pass_on(first, length)

    async def begin(self) -> None:
        await self._sink.begin()

    async def write(self, block: bytes, *, last: bool = False) -> None:
        if last:
            await self._keep()
        await self._sink.write(block, last=last)

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        await self._sink.break_off(failure, mid_event=mid_event)


class Recall:
    """Stands before a forwarder, for calls that have a session or may be answered again.

    Args:
        cache: None: nothing is given again.
    """

    def __init__(self, server: Server, history: History, cache: ResponseCache | None) -> None:
        self._server = server
        self._history = history
        self._cache = cache
        self._flights: SingleFlight[Said | None] = SingleFlight()

    async def serve(self, run: Run) -> None:
        """Get an answer, from an engine or from before, and send it to the sink.

        Raises:
            RouterError: nothing was sent; HISTORY_AWAY, where the session's past cannot be read.
            ClientGone: the client left.
        """
        call, wish = run.call, run.call.wish
        session = call.session if self._history.armed else None
        cache = self._cache if call.repeats and not call.stream else None
        if (session is None and cache is None) or wish is None or call.shape is None:
            await self._server.serve(run)
            return
        keep = _forget
        if session is not None:
            run.call = structs.replace(call, wish=joined(await self._read(run, session), wish))

            async def keep(said: Said) -> None:
                await self._write(run, session, (*wish.messages, Message("assistant", said.text)))

        if cache is None:
            await self._serve(run, call.shape, keep)
        else:
            await self._answer(run, call.shape, keep, cache)

    async def _answer(self, run: Run, shape: Shape, keep: Keep, cache: ResponseCache) -> None:
        """Answer from the cache, with another's equal call, or as ever."""
        wish = run.call.wish
        told = msgspec.to_builtins(structs.replace(wish, ignored=())) if wish is not None else {}
        key = request_key(run.tenant, run.model.id, {**told, "operation": run.call.operation.value})
        with run.watch:  # the store has a limit of time itself
            found = await cache.get(run.tenant, key)
        kept = None if found is None else _said(found, run)
        if kept is not None:
            await _give_again(run, shape, keep, kept)
            return

        async def ask() -> Said | None:
            said = await self._serve(run, shape, keep)
            if said is not None:
                await cache.put(run.tenant, key, _encoded(said), _finish_reason(said))
            return said

        if wish is None or wish.sampling:
            await ask()
            return
        said, anothers = await self._flights.run(key, ask)
        if anothers and said is not None:
            await _give_again(run, shape, keep, said)
        elif anothers:
            await ask()

    async def _serve(self, run: Run, shape: Shape, keep: Keep) -> Said | None:
        """Have it answered; what was said, unless the answer broke off."""
        heard: list[Said] = []

        def hear(said: Said) -> object:
            heard.append(said)
            return shape(said)

        async def keep_heard() -> None:
            if heard:
                await keep(heard[-1])

        run.call = structs.replace(run.call, shape=hear)
        run.sink = _KeepingSink(run.sink, keep_heard)
        await self._server.serve(run)
        return heard[-1] if heard and run.exchange.end is attempt.OK else None

    async def _read(self, run: Run, session: str) -> tuple[Message, ...]:
        try:
            with run.watch:
                return await self._history.read(run.tenant, session)
        except Unavailable as why:
            _log.warning("request %s: the history cannot be read: %s", run.exchange.request_id, why)
            raise RouterError(HISTORY_AWAY, retry_after_s=_RETRY_AFTER_S) from None

    async def _write(self, run: Run, session: str, turn: tuple[Message, ...]) -> None:
        """Keep a turn. The answer is there, so a failure is for the log alone."""
        request_id = run.exchange.request_id
        # Some clients send one request id for ever: what was said is part of a turn's name.
        turn_id = digest(request_id, msgspec.json.encode(turn[:-1]))
        try:
            kept = await self._history.write(run.tenant, session, turn_id, turn)
        except Unavailable as why:
            _log.warning("request %s: its turn is not kept: %s", request_id, why)
            return
        if not kept:
            _log.warning("request %s: its turn is not kept: it is larger than a session may be", request_id)


def make(
    server: Server, store: Store, chat_history: ChatHistoryConfig, answers: AnswerCacheConfig
) -> "tuple[Recall | None, ResponseCache | None]":
    """What remembers, and the cache in it; None for what is not enabled."""
    history = HistoryConfig(
        armed=chat_history.enabled,
        ttl_s=chat_history.ttl_seconds,
        sessions=chat_history.sessions,
        turns=chat_history.turns,
        session_bytes=chat_history.session_bytes,
    )
    cache = None
    if answers.enabled:
        cache = ResponseCache(store, CacheConfig(ttl_s=answers.ttl_seconds, entries=answers.size))
    if not history.armed and cache is None:
        return None, None
    return Recall(server, History(store, history), cache), cache


def joined(past: Iterable[Message], wish: Wish) -> Wish:
    """A wish with what was said before in front of its messages.

    The system speaks first and once: what the new messages hold of it takes the place of what it said before.
    Where all does not fit, the oldest turns go.
    """
    old = list(past)
    if not old:
        return wish
    if wish.redacts:
        old = [Message(turn.role, redact(turn.content)) for turn in old]
    told = [turn for turn in wish.messages if turn.role == "system"]
    system = told or [turn for turn in old if turn.role == "system"][-1:]
    talk = [turn for turn in (*old, *wish.messages) if turn.role != "system"]
    return structs.replace(wish, messages=(*system, *talk), reserve=wish.max_new)


async def _give_again(run: Run, shape: Shape, keep: Keep, said: Said) -> None:
    """Send a kept answer in the words of this call."""
    await keep(said)
    told = msgspec.convert(shape(said), dict[str, object])
    body = msgspec.json.encode({**told, "cached": True})
    now = monotonic()
    run.exchange.answer_bytes, run.exchange.first_event_at = len(body), now
    with run.watch:
        run.watch.set(now + run.timeouts.send_s, ClientGone)
        await run.sink.whole(body, b"")


def _encoded(said: Said) -> bytes:
    tokens = said.tokens
    return msgspec.json.encode(Kept(said.text, said.finish.name, tokens.prompt, tokens.completion))


def _said(value: bytes, run: Run) -> Said | None:
    """A kept answer; None where another release wrote it in another form."""
    try:
        kept = msgspec.json.decode(value, type=Kept)
        finish = Finish[kept.finish]
    except (msgspec.MsgspecError, KeyError):
        return None
    tokens = Tokens(kept.prompt_tokens, kept.completion_tokens)
    return Said(kept.text, finish, tokens, run.model.id, monotonic() - run.exchange.started_at)


def _finish_reason(said: Said) -> str:
    return "length" if said.finish is Finish.LENGTH else "stop"
