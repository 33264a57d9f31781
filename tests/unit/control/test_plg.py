"""`/api/health`, `/api/metrics` and `/ping` of seed 004."""

import re
from collections.abc import Iterable

import pytest

from pointsman import attempt
from pointsman.app import Router, build
from pointsman.exchange import Exchange
from pointsman.gauges import Load
from pointsman.load import LoadReader
from pointsman.replica import Health, Replica, State
from pointsman.settings import load
from unit.control.conftest import ENGINES, Client, take_down

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines tell 3 and 1 each; the ids of those that were asked."""
    ids: list[str] = []

    async def read(self: LoadReader, replicas: Iterable[Replica]) -> Load:
        ids.extend(replica.id for replica in replicas)
        return Load(3 * len(ids), len(ids)) if ids else Load()

    monkeypatch.setattr(LoadReader, "read", read)
    return ids


async def test_health_has_the_seeds_fields(app: Router, client: Client, asked: list[str]) -> None:
    """True counts of the chat model's engines, and its sessions."""
    app.parts.sessions.note("a", 0.0)
    async with client(app) as http:
        body = (await http.get("/api/health")).json()
    assert list(body) == [
        "status",
        "vllm_healthy",
        "active_sessions",
        "uptime",
        "vllm_running_requests",
        "vllm_waiting_requests",
        "timestamp",
    ]
    assert (body["status"], body["vllm_healthy"]) == ("healthy", True)
    assert (body["vllm_running_requests"], body["vllm_waiting_requests"]) == (6, 2)
    assert body["uptime"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    assert asked == ["gemma-3-12b-0", "gemma-3-12b-1"]


async def test_health_is_200_when_the_chat_model_is_down(
    app: Router, client: Client, asked: list[str]
) -> None:
    """Its clients read the body. Who is down is not asked for a load, and none is told."""
    take_down(app, "gemma-3-12b")
    async with client(app) as http:
        answer = await http.get("/api/health")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["vllm_healthy"]) == ("unhealthy", False)
    assert (body["vllm_running_requests"], body["vllm_waiting_requests"]) == (None, None)
    assert asked == []


async def test_health_without_any_model(client: Client) -> None:
    """A router without engines is unhealthy, and says so."""
    async with client(build(load({}, None, None))) as http:
        assert (await http.get("/api/health")).json()["status"] == "unhealthy"


async def test_the_surfaces_own_model_is_told_of(client: Client, asked: list[str]) -> None:
    """`LLM_API_MODEL_NAME` names it."""
    app = build(load({**ENGINES, "LLM_API_MODEL_NAME": "distilgpt2"}, None, None))
    app.registry.models["distilgpt2"].pool[0].health = Health(State.UP)
    async with client(app) as http:
        assert (await http.get("/api/health")).json()["status"] == "healthy"
    assert asked == ["distilgpt2-0"]


async def test_metrics_have_the_readmes_shape(app: Router, client: Client) -> None:
    """Before any request all figures are there, and none is made up."""
    async with client(app) as http:
        body = (await http.get("/api/metrics")).json()
    usage = body.pop("resource_usage")
    assert body == {
        "active_sessions": 0,
        "total_requests_24h": 0,
        "average_response_time": 0.0,
        "error_rate": 0.0,
        "uptime": 0.0,
        "window_s": 3600,
    }
    assert re.fullmatch(r"\d+\.\dGB", usage["memory"])
    assert usage["gpu_memory"] is None
    assert usage["cpu_percent"] >= 0


async def test_metrics_are_of_real_exchanges(
    app: Router, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests, their mean time and the share that failed; the share of the time that somebody was up."""
    monkeypatch.setattr("pointsman.control.plg.monotonic", lambda: 1000.0)
    for took_s, status in ((1.0, 200), (2.0, 200), (3.0, 200), (9.0, 502)):
        exchange = Exchange("id", "/r", "POST", 900.0 - took_s, status=status, ended_at=900.0, end=attempt.OK)
        app.parts.recent.observe(exchange)
    app.parts.availability.note(True, 900.0)
    app.parts.availability.note(False, 975.0)
    async with client(app) as http:
        body = (await http.get("/api/metrics")).json()
    assert (body["total_requests_24h"], body["average_response_time"], body["error_rate"]) == (4, 2.0, 0.25)
    assert body["uptime"] == 75.0


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (b'DCGM_FI_DEV_FB_USED{gpu="0"} 8192\nDCGM_FI_DEV_FB_USED{gpu="1"} 4608\n', "12.5GB"),
        (b'nvidia_smi_memory_used_bytes{uuid="x"} 1.073741824e+09\n', "1.0GB"),
        (b"other 1\n", None),
        (None, None),
    ],
)
async def test_gpu_memory_is_read_where_an_exporter_is_named(
    client: Client, monkeypatch: pytest.MonkeyPatch, page: bytes | None, told: str | None
) -> None:
    """All GPUs together; null where the exporter is silent."""
    urls = []

    async def give(self: LoadReader, url: str) -> bytes | None:
        urls.append(url)
        return page

    monkeypatch.setattr(LoadReader, "page", give)
    app = build(load({"GPU_METRICS_URL": "http://dcgm:9400/metrics"}, None, None))
    async with client(app) as http:
        assert (await http.get("/api/metrics")).json()["resource_usage"]["gpu_memory"] == told
    assert urls == ["http://dcgm:9400/metrics"]


async def test_ping(app: Router, client: Client) -> None:
    """As the seed has it."""
    async with client(app) as http:
        assert (await http.get("/ping")).json() == {"ping": "pong"}


async def test_a_strange_address_is_told_nothing(app: Router, client: Client) -> None:
    """How busy a service is is no stranger's business."""
    async with client(app, "203.0.113.9") as http:
        for path in ("/api/health", "/api/metrics", "/ping"):
            assert (await http.get(path)).status_code == 403
