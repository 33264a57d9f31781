"""What our HTTP protocol takes from uvicorn."""

import ast
import asyncio
import inspect
import logging

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pointsman import client, cycle, protocol

# uvicorn promises none of these names: each is used in protocol.py, and each release must be looked at.
PROTOCOL_METHODS = {
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
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
}
PROTOCOL_ATTRIBUTES = {
    "access_log", "access_logger", "app", "app_state", "asgi_version", "client", "config", "connections",
    "cycle", "expect_100_continue", "flow", "headers", "logger", "loop", "parser", "root_path", "scheme",
    "scope", "server", "server_state", "tasks", "transport", "url",
}  # fmt: skip
CYCLE_ATTRIBUTES = {
    "chunked_encoding", "default_headers", "disconnected", "expected_content_length", "flow", "keep_alive",
    "body", "message_event", "more_body", "on_response", "response_complete", "response_started", "scope",
    "transport", "waiting_for_100_continue",
}  # fmt: skip
CYCLE_METHODS = {"send": ["self", "message"], "receive": ["self"], "run_asgi": ["self", "app"]}
MODULE_NAMES = {"STATUS_LINE", "HttpToolsProtocol", "RequestResponseCycle"}


async def _app(scope: object, receive: object, send: object) -> None:
    """Never called."""


async def fresh_protocol() -> HttpToolsProtocol:
    config = uvicorn.Config(_app, http="httptools", ws="none", log_config=None)
    config.load()
    made = HttpToolsProtocol(config, ServerState(), {})
    made.on_message_begin()
    return made


def attributes_of(*class_names: str) -> set[str]:
    """Names that classes of ours use on themselves and do not define."""
    tree = ast.parse("".join(inspect.getsource(module) for module in (protocol, client, cycle)))
    nodes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in class_names]
    assert len(nodes) == len(class_names)
    used, own = set(), set()
    for part in (part for node in nodes for part in ast.walk(node)):
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
    made = await fresh_protocol()
    for owner, methods in ((HttpToolsProtocol, PROTOCOL_METHODS), (RequestResponseCycle, CYCLE_METHODS)):
        for name, arguments in methods.items():
            assert list(inspect.signature(getattr(owner, name)).parameters) == arguments, name
    for name in PROTOCOL_ATTRIBUTES:
        assert hasattr(made, name), name
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
    own = {"pace", "_door"}  # set when the connection is made
    assert attributes_of("Protocol", "ClientConnection") <= PROTOCOL_ATTRIBUTES | set(PROTOCOL_METHODS) | own
    assert attributes_of("Cycle") <= CYCLE_ATTRIBUTES | set(CYCLE_METHODS)
