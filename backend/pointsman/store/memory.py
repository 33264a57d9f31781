"""The store of one worker process. It is always there, never waits, and ends with the process.

Its tables and what goes when one is full:

- rates: of the 32 used least recently one whose bucket is full again, else the one used least recently;
- leases: none is put out while it is held; the ask is refused;
- nonces: none before its time, or a signed request could be sent again; the ask is refused;
- shelves: `table`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pointsman.gcra import Arrival, ahead_s, charge, remaining, wait_s
from pointsman.store.base import (
    LEASE_RETRY_S,
    Ask,
    Granted,
    Hold,
    Level,
    Most,
    Once,
    Shelf,
    Size,
    Take,
    seal,
    seal_item,
    unseal,
    unseal_items,
)
from pointsman.store.table import Entry, Table

_LOOKED_AT = 32  # entries of a full table among which one that is worth nothing is sought
_CLEARED = 4  # nonces looked at for each new one: more go than come


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Bounds of the tables, per worker process. An entry takes about 300 bytes.

    Raises:
        ValueError: one sentence that names the knob.
    """

    rates: int = 100_000  # keys and addresses whose rate is limited, at least 1
    leases: int = 100_000  # held at once by all keys, at least 1
    nonces: int = 200_000  # of signed requests within their window, at least 1

    def __post_init__(self) -> None:
        for name in ("rates", "leases", "nonces"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the memory store must be at least 1")


class MemoryStore:
    """A `Store` in memory. `clock` gives seconds and need not be the wall's."""

    down: str | None = None  # it never is

    def __init__(
        self, config: MemoryConfig | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.foreign = 0
        self._config = config or MemoryConfig()
        self._clock = clock
        self._rates: dict[str, Arrival] = {}  # used least recently first
        self._held: dict[str, dict[str, float]] = {}  # key -> lease -> when it ends by itself
        self._leases = 0
        self._nonces: dict[str, float] = {}  # when each may come again, in the order of coming
        self._tables: dict[str, Table] = {}

    async def settle(self, ask: Ask) -> Granted:
        return self.at_once(ask)

    def at_once(self, ask: Ask) -> Granted:
        """As `settle`: there is nothing to wait for."""
        now = self._clock()
        refused, wait = None, 0.0
        if ask.once is not None:
            if self._nonces.get(ask.once.key, now) > now:
                return Granted(allowed=False, refused=ask.once.key, replayed=True)
            wait = self._nonces_full_s(now)
            refused = ask.once.key if wait else None
        rates = self._rates
        ahead: list[float] = []
        for take in ask.takes:
            lies = ahead_s(rates.get(take.key), now)
            ahead.append(lies)
            waits = wait_s(take.rate, lies, take.cost)
            if waits > wait:
                refused, wait = take.key, waits
        for hold in ask.holds:
            if wait < LEASE_RETRY_S and not self._has_room(hold, now):
                refused, wait = hold.key, LEASE_RETRY_S
        if refused is not None:
            levels = [self._look(take, lies) for take, lies in zip(ask.takes, ahead, strict=True)]
            return Granted(allowed=False, levels=tuple(levels), refused=refused, retry_after_s=wait)
        if ask.once is not None:
            self._note(ask.once, now)
        for hold in ask.holds:
            self._hold(hold, now)
        levels = [self._charge(take, lies, now) for take, lies in zip(ask.takes, ahead, strict=True)]
        return Granted(allowed=True, levels=tuple(levels))

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        now = self._clock()
        for take in takes:
            lies = ahead_s(self._rates.get(take.key), now)
            self._charge(take, lies, now)
        for hold in holds:
            held = self._held.get(hold.key)
            if held is not None and held.pop(hold.id, None) is not None:
                self._leases -= 1
                if not held:
                    del self._held[hold.key]

    async def read(self, shelf: Shelf, key: str, owner: str) -> bytes | None:
        entry = self._table(shelf).get(key, self._clock())
        if entry is None:
            return None
        value = unseal(owner, key, entry.parts[0])
        self.foreign += value is None
        return value

    async def write(self, shelf: Shelf, key: str, owner: str, value: bytes, ttl_s: float) -> bool:
        table, now = self._table(shelf), self._clock()
        if len(value) > shelf.bytes:
            table.pop(key)
            return False
        table.put(key, Entry([seal(owner, key, value)], len(value), now + ttl_s), now)
        return True

    async def append(
        self, shelf: Shelf, key: str, owner: str, item_id: str, value: bytes, ttl_s: float, most: Most
    ) -> bool:
        table, now = self._table(shelf), self._clock()
        entry = table.get(key, now)
        item = seal_item(owner, key, item_id, value)
        overhead = len(item) - len(value)
        parts = [] if entry is None else entry.parts
        if any(part[:32] == item[:32] for part in parts):
            return True
        if len(value) > min(most.bytes, shelf.bytes):
            return False
        parts = [*parts, item][-most.items :]
        size = sum(len(part) - overhead for part in parts)
        while size > min(most.bytes, shelf.bytes):
            size -= len(parts.pop(0)) - overhead
        table.put(key, Entry(parts, size, now + ttl_s), now)
        return True

    async def items(self, shelf: Shelf, key: str, owner: str) -> list[bytes]:
        entry = self._table(shelf).get(key, self._clock())
        if entry is None:
            return []
        values = unseal_items(owner, key, entry.parts)
        self.foreign += values is None
        return values or []

    async def drop(self, shelf: Shelf, *keys: str) -> int:
        table, now = self._table(shelf), self._clock()
        return sum(table.get(key, now) is not None and table.pop(key) is not None for key in keys)

    async def drop_under(self, shelf: Shelf, prefix: str = "") -> int:
        table = self._table(shelf)
        keys = [key for key in table.keys(self._clock()) if key.startswith(prefix)]
        for key in keys:
            table.pop(key)
        return len(keys)

    async def size(self, shelf: Shelf) -> Size:
        return self._table(shelf).size(self._clock())

    def sizes(self) -> dict[str, int]:
        own = {"rates": len(self._rates), "leases": self._leases, "nonces": len(self._nonces)}
        return own | {name: len(table) for name, table in self._tables.items()}

    async def check(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _table(self, shelf: Shelf) -> Table:
        table = self._tables.get(shelf.name)
        if table is None:
            table = self._tables[shelf.name] = Table(shelf)
        table.shelf = shelf  # its bounds may have been set anew
        return table

    def _charge(self, take: Take, lies: float, now: float) -> Level:
        """Take a cost from a bucket, which is then the one used last; a full one need not be kept."""
        rates, key = self._rates, take.key
        arrival = charge(take.rate, lies, now, take.cost)
        rates.pop(key, None)
        if arrival is None:
            return Level(take.rate.burst, 0.0)
        rates[key] = arrival
        if len(rates) > self._config.rates:
            self._evict(now)
        lies = arrival.ahead_s
        return Level(remaining(take.rate, lies), lies)

    def _look(self, take: Take, lies: float) -> Level:
        """The level of a bucket that nothing is taken from; it counts as used."""
        arrival = self._rates.pop(take.key, None)
        if arrival is not None:
            self._rates[take.key] = arrival
        return _level(take, lies)

    def _evict(self, now: float) -> None:
        oldest = list(islice(self._rates.items(), _LOOKED_AT))
        full = (key for key, arrival in oldest if not ahead_s(arrival, now))
        del self._rates[next(full, oldest[0][0])]

    def _has_room(self, hold: Hold, now: float) -> bool:
        held = self._held.get(hold.key)
        if held is not None:
            if held.get(hold.id, now) > now:
                return True
            if len(held) >= hold.limit:
                self._end(held, now)
            if len(held) >= hold.limit:
                return False
            if not held:
                del self._held[hold.key]
        if self._leases >= self._config.leases:
            self._end_some(now)
        return self._leases < self._config.leases

    def _end(self, held: dict[str, float], now: float) -> None:
        """End the leases of a key whose time is over."""
        for name in [name for name, ends in held.items() if ends <= now]:
            del held[name]
            self._leases -= 1

    def _end_some(self, now: float) -> None:
        """Look for leases whose time is over, at some keys; at others when asked again."""
        for key in list(islice(self._held, _LOOKED_AT)):
            held = self._held.pop(key)
            self._end(held, now)
            if held:
                self._held[key] = held

    def _hold(self, hold: Hold, now: float) -> None:
        held = self._held.get(hold.key)
        if held is None:
            held = self._held[hold.key] = {}
        self._leases += hold.id not in held
        held[hold.id] = now + hold.ttl_s

    def _nonces_full_s(self, now: float) -> float:
        """Clear some nonces whose time is over; seconds until there is room for one, 0: there is."""
        for key, again in list(islice(self._nonces.items(), _CLEARED)):
            if again <= now:
                del self._nonces[key]
        if len(self._nonces) < self._config.nonces:
            return 0.0
        return max(LEASE_RETRY_S, next(iter(self._nonces.values())) - now)

    def _note(self, once: Once, now: float) -> None:
        self._nonces.pop(once.key, None)
        self._nonces[once.key] = now + once.ttl_s


def _level(take: Take, lies: float) -> Level:
    return Level(remaining(take.rate, lies), lies)
