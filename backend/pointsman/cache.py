"""Answers kept for requests that are equal in all that matters, and asked again by the same tenant.

Whether a request may be answered from here is the caller's to say: it must be deterministic, or asked for.
The store may fail: then nothing is found and nothing kept, and the request goes its way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pointsman.store.base import Shelf, Store, Unavailable, digest

# How an answer ends that is all there is to say to its request. So is `length`: the limit is part of the key.
WHOLE = frozenset({"stop", "length", "eos_token", "stop_sequence", "tool_calls", "function_call"})

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Knobs of the response cache. Bounds hold per store: see `store.base.Shelf`.

    Raises:
        ValueError: one sentence that names the knob.
    """

    ttl_s: float = 3600.0  # from when an answer was kept; above 0
    entries: int = 100  # 1 to 100,000; beyond, the one used least recently goes
    bytes: int = 64 * 1024 * 1024  # of all answers together, at least 1
    entry_bytes: int = 1024 * 1024  # a larger answer is not kept; at least 1

    def __post_init__(self) -> None:
        if not self.ttl_s > 0:
            raise ValueError("ttl_s of the cache must be more than 0 seconds")
        if not 1 <= self.entries <= 100_000:
            raise ValueError("entries of the cache must be from 1 to 100,000")
        for name in ("bytes", "entry_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the cache must be at least 1")


class Statistics(msgspec.Struct, frozen=True):
    """What the cache did. Hits and misses are this worker's, the rest the store's."""

    size: int  # answers kept
    bytes: int  # of these
    max_size: int
    hits: int
    misses: int
    unavailable: int  # of the misses and of what was to be kept: the store did not answer


class ResponseCache:
    """Answers by the exact request. No answer is ever found by another tenant.

    `hits` and `misses` are this worker's.
    """

    def __init__(self, store: Store, config: CacheConfig | None = None) -> None:
        self._store = store
        self.configure(config or CacheConfig())
        self.hits = 0
        self.misses = 0
        self._unavailable = 0

    def configure(self, config: CacheConfig) -> None:
        """Take other knobs; what is kept stays, as far as it fits them."""
        self.config = config
        self._shelf = Shelf("cache", config.entries, config.bytes)

    async def get(self, tenant: str, key: str) -> bytes | None:
        """The answer kept under a key that `request_key` or `exact_key` made for this tenant; None: none is.

        Raises:
            Unavailable: the store does not answer; counted as a miss.
        """
        try:
            value = await self._store.read(self._shelf, key, tenant)
        except Unavailable:
            self._unavailable += 1
            self.misses += 1
            raise
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
        return value

    async def put(self, tenant: str, key: str, answer: bytes, finish_reason: str | None) -> bool:
        """Keep an answer, if it is whole, not empty and not too large; False: it is not kept.

        Args:
            finish_reason: the engine's own word; None: it did not come to an end.
        """
        if finish_reason not in WHOLE or not 0 < len(answer) <= self.config.entry_bytes:
            return False
        try:
            return await self._store.write(self._shelf, key, tenant, answer, self.config.ttl_s)
        except Unavailable:
            self._unavailable += 1
            return False

    async def clear(self, tenant: str | None = None) -> int:
        """Forget a tenant's answers, or all of them; how many those were.

        Raises:
            Unavailable: the store does not answer; they may still be there.
        """
        return await self._store.drop_under(self._shelf, "" if tenant is None else digest(tenant))

    async def statistics(self) -> Statistics:
        """Figures since this worker's start.

        Raises:
            Unavailable: the store does not answer.
        """
        size = await self._store.size(self._shelf)
        return Statistics(
            size=size.entries,
            bytes=size.bytes,
            max_size=self.config.entries,
            hits=self.hits,
            misses=self.misses,
            unavailable=self._unavailable,
        )


def request_key(tenant: str, model: str, parameters: Mapping[str, Any]) -> str:
    """The key of a request: equal for equal requests of one tenant to one model, whatever their spelling.

    Order, a whole number's `.0` and parameters that are None make no difference. A default that is spelt out
    does, unless the caller leaves it out.

    Args:
        parameters: all that decides about the answer, the prompt or messages included; JSON values.
    """
    plain = {name: _plain(value) for name, value in parameters.items() if value is not None}
    return digest(tenant) + digest("cache", tenant, model, _encode(plain))


def exact_key(tenant: str, model: str, *parts: str | bytes) -> str:
    """The key of a request of which every byte counts; `parts` are all that decides about the answer."""
    return digest(tenant) + digest("exact", tenant, model, *parts)


def _plain(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return value
