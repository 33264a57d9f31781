"""New settings for a router that serves: taken in place, nothing dropped, and never when they are bad."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from processes import Emulator, Router, wait_for
from wire import VLLM, Client, call, outcome

_QUICK = {"HEALTH__INTERVAL_S": "0.2", "HEALTH__INTERVAL_CHANGING_S": "0.05"}
_LOAD_S = 6.0
_CLIENTS = 4
MODEL = VLLM.model


class Config:
    """A config file, put in place whole."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.yml"

    def hold(self, *engines: Emulator, more: str = "", **other: list[Emulator]) -> None:
        """One model with these replicas, and other models."""
        models = {MODEL: list(engines), **other}
        lines = ["models:"]
        for model, pool in models.items():
            lines += [f"  - id: {model}", "    engine: vllm", "    replicas:"]
            lines += [f"      - {engine.url}" for engine in pool]
        self.put("\n".join(lines) + "\n" + more)

    def put(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.path)


@pytest.fixture
def engines() -> Iterator[list[Emulator]]:
    with Emulator("vllm") as one, Emulator("vllm") as two:
        yield [one, two]


def reloaded(router: Router, times: int) -> None:
    """Wait until settings were taken so many times."""
    wait_for(lambda: router.output().count("reloaded by ") >= times, f"{times} reloads")


def told(router: Router, what: str) -> int:
    """How often the events say so."""
    events = router.http.get("/admin/events?limit=1000").json()["events"]
    return sum(event["what"].startswith(what) for event in events)


def heeded(router: Router, times: int) -> bool:
    """Whether SIGHUP led so often to a reading that failed."""
    return told(router, "SIGHUP: not reloaded") == times


def states(router: Router) -> dict[str, str]:
    return {one["id"]: one["state"] for one in router.http.get("/admin/replicas").json()["replicas"]}


def test_replicas_come_and_go_with_the_file(engines: list[Emulator], tmp_path: Path) -> None:
    """One more is probed at once; one less finishes its stream; who stays keeps its counters."""
    one, two = engines
    config = Config(tmp_path)
    config.hold(one)
    with Router(CONFIG_FILE=str(config.path), **_QUICK) as router:
        router.wait_until_up(MODEL)
        for _ in range(3):
            assert outcome(VLLM, call(router.port, VLLM.request(stream=False)), stream=False) == "ok"
        config.hold(one, two)
        wait_for(lambda: states(router) == {f"{MODEL}-0": "up", f"{MODEL}-1": "up"}, "both up")
        assert router.metric("pointsman_attempts_total") == 3
        two.arm("hang_after", 3, times=1)
        one.arm("hang_after", 3, times=1)
        with Client(router.port) as first, Client(router.port) as second:
            for client in (first, second):
                client.send(VLLM.request("Hello", 9, stream=True))
                assert b"data:" in client.read(until=b"data:").body
            config.hold(one)
            wait_for(lambda: states(router).get(f"{MODEL}-1") == "draining", "the second drains")
            assert outcome(VLLM, call(router.port, VLLM.request(stream=False)), stream=False) == "ok"
            assert router.metric("pointsman_in_flight") == 2
        wait_for(lambda: states(router) == {f"{MODEL}-0": "up"}, "the second is gone")
        assert f'replica="{MODEL}-1"' not in router.http.get("/metrics").text
        probed = two.stats()["last_requests"]
        router.http.get("/metrics")
        config.hold(one, more="default_model: nobody\n")
        reloaded(router, 3)
        assert two.stats()["last_requests"] == probed, "who is gone is probed no more"
        assert router.metric("pointsman_attempts_total") >= 5


def test_a_model_comes_and_goes(engines: list[Emulator], tmp_path: Path) -> None:
    """Calls for one that is gone are 404, and its series end."""
    one, two = engines
    config = Config(tmp_path)
    config.hold(one, other=[two])
    with Router(CONFIG_FILE=str(config.path), **_QUICK) as router:
        router.wait_until_up(MODEL, "other")
        config.hold(one)
        wait_for(lambda: router.http.get("/models/other").status_code == 404, "the other is gone")
        wait_for(lambda: 'model="other"' not in router.http.get("/metrics").text, "and its series")
        assert [model["id"] for model in router.http.get("/models").json()] == [MODEL]
        config.hold(one, other=[two])
        router.wait_until_up(MODEL)
        wait_for(lambda: states(router).get("other-1") == "up", "it is back, by another id")


def test_bad_settings_leave_everything_as_it_is(engines: list[Emulator], tmp_path: Path) -> None:
    """Log, events and metric say so, by name; with good ones it goes on."""
    one, two = engines
    config = Config(tmp_path)
    config.hold(one)
    with Router(CONFIG_FILE=str(config.path), **_QUICK) as router:
        router.wait_until_up(MODEL)
        assert router.metric("pointsman_config_reload_ok") == 1
        began = router.metric("pointsman_config_reload_timestamp_seconds")
        config.hold(one, two, more="timeout: {connect_s: never}\n")
        router.read_until("not reloaded")
        assert router.metric("pointsman_config_reload_ok") == 0
        assert router.metric("pointsman_config_reload_timestamp_seconds") == began
        told = router.http.get("/admin/events").json()["events"][0]
        assert (told["kind"], told["who"]) == ("reload", "router")
        assert "connect_s of timeout in config.yml: 'never' is not a number" in told["what"]
        assert list(states(router)) == [f"{MODEL}-0"]
        assert outcome(VLLM, call(router.port, VLLM.request(stream=True)), stream=True) == "ok"
        config.path.unlink()
        router.send_signal(signal.SIGHUP)
        router.read_until(r"config\.yml is gone")
        assert list(states(router)) == [f"{MODEL}-0"]
        config.hold(one, two)
        wait_for(lambda: len(states(router)) == 2, "the second replica")
        assert router.metric("pointsman_config_reload_ok") == 1
        assert router.metric("pointsman_config_reload_timestamp_seconds") > began


