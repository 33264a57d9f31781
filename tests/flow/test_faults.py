"""Every fault an engine can have, streamed and not: an honest answer, and no trace left behind."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from processes import Emulator, Router, wait_for
from wire import FRONTS, TGI, TGI_OPENAI, VLLM, Front, call, check_silent, outcome

_UNREACHABLE = "502 engine_unreachable|502 engine_cut|503 no_replica"
_CUT, _JUNK, _FAILED, _FULL = (
    "502 engine_cut",
    "502 engine_junk",
    "502 engine_failed",
    "503 engine_overloaded",
)
_LATE, _TOTAL = "504 first_event_timeout", "504 total_timeout"


@dataclass(frozen=True)
class Case:
    """What a client may be told, streamed and not: outcomes as `wire.outcome` names them, `|` between."""

    stream: str = "ok"
    whole: str = "ok"
    arg: str | None = None


def both(told: str, arg: str | None = None) -> Case:
    return Case(told, told, arg)


CASES = {
    "reset_on_accept": both(_UNREACHABLE),
    "refuse": both(_UNREACHABLE, "0.3"),
    "crash": both(_UNREACHABLE, "0.3"),
    "idle_close": both("ok", "0.02"),
    "reset_before_headers": both(_CUT),
    "reset_if_reused": both("ok"),
    "close_before_headers": both(_CUT),
    "close_if_reused": both("ok"),
    "hang_before_headers": Case(_LATE, _TOTAL),
    "delay": both("ok", "0.1"),
    "status": both(_FAILED, "500"),
    "redirect": both(_JUNK),
    "html": both(_JUNK),
    "bad_json": both(_JUNK),
    "not_http": both(_JUNK),
    "wrong_content_length": Case("ok", _CUT),
    "huge_headers": both(_JUNK),
    "cl_te": both(_JUNK),
    "junk_headers": both("ok"),
    "interim": both("ok"),
    "no_length": both("ok"),
    "slow_first_token": both("ok", "0.1"),
    "hang_first_event": Case(_LATE, _TOTAL),
    "hang_after": Case("frame idle_timeout", _TOTAL, "2"),
    "comments_after": Case("frame idle_timeout", _TOTAL, "2:0.05"),
    "abort": both(f"{_FULL}|{_FAILED}"),  # vLLM says that it gave up; TGI has no word for it but an error
    "empty": both("ok"),
    "empty_tokens": both("ok"),
    "say": both("ok", "exactly this"),
    "comment_first": both("ok"),
    "error_first": both(_FULL),
    "error_after": Case("frame engine_failed", _FAILED, "2"),
    "eof_after": Case("frame engine_cut", "ok", "2"),
    "no_done": Case("frame engine_cut", "ok"),
    "usage_only": both("ok"),
    "big_event": both("ok"),
    "crlf": both("ok"),
    "no_space": both("ok"),
    "split_at": both("ok", "7"),
    "split_every": both("ok", "17"),
    "coalesce": both("ok"),
    "cut_bytes": both(_CUT, "50"),
    "slow_body": both("ok", "20000"),
    "health_hang": both("ok"),
    "health_status": both("ok|503 no_replica"),
    "metrics_hang": both("ok"),
    "metrics_stale": both("ok"),
    "metrics_missing": both("ok"),
    "metrics_old_names": both("ok"),
    "flat_errors": both(_FAILED),
}
_ALSO = {"flat_errors": ("status", "500")}  # faults that show only beside another
_NEW_CONNECTION = {"reset_on_accept", "refuse", "crash"}
_IDLE_EXPIRY_S = 0.2

# What a status of the engine becomes (`reliability.md` sections 2 and 10), with one replica.
STATUSES = {
    400: "400 engine_rejected", 401: "502 engine_misconfigured", 403: "502 engine_misconfigured",
    404: "502 engine_misconfigured", 405: "502 engine_misconfigured", 408: "400 engine_rejected",
    413: "413 engine_rejected", 422: "422 engine_rejected", 424: _FAILED, 429: _FULL, 500: _FAILED,
    501: "400 engine_rejected", 502: _FAILED, 503: _FULL, 504: _TOTAL, 307: _JUNK, 204: _JUNK,
}  # fmt: skip


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Emulator]]:
    with Emulator("tgi", "--eos-after", "0") as tgi, Emulator("vllm", "--eos-after", "0") as vllm:
        yield {"tgi": tgi, "vllm": vllm}


@pytest.fixture(scope="module")
def faced(engines: dict[str, Emulator]) -> Iterator[Router]:
    settings = {
        "TIMEOUT__CONNECT_S": "0.5",
        "TIMEOUT__FIRST_EVENT_S": "0.5",
        "TIMEOUT__BYTE_IDLE_S": "0.5",
        "TIMEOUT__TOKEN_IDLE_S": "0.5",
        "TIMEOUT__TOTAL_S": "0.6",
        "HEALTH__INTERVAL_S": "0.3",
        "HEALTH__INTERVAL_CHANGING_S": "0.05",
        "RETRY__BUDGET_FLOOR_PER_S": "1000",
        "UPSTREAM__IDLE_EXPIRY_S": str(_IDLE_EXPIRY_S),
    }
    urls = {"TGI_DISTILGPT2_ENDPOINT": engines["tgi"].url, "VLLM_GEMMA3_ENDPOINT": engines["vllm"].url}
    with Router(**urls, **settings) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


def check_recovery(router: Router, engine: Emulator, front: Front, *, stream: bool) -> None:
    """Nothing is left behind by a fault that is over."""
    router.wait_until_quiet()
    engine.wait_until_quiet()
    answers = []

    def served() -> bool:
        answers.append(outcome(front, call(router.port, front.request(stream=stream)), stream=stream))
        return answers[-1] == "ok"

    wait_for(served, f"a good answer; there were {answers}")


def test_the_table_names_every_fault(engines: dict[str, Emulator]) -> None:
    """A fault that the emulator learns must be faced here too."""
    for engine in engines.values():
        faults = set(engine.http.get("/__faults").json()["faults"])
        assert faults == {*CASES, "die"}  # after which there is no next call: tests/flow/test_poison.py


def _combinations() -> list[tuple[str, Front]]:
    """Each fault on each engine's main API; on TGI's other API those that do not just wait for a timer."""
    return [
        (fault, front)
        for fault, case in CASES.items()
        for front in FRONTS
        if front is not TGI_OPENAI or (fault not in _NEW_CONNECTION and "504" not in case.stream + case.whole)
    ]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("fault", "front"), _combinations(), ids=str)
def test_a_fault_is_answered_honestly_and_forgotten(
    faced: Router, engines: dict[str, Emulator], fault: str, front: Front, stream: bool
) -> None:
    """The client hears an allowed outcome in its API's words, the engine is left, the next call is good."""
    engine, case = engines[front.engine], CASES[fault]
    allowed = (case.stream if stream else case.whole).split("|")
    if fault in _NEW_CONNECTION:
        time.sleep(_IDLE_EXPIRY_S * 1.2)
    else:
        assert outcome(front, call(faced.port, front.request(stream=False)), stream=False) == "ok"
    engine.reset()
    try:
        engine.arm(fault, case.arg)
        if fault in _ALSO:
            engine.arm(*_ALSO[fault])
        if fault == "idle_close":
            call(faced.port, front.request(stream=False))
            time.sleep(0.05)
            engine.arm("idle_close", 60)  # it would stay
        begin = time.monotonic()
        answer = call(faced.port, front.request(stream=stream))
        assert time.monotonic() - begin < 5
        assert outcome(front, answer, stream=stream) in allowed
        if answer.status != 200:
            check_silent(answer, str(engine.port))
        else:
            check_silent(answer, "session=")
    finally:
        wait_for(lambda: disarmed(engine), "the engine listens again")
    check_recovery(faced, engine, front, stream=stream)


