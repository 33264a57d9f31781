"""Whether vLLM works, and not only answers health checks: one token for us, and an engine that stands still.

vLLM's engine is a process of its own, a child of the server that answers /health and /metrics. Stopped, it is
what a hung GPU is: the server stays well, and sends comments on open streams, but no token comes.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from processes import Router, wait_for

from .process import KEY, Engine, emulated_vllm, healthy
from .test_vllm_answers import HI
from .test_vllm_load import LONG, open_request
from .test_vllm_load import wait_for as wait_for_load

MODEL = "gemma-3-12b"
OURS, OTHER = f"{MODEL}-0", f"{MODEL}-1"
SETTINGS = {
    "VLLM_GEMMA3_KEY": KEY,
    "HEALTH__INTERVAL_S": "0.3",
    "HEALTH__INTERVAL_CHANGING_S": "0.2",
    "HEALTH__TIMEOUT_S": "20",  # a busy machine is no sick engine
    "EJECTION__BASE_S": "0.5",
    "EJECTION__JITTER": "0",
    "EJECTION__SLOW_START_S": "0",
}
SHORT: dict[str, Any] = {"model": MODEL, "messages": HI, "max_tokens": 2}
SOME = 400  # tokens of a stream that has not ended when its engine is stopped


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Engine]:
    """An emulated engine beside the one that is tried."""
    with emulated_vllm(tmp_path / "other.log") as started:
        yield started


@contextmanager
def before(*engines: Engine, **settings: str) -> Iterator[Router]:
    """A router whose model these engines serve, all of them up."""
    urls = ",".join(engine.url for engine in engines)
    with Router(VLLM_GEMMA3_ENDPOINT=urls, **SETTINGS, **settings) as router:
        wait_for(lambda: states(router) == ["up"] * len(engines), "all up")
        yield router


def states(router: Router) -> list[str]:
    """How `/models` shows the replicas."""
    return [replica["state"] for replica in router.http.get(f"/models/{MODEL}").json()["replicas"]]


def total(page: str, start: str) -> float:
    """The sum of the samples in a page of metrics that begin so, up to the end of their labels."""
    return sum(float(value) for value in re.findall(rf"^{start}.*}} (\S+)$", page, re.MULTILINE))


@dataclass(frozen=True, slots=True)
class Spent:
    """What vLLM counted, of one page of metrics: requests that ended by their length, and tokens."""

    requests: float
    prompt: float
    generated: float


def spent(client: httpx.Client) -> Spent:
    page = client.get("/metrics").text
    by_length = total(page, r'vllm:request_success_total{[^}]*finished_reason="length"')
    prompt, generated = total(page, "vllm:prompt_tokens_total"), total(page, "vllm:generation_tokens_total")
    return Spent(by_length, prompt, generated)


def test_a_silent_engine_makes_one_token_for_us(engine: Engine, client: httpx.Client) -> None:
    """With deep probes on and no client, vLLM itself counts them: a token each. We count no client's call."""
    first = spent(client)
    with before(engine, PROGRESS__DEEP_PROBE_S="0.7") as router:
        wait_for(lambda: spent(client).requests >= first.requests + 3, "three probes")
        now = spent(client)
        assert now.generated - first.generated == now.requests - first.requests
        assert now.prompt - first.prompt <= 2 * (now.requests - first.requests)  # with one that begins texts
        assert states(router) == ["up"]
        assert router.metric("pointsman_requests_total") == 0
        assert router.metric("pointsman_tokens_total") == 0


def test_an_engine_that_answers_clients_is_not_asked(engine: Engine, client: httpx.Client) -> None:
    """A probe waits until no answer showed for its whole time that the engine works."""
    first = spent(client).requests
    every_s, calls, pauses = 3.0, 0, 0
    with before(engine, PROGRESS__DEEP_PROBE_S=f"{every_s:g}") as router:
        begin = answered = time.monotonic()
        while answered < begin + 1.2 * every_s:  # within it one would be due
            router.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
            pauses += time.monotonic() - answered >= every_s  # the machine stood still
            answered = time.monotonic()
            calls += 1
            time.sleep(0.1)
        assert spent(client).requests - first - calls <= pauses


def test_a_full_engine_is_not_taken_for_silent(engine: Engine, client: httpx.Client, other: Engine) -> None:
    """A probe that is late behind others' long answers, which this router knows nothing of, blames nobody."""
    with before(engine, other, PROGRESS__DEEP_PROBE_S="0.8") as router, ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(open_request(engine, LONG))
        for waiting in (1, 0, 1, 0):  # two probes come too late, and give up
            wait_for_load(client, running=2, waiting=waiting)
        assert states(router)[0] == "up"
        page = router.http.get("/metrics").text
        assert total(page, f'pointsman_ejections_total{{[^}}]*replica="{OURS}"') == 0
    wait_for_load(client, 0, 0)


