"""`/debug/state`: for operators alone, and with nothing in it that is a secret."""

import asyncio

import pytest

from pointsman.app import Router
from pointsman.attempt import OK
from pointsman.inventory import PATH
from pointsman.keys import Scope
from unit.control.conftest import Client
from unit.control.test_admin import FAR, with_keys

pytestmark = pytest.mark.anyio


async def test_an_idle_router_holds_nothing(app: Router, client: Client) -> None:
    """Nothing is held for any request, the one that asks left out; what there is besides is counted."""
    async with client(app) as http:
        told = (await http.get(PATH)).json()
    assert told["idle"] is True
    (worker,) = told["workers"]
    assert set(worker["held"].values()) == {0}
    assert (worker["exchanges"], worker["requests"], worker["queued"]) == ([], [], {})
    idle = {"in_flight": 0, "connections": {"active": 0, "idle": 0}}
    assert worker["replicas"] == dict.fromkeys(("distilgpt2-0", "gemma-3-12b-0", "gemma-3-12b-1"), idle)
    assert worker["memory_bytes"] > 1 << 20
    assert worker["descriptors"] is None or worker["descriptors"] > 0
    assert sum(worker["tasks"].values()) >= 1


async def test_what_is_held_is_told(app: Router, client: Client) -> None:
    """A lease of a replica, bytes of bodies, a request that waits for its body, a task by its name."""
    replica = app.registry.replicas[0]
    lease = app.registry.lease(replica)
    app.parts.buffer.held += 7
    sleeper = asyncio.create_task(asyncio.sleep(60), name="a sleeper")
    async with client(app) as http:
        told = (await http.get(PATH)).json()
        lease.close(OK)
        app.parts.buffer.held -= 7
        sleeper.cancel()
        await asyncio.gather(sleeper, return_exceptions=True)
        after = (await http.get(PATH)).json()
    (worker,) = told["workers"]
    assert (told["idle"], worker["idle"]) == (False, False)
    assert (worker["held"]["in_flight"], worker["held"]["buffered_bytes"]) == (1, 7)
    assert worker["replicas"][replica.id]["in_flight"] == 1
    assert worker["tasks"]["a sleeper"] == 1
    assert after["idle"] is True
    assert "a sleeper" not in after["workers"][0]["tasks"]


async def test_it_is_for_operators(app: Router, client: Client) -> None:
    """Addresses of operators, and keys with the scope `ops` or `admin`."""
    with_keys(app, ops=Scope.OPS, admin=Scope.ADMIN, generate=Scope.GENERATE)
    async with client(app, FAR) as far:
        statuses = {
            key: (await far.get(PATH, headers={"x-api-key": key} if key else {})).status_code
            for key in ("", "ops", "admin", "generate")
        }
    assert statuses == {"": 401, "ops": 200, "admin": 200, "generate": 403}
