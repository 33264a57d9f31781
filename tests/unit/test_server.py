"""How the server is configured, and where it listens."""

import socket
from pathlib import Path

import pytest

from pointsman.front import FrontConfig, TcpAddress, UnixAddress
from pointsman.protocol import Protocol
from pointsman.server import config_for
from pointsman.sockets import listen


async def _app(scope: object, receive: object, send: object) -> None:
    """Never called."""


def test_the_servers_configuration_trusts_nobody() -> None:
    """Our protocol, no proxy headers, no websockets, no server header, no access log of uvicorn's."""
    config = config_for(_app, FrontConfig(keep_alive_s=95.0))
    assert config.http is Protocol
    assert (config.proxy_headers, config.server_header, config.access_log, config.ws) == (
        False,
        False,
        False,
        "none",
    )
    assert config.front.keep_alive_s == 95


def test_all_addresses_are_bound_or_none() -> None:
    """When one cannot be, the others are given back."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        busy, port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        front = FrontConfig(listen=(TcpAddress("127.0.0.1", port), TcpAddress("127.0.0.1", busy)))
        with pytest.raises(OSError, match="in use"):
            listen(front)
        socket.create_server(("127.0.0.1", port)).close()


def test_a_unix_socket_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    """A socket file that an ended process left is replaced, and only owner and group may use the new one."""
    path = tmp_path / "pointsman.sock"
    front = FrontConfig(listen=(UnixAddress(str(path)), TcpAddress("::1", 0)))
    for _ in range(2):
        for bound in listen(front):
            bound.close()
        assert path.stat().st_mode & 0o777 == 0o660
