"""Conversations that the router remembers for clients that send a session's name instead of the conversation.

Off unless armed: it keeps people's words. A tenant sees its own sessions only, however they are named.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from pointsman.generation import Message
from pointsman.store.base import Most, Shelf, Store, digest

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Message, ...]).decode


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """Knobs of the history. Bounds hold per store: see `store.base.Shelf`.

    Raises:
        ValueError: one sentence that names the knob.
    """

    armed: bool = False  # nothing is kept or read unless it is
    ttl_s: float = 7200.0  # a session lives so long after its last turn; above 0
    sessions: int = 1000  # 1 to 100,000; beyond, the one used least recently goes
    turns: int = 50  # of one session, at least 1; beyond, the oldest go
    session_bytes: int = 64 * 1024  # of one session, likewise; at least 1
    bytes: int = 64 * 1024 * 1024  # of all sessions together, at least `session_bytes`

    def __post_init__(self) -> None:
        if not self.ttl_s > 0:
            raise ValueError("ttl_s of the history must be more than 0 seconds")
        if not 1 <= self.sessions <= 100_000:
            raise ValueError("sessions of the history must be from 1 to 100,000")
        for name in ("turns", "session_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the history must be at least 1")
        if self.bytes < self.session_bytes:
            raise ValueError("bytes of the history must be at least its session_bytes")


class History:
    """Sessions, each a list of turns. Not armed, every session is empty and nothing is kept."""

    def __init__(self, store: Store, config: HistoryConfig | None = None) -> None:
        self._store = store
        self._config = config = config or HistoryConfig()
        self._shelf = Shelf("history", config.sessions, config.bytes)
        self._most = Most(config.turns, config.session_bytes)

    @property
    def armed(self) -> bool:
        return self._config.armed

    async def read(self, tenant: str, session: str) -> tuple[Message, ...]:
        """What was said in a session, oldest first; empty for one that is new, expired or another tenant's.

        Args:
            session: its name as the client gave it: any text, for it is never shown or kept.

        Raises:
            Unavailable: the store does not answer, so the conversation is not known.
        """
        if not self._config.armed:
            return ()
        turns = await self._store.items(self._shelf, _key(tenant, session), tenant)
        return tuple(message for turn in turns for message in _decode(turn))

    async def write(self, tenant: str, session: str, turn_id: str, turn: Iterable[Message]) -> bool:
        """Keep one turn, the user's messages and the answer, once it has succeeded.

        Args:
            turn_id: of the client's request. The same turn under the same id is kept once.

        Returns:
            False when it is not kept: not armed, or larger than a session may be, which then stays as it was.

        Raises:
            Unavailable: the store does not answer; whether it is kept is unknown. Trying again is safe.
        """
        if not self._config.armed:
            return False
        key, value = _key(tenant, session), _encode(tuple(turn))
        return await self._store.append(
            self._shelf, key, tenant, turn_id, value, self._config.ttl_s, self._most
        )

    async def forget(self, tenant: str, session: str) -> bool:
        """Take a session away; False: there was none.

        Raises:
            Unavailable: the store does not answer.
        """
        return bool(await self._store.drop(self._shelf, _key(tenant, session)))


def _key(tenant: str, session: str) -> str:
    return digest("history", tenant, session)
