"""How a router ends: what runs is finished or told, what comes in time is served, nothing is just cut."""

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import crowd
from processes import Emulator, Router, activated, wait_for
from wire import FRONTS, TGI, VLLM, Client, Front, Incoming, call, data_of, outcome, post, request

LIMIT_S = 90.0  # for anything that takes seconds on an idle machine


@pytest.fixture
def engines() -> Iterator[tuple[Emulator, Emulator]]:
    """A TGI and a vLLM of the test's own, at a pace that people read at."""
    with Emulator("tgi", "--tokens-per-s", "20") as tgi, Emulator("vllm", "--tokens-per-s", "20") as vllm:
        yield tgi, vllm


@contextlib.contextmanager
def ending(engines: tuple[Emulator, Emulator], **settings: str) -> Iterator[Router]:
    """A router before both, which the test is to end."""
    tgi, vllm = engines
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as router:
        router.wait_until_up("distilgpt2", "gemma-3-12b")
        yield router


def begun(router: Router, front: Front, tokens: int, own_id: str = "held") -> Client:
    """A client whose stream has begun."""
    client = Client(router.port)
    more: dict[str, Any] = {"ignore_eos": True} if front is VLLM else {}
    client.send(front.request("Hello", tokens, f"x-request-id: {own_id}", stream=True, **more))
    client.first = client.read(until=b"data:")  # type: ignore[attr-defined] # kept beside its connection
    return client


def rest_of(client: Client) -> Incoming:
    """The whole answer of a stream that has begun."""
    incoming: Incoming = client.first  # type: ignore[attr-defined] # see `begun`
    client.sock.settimeout(LIMIT_S)
    while not incoming.ended and (data := client.sock.recv(65536)):
        incoming.feed(data)
    return incoming


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def test_two_hundred_streams_live_through_sigterm() -> None:
    """Each is finished, and the exit code is 0."""
    with (
        Emulator("vllm", "--tokens-per-s", "10") as one,
        Emulator("vllm", "--tokens-per-s", "10") as other,
        Router(VLLM_GEMMA3_ENDPOINT=f"{one.url},{other.url}") as router,
    ):
        router.wait_until_up("gemma-3-12b")
        wait_for(lambda: router.metric("pointsman_replica_up") == 2, "both engines are up")
        ends = crowd.through(router.port, lambda: router.send_signal(signal.SIGTERM))
        assert ends == ["ok"] * crowd.STREAMS
        assert router.wait() == 0
        assert f"answers under way: {crowd.STREAMS}" in router.output()
        assert "every answer is finished" in router.output()
        assert '"level":"ERROR"' not in router.output()


def test_the_steps_of_an_end(engines: tuple[Emulator, Emulator]) -> None:
    """Not ready at once; new requests are served for the grace time, each the last of its connection."""
    with ending(engines, GRACE_S="4") as router, Client(router.port) as kept, Client(router.port) as idle:
        for client in (kept, idle):
            client.send(request("GET", "/live"))
            assert client.read().header("connection") is None
        held = begun(router, VLLM, 200)
        router.send_signal(signal.SIGTERM)
        wait_for(lambda: call(router.port, request("GET", "/ready")).status == 503, "not ready", 2)
        refused = call(router.port, request("GET", "/ready"))
        assert refused.json()["code"] == "shutting_down"
        assert int(refused.header("retry-after") or "") >= 1
        kept.send(VLLM.request(stream=False))
        for answer in (kept.read(), call(router.port, VLLM.request(stream=False))):
            assert outcome(VLLM, answer, stream=False) == "ok"
            assert answer.header("connection") == "close"
        assert kept.at_end()
        assert call(router.port, request("GET", "/live")).status == 200, "alive all the time"
        wait_for(lambda: not listening(router.port), "no new connections")
        assert idle.at_end()
        assert outcome(VLLM, rest_of(held), stream=True) == "ok"
        assert router.wait() == 0
        told = router.output()
        steps = (
            "told to end: not ready any more",
            "no longer accepting; answers under way: 1",
            "every answer",
        )
        places = [told.index(step) for step in steps]
        assert places == sorted(places)
        held.sock.close()


