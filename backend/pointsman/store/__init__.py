"""Where shared state lives: in this process's memory, or in Redis for all workers and routers together."""

from collections.abc import Callable

from pointsman.store.base import Store
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryConfig, MemoryStore


def make(
    config: StoreConfig,
    memory: MemoryConfig | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> Store:
    """Build the store that the settings name.

    Args:
        tell: told in a sentence when it stops to answer, and when it answers again.

    Raises:
        ValueError: one sentence: the extra that it needs is not installed.
    """
    if config.in_memory:
        return MemoryStore(memory)
    try:
        from pointsman.store.redis import RedisStore
    except ModuleNotFoundError as missing:
        raise ValueError("a store in Redis needs the extra: pip install 'pointsman[redis]'") from missing
    return RedisStore(config, tell=tell)
