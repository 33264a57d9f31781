"""The response cache finds an answer again for the same request of the same tenant, and for no other."""

from random import Random
from typing import Any

import pytest

from pointsman.cache import CacheConfig, ResponseCache, Statistics, request_key
from pointsman.store.base import Shelf, Size, Unavailable
from pointsman.store.memory import MemoryStore

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 10}
KEY = request_key("me", "gemma", CHAT)


class Away(MemoryStore):
    """A store that does not answer."""

    async def read(self, shelf: Shelf, key: str, owner: str) -> bytes | None:
        raise Unavailable("away")

    async def write(self, shelf: Shelf, key: str, owner: str, value: bytes, ttl_s: float) -> bool:
        raise Unavailable("away")

    async def size(self, shelf: Shelf) -> Size:
        raise Unavailable("away")


def test_spelling_makes_no_other_key() -> None:
    """Order, `0` or `0.0`, and null for what is not given are the same request."""
    same: list[dict[str, Any]] = [
        {"max_tokens": 10, "temperature": 0.0, "messages": [{"content": "Hi", "role": "user"}]},
        {**CHAT, "top_p": None},
        {**CHAT, "max_tokens": 10.0},
    ]
    assert {request_key("me", "gemma", parameters) for parameters in same} == {KEY}
    assert len(KEY) == 128


def test_whatever_decides_makes_another_key() -> None:
    """Tenant, model and every parameter, a true for a 1 and a text for a number included."""
    other: list[dict[str, Any]] = [
        {**CHAT, "temperature": 0.1},
        {**CHAT, "max_tokens": "10"},
        {**CHAT, "seed": True},
        {**CHAT, "seed": 1},
        {**CHAT, "messages": [{"role": "user", "content": "Hi "}]},
        {**CHAT, "messages": []},
    ]
    keys = {request_key("me", "gemma", parameters) for parameters in other}
    keys |= {KEY, request_key("you", "gemma", CHAT), request_key("me", "gpt2", CHAT)}
    assert len(keys) == 9


async def test_a_whole_answer_is_found_again() -> None:
    """A miss, then a hit with the very bytes, and the figures tell both."""
    cache = ResponseCache(MemoryStore())
    assert await cache.get("me", KEY) is None
    assert await cache.put("me", KEY, b"answer", "stop")
    assert await cache.get("me", KEY) == b"answer"
    assert await cache.statistics() == Statistics(1, 6, 100, hits=1, misses=1, unavailable=0)


@pytest.mark.parametrize("finish", [None, "abort", "error", "content_filter", ""])
async def test_an_answer_cut_short_is_never_kept(finish: str | None) -> None:
    """What did not come to its own end is no answer to others."""
    cache = ResponseCache(MemoryStore())
    assert not await cache.put("me", KEY, b"ans", finish)
    assert await cache.get("me", KEY) is None


async def test_empty_and_very_large_answers_are_not_kept() -> None:
    """An empty one is worth asking again; one beyond the bound would push out the others."""
    cache = ResponseCache(MemoryStore(), CacheConfig(entry_bytes=10))
    assert not await cache.put("me", KEY, b"", "stop")
    assert not await cache.put("me", KEY, b"x" * 11, "stop")
    assert await cache.put("me", KEY, b"x" * 10, "length")


async def test_another_tenant_finds_nothing_even_with_the_key() -> None:
    """A key that came to another tenant opens nothing."""
    store = MemoryStore()
    cache = ResponseCache(store)
    await cache.put("me", KEY, b"answer", "stop")
    assert await cache.get("you", KEY) is None
    assert store.foreign == 1


async def test_clearing_one_tenant_leaves_the_others() -> None:
    """One tenant's answers go, or all; the number is told."""
    cache, other = ResponseCache(MemoryStore()), request_key("you", "gemma", CHAT)
    await cache.put("me", KEY, b"answer", "stop")
    await cache.put("you", other, b"answer", "stop")
    assert await cache.clear("me") == 1
    assert await cache.get("you", other) == b"answer"
    assert await cache.clear() == 1
    assert (await cache.statistics()).size == 0


async def test_a_store_that_is_away_is_a_miss() -> None:
    """Who looks is told so, nothing is kept, and it is counted."""
    cache = ResponseCache(Away())
    with pytest.raises(Unavailable):
        await cache.get("me", KEY)
    assert not await cache.put("me", KEY, b"answer", "stop")
    with pytest.raises(Unavailable):
        await cache.statistics()
    assert (cache.misses, cache._unavailable) == (1, 2)


async def test_no_tenant_ever_finds_anothers_answer() -> None:
    """Ten thousand random operations: what is found was kept by this tenant for this request."""
    cache, rng = ResponseCache(MemoryStore(), CacheConfig(entries=10)), Random(8)
    for _ in range(10_000):
        tenant, prompt = f"tenant {rng.randint(0, 4)}", f"prompt {rng.randint(0, 9)}"
        key, answer = request_key(tenant, "m", {"prompt": prompt}), f"{tenant}, {prompt}".encode()
        if rng.random() < 0.5:
            await cache.put(tenant, key, answer, "stop")
        else:
            assert await cache.get(tenant, key) in {None, answer}
    assert (await cache.statistics()).size == 10


@pytest.mark.parametrize("knob", ["ttl_s", "entries", "bytes", "entry_bytes"])
async def test_a_wrong_knob_is_named(knob: str) -> None:
    """Bounds and times of nothing are mistakes."""
    wrong: dict[str, Any] = {knob: 0}
    with pytest.raises(ValueError, match=f"^{knob} of the cache"):
        CacheConfig(**wrong)
