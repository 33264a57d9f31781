"""`X-Request-Timeout`: how long a client waits for the whole of its exchange, whatever is going on in it."""

import json
import time
from collections.abc import Iterator

import pytest

from processes import Emulator, Router, wait_for
from wire import FRONTS, TGI, VLLM, Client, Front, Incoming, call, check_error, check_silent, outcome, post

_SLACK_S = 10.0  # a busy machine's; what would be waited for without the header takes longer


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Emulator]]:
    with Emulator("tgi") as tgi, Emulator("vllm") as vllm:
        yield {"tgi": tgi, "vllm": vllm}


@pytest.fixture(scope="module")
def router(engines: dict[str, Emulator]) -> Iterator[Router]:
    urls = {"TGI_DISTILGPT2_ENDPOINT": engines["tgi"].url, "VLLM_GEMMA3_ENDPOINT": engines["vllm"].url}
    with Router(**urls, TIMEOUT__OPEN_AFTER_S="0.1", ADMISSION__SLOTS="4") as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


@pytest.fixture(autouse=True)
def _clean(engines: dict[str, Emulator], router: Router) -> Iterator[None]:
    for engine in engines.values():
        engine.reset()
    yield
    for engine in engines.values():
        engine.disarm()
    router.wait_until_quiet()


def ask(router: Router, front: Front, waits: str, *lines: str, stream: bool) -> tuple[Incoming, float]:
    """An answer, and the seconds that it took."""
    begin = time.monotonic()
    asked = front.request("Hello", 5, f"x-request-timeout: {waits}", *lines, stream=stream)
    return call(router.port, asked), time.monotonic() - begin


def told_to_be_over(front: Front, answer: Incoming, *, stream: bool) -> None:
    """The code of any timeout, but it is the client's own doing."""
    kept = "frame" if stream else "504"
    assert outcome(front, answer, stream=stream) == f"{kept} total_timeout"
    assert b'"owner":"client"' in answer.body


def aborted(engine: Emulator) -> bool:
    stats = engine.stats()
    return not stats["running"] and not stats["waiting"]


@pytest.mark.parametrize("front", FRONTS, ids=str)
@pytest.mark.parametrize("fault", ["hang_before_headers", "slow_first_token"])
def test_an_answer_that_takes_longer_is_not_waited_for(
    router: Router, engines: dict[str, Emulator], front: Front, fault: str
) -> None:
    """504, the engine is left, and it is told nothing of the header; nor is it blamed for our hurry."""
    engine = engines[front.engine]
    engine.arm(fault, 60 if fault == "slow_first_token" else None)
    failed = router.metric("pointsman_replica_up")
    answer, took_s = ask(router, front, "0.4", stream=False)
    told_to_be_over(front, answer, stream=False)
    assert 0.4 <= took_s < 0.4 + _SLACK_S
    wait_for(lambda: aborted(engine), "the engine is left")
    (sent,) = engine.sent()
    assert not [name for name, _ in sent["headers"] if "timeout" in name.lower()]
    line = router.access_line(answer.header("x-request-id") or "")
    assert (line["end"], line["status"], line["attempts"]) == ("deadline", 504, 1)
    check_silent(answer)
    assert router.metric("pointsman_replica_up") == failed


@pytest.mark.parametrize("front", FRONTS, ids=str)
def test_an_opened_stream_ends_in_time_with_an_error_frame(
    router: Router, engines: dict[str, Emulator], front: Front
) -> None:
    """Status and comments were sent while the engine was silent."""
    engines[front.engine].arm("hang_first_event")
    answer, took_s = ask(router, front, "0.6", stream=True)
    told_to_be_over(front, answer, stream=True)
    assert b": waiting for the engine" in answer.body
    assert 0.6 <= took_s < 0.6 + _SLACK_S


@pytest.mark.parametrize("front", FRONTS, ids=str)
def test_a_stream_with_content_ends_in_time_with_an_error_frame(
    router: Router, engines: dict[str, Emulator], front: Front
) -> None:
    """What was said so far stays; there is no good end."""
    engines[front.engine].arm("hang_after", 2)
    answer, took_s = ask(router, front, "0.8", stream=True)
    told_to_be_over(front, answer, stream=True)
    assert b"[emulated]" in answer.body
    assert 0.8 <= took_s < 0.8 + _SLACK_S


