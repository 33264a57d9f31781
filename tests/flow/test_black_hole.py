"""Engines, a Redis and a name server whose packets vanish: nothing is refused, and nothing is answered.

The hosts are network namespaces of the test's own (`tests/namespaces.py`).
"""

import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from namespaces import Host, hosts
from nginx import short_folder, tool
from processes import Emulator, Process, Router, wait_for
from redis_server import RedisServer
from wire import VLLM, Client, Incoming, outcome

_MODEL = "gemma-3-12b"
_CHECKS_OFTEN = {"HEALTH__INTERVAL_S": "0.5", "HEALTH__INTERVAL_CHANGING_S": "0.2", "HEALTH__TIMEOUT_S": "1"}
_CHECKS_HARDLY = {"HEALTH__INTERVAL_S": "600", "HEALTH__JITTER": "0"}


@contextmanager
def pool(count: int, **settings: str) -> Iterator[tuple[Router, list[tuple[Host, Emulator]]]]:
    """A router before engines on hosts of their own, all up."""
    with hosts(count) as found, ExitStack() as stack:
        engines = []
        for host in found:
            with host.inside():
                engines.append(stack.enter_context(Emulator("vllm", "--host", host.address)))
        urls = ",".join(engine.url for engine in engines)
        router = stack.enter_context(
            Router(VLLM_GEMMA3_ENDPOINT=urls, RETRY__BUDGET_FLOOR_PER_S="1000", **settings)
        )
        wait_for(lambda: states(router) == ["up"] * count, "all up")
        yield router, list(zip(found, engines, strict=True))


def states(router: Router) -> list[str]:
    """How `/models` shows the replicas."""
    return [replica["state"] for replica in router.http.get(f"/models/{_MODEL}").json()["replicas"]]


def ask(router: Router, *, stream: bool = True) -> tuple[str, float]:
    """One call: what came of it, and the seconds it took."""
    begin = time.monotonic()
    answer = patient_call(router, VLLM.request(stream=stream))
    return outcome(VLLM, answer, stream=stream), time.monotonic() - begin


def patient_call(router: Router, data: bytes) -> Incoming:
    with Client(router.port) as client:
        client.sock.settimeout(60)
        client.send(data)
        return client.read()


def idle(router: Router) -> bool:
    """Whether the router holds nothing for anybody."""
    return router.http.get("/debug/state").json()["idle"] is True


def test_an_address_that_swallows_connections_is_left() -> None:
    """Calls wait for the time to connect, and go elsewhere; three errors eject it, which `/models` shows."""
    settings = {
        "TIMEOUT__CONNECT_S": "1",
        "UPSTREAM__IDLE_EXPIRY_S": "0.1",
        "EJECTION__BASE_S": "60",
        **_CHECKS_HARDLY,
    }
    with pool(2, **settings) as (router, engines):
        engines[0][0].vanish()
        with ThreadPoolExecutor(16) as threads:
            told = list(threads.map(lambda _: ask(router), range(16)))
        assert [one for one, _ in told] == ["ok"] * 16
        shown = router.http.get(f"/models/{_MODEL}").json()
        assert shown["replicas"][0]["state"] in ("ejected", "down"), "its checks time out, too"
        assert shown["replicas"][0]["reason"]
        assert (shown["available"], shown["replicas"][1]["state"]) == (True, "up")
        assert router.metric("pointsman_ejections_total") == 1
        told = [ask(router) for _ in range(10)]
        assert [one for one, _ in told] == ["ok"] * 10
        assert max(took_s for _, took_s in told) < 0.9, "none of them tried it"
        wait_for(lambda: idle(router), "nothing is left behind")


def test_the_only_engine_behind_a_black_hole_is_told_of_in_time() -> None:
    """Nobody waits longer than for the connections that are tried."""
    with pool(1, TIMEOUT__CONNECT_S="0.3", UPSTREAM__IDLE_EXPIRY_S="0.1", **_CHECKS_OFTEN) as (
        router,
        engines,
    ):
        engines[0][0].vanish()
        told = [ask(router) for _ in range(5)]
        assert {one for one, _ in told} <= {"502 engine_unreachable", "503 model_unavailable"}, told
        wait_for(lambda: states(router) == ["down"], "the checks see it too")
        assert ask(router)[0].startswith("503 ")
        engines[0][0].come_back()
        wait_for(lambda: ask(router)[0] == "ok", "it answers again")


@pytest.mark.parametrize("how", ["vanish", "unplug"])
def test_a_stream_whose_engine_falls_silent_ends_with_one_frame(how: str) -> None:
    """What came is with the client, then the frame; the engine comes back, with few calls at first."""
    with pool(2, TIMEOUT__BYTE_IDLE_S="1", **_CHECKS_OFTEN) as (router, engines):
        engines[1][1].arm("hang_after", 3)
        engines[0][1].arm("hang_after", 3)
        with Client(router.port) as client:
            client.send(VLLM.request(stream=True))
            begun = client.read(until=b"data:")
            host, engine = next(one for one in engines if one[1].sent())
            getattr(host, how)()
            while not begun.ended and (block := client.sock.recv(65536)):
                begun.feed(block)
        assert outcome(VLLM, begun, stream=True) == "frame idle_timeout"
        place = [one[0] for one in engines].index(host)
        engines[1 - place][1].disarm()
        wait_for(lambda: states(router)[place] in ("down", "ejected"), "the checks see it")
        assert [ask(router)[0] for _ in range(5)] == ["ok"] * 5
        host.come_back()
        engine.disarm()

        def back() -> bool:
            assert ask(router)[0] == "ok"
            return states(router)[place] == "up"

        wait_for(back, "it is back")
        reason = router.http.get(f"/models/{_MODEL}").json()["replicas"][place]["reason"]
        assert "it gets few calls" in reason
        wait_for(lambda: idle(router), "nothing is left behind")


