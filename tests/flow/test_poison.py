"""A prompt that engines die of takes two of them with it at most, however often its client sends it."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from processes import Emulator, Router, wait_for
from wire import VLLM, call, outcome

_MARK = "a most unusual prompt"
_SETTINGS = {"HEALTH__INTERVAL_S": "1", "HEALTH__INTERVAL_CHANGING_S": "0.1"}


@contextmanager
def pool(size: int, **settings: str) -> Iterator[tuple[Router, list[Emulator]]]:
    with ExitStack() as stack:
        engines = [stack.enter_context(Emulator("vllm")) for _ in range(size)]
        urls = ",".join(engine.url for engine in engines)
        router = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=urls, **{**_SETTINGS, **settings}))
        wait_for(lambda: states(router).count("up") == size, "all replicas are up")
        for engine in engines:
            engine.reset()  # forgets what it was asked on the way up
        yield router, engines


def states(router: Router) -> list[str]:
    return [one["state"] for one in router.http.get("/models/gemma-3-12b/health").json()["replicas"]]


def ask(router: Router, text: str = _MARK, *, stream: bool = False) -> str:
    return outcome(VLLM, call(router.port, VLLM.request(text, stream=stream)), stream=stream)


def alive(engines: list[Emulator]) -> list[Emulator]:
    return [engine for engine in engines if engine.runs]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("used", [True, False], ids=["connections in use", "fresh connections"])
def test_a_prompt_that_kills_engines_kills_two(stream: bool, used: bool) -> None:
    """S22: of four engines two are left, and serve all others; its client is told not to come again."""
    with pool(4) as (router, engines):
        if used:
            for number in range(12):
                assert ask(router, f"Hello {number}", stream=stream) == "ok"
        for engine in engines:
            engine.arm("die", marker=_MARK)
        told = [ask(router, stream=stream)]
        assert told[0] in ("502 engine_cut", "502 engine_unreachable")
        for _ in range(8):  # as clients do that try again by themselves
            told.append(ask(router, stream=stream))
            assert ask(router, "a harmless prompt", stream=stream) == "ok"
        wait_for(lambda: states(router).count("down") == 2, "two replicas seen down")
        assert told[-1] == "400 poison_prompt"
        wait_for(lambda: len(alive(engines)) == 2, "both have ended")
        assert ask(router, stream=stream) == "400 poison_prompt"
        assert router.metric("pointsman_table_entries") >= 1


def test_engines_that_come_back_are_not_killed_again() -> None:
    """Both are known to have died of it, though nobody asked while they were down."""
    with ExitStack() as stack:
        engines = [stack.enter_context(Emulator("vllm")) for _ in range(3)]
        ports = [engine.port for engine in engines]
        urls = ",".join(engine.url for engine in engines)
        router = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=urls, **_SETTINGS))
        wait_for(lambda: states(router).count("up") == 3, "all replicas are up")
        for engine in engines:
            engine.arm("die", marker=_MARK)
        ask(router)
        wait_for(lambda: states(router).count("down") == 2, "two replicas seen down")
        wait_for(lambda: len(alive(engines)) == 1, "both have ended")
        for port, engine in zip(ports, engines, strict=True):
            if not engine.runs:
                stack.enter_context(Emulator("vllm", "--port", str(port)))
        wait_for(lambda: states(router).count("up") == 3, "all replicas are up again")
        assert [ask(router) for _ in range(3)] == ["400 poison_prompt"] * 3
        assert len(alive(engines)) == 1


def test_it_is_asked_again_when_its_time_is_over() -> None:
    """RETRY__POISON_S: an engine that was mended may be able to answer it."""
    with pool(3, RETRY__POISON_S="2") as (router, engines):
        for engine in engines:
            engine.arm("die", marker=_MARK)
        ask(router)
        wait_for(lambda: len(alive(engines)) == 1, "both have ended")
        for engine in alive(engines):
            engine.disarm()
        begin = time.monotonic()
        wait_for(lambda: ask(router) == "ok", "it is asked again")
        assert time.monotonic() - begin > 0.5


def test_a_request_is_not_poison_where_everything_fails() -> None:
    """Faults without a death keep it from other engines, and no longer than they last."""
    with pool(3) as (router, engines):
        for engine in engines:
            engine.arm("status", "500")
        for _ in range(3):
            assert ask(router) == "502 engine_failed"
        assert sum(len(engine.sent()) > 0 for engine in engines) == 2
        for engine in engines:
            engine.disarm()
        wait_for(lambda: ask(router) == "ok", "it is answered")
        for engine in engines:
            engine.reset()
        for _ in range(60):
            assert ask(router) == "ok"
        assert all(engine.sent() for engine in engines)


def test_an_engine_that_is_killed_otherwise_makes_nothing_poison() -> None:
    """The same request over and over, and two engines killed one after the other: each call is answered."""
    with pool(3) as (router, engines):
        for number in range(30):
            if number in (5, 15):
                engines[number // 10].send_signal(signal.SIGKILL)
            assert ask(router, stream=number % 2 == 0) == "ok", number
