"""The sockets that the router listens on."""

import errno
import os
import select
import socket
from asyncio import BaseTransport
from collections.abc import Mapping
from pathlib import Path

from pointsman.front import FrontConfig, UnixAddress

_FIRST_GIVEN = 3  # systemd's descriptors begin here


def listen(front: FrontConfig, backlog: int = 2048) -> list[socket.socket]:
    """Bind every configured address.

    Raises:
        OSError: an address cannot be bound; none stays bound then.
    """
    bound: list[socket.socket] = []
    for address in front.listen:
        try:
            if isinstance(address, UnixAddress):
                path = Path(address.path)
                if path.is_socket():
                    path.unlink()
                one = socket.socket(socket.AF_UNIX)
                bound.append(one)
                one.bind(address.path)
                path.chmod(0o660)
            else:
                family, kind, number, _, target = socket.getaddrinfo(
                    address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )[0]
                one = socket.socket(family, kind, number)
                bound.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(target)
            one.listen(backlog)
            one.setblocking(False)
        except OSError:
            for other in bound:
                other.close()
            raise
    return bound


def count_given(environ: Mapping[str, str]) -> int:
    """How many sockets systemd listens on for this process, and has handed over: sd_listen_fds(3)."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = environ.get("LISTEN_FDS", "")
    return int(count) if count.isascii() and count.isdigit() else 0


def given(environ: Mapping[str, str]) -> list[socket.socket]:
    """Those sockets; to be asked once.

    Raises:
        OSError: one of them does not listen for connections.
    """
    found = []
    for number in range(_FIRST_GIVEN, _FIRST_GIVEN + count_given(environ)):
        one = socket.socket(fileno=number)
        if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, f"descriptor {number}, handed over by systemd, does not listen")
        one.set_inheritable(False)
        one.setblocking(False)
        found.append(one)
    return found


def shown(bound: socket.socket) -> str:
    """Where a bound socket is reached, for the log."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def readable(transport: BaseTransport) -> bool:
    """Whether bytes have come, or an end, that nobody has read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
