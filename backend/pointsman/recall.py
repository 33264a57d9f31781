"""Remembers conversations around the serving of a call.

What was said before goes in front of a session's messages; the turn is kept once its answer is whole, before
its last byte is sent. Each tenant has its own.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import msgspec
from msgspec import structs

from pointsman.cache import CacheConfig
from pointsman.errors import HISTORY_AWAY, RouterError
from pointsman.generation import Message, Said, Wish
from pointsman.history import History, HistoryConfig
from pointsman.pii import redact
from pointsman.replay import Asked, Replay, Server
from pointsman.run import Run, Sink
from pointsman.sink import Passing
from pointsman.store.base import Store, Unavailable, digest

_log = logging.getLogger("pointsman.recall")
_RETRY_AFTER_S = 1  # after it the store may be there again


@dataclass(frozen=True, slots=True)
class AnswerCacheConfig:
    """What seed 002 calls the cache, by the names of its settings; and what others have of it."""

    enabled: bool = False
    on_request: bool = True  # elsewhere, for requests that ask for it
    size: int = 100  # answers
    ttl_seconds: float = 3600.0
    bytes: int = 64 * 1024 * 1024  # of all answers together
    entry_bytes: int = 1024 * 1024  # a larger answer is not kept

    @property
    def of_cache(self) -> CacheConfig:
        """The cache's own knobs."""
        return CacheConfig(self.ttl_seconds, self.size, self.bytes, self.entry_bytes)


@dataclass(frozen=True, slots=True)
class ChatHistoryConfig:
    """What seed 002 calls the chat history, and bounds that it lacked."""

    enabled: bool = False
    ttl_seconds: float = 7200.0  # from a session's last turn
    sessions: int = 1000
    turns: int = 50  # of one session
    session_bytes: int = 64 * 1024


class _KeepingSink(Passing):
    """Has an answer kept before its last byte leaves, so that who asks next, anywhere, finds it."""

    def __init__(self, sink: Sink, keep: Callable[[], Awaitable[None]]) -> None:
        super().__init__(sink)
        self._keep = keep

    async def whole(self, body: bytes, lines: bytes) -> None:
        await self._keep()
        await super().whole(body, lines)

    async def write(self, block: bytes, *, last: bool = False) -> None:
        if last:
            await self._keep()
        await super().write(block, last=last)


class Recall:
    """Stands before a server, for calls that have a session."""

    def __init__(self, server: Server, history: History) -> None:
        self._server = server
        self._history = history

    async def serve(self, run: Run) -> None:
        """Get an answer that knows of what was said before, and have the turn kept.

        Raises:
            RouterError: nothing was sent; HISTORY_AWAY, where the session's past cannot be read.
            ClientGone: the client left.
        """
        session, wish, shape = run.call.session, run.call.wish, run.call.shape
        if session is None or wish is None or shape is None:
            del wish, shape  # the call is let go while its answer comes
            await self._server.serve(run)
            return
        heard: list[Said] = []

        def hear(said: Said) -> object:
            heard.append(said)
            return shape(said)

        async def keep() -> None:
            if heard:
                await self._write(run, session, (*wish.messages, Message("assistant", heard[-1].text)))

        joint = joined(await self._read(run, session), wish)
        run.call = structs.replace(run.call, wish=joint, shape=hear)
        run.sink = _KeepingSink(run.sink, keep)
        await self._server.serve(run)

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
    replay: Replay, server: Server, store: Store, chat_history: ChatHistoryConfig, answers: AnswerCacheConfig
) -> Server:
    """What serves calls. Nothing stands before the server for calls of which nothing is remembered.

    Args:
        replay: stands before the same server.
    """
    if not chat_history.enabled:
        return replay if answers.enabled else Asked(server, replay)
    config = HistoryConfig(
        armed=True,
        ttl_s=chat_history.ttl_seconds,
        sessions=chat_history.sessions,
        turns=chat_history.turns,
        session_bytes=chat_history.session_bytes,
    )
    return Recall(replay, History(store, config))


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
