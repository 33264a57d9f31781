"""Slots and queues at the running router: who waits, who is served, who is refused, and how fast."""

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count

import pytest

from processes import Emulator, Router, wait_for
from wire import TGI, VLLM, Client, Front, Incoming, acall, call, check_stream, outcome, request

_numbers = count()
_JSON = "content-type: application/json"
_PROBES = {"HEALTH__INTERVAL_S": "0.5", "HEALTH__INTERVAL_CHANGING_S": "0.05"}
_DEAD = ("503 no_replica", "502 engine_unreachable", "502 engine_cut")
_NEXT_S = 5.0  # for what happens at once, on a machine that is busy


@pytest.fixture(scope="module")
def engine() -> Iterator[Emulator]:
    """One vLLM; it tells no limit of its own."""
    with Emulator("vllm", "--eos-after", "0") as running:
        yield running


@pytest.fixture(scope="module")
def single(engine: Emulator) -> Iterator[Router]:
    """A router that sends one request at a time."""
    settings = {"ADMISSION__SLOTS": "1", "ADMISSION__QUEUE_PER_SLOT": "9", "TIMEOUT__OPEN_AFTER_S": "0.1"}
    with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **settings, **_PROBES) as running:
        running.wait_until_up("gemma-3-12b")
        yield running


@pytest.fixture(autouse=True)
def _clean(engine: Emulator) -> Iterator[None]:
    yield
    engine.disarm()
    engine.wait_until_quiet()
    engine.reset()


def name_of_call() -> str:
    return f"queue-{next(_numbers)}"


def hold(router: Router, engine: Emulator, stack: ExitStack) -> Client:
    """Have the only slot taken by a stream that does not end; who closes the client frees it."""
    engine.arm("hang_after", 3, times=1)
    holder = stack.enter_context(Client(router.port))
    holder.send(VLLM.request("hold", 50, stream=True))
    assert holder.read(until=b"data:").status == 200
    return holder


def wait(router: Router, stack: ExitStack, text: str, *lines: str, stream: bool = False) -> Client:
    """A client whose call waits in the queue."""
    before = queued(router)
    client = stack.enter_context(Client(router.port))
    client.send(VLLM.request(text, 3, *lines, stream=stream))
    wait_for(lambda: queued(router) == before + 1, f"{text} is in the queue")
    return client


def queued(router: Router) -> float:
    return router.metric("pointsman_queue_length")


def prompts(engine: Emulator) -> list[str]:
    """What was asked of the engine, in order, the questions of health checks aside."""
    bodies = [json.loads(entry["body"]) for entry in engine.sent() if "chat" in entry["path"]]
    return [body["messages"][-1]["content"] for body in bodies]


def test_a_slot_goes_to_the_next_by_class_and_the_wait_is_told(single: Router, engine: Emulator) -> None:
    """Normal before low, whichever came first; gauges, log and `/models` say who waited."""
    low, normal = name_of_call(), name_of_call()
    with ExitStack() as stack:
        holder = hold(single, engine, stack)
        clients = [
            wait(single, stack, "low", f"x-request-id: {low}", "x-pointsman-priority: low"),
            wait(single, stack, "normal", f"x-request-id: {normal}"),
        ]
        shown = single.http.get("/models/gemma-3-12b").json()
        assert (shown["queued"], shown["replicas"][0]["slots"]) == (2, 1)
        assert prompts(engine) == ["hold"]
        holder.sock.close()
        answers = [client.read() for client in clients]
    assert [outcome(VLLM, answer, stream=False) for answer in answers] == ["ok", "ok"]
    assert prompts(engine) == ["hold", "normal", "low"]
    lines = [single.access_line(one) for one in (normal, low)]
    assert all(line["queued_ms"] > 0 and line["attempts"] == 1 for line in lines)
    assert queued(single) == 0
    assert single.metric("pointsman_queue_wait_seconds_count") >= 2
    assert single.metric("pointsman_slots") == 1


def test_a_stream_that_waits_is_told_its_place(single: Router, engine: Emulator) -> None:
    """In comments, once it was opened; then it is served as any other."""
    with ExitStack() as stack:
        holder = hold(single, engine, stack)
        first = wait(single, stack, "first", stream=True)
        second = wait(single, stack, "second", stream=True)
        begun = second.read(until=b": queued 2\n\n")
        holder.sock.close()
        ended = [first.read(), rest_of(second, begun)]
    assert [check_stream(VLLM, answer) for answer in ended] == [None, None]
    assert b": queued 1\n\n" in ended[0].body
    assert b"queued" not in ended[1].body.partition(b"data:")[2]


