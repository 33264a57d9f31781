"""Several workers under the real gunicorn: what operators change holds for all, and figures are of all."""

import json
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from pointsman.keys import digest_of
from processes import Emulator, Gunicorn, wait_for
from wire import VLLM, Client, call, outcome, request

MODEL = VLLM.model
_SERVES = "Application startup complete"  # as each worker says
FIRST, SECOND = f"{MODEL}-0", f"{MODEL}-1"


@pytest.fixture
def engines() -> Iterator[list[Emulator]]:
    with Emulator("vllm") as one, Emulator("vllm") as two:
        yield [one, two]


@pytest.fixture
def served(engines: list[Emulator], tmp_path: Path) -> Iterator[Gunicorn]:
    with Gunicorn(workers=3, VLLM_GEMMA3_ENDPOINT=engines[0].url, TMPDIR=str(tmp_path)) as running:
        running.wait_until_serving(3)
        yield running


def listed(served: Gunicorn) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in served.http.get("/admin/replicas").json()["replicas"]}


def states(served: Gunicorn, replica: str) -> dict[int, str]:
    """How each worker sees a replica."""
    found = listed(served).get(replica, {"workers": []})
    return {one["worker"]: one["state"] for one in found["workers"]}


def everywhere(served: Gunicorn, replica: str, state: str, workers: int = 3) -> None:
    """Wait until all workers see a replica so."""
    wait_for(
        lambda: list(states(served, replica).values()) == [state] * workers, f"{replica} {state} everywhere"
    )


def sums(page: str, name: str) -> dict[str, float]:
    """A metric's values by worker."""
    found: dict[str, float] = {}
    for worker, value in re.findall(rf'(?m)^{name}{{worker="(\d+)"[^}}]*}} (\S+)$', page):
        found[worker] = found.get(worker, 0.0) + float(value)
    return found


def reload_ok(served: Gunicorn) -> dict[str, float]:
    """That metric by worker; nothing while one worker gives way to another."""
    answer = call(served.port, request("GET", "/metrics"))
    return sums(answer.body.decode(), "pointsman_config_reload_ok") if answer.status == 200 else {}


def each(value: float, *workers: int) -> dict[str, float]:
    """A metric that is the same for these workers."""
    return {str(worker): value for worker in workers}


def refused(served: Gunicorn) -> set[int]:
    """The workers whose latest entry about settings is that they were refused."""
    answer = call(served.port, request("GET", "/admin/events?limit=1000"))
    events = answer.json()["events"] if answer.status == 200 else []
    latest = {event["worker"]: event["what"] for event in reversed(events) if event["kind"] == "reload"}
    return {worker for worker, what in latest.items() if "not reloaded" in what}


@pytest.mark.parametrize("harm", ["nonsense", "brackets", "a link to itself"])
def test_new_workers_tell_of_bad_settings_too(engines: list[Emulator], tmp_path: Path, harm: str) -> None:
    """In a dead one's place and after SIGHUP; the master lives, and a good file holds for all."""
    file, fresh = tmp_path / "config.yml", tmp_path / "config.new"
    good = f"models:\n  - id: {MODEL}\n    engine: vllm\n    replicas: [{engines[0].url}]\n"
    file.write_text(good)

    def put(text: str) -> None:
        fresh.write_text(text)
        fresh.rename(file)

    with Gunicorn(CONFIG_FILE=str(file), DRAIN_S="1", TMPDIR=str(tmp_path)) as served:
        served.wait_until_serving(2)
        first, second = served.booted()
        if harm == "a link to itself":
            fresh.symlink_to(file)
            fresh.rename(file)
        else:
            put("nonsense: 1\n" if harm == "nonsense" else "models: " + "[" * 3000)
        wait_for(lambda: reload_ok(served) == each(0, first, second), "both tell")
        os.kill(second, signal.SIGKILL)
        wait_for(lambda: len(served.booted()) == 3, "a new one")
        third = served.booted()[2]
        wait_for(lambda: reload_ok(served) == each(0, first, third), "it tells, too")
        served.send_signal(signal.SIGHUP)
        served.read_until("pointsman: not reloaded; the settings before are kept\n")
        wait_for(lambda: len(served.booted()) == 5, "two new ones")
        wait_for(lambda: reload_ok(served) == each(0, *served.booted()[3:]), "they tell, too")
        wait_for(lambda: refused(served) == set(served.booted()[3:]), "and so do the events")
        assert outcome(VLLM, call(served.port, VLLM.request(stream=False)), stream=False) == "ok"
        put(good)
        wait_for(lambda: reload_ok(served) == each(1, *served.booted()[3:]), "all is well")
        assert served.stop() == 0
        assert "Traceback" not in served.output()


