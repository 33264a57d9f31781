"""What this process takes of its machine."""

import os
import resource
import sys
import time
from pathlib import Path

_SHORTEST_S = 0.5  # a share over less time says little


class Footprint:
    """Memory now, and the processor's time since it was last asked for."""

    def __init__(self) -> None:
        self._at, self._spent_s = time.monotonic(), time.process_time()
        self._percent = 0.0

    def memory_bytes(self) -> int:
        """What is resident; where the system does not tell, the most that ever was."""
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most if sys.platform == "darwin" else most * 1024
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_percent(self) -> float:
        """100 is one processor, busy all the time."""
        now, spent_s = time.monotonic(), time.process_time()
        if now - self._at >= _SHORTEST_S:
            self._percent = 100 * (spent_s - self._spent_s) / (now - self._at)
            self._at, self._spent_s = now, spent_s
        return self._percent