def link_to_itself(path: Path) -> None:
    """A file that is there, and that nobody can look at."""
    fresh = path.with_suffix(".link")
    fresh.symlink_to(path)
    fresh.rename(path)


@pytest.mark.parametrize("harm", ["a link to itself", "brackets", "nothing"])
def test_whatever_becomes_of_the_file_it_is_looked_after(
    engines: list[Emulator], tmp_path: Path, harm: str
) -> None:
    """Told once, and once more by SIGHUP; calls go on as before, and the good file that comes is taken."""
    one, two = engines
    config = Config(tmp_path)
    config.hold(one)
    with Router(CONFIG_FILE=str(config.path), **_QUICK) as router:
        router.wait_until_up(MODEL)
        for times, pool in ((1, [one, two]), (2, [one])):
            if harm == "a link to itself":
                link_to_itself(config.path)
            else:
                config.put("" if harm == "nothing" else "models: " + "[" * 3000)
            wait_for(lambda: router.metric("pointsman_config_reload_ok") == 0, "it is noticed")
            router.send_signal(signal.SIGHUP)
            wait_for(partial(heeded, router, times), "SIGHUP is heeded")
            assert told(router, "a changed file: not reloaded") == times
            assert outcome(VLLM, call(router.port, VLLM.request(stream=False)), stream=False) == "ok"
            config.hold(*pool)
            wait_for(lambda: router.metric("pointsman_config_reload_ok") == 1, "the good file is taken")
            assert [state != "draining" for state in states(router).values()].count(True) == len(pool)
        assert "Traceback" not in router.output()


def test_every_kind_of_setting_is_taken(engines: list[Emulator], tmp_path: Path) -> None:
    """Routes, limits, keys, who may come in, log level, retries; what needs a new start is told by name."""
    config = Config(tmp_path)
    config.hold(engines[0])
    keys = tmp_path / "other-keys.json"
    with Router(CONFIG_FILE=str(config.path), KEYS_FILE=str(tmp_path / "keys.json"), **_QUICK) as router:
        router.wait_until_up(MODEL)
        assert router.http.get("/docs").status_code == 200
        more = (
            "docs: off\nmax_body_bytes: 2048\nlimits: {requests_per_minute: 1}\n"
            "allowed_origins: ['https://ui.example']\nport: 1\nlog_level: DEBUG\nkeep_alive_s: 7\n"
        )
        config.hold(engines[0], more=more)
        wait_for(lambda: router.http.get("/docs").status_code == 404, "no docs")
        assert "KEEP_ALIVE_S: read at the start only" in router.read_until("[^\n]*read at the start only")
        page = {"Origin": "https://ui.example"}
        assert (
            router.http.get("/models", headers=page).headers["access-control-allow-origin"] == page["Origin"]
        )
        assert call(router.port, VLLM.request("x" * 3000, stream=False)).status == 413
        assert call(router.port, VLLM.request(stream=False)).status == 200
        limited = call(router.port, VLLM.request(stream=False))
        assert (limited.status, limited.header("x-ratelimit-limit")) == (429, "1")
        config.hold(engines[0], more="denied_networks: [127.0.0.0/8]\n")
        wait_for(lambda: router.http.get("/models").status_code == 403, "nobody comes in")
        config.hold(engines[0], more="limits: {requests_per_minute: 1}\n")
        wait_for(lambda: router.http.get("/models").status_code == 200, "they do again")
        assert call(router.port, VLLM.request(stream=False)).status == 429, "what was counted stays counted"
    assert not keys.exists()


def test_sighup_does_not_end_a_router_without_files(engines: list[Emulator]) -> None:
    """It reads what there is, again and again."""
    with Router(VLLM_GEMMA3_ENDPOINT=engines[0].url, **_QUICK) as router:
        router.wait_until_up(MODEL)
        for times in (1, 2):
            router.send_signal(signal.SIGHUP)
            reloaded(router, times)
        assert outcome(VLLM, call(router.port, VLLM.request(stream=True)), stream=True) == "ok"
        assert router.stop() == 0


def test_reloads_under_load_refuse_nobody(engines: list[Emulator], tmp_path: Path) -> None:
    """Replicas come and go under calls and streams: nothing is refused, reset or answered with an error."""
    one, two = engines
    config = Config(tmp_path)
    config.hold(one, two)
    seen: Counter[str] = Counter()
    over = threading.Event()

    def use(port: int, *, stream: bool) -> None:
        while not over.is_set():
            try:
                seen[outcome(VLLM, call(port, VLLM.request(stream=stream)), stream=stream)] += 1
            except OSError as error:
                seen[repr(error)] += 1

    with Router(CONFIG_FILE=str(config.path), **_QUICK) as router:
        router.wait_until_up(MODEL)
        wait_for(lambda: set(states(router).values()) == {"up"}, "both up")
        users = [
            threading.Thread(target=use, args=(router.port,), kwargs={"stream": bool(number % 2)})
            for number in range(_CLIENTS)
        ]
        for user in users:
            user.start()
        pools = [(one, two), (one,), (two, one), (one, two)]
        end, times = time.monotonic() + _LOAD_S, 0
        try:
            while time.monotonic() < end or times < 4:
                config.hold(*pools[times % len(pools)], more=f"max_body_bytes: {100_000 + times}\n")
                router.send_signal(signal.SIGHUP)
                times += 1
                reloaded(router, times)
        finally:
            over.set()
            for user in users:
                user.join(60)
        assert set(seen) == {"ok"}, seen
        assert seen["ok"] > times
        router.wait_until_quiet()
