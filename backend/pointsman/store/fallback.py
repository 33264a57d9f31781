"""Limits where nothing is shared: each of the workers enforces its own part of them."""

import logging

import msgspec

from pointsman.gcra import Rate
from pointsman.store.base import Ask, Granted, Hold, Store, Take, Unavailable
from pointsman.store.memory import MemoryStore

_RATES = 1000  # divided rates that are remembered
_log = logging.getLogger("pointsman.store")


class Share:
    """Limits divided by the number of workers, in this worker's memory.

    A burst and a number of leases are rounded down, but at least 1: more workers than leases let through one
    each. It knows only limits; values are not shared out.

    Args:
        workers: processes that answer for the same keys, at least 1; may be set anew when it is known better.
    """

    def __init__(self, memory: MemoryStore, workers: int) -> None:
        if workers < 1:
            raise ValueError("the number of workers must be at least 1")
        self.workers = workers
        self._memory = memory
        self._rates: dict[tuple[Rate, int], Rate] = {}

    def at_once(self, ask: Ask) -> Granted:
        """As the store does, with this worker's part of each limit; there is nothing to wait for."""
        if self.workers > 1:
            holds = tuple(
                msgspec.structs.replace(hold, limit=max(1, hold.limit // self.workers)) for hold in ask.holds
            )
            ask = Ask(self._parts(ask.takes), holds, ask.once)
        return self._memory.at_once(ask)

    async def settle(self, ask: Ask) -> Granted:
        """The same, for who would wait."""
        return self.at_once(ask)

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        """As the store does; the takes name the whole rates."""
        self._memory.give_back(granted, self._parts(takes) if self.workers > 1 else takes, holds)

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {**self._memory.sizes(), "divided_rates": len(self._rates)}

    def _parts(self, takes: tuple[Take, ...]) -> tuple[Take, ...]:
        return tuple(Take(take.key, self._part(take.rate), take.cost) for take in takes)

    def _part(self, rate: Rate) -> Rate:
        part = self._rates.get((rate, self.workers))
        if part is None:
            if len(self._rates) >= _RATES:
                self._rates.clear()
            part = Rate(rate.per_minute / self.workers, max(1, rate.burst // self.workers))
            self._rates[rate, self.workers] = part
        return part


class Local:
    """The shared limits, or this worker's share of them while the shared store does not answer.

    An ask with a nonce is not answered by a share: a nonce that another worker has seen would count as new.
    The share begins with full buckets, and leases that the shared store holds do not count in it.

    Args:
        closed: refuse instead: `settle` raises `Unavailable` while the shared store is away.
    """

    def __init__(self, shared: Store, share: Share, *, closed: bool = False) -> None:
        self.local_answers = 0  # so many asks were settled by the share
        self._shared = shared
        self._share = share
        self._closed = closed
        self._told = False  # that limits are this worker's share

    @property
    def local(self) -> bool:
        """Whether limits are this worker's share now, or refused where it is `closed`."""
        return self._shared.down is not None

    def at_once(self, ask: Ask) -> None:
        """The shared store is always waited for."""

    async def settle(self, ask: Ask) -> Granted:
        """As the store does.

        Raises:
            Unavailable: the store is away, and a nonce was asked for or it is `closed`.
        """
        try:
            granted = await self._shared.settle(ask)
        except Unavailable as why:
            self._tell(local=True, why=str(why))
            if self._closed or ask.once is not None:
                raise
        else:
            self._tell(local=False)
            return granted
        self.local_answers += 1
        return msgspec.structs.replace(self._share.at_once(ask), local=True)

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        """To the one that granted it."""
        (self._share if granted.local else self._shared).give_back(granted, takes, holds)

    def sizes(self) -> dict[str, int]:
        """Entries of this worker's tables, those of the shared store and of the share."""
        return self._share.sizes() | self._shared.sizes()

    def _tell(self, *, local: bool, why: str = "") -> None:
        if local is self._told:
            return
        self._told = local
        if not local:
            _log.info("store: limits are shared again")
        elif self._closed:
            _log.warning("store: limits cannot be kept, so limited requests are refused: %s", why)
        else:
            _log.warning(
                "store: limits are this worker's share, 1 of %d, until the store answers: %s",
                self._share.workers,
                why,
            )
