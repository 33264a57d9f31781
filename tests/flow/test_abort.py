"""A client that leaves frees the engine at once, in every phase, and leaves nothing behind."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from itertools import count

import pytest

from processes import Emulator, Router, wait_for
from wire import FRONTS, TGI, TGI_OPENAI, VLLM, Client, Front, call, outcome

_WITHIN_S = 0.5  # for slow machines; it takes a few milliseconds
_AT_ONCE = 12
_numbers = count()


@pytest.fixture(scope="module")
def patient(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """A router that would wait long for everything."""
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


@pytest.fixture(autouse=True)
def _clean(tgi: Emulator, vllm: Emulator) -> Iterator[None]:
    for engine in (tgi, vllm):
        engine.reset()
    yield
    for engine in (tgi, vllm):
        engine.disarm()
        engine.wait_until_quiet()


def leave(client: Client, how: str) -> None:
    """Close, half-close or reset."""
    if how == "half":
        client.sock.shutdown(socket.SHUT_WR)
        return
    if how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


# phase: fault with argument, streamed or not, what the client waits for before it leaves
PHASES = {
    "waiting for the head": ("hang_before_headers", None, True, None),
    "before the first event": ("hang_first_event", None, True, None),
    "within the stream": ("hang_after", 3, True, b"data:"),
    "among comments": ("comments_after", "3:0.02", True, b": keep-alive"),
    "waiting for a whole answer": ("slow_first_token", 20, False, None),
}


@pytest.mark.parametrize("how", ["close", "half", "reset"])
@pytest.mark.parametrize("front", FRONTS, ids=str)
@pytest.mark.parametrize("phase", PHASES)
def test_the_engine_is_left_when_the_client_leaves(
    patient: Router, tgi: Emulator, vllm: Emulator, phase: str, front: Front, how: str
) -> None:
    """The engine's connection is closed at once, and the log says 499 client_abort."""
    engine = {"tgi": tgi, "vllm": vllm}[front.engine]
    fault, arg, stream, until = PHASES[phase]
    engine.arm(fault, arg)
    own_id = f"abort-{next(_numbers)}"
    with Client(patient.port) as client:
        client.send(front.request("Hello", 9, f"x-request-id: {own_id}", stream=stream))
        if until is not None:
            assert until in client.read(until=until).body
        wait_for(lambda: len(engine.sent()) == 1, "the engine has the request")
        assert engine.stats()["disconnects"] == 0
        leave(client, how)
        wait_for(lambda: engine.stats()["disconnects"] == 1, "the engine sees the client leave", _WITHIN_S)
    stats = engine.stats()
    assert (stats["running"], stats["waiting"]) == (0, 0)
    if fault != "hang_before_headers" and not (front is TGI_OPENAI and stream):  # TGI finishes those anyway
        assert stats["aborts"][-1]["time_to_abort_ms"] < 100
    line = patient.access_line(own_id)
    assert (line["status"], line["end"], line["attempts"]) == (499, "client_abort", 1)
    patient.wait_until_quiet()


@pytest.mark.parametrize("how", ["close", "half"])
def test_leaving_during_back_off_ends_it(patient: Router, vllm: Emulator, how: str) -> None:
    """A client that leaves between two attempts causes no second one."""
    vllm.arm("status", "503:2")
    own_id = f"abort-{next(_numbers)}"
    with Client(patient.port) as client:
        client.send(VLLM.request("Hello", 5, f"x-request-id: {own_id}", stream=True))
        wait_for(lambda: vllm.stats()["answered"] >= 1 and len(vllm.sent()) == 1, "the first attempt failed")
        leave(client, how)
        line = patient.access_line(own_id, _WITHIN_S)
    assert (line["status"], line["end"], line["attempts"]) == (499, "client_abort", 1)
    assert len(vllm.sent()) == 1


def test_leaving_after_a_pipelined_request_is_noticed(patient: Router, vllm: Emulator) -> None:
    """A second request on the connection neither starts nor hides that the client leaves."""
    vllm.arm("hang_after", 3)
    own_id = f"abort-{next(_numbers)}"
    with Client(patient.port) as client:
        client.send(VLLM.request("Hello", 9, f"x-request-id: {own_id}", stream=True))
        assert client.read(until=b"data:").status == 200
        client.send(VLLM.request(stream=True))
        leave(client, "close")
        wait_for(lambda: vllm.stats()["disconnects"] == 1, "the engine sees the client leave", _WITHIN_S)
    assert patient.access_line(own_id)["end"] == "client_abort"
    assert len(vllm.sent()) == 1


