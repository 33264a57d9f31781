"""Engines that come, go and are set up wrong: the router says so and heals by itself."""

from typing import Any

from ports import free_port
from processes import Emulator, Router, wait_for
from wire import TGI, VLLM, Client, call, check_silent, check_stream, outcome, post, request

_QUICK = {"HEALTH__INTERVAL_S": "0.2", "HEALTH__INTERVAL_CHANGING_S": "0.05", "HEALTH__TIMEOUT_S": "1"}


def emulator_at(engine: str, port: int, *flags: str) -> Emulator:
    """An engine on a port that the router already knows."""
    return Emulator(engine, "--port", str(port), *flags)


def health(router: Router, model: str) -> dict[str, Any]:
    found: dict[str, Any] = router.http.get(f"/models/{model}/health").json()
    return found


def wait_until(router: Router, model: str, state: str) -> None:
    wait_for(lambda: health(router, model)["state"] == state, f"{model} is {state}")


def test_all_engines_down_then_up_by_themselves() -> None:
    """The start succeeds without any engine; calls get 503 with Retry-After until one appears."""
    tgi_port, vllm_port = free_port(), free_port()
    urls = {
        "TGI_DISTILGPT2_ENDPOINT": f"http://127.0.0.1:{tgi_port}",
        "VLLM_GEMMA3_ENDPOINT": f"http://127.0.0.1:{vllm_port}",
    }
    with Router(**urls, **_QUICK) as router:
        for model in ("distilgpt2", "gemma-3-12b"):
            wait_until(router, model, "loading")
            assert "connection refused" in health(router, model)["reason"]
        said = router.http.get("/health")
        assert (said.status_code, said.json()["status"], said.json()["model_loaded"]) == (
            200,
            "unhealthy",
            False,
        )
        ready = router.http.get("/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "no_replica")
        assert int(ready.headers["retry-after"]) >= 1
        assert [model["available"] for model in router.http.get("/models").json()] == [False, False]
        for front in (TGI, VLLM):
            for stream in (True, False):
                answer = call(router.port, front.request(stream=stream))
                assert outcome(front, answer, stream=stream) == "503 no_replica"
                check_silent(answer, str(tgi_port), str(vllm_port))
        with emulator_at("vllm", vllm_port):
            wait_for(lambda: router.http.get("/ready").status_code == 200, "ready", 10)
            assert outcome(VLLM, call(router.port, VLLM.request(stream=True)), stream=True) == "ok"
            assert router.http.get("/health").json()["status"] == "healthy"
            assert call(router.port, TGI.request(stream=False)).status == 503
            with emulator_at("tgi", tgi_port):
                router.wait_until_up("distilgpt2")
                assert outcome(TGI, call(router.port, TGI.request(stream=False)), stream=False) == "ok"


def test_an_engine_that_dies_is_left_and_found_again() -> None:
    """Its stream ends in an error frame, new calls get 503, and it serves again after a restart."""
    port = free_port()
    with Router(VLLM_GEMMA3_ENDPOINT=f"http://127.0.0.1:{port}", **_QUICK) as router:
        with emulator_at("vllm", port) as engine:
            router.wait_until_up("gemma-3-12b")
            engine.arm("hang_after", 3)
            with Client(router.port) as client:
                client.send(VLLM.request(tokens=9, stream=True))
                begun = client.read(until=b"data:")
                engine.stop()
                while not begun.ended:
                    data = client.sock.recv(65536)
                    assert data
                    begun.feed(data)
            assert check_stream(VLLM, begun) == "engine_cut"
        answer = call(router.port, VLLM.request(stream=True))
        assert outcome(VLLM, answer, stream=True) in ("502 engine_unreachable", "503 no_replica")
        wait_for(lambda: health(router, "gemma-3-12b")["state"] == "down", "seen down")
        assert outcome(VLLM, call(router.port, VLLM.request(stream=True)), stream=True) == "503 no_replica"
        assert health(router, "gemma-3-12b")["reason"] == "connection refused"
        with emulator_at("vllm", port):
            router.wait_until_up("gemma-3-12b")
            assert outcome(VLLM, call(router.port, VLLM.request(stream=True)), stream=True) == "ok"


def test_one_of_two_dies_and_no_client_notices() -> None:
    """While one replica is up, every call that had not begun is answered."""
    with Emulator("vllm") as one, Emulator("vllm") as two:
        urls = f"{one.url},{two.url}"
        with Router(VLLM_GEMMA3_ENDPOINT=urls, RETRY__BUDGET_FLOOR_PER_S="1000", **_QUICK) as router:
            replicas = [f"gemma-3-12b-{number}" for number in (0, 1)]
            wait_for(
                lambda: [r["state"] for r in health(router, "gemma-3-12b")["replicas"]] == ["up"] * 2,
                "both up",
            )
            for number in range(40):
                if number == 10:
                    one.stop()
                answer = call(router.port, VLLM.request(stream=number % 2 == 0))
                assert outcome(VLLM, answer, stream=number % 2 == 0) == "ok", number
                assert answer.header("x-pointsman-replica") in replicas
            assert answer.header("x-pointsman-replica") == replicas[1]
            wait_for(lambda: health(router, "gemma-3-12b")["replicas"][0]["state"] == "down", "seen down")
            assert health(router, "gemma-3-12b")["healthy"] is True


def test_a_wrong_key_is_told_as_misconfigured() -> None:
    """The state and the reason say what to do, without the key; clients get 503."""
    with Emulator("vllm", "--api-key", "right-key") as engine:
        for given, reason in (({"VLLM_GEMMA3_KEY": "wrong-key"}, "refuses the key"), ({}, "wants a key")):
            with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **given, **_QUICK) as router:
                wait_for(lambda: health(router, "gemma-3-12b")["state"] == "misconfigured", "misconfigured")
                said = health(router, "gemma-3-12b")
                assert reason in said["reason"]
                assert said["replicas"][0]["state"] == "misconfigured"
                assert "wrong-key" not in str(said) + router.output()
                answer = call(router.port, VLLM.request(stream=False))
                assert outcome(VLLM, answer, stream=False) == "503 no_replica"
        with Router(VLLM_GEMMA3_ENDPOINT=engine.url, VLLM_GEMMA3_KEY="right-key", **_QUICK) as router:
            router.wait_until_up("gemma-3-12b")
            assert outcome(VLLM, call(router.port, VLLM.request(stream=True)), stream=True) == "ok"
            assert "right-key" not in router.output()


