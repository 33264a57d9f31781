"""Comparing: how long a client waits is for the whole, its body too.

The data plane is played: it notes what it is asked.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from fastapi import Request
from fastapi.routing import APIRoute

from clockwork import Clockwork
from pointsman.control import compare
from pointsman.errors import OWN_TIMEOUT, RouterError
from pointsman.guard import Caller, Guard
from pointsman.keys import Need
from pointsman.plane import Plane

BODY = b'{"models":["a","b"],"prompt":"Hi"}'

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


@pytest.fixture(autouse=True)
def _played_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "monotonic", now)


def now() -> float:
    return asyncio.get_running_loop().time()


class Noted:
    """Stands for the data plane, and for a guard that lets everybody in."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    def authenticate(self, caller: Caller, *_: object) -> Caller:
        return caller

    async def serve(self, match: object, scope: dict[str, Any], *_: object) -> None:
        self.scopes.append(scope)


async def ask(noted: Noted, waits: bytes | None, body_after_s: float) -> None:
    """A comparison whose body comes after so many seconds."""
    router = compare.router(cast("Plane", noted), cast("Guard", noted), Need.NEVER, 1 << 20)
    (route,) = [one for one in router.routes if isinstance(one, APIRoute)]
    headers = [(b"content-type", b"application/json")]
    headers += [] if waits is None else [(b"x-request-timeout", waits)]
    delays = [body_after_s, 1e6]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(delays.pop(0))
        return {"type": "http.request", "body": BODY, "more_body": False}

    state = {"caller": None, "request_id": "r"}
    await route.endpoint(Request({"type": "http", "headers": headers, "state": state}, receive))


@pytest.mark.parametrize(
    ("waits", "body_after_s", "left"),
    [(None, 3.0, None), (b"5", 0.0, b"5.000"), (b"5", 3.25, b"1.750"), (b"86400", 20.0, b"86380.000")],
)
async def test_each_part_has_the_time_that_the_body_left(
    waits: bytes | None, body_after_s: float, left: bytes | None
) -> None:
    """All parts the same, since they run at the same time."""
    noted = Noted()
    await ask(noted, waits, body_after_s)
    assert [dict(scope["headers"]).get(b"x-request-timeout") for scope in noted.scopes] == [left, left]


async def test_a_body_that_comes_too_late_begins_no_part() -> None:
    """It is the client's own limit."""
    noted = Noted()
    began = now()
    with pytest.raises(RouterError) as refused:
        await ask(noted, b"2", 30.0)
    assert refused.value.kind is OWN_TIMEOUT
    assert now() - began == pytest.approx(2.0)
    assert noted.scopes == []