def disarmed(engine: Emulator) -> bool:
    """Try to take back all faults; an engine that refuses connections cannot be asked yet."""
    try:
        engine.disarm()
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_of_the_engine_becomes_ours(
    faced: Router, engines: dict[str, Emulator], status: int
) -> None:
    """Each status means the same on every surface, and no 5xx repeats what the engine said."""
    for front in FRONTS:
        for stream in (True, False):
            engines[front.engine].arm("status", status, times=1)
            answer = call(faced.port, front.request(stream=stream))
            expected = STATUSES[status]
            if expected == "400 engine_rejected" and not front.openai:
                expected = "422 engine_rejected"  # TGI's word for a bad request
            assert outcome(front, answer, stream=stream) == expected, front.name
            check_silent(answer)


def test_a_body_longer_than_told_is_no_answer_of_the_next(
    faced: Router, engines: dict[str, Emulator]
) -> None:
    """With a Content-Length too small the connection is not used again."""
    for front in (VLLM, TGI, TGI_OPENAI):
        engines[front.engine].arm("wrong_content_length", -10, times=1)
        assert (
            outcome(front, call(faced.port, front.request(stream=False)), stream=False) == "502 engine_junk"
        )
        assert outcome(front, call(faced.port, front.request(stream=False)), stream=False) == "ok"


def test_an_overloaded_engine_tells_when_to_come_back(faced: Router, engines: dict[str, Emulator]) -> None:
    """The engine's own Retry-After is passed on."""
    engines["vllm"].arm("status", "503:7", times=1)
    answer = call(faced.port, VLLM.request(stream=False))
    assert (answer.status, answer.header("retry-after")) == (503, "7")


def test_the_log_never_held_a_bug(faced: Router) -> None:
    """After all of it no line is an error, and none names an engine's port."""
    output = faced.output()
    assert '"level":"ERROR"' not in output