def test_who_has_time_is_served_as_ever(router: Router) -> None:
    """A day is the most that can be asked for; our own limits stay."""
    for front in FRONTS:
        for stream in (True, False):
            assert outcome(front, ask(router, front, "86400", stream=stream)[0], stream=stream) == "ok"


def test_a_wait_in_the_queue_is_part_of_it(router: Router, engines: dict[str, Emulator]) -> None:
    """All slots are taken: the call ends in its time, and never reaches the engine."""
    engines["vllm"].arm("slow_first_token", 60, marker="slow")
    clients = [Client(router.port) for _ in range(4)]
    try:
        for client in clients:
            client.send(VLLM.request("slow", stream=False))
        wait_for(lambda: router.metric("pointsman_in_flight") == 4, "all slots are taken")
        answer, took_s = ask(router, VLLM, "0.5", stream=False)
        told_to_be_over(VLLM, answer, stream=False)
        assert 0.5 <= took_s < 0.5 + _SLACK_S
        assert not [entry for entry in engines["vllm"].sent() if "Hello" in str(entry)]
    finally:
        for client in clients:
            client.sock.close()


def test_a_body_that_stays_away_is_part_of_it(router: Router, engines: dict[str, Emulator]) -> None:
    """Its last bytes are not waited for, not even as those of a refused body are; the connection ends."""
    asked = VLLM.request("Hello", 5, "x-request-timeout: 0.5", stream=False)
    with Client(router.port) as client:
        begin = time.monotonic()
        client.send(asked[:-5])
        answer = client.read()
        took_s = time.monotonic() - begin
        told_to_be_over(VLLM, answer, stream=False)
        assert answer.header("connection") == "close"
        told_s = float(answer.header("x-process-time") or "")
        assert 0.5 <= told_s <= took_s
        assert told_s < 0.5 + 2.0, "its body was drained, as a refused one is"
        client.send(asked[-5:])
        assert client.at_end()
    assert not engines["vllm"].sent()


def test_the_body_of_a_comparison_is_part_of_it(router: Router, engines: dict[str, Emulator]) -> None:
    """No part is begun where it does not come in time."""
    asked = post("/models/compare", _BODIES["/models/compare"], "x-request-timeout: 1")
    with Client(router.port) as client:
        client.send(asked[:-5])
        answer = client.read()
        assert answer.status == 504
        assert (answer.json()["code"], answer.json()["owner"]) == ("total_timeout", "client")
        assert 1.0 <= float(answer.header("x-process-time") or "") < 1.0 + _SLACK_S
        assert answer.header("connection") == "close"
        client.send(asked[-5:])
        assert client.at_end()
    assert not engines["vllm"].sent()


def test_an_engine_that_asks_for_more_time_than_there_is_is_not_asked_again(
    router: Router, engines: dict[str, Emulator]
) -> None:
    """Its Retry-After is the client's to heed then; where there is time enough it is heeded here."""
    engines["vllm"].arm("status", "503:2")
    answer, took_s = ask(router, VLLM, "1.5", stream=False)
    assert outcome(VLLM, answer, stream=False) == "503 engine_overloaded"
    assert answer.header("retry-after") == "2"
    assert answer.header("x-pointsman-attempts") == "1"
    engines["vllm"].disarm()
    engines["vllm"].arm("status", "503:1", times=1)
    answer, took_s = ask(router, VLLM, "30", stream=False)
    assert outcome(VLLM, answer, stream=False) == "ok"
    assert took_s >= 1.0


def test_a_longer_wait_than_ours_is_told_to_the_client(router: Router, engines: dict[str, Emulator]) -> None:
    """The only replica asks for more than 2 s: the client hears of it at once."""
    engines["vllm"].arm("status", "429:17")
    for stream in (True, False):
        answer, took_s = ask(router, VLLM, "60", stream=stream)
        assert outcome(VLLM, answer, stream=stream) == "503 engine_overloaded"
        assert answer.header("retry-after") == "17"
        assert took_s < _SLACK_S


