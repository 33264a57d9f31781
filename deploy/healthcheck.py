"""Whether the router in this container lives: exit code 0 or 1, for Docker's HEALTHCHECK.

Asks `/live`, which says nothing of engines: a router whose engines are all down is well, and restarting it
would help nobody. The address is the first that the router listens on, by the same settings in the same
order, from the environment alone; one set in a file or by an option of the command is not seen. Standard
library only, so that it starts fast and needs no curl in the image.
"""

import os
import socket
import sys
from collections.abc import Mapping

TIMEOUT_S = 4.0  # below the 5 s that Docker gives the whole check
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what one listens on: what one connects to


def setting(environment: Mapping[str, str], name: str, default: str) -> str:
    """A setting of the router, with or without its prefix; an empty one counts as none."""
    return environment.get(f"POINTSMAN_{name}", "").strip() or environment.get(name, "").strip() or default


def connect(environment: Mapping[str, str]) -> socket.socket:
    """A connection to the router.

    Raises:
        OSError: nobody listens there.
        ValueError: the port is no number.
    """
    listen = setting(environment, "LISTEN", "").split(",")[0].strip()
    if listen.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        connection.connect(listen.removeprefix("unix:"))
        return connection
    host, port = setting(environment, "HOST", "0.0.0.0"), setting(environment, "PORT", "8000")
    if listen:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
    return socket.create_connection((EVERYWHERE.get(host, host), int(port)), TIMEOUT_S)


def lives(environment: Mapping[str, str]) -> bool:
    """Whether it answers 200. Raises what `connect` does."""
    with connect(environment) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            status: bytes = answer.readline(1024)
    return status.startswith(b"HTTP/1.1 200")


def main() -> int:
    """Say what is wrong on standard output, which `docker inspect` shows."""
    try:
        well = lives(os.environ)
    except (OSError, ValueError) as error:
        sys.stdout.write(f"not alive: {error}\n")
        return 1
    sys.stdout.write("alive\n" if well else "not alive: another answer than 200\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
