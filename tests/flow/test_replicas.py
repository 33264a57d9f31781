"""Operators drain, resume, add and remove replicas of a router that serves."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from processes import Emulator, Router, wait_for
from wire import VLLM, Client, call, outcome

_QUICK = {"HEALTH__INTERVAL_S": "0.2", "HEALTH__INTERVAL_CHANGING_S": "0.05"}
MODEL = VLLM.model
FIRST, SECOND = f"{MODEL}-0", f"{MODEL}-1"


@pytest.fixture
def engines() -> Iterator[list[Emulator]]:
    with Emulator("vllm") as one, Emulator("vllm") as two:
        yield [one, two]


@pytest.fixture
def router(engines: list[Emulator]) -> Iterator[Router]:
    with Router(VLLM_GEMMA3_ENDPOINT=engines[0].url, **_QUICK) as running:
        running.wait_until_up(MODEL)
        yield running


def listed(router: Router) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in router.http.get("/admin/replicas").json()["replicas"]}


def used(engine: Emulator) -> int:
    return sum("completions" in entry["path"] for entry in engine.sent())


def ask(router: Router, stream: bool = False) -> str:
    return outcome(VLLM, call(router.port, VLLM.request(stream=stream)), stream=stream)


def add(router: Router, engine: Emulator, **more: Any) -> dict[str, Any]:
    answer = router.http.post("/admin/replicas", json={"model": MODEL, "url": engine.url, **more})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_an_added_replica_serves_and_a_removed_one_does_not(router: Router, engines: list[Emulator]) -> None:
    """The added one is probed at once; where it is, `/models` shows to operators; events and log tell."""
    told = add(router, engines[1], weight=2)
    assert (told["replica"]["id"], told["replica"]["added"], told["workers"]) == (SECOND, True, 1)
    wait_for(lambda: listed(router)[SECOND]["state"] == "up", "the added one is up")
    again = router.http.post("/admin/replicas", json={"model": MODEL, "url": engines[1].url})
    assert (again.status_code, again.json()["code"]) == (409, "replica_exists")
    gone = router.http.delete(f"/admin/replicas/{FIRST}")
    assert gone.status_code == 200
    wait_for(lambda: list(listed(router)) == [SECOND], "the first is gone")
    assert ask(router) == "ok"
    assert used(engines[1]) == 1
    assert router.http.get("/admin/replicas").json()["removed"] == [{"model": MODEL, "engine": "vllm"}]
    add(router, engines[0])
    wait_for(lambda: listed(router)[f"{MODEL}-2"]["state"] == "up", "the first is back")
    assert not listed(router)[f"{MODEL}-2"]["added"], "it is the one of the settings"
    kinds = {event["kind"] for event in router.http.get("/admin/events?limit=50").json()["events"]}
    assert {"admin", "replica"} <= kinds
    assert '"what":"replica added"' in router.output()


def test_the_last_replica_may_be_removed_and_come_back(router: Router, engines: list[Emulator]) -> None:
    """Its model knows which engine it is from the settings."""
    router.http.delete(f"/admin/replicas/{FIRST}").raise_for_status()
    assert ask(router) == "503 no_replica"
    told = add(router, engines[0])["replica"]
    assert (told["engine"], told["added"]) == ("vllm", False)
    wait_for(lambda: ask(router) == "ok", "it serves again")


def test_a_drained_replica_finishes_and_takes_nothing_new(router: Router, engines: list[Emulator]) -> None:
    """The answer counts what runs; waiting ends when that has ended, or when the time is up."""
    add(router, engines[1])
    wait_for(lambda: listed(router)[SECOND]["state"] == "up", "the added one is up")
    router.http.post(f"/admin/replicas/{SECOND}/drain").raise_for_status()
    engines[0].arm("hang_after", 3, times=1)
    with Client(router.port) as client:
        client.send(VLLM.request("Hello", 9, stream=True))
        assert b"data:" in client.read(until=b"data:").body
        router.http.post(f"/admin/replicas/{SECOND}/resume").raise_for_status()
        told = router.http.post(f"/admin/replicas/{FIRST}/drain?wait=0.3").json()
        assert (told["in_flight"], told["replica"]["state"], told["replica"]["draining"]) == (
            1,
            "draining",
            True,
        )
        before = used(engines[0])
        for stream in (True, False):
            assert ask(router, stream) == "ok"
        assert used(engines[0]) == before
        waited: list[int] = []
        waiting = threading.Thread(
            target=lambda: waited.append(
                router.http.post(f"/admin/replicas/{FIRST}/drain?wait=60").json()["in_flight"]
            )
        )
        waiting.start()
    waiting.join(60)
    assert waited == [0]
    assert listed(router)[FIRST]["state"] == "draining"
    assert router.http.get("/ready").status_code == 200
    router.http.post(f"/admin/replicas/{SECOND}/drain").raise_for_status()
    assert ask(router) == "503 no_replica"
    assert router.http.get("/ready").status_code == 503
    router.http.post(f"/admin/replicas/{FIRST}/resume").raise_for_status()
    assert ask(router) == "ok"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "nobody", "url": "http://127.0.0.1:1"}, 404, "nobody"),
        ({"url": "http://127.0.0.1:1"}, 404, "not found"),
        ({"model": MODEL}, 400, "`url` must be given"),
        ({"model": MODEL, "url": "http://169.254.169.254"}, 400, "never allowed"),
        ({"model": MODEL, "url": "http://[::ffff:169.254.169.254]"}, 400, "never allowed"),
        ({"model": MODEL, "url": "http://8.8.8.8"}, 400, "ADMIN__REPLICA_NETWORKS"),
        ({"model": MODEL, "url": "http://u:p@127.0.0.1"}, 400, "user name"),
        ({"model": MODEL, "url": "http://2130706433"}, 400, "bad host"),
        ({"model": MODEL, "url": "http://nowhere.invalid"}, 400, "resolves"),
        ({"model": MODEL, "url": "http://127.0.0.1/../x"}, 400, "plain names"),
        ({"model": MODEL, "url": "http://127.0.0.1:1", "engine": "other"}, 400, "`engine` must be one of"),
        ({"model": MODEL, "url": "http://127.0.0.1:1", "weight": 0}, 400, "`weight` must be"),
        ({"model": MODEL, "url": "http://127.0.0.1:1", "key": "a b"}, 400, "`key` must"),
        ({"model": MODEL, "url": "http://127.0.0.1:1", "weigth": 1}, 400, "`weigth` must not be there"),
        ([], 400, "JSON object"),
    ],
)
def test_what_is_no_good_replica_is_refused(router: Router, body: Any, status: int, says: str) -> None:
    """With the reason, and nothing changes."""
    answer = router.http.post("/admin/replicas", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert list(listed(router)) == [FIRST]


def test_only_operators_may(engines: list[Emulator]) -> None:
    """Others get 401 on each route and see no addresses."""
    with Router(VLLM_GEMMA3_ENDPOINT=engines[0].url, OPS_NETWORKS="10.9.9.9", **_QUICK) as router:
        router.wait_until_up(MODEL)
        for method, path in (
            ("GET", "/admin/replicas"),
            ("POST", "/admin/replicas"),
            ("DELETE", f"/admin/replicas/{FIRST}"),
            ("POST", f"/admin/replicas/{FIRST}/drain"),
            ("POST", f"/admin/replicas/{FIRST}/resume"),
            ("GET", "/admin/events"),
        ):
            answer = router.http.request(method, path)
            assert answer.status_code == 401, path
            assert engines[0].url not in answer.text


def test_bad_questions_are_told(router: Router) -> None:
    """An unknown replica, a wait that is none, a limit that is none."""
    for method, path, status in (
        ("POST", "/admin/replicas/nobody-0/drain", 404),
        ("DELETE", "/admin/replicas/nobody-0", 404),
        ("POST", "/admin/replicas/%0a/resume", 404),
        ("POST", f"/admin/replicas/{FIRST}/drain?wait=301", 400),
        ("POST", f"/admin/replicas/{FIRST}/drain?wait=nan", 400),
        ("POST", f"/admin/replicas/{FIRST}/drain?wait=soon", 400),
        ("GET", "/admin/events?limit=0", 400),
    ):
        assert router.http.request(method, path).status_code == status, path
    assert not listed(router)[FIRST]["draining"]


def test_added_replicas_outlast_a_reload(router: Router, engines: list[Emulator]) -> None:
    """And drains too; a new start forgets them."""
    add(router, engines[1])
    router.http.post(f"/admin/replicas/{FIRST}/drain").raise_for_status()
    wait_for(lambda: listed(router)[SECOND]["state"] == "up", "the added one is up")
    router.http.post("/admin/replicas/nobody-0/drain")
    router.send_signal(signal.SIGHUP)
    router.read_until("reloaded by SIGHUP")
    found = listed(router)
    assert [found[name]["state"] for name in (FIRST, SECOND)] == ["draining", "up"]
    assert ask(router) == "ok"
    assert used(engines[1]) == 1
