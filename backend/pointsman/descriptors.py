"""Whether the process may open as many files as its clients and engines need."""

import resource

_OWN = 128  # listening sockets, the log, health checks, the store
_EACH = 2  # a client, and the engine that answers it


def make_room(connections: int) -> str | None:
    """Raise the soft limit of open files as far as so many client connections need it.

    Returns:
        What is wrong and what to do, where the hard limit is too low.
    """
    needed = _EACH * connections + _OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most == needed:
        return None
    return (
        f"MAX_CONNECTIONS={connections} may need {needed} open files and the limit is {hard}: raise it "
        f"(ulimit -Hn, LimitNOFILE= for systemd, --ulimit nofile= for Docker), or set "
        f"MAX_CONNECTIONS={max(1, (hard - _OWN) // _EACH)}"
    )
