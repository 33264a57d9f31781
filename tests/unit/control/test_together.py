"""Sums over workers: what keys used, and how the cache does."""

from typing import Any

import pytest

from pointsman.cache import CacheConfig, ResponseCache
from pointsman.channel import Channel, Reply
from pointsman.control.together import Together
from pointsman.errors import NOT_ALL_FOLLOW, RouterError
from pointsman.exchange import Exchange
from pointsman.single_flight import SingleFlight
from pointsman.store.memory import MemoryStore
from pointsman.usage import Usage

pytestmark = pytest.mark.anyio


class Others(Channel):
    """A channel to others that answer so."""

    def __init__(self, **answers: list[Reply]) -> None:
        super().__init__()
        self._said = {name.replace("_", " "): replies for name, replies in answers.items()}

    async def ask(self, command: str, content: Any = None, wait_s: float = 0.0) -> list[Reply]:
        return self._said[command]


def together(channel: Channel, usage: Usage, *, apart: bool = True) -> tuple[Together, ResponseCache]:
    cache = ResponseCache(MemoryStore(), CacheConfig(entries=10))
    return Together(channel, usage, cache, SingleFlight(), apart=apart), cache


async def test_what_a_key_used_is_summed() -> None:
    """Since the oldest worker began; one that is silent is left out."""
    usage = Usage()
    exchange = Exchange("id", "/v1/completions", "POST", 1.0)
    exchange.key, exchange.prompt_tokens, exchange.completion_tokens = "k", 3, 4
    usage.observe(exchange)
    told = {"used": {"requests": 9, "errors": 1, "prompt_tokens": 30, "completion_tokens": 40}, "since": 5.0}
    both, _ = together(Others(usage=[Reply(2, told), Reply(3, error="no answer")]), usage)
    used, since = await both.used("k")
    assert (used.requests, used.prompt_tokens, used.completion_tokens, since) == (10, 33, 44, 5.0)
    alone, _ = together(Channel(), usage)
    assert (await alone.used("k"))[0].requests == 1
    assert usage.of("k").requests == 1, "the worker's own count is left alone"


STATS = {"size": 2, "max_size": 10, "hits": 3, "misses": 1, "bytes": 20, "unavailable": 1, "shared": 4}


@pytest.mark.parametrize(("apart", "size"), [(True, (3, 20)), (False, (1, 10))])
async def test_the_caches_are_summed(apart: bool, size: tuple[int, int]) -> None:
    """Hits and misses always; sizes only where each worker has its own."""
    both, cache = together(Others(cache=[Reply(2, STATS)]), Usage(), apart=apart)
    await cache.put("t", "key", b"{}", "stop")
    cache.hits, cache.misses = 1, 5
    found = await both.cache()
    assert (found["hits"], found["misses"], found["shared"], found["hit_rate_percent"]) == (4, 6, 4, 40.0)
    assert (found["size"], found["max_size"]) == size


async def test_every_worker_forgets() -> None:
    """Or it is told who did not answer; where all share a store one is enough."""
    both, cache = together(Others(cache_clear=[Reply(2, 5)]), Usage())
    await cache.put("t", "key", b"{}", "stop")
    assert await both.clear() == 6
    silent, _ = together(Others(cache_clear=[Reply(2, 5), Reply(3, error="no answer")]), Usage())
    with pytest.raises(RouterError, match="1 of 3 worker processes") as told:
        await silent.clear()
    assert told.value.kind is NOT_ALL_FOLLOW
    shared, cache = together(Others(), Usage(), apart=False)
    await cache.put("t", "key", b"{}", "stop")
    assert await shared.clear() == 1
