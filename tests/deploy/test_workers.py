"""Several workers under the real gunicorn: what operators change holds for all, and figures are of all."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import Emulator, Gunicorn, wait_for
from wire import VLLM, Client, call, outcome

MODEL = VLLM.model
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