def rest_of(client: Client, begun: Incoming) -> Incoming:
    """Read an answer that was begun to its end."""
    while not begun.ended:
        data = client.sock.recv(65536)
        assert data, "cut"
        begun.feed(data)
    return begun


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_the_queue_costs_no_engine(single: Router, engine: Emulator, *, stream: bool) -> None:
    """The log says 499 at once; the engine is never asked; the next takes its place."""
    name = name_of_call()
    with ExitStack() as stack:
        holder = hold(single, engine, stack)
        leaver = wait(single, stack, "leaver", f"x-request-id: {name}", stream=stream)
        stayer = wait(single, stack, "stayer")
        leaver.sock.close()
        line = single.access_line(name, _NEXT_S)
        assert (line["status"], line["end"], line["attempts"]) == (499, "client_abort", 0)
        wait_for(lambda: queued(single) == 1, "one is left in the queue")
        holder.sock.close()
        assert outcome(VLLM, stayer.read(), stream=False) == "ok"
    assert prompts(engine) == ["hold", "stayer"]


def test_an_unknown_class_is_refused_by_name(single: Router) -> None:
    """400, on every API, before any wait; and a class that needs a key is 403 without one."""
    for front, status in ((VLLM, 400), (TGI, 400)):
        path = front.request("x", 3, "x-pointsman-priority: urgent", stream=False)
        path = path.replace(b"/models/distilgpt2", b"/models/gemma-3-12b")
        answer = call(single.port, path)
        assert (answer.status, b"X-Pointsman-Priority" in answer.body) == (status, True)
    answer = call(single.port, VLLM.request("x", 3, "x-pointsman-priority: high", stream=False))
    assert (answer.status, answer.json()["error"]["code"]) == (403, "key_forbidden")


def test_waits_have_an_end_and_queues_a_bound(engine: Emulator) -> None:
    """503 with Retry-After after TIMEOUT__QUEUE_S, and at once where the queue is full; counted by reason."""
    settings = {"ADMISSION__SLOTS": "1", "ADMISSION__QUEUE_MAX": "1", "TIMEOUT__QUEUE_S": "1"}
    with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **settings, **_PROBES) as router, ExitStack() as stack:
        router.wait_until_up("gemma-3-12b")
        hold(router, engine, stack)
        began = time.monotonic()
        waiter = wait(router, stack, "waiter")
        refused = call(router.port, VLLM.request("refused", 3, stream=False))
        assert outcome(VLLM, refused, stream=False) == "503 queue_full"
        expired = waiter.read()
        assert outcome(VLLM, expired, stream=False) == "503 queue_timeout"
        assert time.monotonic() - began >= 1.0
        ends = router.http.get("/metrics").text
        for end in ("queue_full", "queue_timeout"):
            assert f'pointsman_request_end_total{{model="gemma-3-12b",end="{end}"}} 1' in ends
    assert prompts(engine) == ["hold"]


def test_nobody_waits_for_engines_that_are_gone(engine: Emulator) -> None:
    """When the last replica goes, who waits is told at once, and so is who comes."""
    with Emulator("vllm", "--eos-after", "0") as dying, ExitStack() as stack:
        settings = {"ADMISSION__SLOTS": "1", "TIMEOUT__QUEUE_S": "600"}
        router = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=dying.url, **settings, **_PROBES))
        router.wait_until_up("gemma-3-12b")
        hold(router, dying, stack)
        waiter = wait(router, stack, "waiter")
        dying.stop()
        told = waiter.read()
        # The slot of the call that was cut is handed on before anybody knows that the engine is dead.
        assert outcome(VLLM, told, stream=False) in _DEAD
        wait_for(lambda: not router.http.get("/models/gemma-3-12b").json()["available"], "it is seen down")
        began = time.monotonic()
        late = call(router.port, VLLM.request("late", 3, stream=False))
        assert outcome(VLLM, late, stream=False) == "503 no_replica"
        assert time.monotonic() - began < _NEXT_S


def test_tgi_says_itself_how_much_it_takes() -> None:
    """Its limit from `/info` is kept to, so that it refuses nobody: all are answered, some after a wait."""
    with (
        Emulator("tgi", "--max-concurrent", "2", "--ttft-ms", "100") as tgi,
        Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, **_PROBES) as router,
    ):
        router.wait_until_up("distilgpt2")
        assert router.http.get("/models/distilgpt2").json()["replicas"][0]["slots"] == 2

        async def all_at_once() -> list[Incoming]:
            limit = asyncio.Semaphore(6)
            calls = [acall(router.port, TGI.request(stream=False), limit) for _ in range(6)]
            return await asyncio.gather(*calls)

        answers = asyncio.run(all_at_once())
        assert [outcome(TGI, answer, stream=False) for answer in answers] == ["ok"] * 6
        assert router.metric("pointsman_attempts_total") == 6
        assert router.metric("pointsman_queue_wait_seconds_count") == 4


