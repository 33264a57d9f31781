"""Writes lines from a thread of its own, so that nobody waits for a slow sink."""

import os
import select
from queue import SimpleQueue
from threading import Lock, Thread

CAPACITY = 10_000  # lines that may wait for a sink, about 5 MB
CLOSE_S = 2.0  # longest wait for a sink at the end


class LineWriter:
    """Writes to a file descriptor from a daemon thread. `dropped` counts lines that were lost."""

    def __init__(self, fd: int, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self._fd = fd
        self._capacity = capacity
        self._waiting = 0
        self._lock = Lock()
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="pointsman-log", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Lines that wait for the sink; at most the capacity."""
        return self._waiting

    def put(self, chunk: bytes, lines: int = 1) -> None:
        """Take whole lines from any thread, or drop them all if they are more than there is room for."""
        with self._lock:
            if self._waiting + lines > self._capacity:
                self.dropped += lines
                return
            self._waiting += lines
        self._queue.put((chunk, lines))

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is waiting. What a blocked sink does not take in time is dropped. Call it once."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        with self._lock:
            self.dropped += self._waiting
            self._waiting = self._capacity  # a line that still comes is dropped and counted

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            chunk, lines = taken
            written = self._write(memoryview(chunk))
            with self._lock:
                self._waiting -= lines
                if not written:
                    self.dropped += lines

    def _write(self, rest: memoryview) -> bool:
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # somebody who shares the descriptor made it non-blocking
                select.select([], [self._fd], [], 1.0)
            except OSError:
                return False
        return True
