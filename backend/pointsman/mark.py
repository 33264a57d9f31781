"""By what it is seen that a file has changed."""

import stat
from pathlib import Path

Mark = tuple[int, int, int, int]


def mark_of(path: Path) -> Mark | None:
    """What changes whenever the file is written or replaced, gets other rights, or a link leads elsewhere.

    None: it is gone. A file that cannot be looked at has a mark of its own, by the reason.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return -1, error.errno or 0, 0, 0
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size


def is_file(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        OSError: that cannot be known, as behind a folder without rights or a link to itself.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no name of a file holds a NUL
        return False
