"""A bounded table of values that expire: what memory keeps of one shelf."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from pointsman.store.base import Shelf, Size

_STALE = 64  # so many dead marks in the heap are not worth a clearing


@dataclass(slots=True, eq=False)
class Entry:
    """A value, or the items of a list, with its life's end in seconds of the table's clock."""

    parts: list[bytes]
    bytes: int
    ends: float


class Table:
    """Entries by key. Full, it drops what has expired, then what was used least recently."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._entries: dict[str, Entry] = {}  # used least recently first
        self._ends: list[tuple[float, str]] = []  # a heap; marks of entries that changed since are dead
        self._bytes = 0

    def get(self, key: str, now: float) -> Entry | None:
        """The entry, which counts as used now; None: absent or expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.ends <= now:
            self.pop(key)
            return None
        del self._entries[key]
        self._entries[key] = entry
        return entry

    def put(self, key: str, entry: Entry, now: float) -> None:
        """Put an entry in place of any other, and make room; it must fit the shelf by itself."""
        self.pop(key)
        self._sweep(now)
        self._entries[key] = entry
        self._bytes += entry.bytes
        heappush(self._ends, (entry.ends, key))
        while len(self._entries) > self.shelf.entries or self._bytes > self.shelf.bytes:
            self.pop(next(iter(self._entries)))

    def pop(self, key: str) -> Entry | None:
        """Take an entry out, expired or not."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.bytes
        return entry

    def keys(self, now: float) -> list[str]:
        """Of all that has not expired."""
        self._sweep(now)
        return list(self._entries)

    def size(self, now: float) -> Size:
        """Entries and bytes, without what has expired."""
        self._sweep(now)
        return Size(len(self._entries), self._bytes)

    def __len__(self) -> int:
        return len(self._entries)

    def _sweep(self, now: float) -> None:
        """Take out what has expired."""
        while self._ends and self._ends[0][0] <= now:
            ends, key = heappop(self._ends)
            entry = self._entries.get(key)
            if entry is not None and entry.ends == ends:
                self.pop(key)
        if len(self._ends) > 2 * len(self._entries) + _STALE:
            self._ends = [(entry.ends, key) for key, entry in self._entries.items()]
            heapify(self._ends)