_BODIES = {
    "/v1/chat/completions": {"model": "gemma-3-12b", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": "gemma-3-12b", "prompt": "Hi"},
    "/v1/embeddings": {"model": "gemma-3-12b", "input": "Hi"},
    "/generate": {"inputs": "Hi"},
    "/generate_stream": {"inputs": "Hi"},
    "/": {"inputs": "Hi"},
    "/tokenize": {"inputs": "Hi"},
    "/complete": {"prompt": "Hi"},
    "/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/api/chat/stream": {"messages": [{"role": "user", "content": "Hi"}]},
    "/api/title/generate": {"user_message": "Hi"},
    "/models/compare": {"models": ["gemma-3-12b"], "prompt": "Hi"},
    "/models/gemma-3-12b/warm": {},
    "/models/gemma-3-12b/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}


@pytest.mark.parametrize("path", _BODIES)
@pytest.mark.parametrize("waits", ["0", "-3", "nan", "inf", "a minute", "86401", "1e2", ""])
def test_what_is_no_time_is_refused_by_name(
    router: Router, engines: dict[str, Emulator], path: str, waits: str
) -> None:
    """400 on each route, in its API's shape; no engine hears of it."""
    answer = call(router.port, post(path, _BODIES[path], f"X-Request-Timeout: {waits}"))
    assert answer.status == 400
    told = answer.json()
    assert "`X-Request-Timeout` must be seconds" in json.dumps(told)
    if path.endswith("/v1/chat/completions"):
        assert check_error(VLLM, told, answer.header("x-request-id")) == "bad_request"
        assert told["error"]["param"] == "X-Request-Timeout"
    if path == "/generate_stream":
        assert check_error(TGI, told, answer.header("x-request-id")) == "bad_request"
    if path in ("/complete", "/api/chat/stream"):
        assert isinstance(told["detail"], str)
    assert not [entry for engine in engines.values() for entry in engine.sent()]


def test_warming_waits_no_longer_than_its_client(router: Router, engines: dict[str, Emulator]) -> None:
    """The late replica is told as such, it is left, and it is not blamed."""
    engines["vllm"].arm("hang_before_headers")
    begin = time.monotonic()
    answer = call(router.port, post("/models/gemma-3-12b/warm", {}, "x-request-timeout: 0.5"))
    assert 0.5 <= time.monotonic() - begin < 0.5 + _SLACK_S
    (late,) = answer.json()["replicas"]
    assert (late["ok"], late["error"]["code"], late["error"]["owner"]) == (False, "total_timeout", "client")
    wait_for(lambda: aborted(engines["vllm"]), "the engine is left")
    engines["vllm"].disarm()
    answer = call(router.port, post("/models/gemma-3-12b/warm", {}, "x-request-timeout: 86400"))
    assert [one["ok"] for one in answer.json()["replicas"]] == [True]


def test_a_header_that_comes_twice_is_refused(router: Router) -> None:
    """Nobody could say which counts."""
    answer, _ = ask(router, VLLM, "30", "X-Request-Timeout: 20", stream=False)
    assert outcome(VLLM, answer, stream=False) == "400 bad_request"


def test_what_openais_clients_tell_of_their_own_timeouts_is_no_wish(
    router: Router, engines: dict[str, Emulator]
) -> None:
    """It is the time of one read, and they send it always: a slow answer is still an answer."""
    engines["vllm"].arm("slow_first_token", 0.5)
    told = ("x-stainless-timeout: 0.1", "x-stainless-read-timeout: 0.1", "request-timeout: 0.1")
    answer = call(router.port, VLLM.request("Hello", 5, *told, stream=False))
    assert outcome(VLLM, answer, stream=False) == "ok"


def test_each_part_of_a_comparison_has_that_time(router: Router, engines: dict[str, Emulator]) -> None:
    """The slow one fails by itself."""
    engines["vllm"].arm("hang_before_headers")
    body = {"models": ["gemma-3-12b", "distilgpt2"], "prompt": "Hi", "max_tokens": 3}
    begin = time.monotonic()
    answer = call(router.port, post("/models/compare", body, "x-request-timeout: 0.6"))
    assert time.monotonic() - begin < 0.6 + _SLACK_S
    slow, quick = answer.json()["results"]
    assert (slow["error"]["code"], slow["error"]["owner"]) == ("total_timeout", "client")
    assert quick["text"]
