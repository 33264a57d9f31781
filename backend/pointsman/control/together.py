"""Figures of which each worker has a part: what keys have used, and how the cache does."""

import time
from typing import Any

import msgspec

from pointsman.cache import ResponseCache
from pointsman.channel import Channel, Reply
from pointsman.errors import NOT_ALL_FOLLOW, RouterError
from pointsman.kept import Kept
from pointsman.single_flight import SingleFlight
from pointsman.store.base import Unavailable
from pointsman.usage import Usage, Used


class Together:
    """Sums over all workers; each tells its own part on the channel.

    Args:
        apart: what is kept is each worker's own, and not in a store that all share.
    """

    def __init__(
        self,
        channel: Channel,
        usage: Usage,
        cache: ResponseCache,
        flights: SingleFlight[Kept | None],
        *,
        apart: bool,
    ) -> None:
        self._channel = channel
        self._usage = usage
        self._cache = cache
        self._flights = flights
        self._apart = apart
        self._since = time.time()
        channel.on("usage", self._used)
        channel.on("cache", lambda _: self._statistics())
        channel.on("cache clear", lambda _: self._cleared())

    async def used(self, key: str) -> tuple[Used, float]:
        """What a key, by its name, has used, and since when (wall-clock seconds)."""
        counts, since = Used(), self._since
        for told in (self._used(key), *_answers(await self._channel.ask("usage", key))):
            part = msgspec.convert(told["used"], Used)
            counts.requests += part.requests
            counts.errors += part.errors
            counts.prompt_tokens += part.prompt_tokens
            counts.completion_tokens += part.completion_tokens
            since = min(since, float(told["since"]))
        return counts, since

    async def cache(self) -> dict[str, Any]:
        """How the cache does; sizes are null while the store does not answer."""
        found = await self._statistics()
        for told in _answers(await self._channel.ask("cache")):
            for name in ("hits", "misses", "shared", "unavailable"):
                found[name] += told[name]
            for name in ("size", "bytes", "max_size") if self._apart else ():
                found[name] += told[name]
        asked = found["hits"] + found["misses"]
        rate = round(100 * found["hits"] / asked, 2) if asked else 0.0
        return {**found, "hit_rate_percent": rate}

    async def clear(self) -> int:
        """Forget all kept answers; how many there were.

        Raises:
            Unavailable: the store does not answer.
            RouterError: NOT_ALL_FOLLOW; those that answered have forgotten theirs.
        """
        removed = await self._cleared()
        if self._apart:
            replies = await self._channel.ask("cache clear")
            removed += sum(_answers(replies))
            silent = sum(reply.error is not None for reply in replies)
            if silent:
                raise RouterError(
                    NOT_ALL_FOLLOW, f"{silent} of {len(replies) + 1} worker processes did not answer."
                )
        return removed

    def _used(self, key: str) -> Any:
        return {"used": msgspec.to_builtins(self._usage.of(key)), "since": self._since}

    async def _cleared(self) -> int:
        return await self._cache.clear()

    async def _statistics(self) -> dict[str, Any]:
        cache = self._cache
        told: dict[str, Any] = {
            "size": None,
            "max_size": cache.config.entries,
            "hits": cache.hits,
            "misses": cache.misses,
            "bytes": None,
            "unavailable": 0,
            "shared": self._flights.shared,
        }
        try:
            found = await cache.statistics()
        except Unavailable:
            return told
        return {**told, "size": found.size, "bytes": found.bytes, "unavailable": found.unavailable}


def _answers(replies: list[Reply]) -> list[Any]:
    return [reply.answer for reply in replies if reply.error is None]
