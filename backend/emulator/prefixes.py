"""The prefix cache: which blocks of prompts are still known, least recently used ones forgotten first."""

import zlib
from collections import OrderedDict

_BLOCK = 64  # bytes of prompt in one block, about 16 tokens


class PrefixCache:
    """Holds at most `capacity` blocks; 0: nothing is ever cached."""

    def __init__(self, capacity: int) -> None:
        """An empty cache."""
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def use(self, prompt: str, salt: str, tokens: int) -> int:
        """How many of the prompt's `tokens` are cached; afterwards all its blocks are."""
        if not self._capacity:
            return 0
        data = prompt.encode("utf-8", "replace")
        key, hits, missed = zlib.crc32(salt.encode()), 0, False
        for place in range(0, len(data) - _BLOCK, _BLOCK):
            chain = zlib.crc32(data[place : place + _BLOCK], key & 0xFFFFFFFF)
            key = chain | place << 32
            missed = missed or key not in self._blocks
            hits += not missed
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return tokens * hits * _BLOCK // max(1, len(data))
