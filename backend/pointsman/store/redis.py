"""The store that all workers and routers share: Redis or Valkey, each operation one script and round trip."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from pointsman.gcra import remaining
from pointsman.store.base import (
    Ask,
    Granted,
    Hold,
    Level,
    Most,
    Shelf,
    Size,
    Take,
    Unavailable,
    seal,
    seal_item,
    unseal,
    unseal_items,
)
from pointsman.store.config import StoreConfig
from pointsman.store.link import Link
from pointsman.store.returns import Returns
from pointsman.store.scripts import (
    APPEND,
    DROP,
    DROP_UNDER,
    GIVE_BACK,
    ITEMS,
    READ,
    SETTLE,
    SIZE,
    WRITE,
    Script,
)
from pointsman.store.tally import TALLY, Count, Totals, read, words

_CLOSE_S = 1.0  # longest wait at the end for what was given back
_DROPPED = 1000  # keys in one step
_log = logging.getLogger("pointsman.store")


class RedisStore:
    """A `Store` in Redis. It connects when it is first used; `check` tells sooner whether it works.

    Args:
        clock: seconds, instead of Redis' own clock: for tests alone.
        tell: told in a sentence when it stops to answer, and when it answers again.
    """

    def __init__(
        self,
        config: StoreConfig,
        clock: Callable[[], float] | None = None,
        tell: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.foreign = 0
        self._prefix = config.prefix
        self._clock = clock
        self._link = Link(config, tell)
        self._returns = Returns(self._deliver, self._link.wait_until_up)

    @property
    def down(self) -> str | None:
        return self._link.down

    async def settle(self, ask: Ask) -> Granted:
        if self._link.down is not None:
            raise Unavailable(self._link.down)
        keys = [f"{self._prefix}rate:{take.key}" for take in ask.takes]
        keys += [f"{self._prefix}lease:{hold.key}" for hold in ask.holds]
        once_ttl = ""
        if ask.once is not None:
            keys.append(f"{self._prefix}nonce:{ask.once.key}")
            once_ttl = repr(float(ask.once.ttl_s))
        words: list[str | bytes | int] = [self._now(), len(ask.takes), len(ask.holds), once_ttl]
        for take in ask.takes:
            words += [repr(take.rate.interval_s), repr(take.rate.depth_s), repr(float(take.cost))]
        for hold in ask.holds:
            words += [hold.limit, hold.id, repr(float(hold.ttl_s))]
        try:
            answer = await self._link.run(SETTLE, keys, words)
        except (Unavailable, asyncio.CancelledError):
            self._returns.doubt(ask.holds)  # it may have been carried out, or may yet be
            raise
        return self._granted(ask, answer)

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        self._returns.add(takes, holds)

    async def read(self, shelf: Shelf, key: str, owner: str) -> bytes | None:
        sealed = await self._on(shelf, READ, key)
        if sealed is None:
            return None
        value = unseal(owner, key, sealed) if isinstance(sealed, bytes) else None
        if value is None:
            self._note_foreign(key)
        return value

    async def write(self, shelf: Shelf, key: str, owner: str, value: bytes, ttl_s: float) -> bool:
        if len(value) > shelf.bytes:
            await self.drop(shelf, key)
            return False
        sealed, bounds = seal(owner, key, value), (shelf.entries, shelf.bytes)
        await self._on(shelf, WRITE, key, sealed, len(value), repr(float(ttl_s)), *bounds)
        return True

    async def append(
        self, shelf: Shelf, key: str, owner: str, item_id: str, value: bytes, ttl_s: float, most: Most
    ) -> bool:
        item, bounds = seal_item(owner, key, item_id, value), (shelf.entries, shelf.bytes)
        words = (item, len(value), repr(float(ttl_s)), *bounds, most.items, most.bytes)
        return bool(await self._on(shelf, APPEND, key, *words))

    async def items(self, shelf: Shelf, key: str, owner: str) -> list[bytes]:
        found = await self._on(shelf, ITEMS, key)
        values = unseal_items(owner, key, found) if isinstance(found, list) else None
        if values is None:
            self._note_foreign(key)
        return values or []

    async def drop(self, shelf: Shelf, *keys: str) -> int:
        gone = 0
        for begin in range(0, len(keys), _DROPPED):
            gone += _count(await self._on(shelf, DROP, *keys[begin : begin + _DROPPED]))
        return gone

    async def drop_under(self, shelf: Shelf, prefix: str = "") -> int:
        return _count(await self._on(shelf, DROP_UNDER, prefix))

    async def size(self, shelf: Shelf) -> Size:
        match await self._on(shelf, SIZE):
            case [int() as entries, int() as size]:
                return Size(entries, size)
        raise _nonsense()

    async def tally(self, heard: Iterable[bytes], count: Count) -> Totals:
        keys = [f"{self._prefix}tally:sessions", f"{self._prefix}tally:minutes"]
        return read(await self._link.run(TALLY, keys, [self._now(), *words(heard, count)]))

    def sizes(self) -> dict[str, int]:
        return {"connections": self._link.open, "returns": len(self._returns)}

    async def check(self) -> None:
        await self._link.check()

    async def close(self) -> None:
        await self._returns.close(_CLOSE_S)
        await self._link.close()

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    async def _on(self, shelf: Shelf, script: Script, *words: str | bytes | int) -> Any:
        """Run a script on a shelf."""
        index = [f"{self._prefix}{part}:{shelf.name}" for part in ("uses", "ends", "sizes")]
        return await self._link.run(
            script, index, [self._now(), f"{self._prefix}value:{shelf.name}:", *words]
        )

    def _granted(self, ask: Ask, answer: Any) -> Granted:
        match answer:
            case [int() as refused, 1, _] if refused and ask.once is not None:
                return Granted(allowed=False, refused=ask.once.key, replayed=True)
            case [int() as refused, 0, bytes() as wait, *ahead] if len(ahead) == len(ask.takes):
                lies = [float(number) for number in ahead]
                pairs = zip(ask.takes, lies, strict=True)
                levels = tuple(Level(remaining(take.rate, number), number) for take, number in pairs)
                if not refused:
                    return Granted(allowed=True, levels=levels)
                key = [*(take.key for take in ask.takes), *(hold.key for hold in ask.holds)][refused - 1]
                return Granted(allowed=False, levels=levels, refused=key, retry_after_s=float(wait))
        raise _nonsense()

    async def _deliver(self, takes: list[Take], holds: list[Hold]) -> None:
        keys = [f"{self._prefix}rate:{take.key}" for take in takes]
        keys += [f"{self._prefix}lease:{hold.key}" for hold in holds]
        words: list[str | bytes | int] = [self._now(), len(takes)]
        for take in takes:
            words += [repr(take.rate.interval_s), repr(float(take.cost))]
        await self._link.run(GIVE_BACK, keys, words + [hold.id for hold in holds])

    def _note_foreign(self, key: str) -> None:
        self.foreign += 1
        _log.error("store: the value of %s is cut short or another's; it is passed over", key[:8])


def _count(answer: Any) -> int:
    if isinstance(answer, int):
        return answer
    raise _nonsense()


def _nonsense() -> Unavailable:
    return Unavailable("Redis answers what nobody asked for")