def test_who_has_just_connected_is_served(engines: tuple[Emulator, Emulator]) -> None:
    """A connection without a request yet has time for one, and half a request has its other half."""
    with ending(engines) as router:
        held = begun(router, VLLM, 100)
        with Client(router.port) as fresh, Client(router.port) as half:
            whole = VLLM.request(stream=False)
            half.send(whole[:60])
            wait_for(lambda: router.metric("pointsman_in_flight") == 1, "the router has seen them")
            router.send_signal(signal.SIGTERM)
            router.read_until("no longer accepting")
            fresh.send(whole)
            half.send(whole[60:])
            for client in (fresh, half):
                answer = client.read()
                assert outcome(VLLM, answer, stream=False) == "ok"
                assert answer.header("connection") == "close"
        assert outcome(VLLM, rest_of(held), stream=True) == "ok"
        assert router.wait() == 0
        held.sock.close()


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT])
def test_what_is_not_finished_in_time_is_told(
    engines: tuple[Emulator, Emulator], number: signal.Signals | None
) -> None:
    """When the drain is over, or at a second signal: an error frame, or a 503, in the shape of its API."""
    seconds = {"DRAIN_S": "1"} if number is None else {"GRACE_S": "60"}
    with ending(engines, TIMEOUT__OPEN_AFTER_S="0.1", **seconds) as router:
        streams = {front: begun(router, front, 500, f"cut-{front}") for front in FRONTS}
        for engine in engines:
            engine.arm("hang_before_headers", times=10)
        opened, waiting = Client(router.port), Client(router.port)
        opened.send(VLLM.request("Hello", 5, "x-request-id: cut-opened", stream=True))
        opened.first = opened.read(until=b": waiting")  # type: ignore[attr-defined] # see `begun`
        waiting.send(TGI.request("Hello", 5, "x-request-id: cut-waiting", stream=False))
        half = Client(router.port)
        half.send(VLLM.request("Hello", 5, "x-request-id: cut-half", stream=False)[:-10])
        wait_for(lambda: router.metric("pointsman_in_flight") == 5, "all are under way")
        router.send_signal(signal.SIGTERM)
        if number is not None:
            wait_for(lambda: call(router.port, request("GET", "/ready")).status == 503, "the end has begun")
            router.send_signal(number)
        for front, client in streams.items():
            assert outcome(front, rest_of(client), stream=True) == "frame shutting_down"
        assert outcome(VLLM, rest_of(opened), stream=True) == "frame shutting_down"
        for front, client in ((TGI, waiting), (VLLM, half)):
            answer = client.read()
            assert outcome(front, answer, stream=False) == "503 shutting_down"
            assert answer.header("connection") == "close"
        assert router.wait() == 0
        for name in (*(f"cut-{front}" for front in FRONTS), "cut-opened", "cut-waiting", "cut-half"):
            line = router.access_line(name)
            assert (line["end"], line["error_code"]) == ("shutdown", "shutting_down"), name
        assert '"level":"ERROR"' not in router.output()
        for client in (*streams.values(), opened, waiting, half):
            client.sock.close()


def test_who_waits_for_a_slot_is_served(engines: tuple[Emulator, Emulator]) -> None:
    """A call that was taken in is not sent away because the router ends: its turn comes within the drain."""
    with ending(engines, ADMISSION__SLOTS="1") as router:
        held = begun(router, VLLM, 40)
        with Client(router.port) as queued:
            queued.send(VLLM.request("Hello", 3, "x-request-id: queued", stream=True))
            wait_for(lambda: "queued" in held_ids(router, "queued"), "it waits for its turn")
            router.send_signal(signal.SIGTERM)
            assert outcome(VLLM, rest_of(held), stream=True) == "ok"
            queued.sock.settimeout(LIMIT_S)
            assert outcome(VLLM, queued.read(), stream=True) == "ok"
        assert router.wait() == 0
        held.sock.close()


def held_ids(router: Router, state: str) -> set[str]:
    """Which requests are in that state."""
    (worker,) = router.http.get("/debug/state").json()["workers"]
    return {one["id"] for one in worker["exchanges"] if one["state"] == state}


CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
# path, body: the last frames of a stream that the router's end cuts, in the words of each API
OTHERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/api/chat/stream": (CHAT, ["error", "[DONE]"]),
    "/generate": ({"prompt": "Hi", "max_length": 900, "stream": True}, ["error"]),
    "/chat/completions": ({**CHAT, "max_tokens": 900, "stream": True}, ["error"]),
}


def test_each_api_has_its_own_last_frame(engines: tuple[Emulator, Emulator]) -> None:
    """One error frame as its clients know it; `[DONE]` only where that is always last."""
    with ending(engines, DRAIN_S="0.5") as router:
        clients = {}
        for path, (body, _) in OTHERS.items():
            clients[path] = client = Client(router.port)
            client.send(post(path, body))
            client.first = client.read(until=b"data:")  # type: ignore[attr-defined] # see `begun`
        router.send_signal(signal.SIGTERM)
        for path, client in clients.items():
            told = data_of(rest_of(client).body)
            kinds = [
                frame if frame == "[DONE]" else "error" if json.loads(frame).get("error") else "word"
                for frame in told
            ]
            assert [kind for kind in kinds if kind != "word"] == OTHERS[path][1], path
            assert kinds[0] == "word"
            client.sock.close()
        assert router.wait() == 0


