"""Where a store may be."""

from typing import Any

import pytest

from pointsman.store import make
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryStore


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://localhost",
        "redis://user:p%40ss@[::1]:6379/2",
        "rediss://:secret@redis.example:6380",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_addresses_of_a_store(url: str) -> None:
    """Memory, Redis with and without TLS, and a unix socket."""
    assert StoreConfig(url).in_memory is (url == "memory://")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "http://secret@host",
        "redis://",
        "redis://:secret@",
        "redis://secret@host:port",
        "redis://secret@host:99999",
        "redis://secret@host/db",
        "redis://secret@host?socket_timeout=9",
        "unix://?db=secret",
        "unix:///secret?db=x",
        "redis://[secret",
    ],
)
def test_a_wrong_address_is_refused_and_not_shown(url: str) -> None:
    """The sentence names the knob and shows no address: it may hold a password."""
    with pytest.raises(ValueError, match=r"^url of the store must be") as told:
        StoreConfig(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("knob", ["timeout_s", "pause_s", "pause_max_s", "connections"])
def test_a_wrong_knob_is_named(knob: str) -> None:
    """Times and numbers of nothing are mistakes."""
    wrong: dict[str, Any] = {knob: 0}
    with pytest.raises(ValueError, match=f"^{knob} of the store"):
        StoreConfig(**wrong)


def test_memory_is_the_default() -> None:
    """Without an address the store is this process's memory."""
    assert isinstance(make(StoreConfig()), MemoryStore)
