"""A router whose Redis is not there: that it is told, and when it is back, without any limited request."""

import os
import signal
from collections.abc import Iterator

import pytest

from nginx import short_folder
from processes import Emulator, Router, wait_for
from redis_server import RedisServer
from wire import call, request

if not os.environ.get("CI"):
    pytest.importorskip("redis", reason="the extra redis is not installed")

GAUGE = "pointsman_limits_local"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that is not started yet."""
    with short_folder() as folder:
        server = RedisServer(folder)
        try:
            yield server
        finally:
            server.kill()


def test_a_store_that_is_away_from_the_start_is_told_at_once(server: RedisServer) -> None:
    """The start neither waits nor fails; log, events and gauge tell that it is away, and that it is back."""
    server.start()
    server.kill()
    with Router(STORE__URL=server.url) as router:
        router.read_until("store: Redis cannot be reached")
        assert call(router.port, request("GET", "/live")).status == 200
        assert router.metric(GAUGE) == 1
        assert router.metric("pointsman_locally_limited_total") == 0
        told = [event["what"] for event in router.http.get("/admin/events").json()["events"]]
        assert "the store does not answer: Redis cannot be reached" in told
        server.start()
        router.read_until("store: Redis answers again")
        wait_for(lambda: router.metric(GAUGE) == 0, "the gauge follows")
        assert router.output().count("store: Redis cannot be reached") == 1
        router.send_signal(signal.SIGTERM)
        assert router.wait() == 0


def test_a_silent_store_holds_up_no_start_and_no_end(server: RedisServer) -> None:
    """One that takes connections and says nothing is away too; a router that leaves does not wait for it."""
    server.start()
    server.stall()
    try:
        with Router(STORE__URL=server.url) as router:
            router.read_until("store: Redis did not answer within 50 ms")
            assert router.metric(GAUGE) == 1
            router.send_signal(signal.SIGTERM)
            assert router.wait() == 0
    finally:
        server.resume()


def test_the_gauge_follows_a_store_that_goes_and_comes(server: RedisServer) -> None:
    """After a request found it gone, no other is needed to tell that it is back."""
    server.start()
    settings = {"STORE__URL": server.url, "LIMITS__REQUESTS_PER_MINUTE": "1000"}
    with Emulator("tgi") as tgi, Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, **settings) as router:
        router.wait_until_up("distilgpt2")
        assert router.metric(GAUGE) == 0
        server.kill()
        answer = router.http.post("/generate", json={"prompt": "Hi", "max_length": 2})
        assert answer.status_code == 200
        assert router.metric(GAUGE) == 1
        assert router.metric("pointsman_locally_limited_total") == 1
        server.start()
        router.read_until("store: Redis answers again")
        wait_for(lambda: router.metric(GAUGE) == 0, "the gauge follows")
        assert router.metric("pointsman_locally_limited_total") == 1