def asked(port: int, key: str | None, times: int = 20) -> set[int]:
    """The statuses of some calls, which several workers take."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return {httpx.post(url, json=body, headers=headers, trust_env=False).status_code for _ in range(times)}


@pytest.mark.parametrize("harm", ["gone", "a link to itself", "broken"])
def test_new_workers_ask_for_keys_whatever_becomes_of_their_file(
    engines: list[Emulator], tmp_path: Path, harm: str
) -> None:
    """Whether they come after SIGHUP or in a dead one's place; a file that is back counts for all."""
    file, secret = tmp_path / "keys.json", "pm-0123456789abcdef"

    def hold(key: str) -> None:
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({"keys": [{"sha256": digest_of(key).hex()}]}))
        fresh.rename(file)

    hold(secret)
    with Gunicorn(
        VLLM_GEMMA3_ENDPOINT=engines[0].url, KEYS_FILE=str(file), DRAIN_S="1", TMPDIR=str(tmp_path)
    ) as served:
        served.wait_until_serving(2)
        statuses = partial(asked, served.port)
        assert (statuses(None), statuses(secret)) == ({401}, {200})
        file.unlink()
        if harm == "broken":
            file.write_text("{")
        if harm == "a link to itself":
            file.symlink_to(file)
        os.kill(served.booted()[1], signal.SIGKILL)
        wait_for(lambda: served.output().count(_SERVES) == 3, "a new one")
        assert (statuses(None), statuses(secret)) == ({401}, {200})
        served.send_signal(signal.SIGHUP)
        wait_for(lambda: served.output().count(_SERVES) == 5, "two new ones")
        wait_for(lambda: served.output().count("every answer is finished") == 2, "the old ones end")
        assert (statuses(None), statuses(secret)) == ({401}, {200})
        read = served.output().count(f"read {file}: 1 keys")
        hold(secret + "2")
        wait_for(lambda: served.output().count(f"read {file}: 1 keys") == read + 2, "both read it")
        assert statuses(secret + "2") == {200}
        assert statuses(secret, times=4) == {401}, "wrong keys; ten would be too many"
        assert "Traceback" not in served.output()


