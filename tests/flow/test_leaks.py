"""`/debug/state` tells what is held; whatever clients do, in the end nothing is."""

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from processes import Emulator, Router, wait_for
from wire import FRONTS, TGI, VLLM, Client, call, outcome

ABORTS = int(os.environ.get("POINTSMAN_TEST_ABORTS", "300"))  # 10,000 by hand
_AT_ONCE = 16
_TASKS, _DESCRIPTORS = 2, 5  # how many more there may be than at the start


@pytest.fixture(scope="module")
def own(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """A router that lets go of idle connections soon, and in which calls have to wait for a slot."""
    settings = {"UPSTREAM__IDLE_EXPIRY_S": "0.3", "TIMEOUT__OPEN_AFTER_S": "0.02", "ADMISSION__SLOTS": "8"}
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as router:
        router.wait_until_up("distilgpt2", "gemma-3-12b")
        yield router


@pytest.fixture(autouse=True)
def _clean(tgi: Emulator, vllm: Emulator) -> Iterator[None]:
    yield
    for engine in (tgi, vllm):
        engine.disarm()
        engine.wait_until_quiet()


def state(router: Router) -> dict[str, Any]:
    """What the only worker holds."""
    (worker,) = router.http.get("/debug/state").raise_for_status().json()["workers"]
    found: dict[str, Any] = worker
    return found


def at_rest(router: Router) -> dict[str, Any]:
    """What is held once no exchange is under way and idle connections have expired."""

    def rests() -> bool:
        found = state(router)
        idle = sum(one["connections"]["idle"] for one in found["replicas"].values())
        return bool(found["idle"]) and not idle and found["clients"] == 1  # the one that asks

    wait_for(rests, "nothing is held")
    return state(router)


def test_it_tells_what_is_held(own: Router, tgi: Emulator, vllm: Emulator) -> None:
    """Each exchange with its state, calls and connections of each replica; afterwards nothing."""
    at_rest(own)
    vllm.arm("hang_after", 3)
    tgi.arm("hang_before_headers")
    with Client(own.port) as answering, Client(own.port) as asking, Client(own.port) as reading:
        answering.send(VLLM.request("A secret", 9, "x-request-id: one", stream=True))
        assert b"data:" in answering.read(until=b"data:").body
        asking.send(TGI.request("A secret", 9, "x-request-id: two", stream=False))
        reading.send(VLLM.request("A secret", 9, "x-request-id: three", stream=True)[:-5])
        wait_for(lambda: state(own)["held"]["exchanges"] == 3, "all are there")
        wait_for(lambda: state(own)["held"]["in_flight"] == 2, "two are with an engine")
        answer = own.http.get("/debug/state")
        found = state(own)
        assert answer.json()["idle"] is found["idle"] is False
        told = {one["id"]: one for one in found["exchanges"]}
        assert {name: one["state"] for name, one in told.items()} == {
            "one": "answering",
            "two": "asking",
            "three": "reading",
        }
        assert (told["one"]["model"], told["one"]["replica"]) == ("gemma-3-12b", "gemma-3-12b-0")
        assert told["one"]["answer_bytes"] > 0
        assert found["replicas"]["distilgpt2-0"] == {"in_flight": 1, "connections": {"active": 1, "idle": 0}}
        assert found["deadlines"] == 2, "of those that are with an engine"
        for secret in ("A secret", tgi.url, vllm.url, "127.0.0.1"):
            assert secret not in answer.text
    at_rest(own)


async def _come_and_go(port: int, number: int, limit: asyncio.Semaphore) -> None:
    """One client that leaves at a random moment, in a random way; some stay to the end."""
    dice = random.Random(number)
    front = FRONTS[number % len(FRONTS)]
    data = front.request(f"Tell me {number}", 60, stream=dice.random() < 0.7)
    async with limit:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(data if dice.random() < 0.9 else data[: dice.randrange(len(data))])
            async with asyncio.timeout(dice.choice((0.002, 0.02, 0.1, 0.3)) * dice.random()):
                while await reader.read(4096):
                    pass
        with contextlib.suppress(OSError):
            if dice.random() < 0.3:
                writer.write_eof()
            writer.transport.abort() if dice.random() < 0.5 else writer.close()
            await writer.wait_closed()


async def _all(port: int) -> None:
    limit = asyncio.Semaphore(_AT_ONCE)
    await asyncio.gather(*(_come_and_go(port, number, limit) for number in range(ABORTS)))


def test_random_aborts_leave_nothing_behind(own: Router, tgi: Emulator, vllm: Emulator) -> None:
    """Connections, requests in flight, tasks and descriptors are as many as at the start."""
    for front in FRONTS:
        call(own.port, front.request(stream=True))
    for engine in (tgi, vllm):
        engine.arm("slow_first_token", 0.05, times=ABORTS)
    before = at_rest(own)
    asyncio.run(_all(own.port))
    for engine in (tgi, vllm):
        engine.disarm()
        engine.wait_until_quiet()
    after = at_rest(own)
    assert set(after["held"].values()) == {0}
    assert after["deadlines"] == 0
    assert abs(sum(after["tasks"].values()) - sum(before["tasks"].values())) <= _TASKS, after["tasks"]
    assert abs(after["descriptors"] - before["descriptors"]) <= _DESCRIPTORS
    assert '"level":"ERROR"' not in own.output()
    for front in FRONTS:
        assert outcome(front, call(own.port, front.request(stream=True)), stream=True) == "ok"
