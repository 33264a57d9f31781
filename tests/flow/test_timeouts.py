"""Each phase of an exchange has its own limit, and a stream that waits long is opened with comments."""

import socket
import time
from collections.abc import Iterator

import pytest

from processes import Emulator, Router, wait_for
from wire import TGI, VLLM, Client, Front, call, check_silent, check_stream, outcome

_QUICK = {"HEALTH__INTERVAL_S": "3600", "HEALTH__INTERVAL_CHANGING_S": "0.05"}


@pytest.fixture(scope="module")
def short(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """Short limits of different length, so that it shows which one struck."""
    settings = {
        "TIMEOUT__FIRST_EVENT_S": "0.4",
        "TIMEOUT__BYTE_IDLE_S": "0.3",
        "TIMEOUT__TOKEN_IDLE_S": "0.7",
        "TIMEOUT__TOTAL_S": "0.5",
        "TIMEOUT__TOTAL_STREAM_S": "1.2",
        "TIMEOUT__OPEN_AFTER_S": "0",
    }
    with Router(
        TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings, **_QUICK
    ) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


@pytest.fixture(scope="module")
def opening(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    settings = {"TIMEOUT__OPEN_AFTER_S": "0.2", "TIMEOUT__FIRST_EVENT_S": "0.9"}
    with Router(
        TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings, **_QUICK
    ) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


@pytest.fixture(autouse=True)
def _clean(tgi: Emulator, vllm: Emulator) -> Iterator[None]:
    yield
    for engine in (tgi, vllm):
        engine.disarm()
        engine.wait_until_quiet()


def timed(router: Router, front: Front, *, stream: bool, tokens: int = 5) -> tuple[str, float]:
    """Outcome and duration of a call."""
    begin = time.monotonic()
    answer = call(router.port, front.request(tokens=tokens, stream=stream))
    return outcome(front, answer, stream=stream), time.monotonic() - begin


def engine_of(front: Front, tgi: Emulator, vllm: Emulator) -> Emulator:
    return {"tgi": tgi, "vllm": vllm}[front.engine]


def test_a_connection_that_is_not_taken_ends_within_the_connect_limit() -> None:
    """A host that drops packets costs TIMEOUT__CONNECT_S and is told as unreachable."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):  # a backlog of 0 takes one or two; the kernel ignores the rest
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        settings = {
            "TIMEOUT__CONNECT_S": "0.3",
            "HEALTH__TIMEOUT_S": "30",
            "HEALTH__INTERVAL_CHANGING_S": "30",
        }
        try:
            with Router(VLLM_GEMMA3_ENDPOINT=f"http://127.0.0.1:{port}", **settings) as router:
                for stream in (True, False):
                    told, seconds = timed(router, VLLM, stream=stream)
                    assert told == "502 engine_unreachable"
                    assert 0.28 < seconds < 1.5
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("front", [VLLM, TGI], ids=str)
@pytest.mark.parametrize("fault", ["hang_before_headers", "hang_first_event"])
def test_a_stream_without_a_first_event_is_a_504(
    short: Router, tgi: Emulator, vllm: Emulator, front: Front, fault: str
) -> None:
    """Headers alone are no event; nothing was sent yet, so the status tells."""
    engine_of(front, tgi, vllm).arm(fault)
    told, seconds = timed(short, front, stream=True)
    assert told == "504 first_event_timeout"
    assert 0.38 < seconds < 1.0


def test_comments_do_not_pass_for_a_first_event(short: Router, vllm: Emulator) -> None:
    """An engine that comments from the start is as late as a silent one."""
    vllm.arm("comments_after", "0:0.05")
    told, seconds = timed(short, VLLM, stream=True)
    assert told == "504 first_event_timeout"
    assert 0.38 < seconds < 1.0


@pytest.mark.parametrize("front", [VLLM, TGI], ids=str)
def test_silence_within_a_stream_ends_it(short: Router, tgi: Emulator, vllm: Emulator, front: Front) -> None:
    """Without any byte for TIMEOUT__BYTE_IDLE_S the stream ends in one error frame."""
    engine_of(front, tgi, vllm).arm("hang_after", 2)
    told, seconds = timed(short, front, stream=True)
    assert told == "frame idle_timeout"
    assert 0.28 < seconds < 0.7


@pytest.mark.parametrize("front", [VLLM, TGI], ids=str)
def test_comments_for_ever_are_no_progress(
    short: Router, tgi: Emulator, vllm: Emulator, front: Front
) -> None:
    """Comments reset the limit for bytes, not the one for events: a hung engine may send them for ever."""
    engine_of(front, tgi, vllm).arm("comments_after", "2:0.05")
    told, seconds = timed(short, front, stream=True)
    assert told == "frame idle_timeout"
    assert 0.68 < seconds < 1.15


def test_a_stream_as_a_whole_has_a_limit(short: Router, vllm: Emulator) -> None:
    """Progress does not help beyond TIMEOUT__TOTAL_STREAM_S."""
    vllm.arm("slow_body", "2000")
    told, seconds = timed(short, VLLM, stream=True, tokens=200)
    assert told == "frame total_timeout"
    assert 1.15 < seconds < 2.0


def test_a_whole_answer_has_a_limit(short: Router, tgi: Emulator, vllm: Emulator) -> None:
    """Without streaming nothing is heard until the end, so only TIMEOUT__TOTAL_S counts."""
    for front in (TGI, VLLM):
        engine_of(front, tgi, vllm).arm("slow_first_token", 3)
        told, seconds = timed(short, front, stream=False)
        assert told == "504 total_timeout"
        assert 0.48 < seconds < 1.2


def test_a_whole_answer_that_drips_is_cut_off(short: Router, vllm: Emulator) -> None:
    """Bytes that come one by one do not stretch the limit."""
    vllm.arm("slow_body", "100")
    assert timed(short, VLLM, stream=False)[0] == "504 total_timeout"


def test_each_limit_leaves_the_engine_at_once(short: Router, vllm: Emulator) -> None:
    """The engine sees its connection closed when the client is told."""
    vllm.reset()
    vllm.arm("hang_first_event")
    timed(short, VLLM, stream=True)
    wait_for(lambda: vllm.stats()["aborted"] == 1, "the engine aborts", 0.5)


@pytest.mark.parametrize("front", [VLLM, TGI], ids=str)
def test_a_long_wait_opens_the_stream(opening: Router, tgi: Emulator, vllm: Emulator, front: Front) -> None:
    """Status and a comment come after TIMEOUT__OPEN_AFTER_S, the whole answer later."""
    engine_of(front, tgi, vllm).arm("slow_first_token", 0.5)
    with Client(opening.port) as client:
        begin = time.monotonic()
        client.send(front.request(stream=True))
        first = client.sock.recv(65536)
        assert 0.18 < time.monotonic() - begin < 0.45
        assert first.startswith(b"HTTP/1.1 200")
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            block = client.sock.recv(65536)
            assert block
            rest += block
    whole = first + rest
    assert whole.count(b": waiting for the engine\n\n") == 2
    assert whole.index(b": waiting") < whole.index(b"data:")
    answer = call(opening.port, front.request(stream=True))
    assert check_stream(front, answer) is None


@pytest.mark.parametrize("front", [VLLM, TGI], ids=str)
def test_a_failure_of_an_opened_stream_is_one_error_frame(
    opening: Router, tgi: Emulator, vllm: Emulator, front: Front
) -> None:
    """The status is sent, so late refusals, resets and silence can only be told within the stream."""
    engine = engine_of(front, tgi, vllm)
    for fault, arg, code in (
        ("status", "500", "engine_failed"),
        ("cut_bytes", "0", "engine_cut"),
        ("hang_first_event", None, "first_event_timeout"),
    ):
        engine.disarm()
        engine.arm("delay", "0.3")
        engine.arm(fault, arg)
        answer = call(opening.port, front.request(stream=True))
        assert outcome(front, answer, stream=True) == f"frame {code}"
        assert answer.body.startswith(b": waiting for the engine\n\n")
        check_silent(answer)
        assert b"[DONE]" not in answer.body


def test_opening_does_not_forbid_another_attempt(tgi: Emulator, vllm: Emulator) -> None:
    """Comments commit to nothing: the other replica's answer follows them."""
    settings = {"TIMEOUT__OPEN_AFTER_S": "0.1", "TIMEOUT__FIRST_EVENT_S": "5", **_QUICK}
    with Emulator("vllm") as other:
        urls = f"{vllm.url},{other.url}"
        with Router(VLLM_GEMMA3_ENDPOINT=urls, **settings) as router:
            router.wait_until_up("gemma-3-12b")
            for engine in (vllm, other):
                engine.arm("delay", "0.3")
            vllm.arm("status", "503")
            opened = 0
            for _ in range(30):
                answer = call(router.port, VLLM.request(stream=True))
                assert outcome(VLLM, answer, stream=True) == "ok"
                opened += answer.body.startswith(b": waiting")
                if vllm.stats()["struck"].get("status"):
                    break
            assert opened > 0
