"""`/health`, `/live`, `/ready`, `/`, `/model-info`, `/metrics`."""

import re

import pytest

from pointsman.app import Router
from unit.control.conftest import Client, take_down

pytestmark = pytest.mark.anyio


async def test_health_has_the_fields_of_both_seeds(app: Router, client: Client) -> None:
    """Seed 000's and 002's fields, and `timestamp` of 000's README."""
    async with client(app) as http:
        body = (await http.get("/health")).json()
    assert {"status", "model_loaded", "model_name", "service", "timestamp", "security"} <= set(body)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    assert body["security"]["access_control_enabled"] is True
    assert body["security"]["client_ip"] == "127.0.0.1"
    assert "10.0.0.0/8" in body["security"]["allowed_networks"]


async def test_health_is_open_and_minimal_to_strangers(app: Router, client: Client) -> None:
    """A caller whom the IP rules keep out gets 200 without models, addresses or networks."""
    async with client(app, "203.0.113.9") as http:
        answer = await http.get("/health")
        other = await http.get("/models")
    assert answer.status_code == 200
    told = answer.json()
    assert set(told) == {"status", "model_loaded", "model_name", "service", "timestamp", "security"}
    assert told["security"] == {"access_control_enabled": True}
    assert other.status_code == 403


async def test_health_is_200_when_nothing_is_well(app: Router, client: Client) -> None:
    """Orchestrators read the body; the process itself is fine."""
    take_down(app, "distilgpt2")
    take_down(app, "gemma-3-12b")
    async with client(app) as http:
        answer = await http.get("/health")
        ready = await http.get("/ready")
        live = await http.get("/live")
    assert (answer.status_code, answer.json()["status"]) == (200, "unhealthy")
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
    assert live.json() == {"status": "alive"}


async def test_ready_with_one_model_up(app: Router, client: Client) -> None:
    """One usable replica is enough."""
    take_down(app, "distilgpt2")
    async with client(app) as http:
        assert (await http.get("/ready")).status_code == 200


async def test_root(app: Router, client: Client) -> None:
    """Seed 003's client joins `models` as strings."""
    async with client(app) as http:
        root = (await http.get("/")).json()
    assert root["models"] == ["distilgpt2", "gemma-3-12b"]


async def test_metrics_are_prometheus_text(app: Router, client: Client) -> None:
    """Every replica shows its state, before any request too."""
    async with client(app) as http:
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'pointsman_replica_up{model="distilgpt2",replica="distilgpt2-0",state="up"} 1' in answer.text
