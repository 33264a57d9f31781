"""How the server is configured, where it listens, and what its end takes from uvicorn."""

import ast
import contextlib
import inspect
import os
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import uvicorn
from uvicorn.server import ServerState

from pointsman import server
from pointsman.front import FrontConfig, TcpAddress, UnixAddress
from pointsman.protocol import Protocol
from pointsman.server import AFTER_S, Server, config_for
from pointsman.sockets import count_given, given, hold_little, listen

# uvicorn promises none of these names: each is used in server.py, and each release must be looked at.
SERVER_ATTRIBUTES = {"force_exit", "lifespan", "on_tick", "server_state", "servers", "should_exit"}
STATE_ATTRIBUTES = {"connections", "tasks"}
OVERRIDDEN = {
    "handle_exit": ["self", "sig", "frame"],
    "on_tick": ["self", "counter"],
    "shutdown": ["self", "sockets"],
}


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
    before = os.umask(0)
    try:
        for _ in range(2):
            for bound in listen(front):
                bound.close()
            assert path.stat().st_mode & 0o777 == 0o660
        assert os.umask(0) == 0, "the process's own is as before"
    finally:
        os.umask(before)


def test_a_unix_socket_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    """The second process is refused with a sentence, and who connects still reaches the first."""
    path = tmp_path / "pointsman.sock"
    front = FrontConfig(listen=(UnixAddress(str(path)),))
    (first,) = listen(front)
    with first, pytest.raises(OSError, match=r"another process listens on .*pointsman\.sock"):
        listen(front)
    assert path.is_socket()


@pytest.mark.parametrize(
    ("made", "says"), [("file", "is no socket"), ("folder", "is no socket"), ("", "not there")]
)
def test_a_path_that_can_be_no_socket_is_told(tmp_path: Path, made: str, says: str) -> None:
    """What stands there is not removed; a folder that is missing is named."""
    path = tmp_path / "held" / "pointsman.sock" if not made else tmp_path / "pointsman.sock"
    if made:
        path.write_text("mine") if made == "file" else path.mkdir()
    with pytest.raises(OSError, match=says) as caught:
        listen(FrontConfig(listen=(UnixAddress(str(path)),)))
    assert str(path.parent if not made else path) in str(caught.value)
    assert path.exists() == bool(made)


def test_the_kernel_holds_little_of_what_is_not_read() -> None:
    """A connection that is accepted takes less from its server before it is full than Linux would let it."""
    sizes = []
    for spare in (False, True):
        (bound,) = listen(FrontConfig(listen=(TcpAddress("127.0.0.1", 0),)))
        with bound, socket.socket() as client:
            if spare:
                hold_little(bound)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(bound.getsockname())
            bound.setblocking(True)
            accepted, _ = bound.accept()
            with accepted:
                accepted.setblocking(False)
                sizes.append(0)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sizes[-1] += accepted.send(bytes(65536))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        assert sizes[1] < 600_000
        assert sizes[1] < sizes[0] / 2


class App:
    """What the server tells an app."""

    def __init__(self, *, replaced: bool = False) -> None:
        self.addresses: list[str] = []
        self.clients: Collection[object] = ()
        self.turned_away: Callable[[], int] = int
        self.leaving = False
        self.replaced = lambda: replaced

    def cut(self) -> None:
        """Never called."""


def test_uvicorns_server_has_every_name_that_we_use() -> None:
    """Its methods with the arguments we know; some attributes are set when it starts."""
    for name, arguments in OVERRIDDEN.items():
        assert list(inspect.signature(getattr(uvicorn.Server, name)).parameters) == arguments, name
    text = inspect.getsource(uvicorn.Server)
    for name in SERVER_ATTRIBUTES:
        assert f"self.{name}" in text or f"def {name}(" in text, name
    state = ServerState()
    for name in STATE_ATTRIBUTES:
        assert isinstance(getattr(state, name), set), name


def test_no_name_of_the_server_is_used_that_is_not_listed_here() -> None:
    """Whoever uses a further attribute of uvicorn's server has to name it above."""
    tree = ast.parse(inspect.getsource(server))
    ours = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Server")
    used = {
        node.attr
        for node in ast.walk(ours)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    own = {node.name for node in ours.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {"_app", "_drain_s", "_grace_s", "_hurries", "_state"}
    assert used - own <= SERVER_ATTRIBUTES


def test_a_second_signal_hurries_where_it_may() -> None:
    """The first makes the router not ready; gunicorn repeats its own, and means nothing by it."""
    for hurries in (True, False):
        app, front = App(), FrontConfig()
        made = Server(app, config_for(app, front), front, grace_s=1.0, hurries=hurries)
        assert not app.leaving
        made.handle_exit(signal.SIGTERM, None)
        assert (app.leaving, made.should_exit, made.force_exit) == (True, True, False)
        made.handle_exit(signal.SIGTERM, None)
        assert made.force_exit is hurries
        assert made._captured_signals == []


def test_an_end_takes_no_longer_than_supervisors_wait() -> None:
    """gunicorn's configuration gives it 10 s beyond the drain, the systemd unit 30 s: see their tests."""
    assert AFTER_S < 10


def test_who_is_replaced_leaves_the_router_ready() -> None:
    """Others serve already: what holds the sockets is as ready as before."""
    app, front = App(replaced=True), FrontConfig()
    made = Server(app, config_for(app, front), front, grace_s=1.0)
    made.handle_exit(signal.SIGTERM, None)
    assert (app.leaving, made.should_exit) == (False, True)


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 0),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}, 2),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, 0),
        ({"LISTEN_PID": str(os.getpid())}, 0),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"}, 0),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "\u0662"}, 0),
    ],
)
def test_sockets_are_ours_only_if_they_were_given_to_us(environ: dict[str, str], count: int) -> None:
    """A child of what systemd started finds the variables too, and has to leave them alone."""
    assert count_given(environ) == count
    if not count:
        assert given(environ) == []