def test_what_one_is_told_all_do(served: Gunicorn, engines: list[Emulator]) -> None:
    """Added, drained, removed, the default model: whichever worker takes the call, whichever serves."""
    added = served.http.post("/admin/replicas", json={"model": MODEL, "url": engines[1].url})
    assert (added.status_code, added.json()["workers"]) == (200, 3), added.text
    everywhere(served, SECOND, "up")
    drained = served.http.post(f"/admin/replicas/{FIRST}/drain").json()
    assert drained["workers"] == 3
    everywhere(served, FIRST, "draining")
    before = len(engines[0].sent())
    for _ in range(12):
        assert outcome(VLLM, call(served.port, VLLM.request(stream=False)), stream=False) == "ok"
    assert len(engines[0].sent()) == before
    served.http.delete(f"/admin/replicas/{FIRST}").raise_for_status()
    wait_for(lambda: list(listed(served)) == [SECOND], "the first is gone everywhere")
    told = served.http.put("/admin/default-model", json={"model": MODEL}).json()
    assert (told["model"], told["workers"]) == (MODEL, 3)
    for _ in range(9):
        with Client(served.port) as client:
            client.send(b"GET /admin/default-model HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            assert client.read().json()["model"] == MODEL
    events = served.http.get("/admin/events?limit=200").json()["events"]
    gone = {event["worker"] for event in events if event["what"].endswith("has finished and is gone")}
    assert gone == set(served.booted())


def test_one_that_takes_a_dead_ones_place_knows_it_all(served: Gunicorn, engines: list[Emulator]) -> None:
    """Added and drained replicas, by the same ids; so do those that SIGHUP puts in the place of all."""
    served.http.post("/admin/replicas", json={"model": MODEL, "url": engines[1].url}).raise_for_status()
    served.http.post(f"/admin/replicas/{FIRST}/drain").raise_for_status()
    served.http.put("/admin/default-model", json={"model": MODEL}).raise_for_status()
    os.kill(served.booted()[0], signal.SIGKILL)
    wait_for(lambda: len(served.booted()) == 4, "another worker")
    everywhere(served, FIRST, "draining")
    everywhere(served, SECOND, "up")
    served.send_signal(signal.SIGHUP)
    wait_for(lambda: len(served.booted()) == 7, "three other workers")
    wait_for(lambda: set(states(served, FIRST)) == set(served.booted()[-3:]), "the old ones are gone")
    everywhere(served, FIRST, "draining")
    everywhere(served, SECOND, "up")


def test_one_that_does_not_answer_is_told(served: Gunicorn, engines: list[Emulator]) -> None:
    """409 within the time, with how many follow; once it turns again it follows too."""
    victim = served.booted()[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        answers = []
        for _ in range(40):  # a connection that the standing one took is another's the next time
            with Client(served.port) as client:
                client.sock.settimeout(8)
                client.send(
                    f"POST /admin/replicas/{FIRST}/drain HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n"
                    "connection: close\r\n\r\n".encode()
                )
                try:
                    answers.append(client.read())
                    break
                except TimeoutError:
                    continue
        assert answers[0].status == 409
        assert answers[0].json()["code"] == "not_all_follow"
        assert "2 of 3 worker processes follow" in answers[0].json()["detail"]
    finally:
        os.kill(victim, signal.SIGCONT)
    everywhere(served, FIRST, "draining")


def test_figures_are_of_all_workers(served: Gunicorn) -> None:
    """Each series says whose it is; a family has one head; sums are those of all calls."""
    calls = 24
    for _ in range(calls):
        assert outcome(VLLM, call(served.port, VLLM.request(stream=False)), stream=False) == "ok"
    page = served.http.get("/metrics").text
    counted = sums(page, "pointsman_request_end_total")
    assert sum(counted.values()) == calls
    assert set(counted) <= {str(pid) for pid in served.booted()}
    assert len(sums(page, "pointsman_build_info")) == len(sums(page, "process_cpu_seconds_total")) == 3
    heads = re.findall(r"(?m)^# TYPE (\S+)", page)
    assert len(heads) == len(set(heads))
    bare = [line for line in page.splitlines() if line and line[0] != "#" and 'worker="' not in line]
    assert bare == []


def test_a_changed_file_is_taken_by_all_in_place(engines: list[Emulator], tmp_path: Path) -> None:
    """Without another worker; one that comes later has the new settings, and bad ones change nothing."""
    file = tmp_path / "config.yml"

    def write(*pool: Emulator, more: str = "") -> None:
        urls = ", ".join(engine.url for engine in pool)
        fresh = file.with_suffix(".new")
        fresh.write_text(f"models:\n  - id: {MODEL}\n    engine: vllm\n    replicas: [{urls}]\n{more}")
        fresh.rename(file)

    write(engines[0])
    with Gunicorn(workers=2, CONFIG_FILE=str(file), TMPDIR=str(tmp_path)) as served:
        served.wait_until_serving(2)
        write(engines[1], engines[0])
        everywhere(served, SECOND, "up", 2)
        assert len(served.booted()) == 2
        write(engines[1], more="nonsense: 1\n")
        wait_for(lambda: served.output().count("not reloaded") == 2, "both tell of bad settings")
        os.kill(served.booted()[0], signal.SIGKILL)
        wait_for(lambda: len(served.booted()) == 3, "another worker")
        wait_for(lambda: set(states(served, FIRST)) == set(served.booted()[1:]), "it is there")
        served.read_until("another worker serves by other settings")
        write(engines[1], engines[0], more="docs: off\n")
        wait_for(lambda: served.output().count("reloaded by a changed file") == 4, "both have the last ones")
        assert served.http.get("/docs").status_code == 404
        os.kill(served.booted()[1], signal.SIGKILL)
        wait_for(lambda: len(served.booted()) == 4, "another worker")
        everywhere(served, SECOND, "up", 2)


def test_the_meeting_place_is_private_and_goes(engines: list[Emulator], tmp_path: Path) -> None:
    """Only its user may enter; at the end nothing is left of it."""
    with Gunicorn(workers=2, VLLM_GEMMA3_ENDPOINT=engines[0].url, TMPDIR=str(tmp_path)) as served:
        served.wait_until_serving(2)
        (folder,) = tmp_path.glob("pointsman-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in folder.glob("*.sock")} == {f"{pid}.sock" for pid in served.booted()}
        assert served.stop() == 0
    assert list(tmp_path.glob("pointsman-*")) == []
