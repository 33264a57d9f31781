"""What a store does for the router: shared limits, and values with a time to live.

Three kinds of limits are asked together and settled in one step, all or nothing: rates (`gcra`), leases (so
many at once) and nonces (once only). Values lie on shelves; each shelf has its bounds. Keys are made with
`digest`, so no key tells of a client, and none is guessed.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pointsman.gcra import Rate

LEASE_RETRY_S = 1.0  # when a lease may be free again is unknown; this is what a refused client is told
SEAL_BYTES = 32
ID_BYTES = 32


class Unavailable(Exception):
    """The store does not answer. Its text is a clause for people, without address or key."""


class Take(msgspec.Struct, frozen=True, gc=False):
    """A cost of a rate, in the rate's unit."""

    key: str
    rate: Rate
    cost: float = 1.0  # at least 0 when asked for; in `give_back`: used less reserved, of either sign


class Hold(msgspec.Struct, frozen=True, gc=False):
    """One of `limit` leases that a key may have at once. Ended by `give_back`, or after `ttl_s` by itself."""

    key: str
    limit: int  # at least 1
    id: str  # unique among the leases of the key; asked again under the same id, it is renewed
    ttl_s: float  # above 0; longer than what it is held for


class Once(msgspec.Struct, frozen=True, gc=False):
    """A nonce: refused if it was seen within `ttl_s` seconds."""

    key: str
    ttl_s: float  # above 0


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What one request needs, all of it or nothing. No key may appear twice among the takes or the holds."""

    takes: tuple[Take, ...] = ()
    holds: tuple[Hold, ...] = ()
    once: Once | None = None


class Level(msgspec.Struct, frozen=True, gc=False):
    """How full a bucket is after the ask."""

    remaining: int  # whole units that could be taken at once, from 0 to the burst
    full_in_s: float  # seconds until it is full, at least 0


class Granted(msgspec.Struct, frozen=True, gc=False):
    """The answer to an ask. When it is not allowed, nothing was taken."""

    allowed: bool
    levels: tuple[Level, ...] = ()  # of the takes, in their order; empty where a nonce was seen before
    refused: str | None = None  # the key that refused; of several the one with the longest wait
    retry_after_s: float = 0.0  # seconds after which it is worth to ask again
    replayed: bool = False  # the nonce was seen before
    local: bool = False  # settled by this process's own share, for the shared store was away


@dataclass(frozen=True, slots=True)
class Shelf:
    """A group of values and its bounds. Full, it drops what has expired, then what was used least recently.

    The bounds hold per store: for all workers together with Redis, per worker process in memory.

    Raises:
        ValueError: a value out of range; it names the shelf.
    """

    name: str  # lower-case letters
    entries: int = 1000  # keys, 1 to 100,000
    bytes: int = 64 * 1024 * 1024  # of all values together, keys not counted

    def __post_init__(self) -> None:
        if not 1 <= self.entries <= 100_000:
            raise ValueError(f"entries of the {self.name} must be from 1 to 100,000")
        if self.bytes < 1:
            raise ValueError(f"bytes of the {self.name} must be at least 1")


@dataclass(frozen=True, slots=True)
class Most:
    """Bounds of one list: the oldest items go first, and whole."""

    items: int
    bytes: int  # of the items' values


class Size(msgspec.Struct, frozen=True, gc=False):
    """What lies on a shelf. It may count what has expired and was not yet swept."""

    entries: int
    bytes: int


class Store(Protocol):
    """Limits and values. Every method but `give_back` and `sizes` raises `Unavailable`.

    `owner` is the tenant a value belongs to. Each value carries a seal over owner, key and content, and one
    whose seal is wrong (another's, or cut short) reads as absent and is counted in `foreign`.
    """

    foreign: int

    @property
    def down(self) -> str | None:
        """Why it does not answer, a clause for people; None: it does, as far as is known."""

    async def settle(self, ask: Ask) -> Granted:
        """Take all that is asked, or nothing, in one step."""

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        """Settle estimates and free leases, soon. It never waits or fails, so it can stand in any `finally`.

        A lease that is not there is passed over; so is a difference that cannot be delivered.

        Args:
            granted: the answer to the ask that it belongs to.
            takes: their cost is what was used less what was reserved.
        """

    async def read(self, shelf: Shelf, key: str, owner: str) -> bytes | None:
        """The value, if it is there and the owner's. Reading does not prolong its life."""

    async def write(self, shelf: Shelf, key: str, owner: str, value: bytes, ttl_s: float) -> bool:
        """Put a value in place of any other; False: larger than the shelf; then nothing is there."""

    async def append(
        self, shelf: Shelf, key: str, owner: str, item_id: str, value: bytes, ttl_s: float, most: Most
    ) -> bool:
        """Add an item to a list and begin its time to live anew.

        An item whose id is in the list already changes nothing. The oldest items go to make room, whole.

        Returns:
            False when the item is larger than `most` or the shelf allows; then the list stays as it was.
        """

    async def items(self, shelf: Shelf, key: str, owner: str) -> list[bytes]:
        """The values of a list, oldest first; empty: there is none. One wrong seal spoils the whole list."""

    async def drop(self, shelf: Shelf, *keys: str) -> int:
        """Take values or lists away; how many were there."""

    async def drop_under(self, shelf: Shelf, prefix: str = "") -> int:
        """Take away all whose key begins with `prefix`; how many those were. Empty: all of the shelf."""

    async def size(self, shelf: Shelf) -> Size:
        """What lies on the shelf."""

    def sizes(self) -> dict[str, int]:
        """How many entries this process's own tables have, by name, for gauges. Each table has a bound."""

    async def check(self) -> None:
        """Ask whether it works, writing included; one that does not is `down` until it does.

        Raises:
            Unavailable: why it does not.
        """

    async def close(self) -> None:
        """Deliver what was given back, for a short time, and let go of all connections."""


def digest(*parts: str | bytes) -> str:
    """A key of 64 hexadecimal digits: SHA-256 over the parts, each with its length."""
    return _hashed(parts).hex()


def seal(owner: str, key: str, value: bytes, item_id: str = "") -> bytes:
    """`value` behind 32 bytes that only this owner, key, item and content give."""
    return _hashed((owner, key, item_id, value)) + value


def unseal(owner: str, key: str, sealed: bytes, item_id: str = "") -> bytes | None:
    """What was sealed; None when the seal is another's or the value was cut or changed."""
    value = sealed[SEAL_BYTES:]
    return value if sealed[:SEAL_BYTES] == _hashed((owner, key, item_id, value)) else None


def seal_item(owner: str, key: str, item_id: str, value: bytes) -> bytes:
    """An item of a list: 32 bytes that stand for its id, then the sealed value."""
    name = _hashed((item_id,))
    return name + seal(owner, key, value, name.hex())


def unseal_items(owner: str, key: str, items: list[bytes]) -> list[bytes] | None:
    """The values of a list; None when the seal of any is wrong."""
    found = [unseal(owner, key, item[ID_BYTES:], item[:ID_BYTES].hex()) for item in items]
    values = [value for value in found if value is not None]
    return values if len(values) == len(found) else None


def _hashed(parts: tuple[str | bytes, ...]) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big"))
        whole.update(data)
    return whole.digest()