@pytest.mark.parametrize("size", [100_000, 3_000_000])
@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_leaving_after_a_large_body_is_noticed(patient: Router, vllm: Emulator, size: int, how: str) -> None:
    """A body for which reading was paused does not leave it so: the engine is left at once."""
    vllm.arm("hang_before_headers")
    own_id = f"abort-{next(_numbers)}"
    with Client(patient.port) as client:
        client.send(VLLM.request("x" * size, 5, f"x-request-id: {own_id}", stream=True))
        wait_for(lambda: len(vllm.sent()) == 1, "the engine has the request")
        leave(client, how)
        wait_for(lambda: vllm.stats()["disconnects"] == 1, "the engine sees the client leave", _WITHIN_S)
    assert patient.access_line(own_id)["end"] == "client_abort"


def test_leaving_while_the_body_is_sent_is_no_request(patient: Router, vllm: Emulator) -> None:
    """Half a body reaches no engine."""
    with Client(patient.port) as client:
        client.send(VLLM.request("Hello", 5, "x-request-id: abort-half-body", stream=True)[:-10])
        leave(client, "close")
        assert patient.access_line("abort-half-body")["status"] == 499
    assert vllm.sent() == []


def test_closing_after_the_last_byte_is_no_abort(patient: Router, tgi: Emulator, vllm: Emulator) -> None:
    """A client that has its whole answer and leaves was served."""
    for front in (VLLM, TGI):
        for stream in (True, False):
            own_id = f"abort-{next(_numbers)}"
            answer = call(patient.port, front.request("Hello", 5, f"x-request-id: {own_id}", stream=stream))
            assert outcome(front, answer, stream=stream) == "ok"
            line = patient.access_line(own_id)
            assert (line["status"], line["end"]) == (200, "ok")


def test_an_abort_of_an_opened_stream_ends_its_comments(vllm: Emulator) -> None:
    """Nobody goes on commenting to a client that left."""
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url, TIMEOUT__OPEN_AFTER_S="0.05") as router:
        router.wait_until_up("gemma-3-12b")
        vllm.arm("hang_before_headers")
        with Client(router.port) as client:
            client.send(VLLM.request("Hello", 5, "x-request-id: abort-opened", stream=True))
            assert b": waiting" in client.read(until=b": waiting").body
            leave(client, "close")
            wait_for(lambda: vllm.stats()["disconnects"] == 1, "the engine is left", _WITHIN_S)
        line = router.access_line("abort-opened")
        assert (line["status"], line["end"]) == (499, "client_abort")


async def _come_and_go(port: int, number: int, limit: asyncio.Semaphore) -> None:
    """One client that leaves at a random moment, in a random way."""
    dice = random.Random(number)
    front = FRONTS[number % len(FRONTS)]
    data = front.request(f"Tell me {number}", 40, stream=dice.random() < 0.7)
    async with limit:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data if dice.random() < 0.95 else data[: dice.randrange(len(data))])
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(dice.random() * dice.choice((0.05, 0.2))):
                while await reader.read(4096):
                    pass
        if dice.random() < 0.3:
            with contextlib.suppress(OSError):
                writer.write_eof()
        writer.transport.abort() if dice.random() < 0.5 else writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _thousand(port: int) -> None:
    limit = asyncio.Semaphore(_AT_ONCE)
    await asyncio.gather(*(_come_and_go(port, number, limit) for number in range(1000)))


def test_a_thousand_random_aborts_leave_nothing_behind(
    patient: Router, tgi: Emulator, vllm: Emulator
) -> None:
    """Requests in flight, connections to engines and descriptors are where they were."""
    for front in FRONTS:
        call(patient.port, front.request(stream=True))
    patient.wait_until_quiet()
    before = patient.descriptors()
    for engine in (tgi, vllm):
        engine.arm("slow_first_token", 0.1, times=1000)
    asyncio.run(_thousand(patient.port))
    patient.wait_until_quiet()
    for engine in (tgi, vllm):
        engine.disarm()
        engine.wait_until_quiet()
        assert engine.stats()["open_connections"] <= _AT_ONCE + 5  # idle ones, and those of the checks
    seen = {engine.port: engine.stats()["disconnects"] for engine in (tgi, vllm)}
    assert min(seen.values()) > 50, "too few aborts reached the engines for a test"
    wait_for(lambda: vllm.stats()["open_connections"] <= 3, "idle connections to vLLM expire", 6)
    kept = tgi.stats()["open_connections"]  # TGI's are kept for 50 s
    assert patient.descriptors() - kept <= before + 5
    assert '"level":"ERROR"' not in patient.output()
    for front in FRONTS:
        assert outcome(front, call(patient.port, front.request(stream=True)), stream=True) == "ok"