def test_the_control_plane_is_told_too(engines: tuple[Emulator, Emulator]) -> None:
    """A comparison tells of its parts, and what waits for an engine by itself is refused."""
    with ending(engines, DRAIN_S="0.5") as router:
        for engine in engines:
            engine.arm("hang_before_headers", times=10)
        compared, warmed = Client(router.port), Client(router.port)
        both = ["gemma-3-12b", "distilgpt2"]
        compared.send(post("/models/compare", {"models": both, "prompt": "Hi", "max_tokens": 3}))
        warmed.send(post("/models/gemma-3-12b/warm", {}))
        wait_for(lambda: router.metric("pointsman_in_flight") == 3, "all are under way")
        router.send_signal(signal.SIGTERM)
        results = compared.read().json()["results"]
        assert [part["error"]["code"] for part in results] == ["shutting_down"] * 2
        assert (refused := warmed.read()).status == 503
        assert refused.json()["code"] == "shutting_down"
        assert router.wait() == 0
        assert '"level":"ERROR"' not in router.output()
        for client in (compared, warmed):
            client.sock.close()


def test_a_client_that_does_not_read_holds_nobody_up() -> None:
    """It is not told, for it cannot be; its connection is closed, and the router ends."""
    with (
        Emulator("vllm", "--tokens-per-s", "0") as engine,
        Router(VLLM_GEMMA3_ENDPOINT=engine.url, DRAIN_S="0.5") as router,
    ):
        router.wait_until_up("gemma-3-12b")
        sizes: list[int] = []

        def stands_still() -> bool:
            held = router.http.get("/debug/state").json()["workers"][0]["exchanges"]
            sizes.append(held[0]["answer_bytes"] if held else 0)
            return sizes[-1] > 0 and sizes[-20:] == sizes[-1:] * 20

        with Client(router.port, receive_buffer=4096) as client:
            client.send(VLLM.request("Hello", 31_000, stream=True, ignore_eos=True))
            wait_for(stands_still, "nothing more can be sent")
            router.send_signal(signal.SIGTERM)
            assert router.wait() == 0
        assert "whose clients do not read" in router.output()


def test_engines_are_checked_until_the_end(engines: tuple[Emulator, Emulator]) -> None:
    """One that dies during the drain is found out."""
    tgi, _ = engines
    with ending(engines) as router:
        held = begun(router, VLLM, 400)
        router.send_signal(signal.SIGTERM)
        router.read_until("no longer accepting")
        tgi.stop()
        router.read_until("replica distilgpt2-0: up -> down")
        router.send_signal(signal.SIGINT)
        assert outcome(VLLM, rest_of(held), stream=True) == "frame shutting_down"
        assert router.wait() == 0
        held.sock.close()


def test_a_start_needs_neither_engines_nor_redis() -> None:
    """It lives, is not ready, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = {"VLLM_GEMMA3_ENDPOINT": f"http://127.0.0.1:{port}", "STORE__URL": f"redis://127.0.0.1:{port}"}
    with Router(**settings) as router:
        assert call(router.port, request("GET", "/live")).status == 200
        answer = call(router.port, request("GET", "/ready"))
        assert (answer.status, answer.json()["code"]) == (503, "no_replica")
        router.send_signal(signal.SIGTERM)
        assert router.wait() == 0


def test_with_systemds_socket_a_restart_refuses_nobody(engines: tuple[Emulator, Emulator]) -> None:
    """No grace is needed: who comes between two processes waits for the next one."""
    settings = {"VLLM_GEMMA3_ENDPOINT": engines[1].url, "GRACE_S": "60"}
    answers: list[str] = []
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        port = listener.getsockname()[1]

        def ask() -> None:
            while not stop.is_set():
                with Client(port) as client:
                    client.sock.settimeout(LIMIT_S)
                    client.send(request("GET", "/live"))
                    answers.append(str(client.read().status))

        asking = threading.Thread(target=ask)
        first = activated(listener, "pointsman", "serve", **settings)
        try:
            assert first.port == port
            asking.start()
            wait_for(lambda: len(answers) > 20, "some answers")
            first.send_signal(signal.SIGTERM)
            assert first.wait() == 0
            between = len(answers)
            with activated(listener, "pointsman", "serve", **settings):
                wait_for(lambda: len(answers) > between + 20, "answers of the next one")
                stop.set()
                asking.join(LIMIT_S)
        finally:
            stop.set()
            first.stop()
    assert set(answers) == {"200"}


def test_a_bad_socket_of_systemds_is_told() -> None:
    """One sentence, and not a router that listens nowhere."""
    with socket.socket() as deaf, pytest.raises(AssertionError, match="does not listen") as failed:
        activated(deaf, "pointsman", "serve")
    assert "Traceback" not in str(failed.value)