def test_calls_that_an_engine_took_before_it_vanished_are_saved() -> None:
    """A host that is gone is told from one that works long: its kernel answers no probe for some 20 s.

    So a whole answer, for which there is no other limit than that for all of it, comes from another replica;
    a stream without an event too; and who was given an idle connection to it.
    """
    with pool(2, UPSTREAM__IDLE_EXPIRY_S="60", **_CHECKS_HARDLY) as (router, engines):
        (host, gone), (_, other) = engines

        def running() -> int:
            return int(gone.stats()["running"]) + int(other.stats()["running"])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: ask(router), range(8)))  # for connections that are idle afterwards
            gone.arm("slow_first_token", 600)
            other.arm("slow_first_token", 15)
            waiting: list[Future[tuple[str, float]]] = []
            for stream in (True, True, False, False):
                waiting.append(threads.submit(ask, router, stream=stream))
                wait_for(lambda: running() == len(waiting), "it waits")
            assert gone.stats()["running"] == 2, "one of each kind"
            host.vanish()
            other.disarm()
            waiting += [threads.submit(ask, router) for _ in range(4)]
            told = [one.result(60) for one in waiting]
        assert {one for one, _ in told} == {"ok"}, told
        wait_for(lambda: idle(router), "nothing is left behind")


def test_a_redis_whose_packets_vanish_costs_one_request_its_timeout() -> None:
    """Inference goes on; who finds out waits 50 ms, those after do not; it is used again when it is back."""
    if not os.environ.get("CI"):
        pytest.importorskip("redis", reason="the extra redis is not installed")
    with hosts(1) as (host,), short_folder() as folder, Emulator("vllm") as engine:
        with host.inside():
            redis = RedisServer(folder, "--bind", host.address, "--protected-mode", "no", port=6379)
            redis.start()
        settings = {"STORE__URL": f"redis://{host.address}:6379", "LIMITS__REQUESTS_PER_MINUTE": "100000"}
        try:
            with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **settings) as router:
                router.wait_until_up(_MODEL)
                before = sorted(ask(router)[1] for _ in range(20))[10]
                host.vanish()
                told = [ask(router) for _ in range(50)]
                assert [one for one, _ in told] == ["ok"] * 50
                assert told[0][1] < before + 2, "50 ms, on a machine that is not busy"
                assert sorted(took_s for _, took_s in told[1:])[24] < before + 0.04
                router.read_until("store: Redis did not answer within 50 ms")
                assert router.metric("pointsman_limits_local") == 1
                assert router.metric("pointsman_locally_limited_total") >= 50
                host.come_back()
                router.read_until("store: Redis answers again")
                assert [ask(router)[0] for _ in range(5)] == ["ok"] * 5
                assert router.metric("pointsman_limits_local") == 0
        finally:
            redis.kill()


class NameServer(Thread):
    """Port 53 of 127.0.0.1 in the test's namespace: `engine.test` is 127.0.0.1, other names get no answer."""

    def __init__(self) -> None:
        super().__init__(name="name server", daemon=True)
        self.silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))

    def __enter__(self) -> "NameServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # not connected: it wakes the thread all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._socket.close()

    def run(self) -> None:
        # RFC 1035, section 4: twelve bytes of head, the question, and an answer that points to its name.
        while (received := self._socket.recvfrom(512))[0]:
            asked, peer = received
            if self.silent or not asked[12:].startswith(b"\x06engine\x04test\x00"):
                continue
            question = asked[12:29]
            wants_ipv4 = question[13:15] == b"\x00\x01"
            found = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01" if wants_ipv4 else b""
            counts = bytes((0, 1, 0, wants_ipv4, 0, 0, 0, 0))
            self._socket.sendto(asked[:2] + b"\x85\x80" + counts + question + found, peer)


class NamedRouter(Router):
    """A router with an `/etc/resolv.conf` of its own."""

    def __init__(self, conf: Path, **settings: str) -> None:
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        words = ("--mount", "sh", "-c", mount, str(conf), sys.executable, "-m", "pointsman", "serve")
        program = tool("unshare")
        begin = f"import os; os.execv({program!r}, {(program, *words)!r})"
        env = {"HOST": "127.0.0.1", "PORT": "0", "GRACE_S": "0", **settings}
        Process.__init__(self, "-c", begin, env=env)


def test_a_name_server_that_falls_silent_holds_up_nobody() -> None:
    """The last good answer serves, for calls and checks alike, and names without one hold up no other."""
    with hosts(0), short_folder() as folder, NameServer() as names, Emulator("vllm") as engine:
        conf = folder / "resolv.conf"
        conf.write_text("nameserver 127.0.0.1\n", encoding="ascii")  # 5 s, twice: the system's defaults
        told = [f"http://{name}.test:{engine.port}" for name in ("engine", "a", "b", "c", "d", "e")]
        settings = {"VLLM_GEMMA3_ENDPOINT": ",".join(told), "UPSTREAM__IDLE_EXPIRY_S": "0.1", **_CHECKS_OFTEN}
        with NamedRouter(conf, **settings) as router:
            wait_for(lambda: states(router) == ["up", *["down"] * 5], "only the one that has an address")
            assert [ask(router)[0] for _ in range(3)] == ["ok"] * 3
            names.silent = True
            end = time.monotonic() + 5  # some ten checks
            slow = 0
            while time.monotonic() < end:
                outcome_, took_s = ask(router)
                assert outcome_ == "ok"
                slow += took_s > 0.9
                time.sleep(0.15)  # the connection is not kept that long
            assert slow <= 1, "the one that found out"
            assert states(router)[0] == "up"
            names.silent = False
            assert ask(router)[0] == "ok"