def core_of(server: Engine) -> int:
    """The id of the process in which vLLM's engine runs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        pid, _, name = head.partition(" (")
        if name.startswith("VLLM::Engine") and int(rest.split()[1]) == server.pid:
            found.append(int(pid))
    (core,) = found
    return core


@contextmanager
def standing_still(server: Engine) -> Iterator[Callable[[], None]]:
    """Stop vLLM's engine; what is given lets it go on, which the end of the block does too."""
    core = core_of(server)

    def go_on() -> None:
        os.kill(core, signal.SIGCONT)

    os.kill(core, signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()


class Reader:
    """A stream of the router's that is read frame by frame."""

    def __init__(self, router: Router, tokens: int) -> None:
        body = SHORT | {"max_tokens": tokens, "ignore_eos": True, "stream": True}
        self._opened = router.http.stream("POST", "/v1/chat/completions", json=body)

    def __enter__(self) -> Self:
        answer = self._opened.__enter__()
        assert answer.status_code == 200
        self.replica = answer.headers["x-pointsman-replica"]
        self._lines = answer.iter_lines()
        return self

    def __exit__(self, *fault: Any) -> None:
        self._opened.__exit__(*fault)

    def take(self, count: int) -> list[str]:
        """So many frames of data."""
        return list(islice(self._data(), count))

    def rest(self) -> list[str]:
        """All that come until the end."""
        return list(self._data())

    def _data(self) -> Iterator[str]:
        return (line for line in self._lines if line.startswith("data: "))


@pytest.mark.real
@pytest.mark.xdist_group("vllm")
def test_a_vllm_that_stands_still_is_wedged_until_it_moves(vllm_itself: Engine, other: Engine) -> None:
    """Calls go to another engine meanwhile; then it is back by itself, and its stream comes to its end."""
    with ExitStack() as opened:
        router = opened.enter_context(before(vllm_itself, other, PROGRESS__WEDGED_AFTER_S="1.5"))
        both = [opened.enter_context(Reader(router, SOME)) for _ in range(2)]
        (stream,) = [one for one in both if one.replica == OURS]
        frames = stream.take(10)
        with standing_still(vllm_itself) as go_on:
            wait_for(lambda: states(router)[0] == "wedged", "wedged")
            wait_for(lambda: healthy(vllm_itself.url), "its server is well")
            for _ in range(5):
                answer = router.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
                assert answer.headers["x-pointsman-replica"] == OTHER
            go_on()
            wait_for(lambda: states(router)[0] == "up", "back")
        frames += stream.rest()
        assert frames[-1] == "data: [DONE]"
        assert '"finish_reason":"length"' in frames[-2]
        assert not [frame for frame in frames if frame.startswith('data: {"error"')]

        def answers() -> bool:
            told = router.http.post("/v1/chat/completions", json=SHORT).raise_for_status()
            return told.headers["x-pointsman-replica"] == OURS

        wait_for(answers, "it has its calls again")


@pytest.mark.real
@pytest.mark.xdist_group("vllm")
def test_clients_of_a_vllm_that_stands_still_are_told(vllm_itself: Engine) -> None:
    """The only engine: in spite of its comments a stream ends with an error frame; newcomers get errors.

    vLLM does not count what it makes for those who have left: only a deep probe shows that it goes on.
    """
    times = {"TIMEOUT__TOKEN_IDLE_S": "6", "TIMEOUT__FIRST_EVENT_S": "2", "PROGRESS__WEDGED_AFTER_S": "1"}
    with before(vllm_itself, **times, PROGRESS__DEEP_PROBE_S="2") as router, Reader(router, SOME) as stream:
        stream.take(10)
        with standing_still(vllm_itself) as go_on:
            wait_for(lambda: states(router) == ["wedged"], "wedged")
            late = router.http.post("/v1/chat/completions", json=SHORT | {"stream": True})
            assert (late.status_code, late.json()["error"]["code"]) == (504, "first_event_timeout")
            late = router.http.post("/v1/chat/completions", json=SHORT, headers={"x-request-timeout": "1"})
            assert late.status_code == 504
            *_, last = stream.rest()
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "idle_timeout"
            assert states(router) in (["wedged"], ["ejected"])  # the latter where a newcomer was its try
            go_on()
            wait_for(lambda: states(router) == ["up"], "back")
            assert router.http.post("/v1/chat/completions", json=SHORT).status_code == 200
