"""The sockets that the router listens on."""

import errno
import os
import select
import socket
from asyncio import BaseTransport
from collections.abc import Mapping
from pathlib import Path

from pointsman.front import FrontConfig, UnixAddress

_KNOCK_S = 2.0
_UNSENT_BYTES = 128 * 1024  # what is on its way does not count, so that fast clients stay fast
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
                one = socket.socket(socket.AF_UNIX)
                bound.append(one)
                _bind(one, Path(address.path))
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


def _bind(one: socket.socket, path: Path) -> None:
    """Make a socket file for owner and group; one that nobody listens on any more gives way."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_KNOCK_S)
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            except OSError as error:
                raise OSError(error.errno, f"{path} is there, and nobody can tell whose: {error}") from None
            else:
                raise OSError(errno.EADDRINUSE, f"another process listens on {path}; stop it first")
    elif path.exists():
        raise OSError(errno.EEXIST, f"{path} is there and is no socket; remove it, or take another path")
    elif not path.parent.is_dir():
        raise OSError(errno.ENOENT, f"the folder {path.parent} of the socket is not there; make it")
    before = os.umask(0o117)  # so that it is never open to others, not even for a moment
    try:
        one.bind(str(path))
    finally:
        os.umask(before)


def hold_little(listening: socket.socket) -> None:
    """Have the kernel hold little of what a client does not read, which holds up the engine in turn.

    Connections that are accepted have it from there. Unix sockets hold some 200 KB as it is.
    """
    if listening.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


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
