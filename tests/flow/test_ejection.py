"""Engines that pass their health checks and yet fail: they lose their calls, and get them back."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import pytest

from processes import Emulator, Router, wait_for
from wire import VLLM, Client, call, outcome

_MODEL = "gemma-3-12b"
_SETTINGS = {
    "TIMEOUT__FIRST_EVENT_S": "0.5",
    "HEALTH__INTERVAL_S": "0.2",
    "HEALTH__INTERVAL_CHANGING_S": "0.1",
    "HEALTH__TIMEOUT_S": "1",
    "EJECTION__BASE_S": "0.5",
    "EJECTION__JITTER": "0",
    "RETRY__BUDGET_FLOOR_PER_S": "1000",
    "RETRY__POISON_S": "0",
}


@contextmanager
def pool(settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[Router, list[Emulator]]]:
    """A router before two equal engines that are up."""
    with Emulator("vllm") as one, Emulator("vllm") as two:
        urls = f"{one.url},{two.url}"
        with Router(VLLM_GEMMA3_ENDPOINT=urls, **{**_SETTINGS, **settings}) as router:
            wait_for(lambda: states(router) == ["up", "up"], "both up")
            yield router, [one, two]


def states(router: Router) -> list[str]:
    """How `/models` shows the replicas."""
    return [replica["state"] for replica in router.http.get(f"/models/{_MODEL}").json()["replicas"]]


def ask(router: Router, *, stream: bool = True) -> str:
    return outcome(VLLM, call(router.port, VLLM.request(stream=stream)), stream=stream)


def wait_while_asking(router: Router, place: int, *wanted: str, within_s: float = 30.0) -> float:
    """Call one after the other until a replica is shown in one of these states; the seconds it took."""

    def reached() -> bool:
        ask(router)
        return states(router)[place] in wanted

    return wait_for(reached, f"{wanted} while calls come", within_s)


def test_an_engine_that_takes_calls_and_answers_none_is_ejected() -> None:
    """Its health checks are good all the time; once it answers again one call shows it, and it is back."""
    with pool() as (router, (hangs, _)):
        hangs.arm("hang_before_headers")
        wait_while_asking(router, 0, "ejected")
        shown = router.http.get(f"/models/{_MODEL}").json()
        assert shown["available"] is True
        assert shown["state"] == "up"
        assert shown["replicas"][0]["reason"] == "it took calls and gave no first event"
        assert shown["replicas"][0]["since"]
        assert router.metric("pointsman_ejections_total") >= 1
        hangs.disarm()
        wait_while_asking(router, 0, "up")
        assert "it gets few calls" in router.http.get(f"/models/{_MODEL}").json()["replicas"][0]["reason"]


def test_an_engine_that_stands_still_is_left_and_found_again() -> None:
    """A stopped process answers nothing at all, its health checks included; calls go to the other."""
    with pool() as (router, (stops, _)):
        stops.send_signal(signal.SIGSTOP)
        try:
            wait_while_asking(router, 0, "ejected", "down")
            assert [ask(router) for _ in range(10)] == ["ok"] * 10
        finally:
            stops.send_signal(signal.SIGCONT)
        wait_while_asking(router, 0, "up")


def test_an_engine_that_was_killed_is_out_at_once() -> None:
    """The first call that cannot connect has it looked at, however far the next check is; no call fails."""
    with pool({"HEALTH__INTERVAL_S": "3600"}) as (router, (dies, _)):
        dies.send_signal(signal.SIGKILL)
        answers = []

        def down() -> bool:
            answers.append(ask(router))
            return states(router)[0] == "down"

        wait_for(down, "down")
        assert set(answers) == {"ok"}


def test_an_engine_that_fails_is_ejected_and_the_only_one_is_not() -> None:
    """Of two the failing one loses its calls; where there is no other, it is asked all the same."""
    with pool() as (router, (fails, other)):
        fails.arm("status", "500")
        wait_while_asking(router, 0, "ejected")
        assert ask(router) == "ok"
        fails.disarm()
        wait_while_asking(router, 0, "up")
        other.stop()
        wait_while_asking(router, 1, "down")
        fails.arm("status", "500", times=8)
        seen = [ask(router) for _ in range(9)]
        assert seen[-1] == "ok"
        assert "503 no_replica" not in seen


def test_an_engine_that_gives_calls_up_is_draining() -> None:
    """As vLLM does before it ends; should it stay, a call finds out."""
    with pool() as (router, (drains, _)):
        drains.arm("abort", "0")
        wait_while_asking(router, 0, "draining")
        assert [ask(router) for _ in range(5)] == ["ok"] * 5
        drains.disarm()
        wait_while_asking(router, 0, "up")


def test_an_engine_whose_counters_stand_still_is_wedged() -> None:
    """A call hangs there and nothing moves; that is seen before the call's own time is up."""
    waits = {"TIMEOUT__FIRST_EVENT_S": "60", "PROGRESS__WEDGED_AFTER_S": "1"}
    with pool(waits) as (router, engines):
        for engine in engines:
            engine.arm("hang_first_event", times=1)
        with Client(router.port) as client, Client(router.port) as other:
            client.send(VLLM.request(tokens=9, stream=True))
            other.send(VLLM.request(tokens=9, stream=True))
            wait_for(lambda: states(router) == ["wedged", "wedged"], "both wedged")
            assert router.http.get(f"/models/{_MODEL}").json()["available"] is True
            for engine in engines:  # another client's
                body = {"model": engine.http.get("/v1/models").json()["data"][0]["id"], "prompt": "Go"}
                engine.http.post("/v1/completions", json=body).raise_for_status()
            wait_for(lambda: states(router) == ["up", "up"], "both back")
            assert ask(router) == "ok"


@pytest.mark.parametrize("fault", ["hang_before_headers", "abort"])
def test_a_token_of_our_own_brings_an_engine_back(fault: str) -> None:
    """With deep probes no client has to try."""
    never = {"EJECTION__BASE_S": "3000", "EJECTION__MAX_S": "3000"}
    with pool({**never, "PROGRESS__DEEP_PROBE_S": "0.3"}) as (router, engines):
        engines[0].arm(fault)
        wait_while_asking(router, 0, "ejected", "draining")
        engines[0].disarm()
        wait_for(lambda: states(router)[0] == "up", "back by a probe")