def test_a_body_too_much_is_refused_before_it_is_sent(engine: Emulator) -> None:
    """By its length where it has one, else while it comes; what is answered makes room again."""
    settings = {"ADMISSION__BUFFER_BYTES": str(1 << 20)}
    with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **settings, **_PROBES) as router, ExitStack() as stack:
        router.wait_until_up("gemma-3-12b")
        engine.arm("hang_before_headers", times=1)
        holder = stack.enter_context(Client(router.port))
        path, value = VLLM.value("Hello", 3, stream=False)
        whole = request("POST", path, json.dumps(value).encode() + b" " * 700_000, _JSON)
        holder.send(whole)
        wait_for(lambda: router.metric("pointsman_buffered_bytes") > 700_000, "the body is held")
        head, _, body = whole.partition(b"\r\n\r\n")
        with Client(router.port) as client:
            client.send(head + b"\r\n\r\n")
            assert outcome(VLLM, client.read(), stream=False) == "503 buffer_full"
        with Client(router.port) as client:
            chunked = b"\r\n".join(line for line in head.split(b"\r\n") if b"content-length" not in line)
            client.send(chunked + b"\r\ntransfer-encoding: chunked\r\n\r\n")
            client.send(b"%x\r\n%b\r\n" % (len(body) - 1, body[:-1]))  # its end never comes
            assert outcome(VLLM, client.read(), stream=False) == "503 buffer_full"
        holder.sock.close()
        wait_for(lambda: router.metric("pointsman_buffered_bytes") == 0, "nothing is held")
        assert outcome(VLLM, call(router.port, whole), stream=False) == "ok"


@pytest.mark.parametrize("api", [VLLM, TGI], ids=["passed on", "translated"])
def test_a_large_request_is_held_until_its_answer_begins(api: Front, engine: Emulator) -> None:
    """Nobody else will be asked then; a long answer keeps no room from others. A small one costs nothing."""
    path, value = api.value("Hello", 9, stream=True)
    path, body = path.removeprefix(f"/models/{TGI.model}"), json.dumps(value).encode()
    with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **_PROBES) as router, ExitStack() as stack:
        router.wait_until_up("gemma-3-12b")
        engine.arm("hang_after", 4)
        for size, held in ((700_000, 0), (1_000, 1_000)):
            client = stack.enter_context(Client(router.port))
            client.send(request("POST", path, body + b" " * (size - len(body)), _JSON))
            assert client.read(until=b"\n\n").status == 200
            wait_for(partial(holds, router, held), f"{held} are held")
        stack.close()
        wait_for(partial(holds, router, 0), "nothing is held")


def holds(router: Router, size: int) -> bool:
    return router.metric("pointsman_buffered_bytes") == size


_SLOTS, _SERVICE_S = 8, 0.5


@pytest.mark.parametrize("times", [2, 10])
def test_more_than_can_be_served_does_not_slow_what_is_served(times: int) -> None:
    """The slots are never idle, however many more come, and who is refused is refused at once.

    Open loop; the bounds are wide, since the machine that runs this is busy with other things. What the
    router itself takes for a refusal is in its header.
    """
    span_s = 3.0
    capacity = _SLOTS / _SERVICE_S
    with (
        Emulator("vllm", "--eos-after", "0", "--ttft-ms", str(_SERVICE_S * 1000)) as engine,
        Router(VLLM_GEMMA3_ENDPOINT=engine.url, ADMISSION__SLOTS=str(_SLOTS), **_PROBES) as router,
    ):
        router.wait_until_up("gemma-3-12b")
        asked = VLLM.request("Hello", 1, "connection: close", stream=False)

        async def flood() -> tuple[list[Incoming], float]:
            limit = asyncio.Semaphore(1000)
            began = time.monotonic()
            tasks: list[asyncio.Task[Incoming]] = []
            while (passed := time.monotonic() - began) < span_s:
                due = int(passed * capacity * times) + 1
                tasks += [
                    asyncio.create_task(acall(router.port, asked, limit)) for _ in range(due - len(tasks))
                ]
                await asyncio.sleep(0.005)
            answers = await asyncio.gather(*tasks)
            return answers, time.monotonic() - began

        answers, took_s = asyncio.run(flood())
        found = Counter(outcome(VLLM, answer, stream=False) for answer in answers)
        assert set(found) == {"ok", "503 queue_full"}
        assert found["ok"] >= 0.6 * capacity * took_s
        refusals = [answer for answer in answers if answer.status == 503]
        spent = sorted(float(answer.header("x-process-time") or "nan") for answer in refusals)
        assert statistics.median(spent) <= 0.02
        assert spent[int(0.9 * len(spent))] <= 0.1
        told = [int(answer.header("retry-after") or "") for answer in refusals]
        assert 1 <= min(told) <= max(told) <= 10
        router.wait_until_quiet()
        assert queued(router) == 0
        assert engine.stats()["running"] == 0
