"""How many conversations this worker process heard of lately. No name of a session is kept."""

from collections import OrderedDict
from hashlib import blake2b

WINDOW_S = 1800.0
_KEPT = 65_536  # sessions; beyond, the one that has been silent longest is forgotten


def digest_of(name: str) -> bytes:
    """What stands for a session: 16 bytes."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Sessions:
    """Sessions by the digests of their names, the latest at the end. Times are monotonic seconds."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._heard: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def note(self, name: str, now: float) -> bytes:
        """Something was said in a session; what stands for it."""
        digest = digest_of(name)
        self._heard[digest] = now
        self._heard.move_to_end(digest)
        if len(self._heard) > self._most:
            self._heard.popitem(last=False)
        return digest

    def active(self, now: float) -> int:
        """How many were heard of in the last 30 minutes."""
        while self._heard and next(iter(self._heard.values())) <= now - WINDOW_S:
            self._heard.popitem(last=False)
        return len(self._heard)