def test_an_engine_of_another_kind_is_told_as_misconfigured(tgi: Emulator) -> None:
    """A TGI set up as vLLM is recognised."""
    with Router(VLLM_GEMMA3_ENDPOINT=tgi.url, **_QUICK) as router:
        wait_for(lambda: health(router, "gemma-3-12b")["state"] == "misconfigured", "misconfigured")
        assert "the engine is tgi" in health(router, "gemma-3-12b")["reason"]


def test_engine_addresses_are_for_operators(tgi: Emulator) -> None:
    """`upstream` is shown to OPS_NETWORKS alone; others see the router's own URL of a model."""
    settings = {"OPS_NETWORKS": "10.1.2.3", "TGI_DISTILGPT2_ENDPOINT": tgi.url, **_QUICK}
    with Router(**settings) as router:
        router.wait_until_up("distilgpt2")
        for path in ("/models", "/models/distilgpt2", "/models/distilgpt2/health", "/v1/models", "/health"):
            stranger = call(router.port, request("GET", path))
            assert f":{tgi.port}".encode() not in stranger.body, path
        operator = call(router.port, request("GET", "/models/distilgpt2", b"", "x-forwarded-for: 10.1.2.3"))
        assert operator.json()["replicas"][0]["upstream"] == tgi.url
        assert operator.json()["endpoint"] == "http://router/models/distilgpt2"


def test_without_any_engine_the_router_starts_and_says_so() -> None:
    """Nothing is configured: alive, not ready, and each call gets a sentence."""
    with Router() as router:
        assert router.http.get("/live").status_code == 200
        assert router.http.get("/ready").status_code == 503
        assert router.http.get("/models").json() == []
        answer = call(router.port, post("/v1/chat/completions", {"messages": []}))
        assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "no engines are configured" in router.read_until("no engines are configured")
