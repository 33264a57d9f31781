"""The sockets that the router listens on."""

import select
import socket
from asyncio import BaseTransport
from pathlib import Path

from pointsman.front import FrontConfig, UnixAddress


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
