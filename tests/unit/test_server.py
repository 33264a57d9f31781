"""What our HTTP protocol takes from uvicorn, and where it listens."""

import ast
import asyncio
import inspect
import logging
import socket
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pointsman import cycle, server
from pointsman.front import FrontConfig, TcpAddress, UnixAddress
from pointsman.server import Protocol, config_for
from pointsman.sockets import listen

# uvicorn promises none of these names: each is used in server.py, and each release must be looked at.
PROTOCOL_METHODS = {
    "_unset_keepalive_if_required": ["self"],
    "connection_lost": ["self", "exc"],
    "connection_made": ["self", "transport"],
    "data_received": ["self", "data"],
    "eof_received": ["self"],
    "on_body": ["self", "body"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_message_begin": ["self"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "on_url": ["self", "url"],
}
PROTOCOL_ATTRIBUTES = {
    "access_log", "access_logger", "app", "app_state", "asgi_version", "client", "connections", "cycle",
    "expect_100_continue", "flow", "headers", "logger", "loop", "parser", "root_path", "scheme", "scope",
    "server", "server_state", "tasks", "timeout_keep_alive", "timeout_keep_alive_task", "transport", "url",
}  # fmt: skip
CYCLE_ATTRIBUTES = {
    "chunked_encoding", "default_headers", "disconnected", "expected_content_length", "flow", "keep_alive",
    "body", "message_event", "more_body", "on_response", "response_complete", "response_started", "scope",
    "transport", "waiting_for_100_continue",
}  # fmt: skip
CYCLE_METHODS = {"send": ["self", "message"], "receive": ["self"]}
MODULE_NAMES = {"STATUS_LINE", "HttpToolsProtocol", "RequestResponseCycle"}


async def _app(scope: object, receive: object, send: object) -> None:
    """Never called."""


async def fresh_protocol() -> HttpToolsProtocol:
    config = uvicorn.Config(_app, http="httptools", ws="none", log_config=None)
    config.load()
    protocol = HttpToolsProtocol(config, ServerState(), {})
    protocol.on_message_begin()
    return protocol


def attributes_of(class_name: str) -> set[str]:
    """Names that a class of server.py or cycle.py uses on itself and does not define."""
    tree = ast.parse(inspect.getsource(server) + inspect.getsource(cycle))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    used, own = set(), set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(part.name)
        elif isinstance(part, ast.AnnAssign | ast.Assign):
            targets = [part.target] if isinstance(part, ast.AnnAssign) else part.targets
            own |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
            used.add(part.attr)
    return used - own


@pytest.mark.anyio
async def test_uvicorn_has_every_name_that_we_use() -> None:
    """Methods with the arguments we know, attributes, and names of its module."""
    protocol = await fresh_protocol()
    for owner, methods in ((HttpToolsProtocol, PROTOCOL_METHODS), (RequestResponseCycle, CYCLE_METHODS)):
        for name, arguments in methods.items():
            assert list(inspect.signature(getattr(owner, name)).parameters) == arguments, name
    for name in PROTOCOL_ATTRIBUTES:
        assert hasattr(protocol, name), name
    assert set(inspect.signature(HttpToolsProtocol.__init__).parameters) >= {
        "config",
        "server_state",
        "app_state",
    }
    for name in MODULE_NAMES:
        assert hasattr(httptools_impl, name), name


@pytest.mark.anyio
async def test_uvicorns_cycle_has_every_name_that_we_use() -> None:
    """Its attributes, some of which only a running answer shows."""
    transport = asyncio.Transport()
    cycle = RequestResponseCycle(
        scope={},  # type: ignore[typeddict-item] # nothing of it is read
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger("unused"),
        access_logger=logging.getLogger("unused"),
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )
    for name in CYCLE_ATTRIBUTES:
        assert hasattr(cycle, name), name


def test_no_name_is_used_that_is_not_listed_here() -> None:
    """Whoever uses a further attribute of uvicorn has to name it above."""
    own = {"_codings", "_header_bytes", "_hosts"}  # set at the begin of each message
    assert attributes_of("Protocol") <= PROTOCOL_ATTRIBUTES | set(PROTOCOL_METHODS) | own
    assert attributes_of("Cycle") <= CYCLE_ATTRIBUTES | set(CYCLE_METHODS)


def test_the_servers_configuration_trusts_nobody() -> None:
    """Our protocol, no proxy headers, no websockets, no server header, no access log of uvicorn's."""
    config = config_for(_app, FrontConfig(keep_alive_s=95.0, drain_s=120.0))
    assert config.http is Protocol
    assert (config.proxy_headers, config.server_header, config.access_log, config.ws) == (
        False,
        False,
        False,
        "none",
    )
    assert (config.timeout_keep_alive, config.timeout_graceful_shutdown) == (95, 120)


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
