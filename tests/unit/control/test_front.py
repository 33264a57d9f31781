"""What every answer of the control plane carries, and who gets none."""

import re

import pytest

from pointsman.app import Router, build
from pointsman.settings import load
from unit.control.conftest import ENGINES, Client

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/models", "/nope", "/health", "/v1/models/nope"])
async def test_every_answer_has_an_id_and_a_time(app: Router, client: Client, path: str) -> None:
    """Errors too; a fit id of the client is kept, an unfit one replaced."""
    async with client(app) as http:
        kept = await http.get(path, headers={"x-request-id": "mine.1"})
        replaced = await http.get(path, headers={"x-request-id": "not fit\t"})
    assert kept.headers["x-request-id"] == "mine.1"
    assert replaced.headers["x-request-id"] != "not fit"
    assert float(kept.headers["x-process-time"]) >= 0


async def test_a_trials_rule_opens_the_comparison(client: Client) -> None:
    """`if_any=never`, as `scripts/run` has it beside its key, is for all that ask if there is any."""
    trial = {**ENGINES, "SECURITY__API_KEY": "a-key-of-my-own-for-tests"}
    for rules, status in (({}, 401), ({"KEY_NEEDS": "if_any=never"}, 400)):
        async with client(build(load({**trial, **rules}, None, None))) as http:
            assert (await http.post("/models/compare", json={"models": []})).status_code == status
    closed = {**trial, "KEY_NEEDS": "if_any=never, POST /models/compare=always"}
    async with client(build(load(closed, None, None))) as http:
        assert (await http.post("/models/compare", json={"models": []})).status_code == 401


async def test_wrong_method_names_the_right_one(app: Router, client: Client) -> None:
    """405 with Allow, in the shape of the path, for routes of either plane."""
    async with client(app) as http:
        ours = await http.delete("/models")
        generate = await http.get("/v1/chat/completions")
    assert (ours.status_code, ours.headers["allow"]) == (405, "GET")
    assert (generate.status_code, generate.headers["allow"]) == (405, "POST")
    assert generate.json()["error"]["code"] == "method_not_allowed"
    assert ours.json()["code"] == "method_not_allowed"


async def test_a_stranger_gets_403_without_a_network(app: Router, client: Client) -> None:
    """The body says that the address may not, and nothing of who may."""
    async with client(app, "198.51.100.1") as http:
        for path in ("/models", "/docs", "/redoc", "/openapi.json", "/metrics", "/nope", "/v1/models"):
            answer = await http.get(path)
            assert answer.status_code == 403
            assert "address_forbidden" in answer.text
            assert "10.0.0.0" not in answer.text


async def test_a_bug_is_our_json_500(app: Router, client: Client) -> None:
    """Whatever breaks, the client gets JSON with the request id and no traceback."""

    @app.edition.api.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret detail")

    async with client(app) as http:
        answer = await http.get("/broken", headers={"x-request-id": "bug-1"})
    assert answer.status_code == 500
    assert (answer.json()["code"], answer.json()["request_id"]) == ("internal_error", "bug-1")
    assert "secret" not in answer.text


async def test_cors_is_closed_by_default_and_open_to_the_listed(app: Router, client: Client) -> None:
    """Only a listed origin gets CORS headers, on errors too, and its preflight is answered first."""
    origin = {"origin": "https://ui.example"}
    asks = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    listed = build(load({**ENGINES, "ALLOWED_ORIGINS": "https://ui.example"}, None, None))
    async with client(app) as http:
        assert "access-control-allow-origin" not in (await http.get("/models", headers=origin)).headers
        assert (await http.options("/generate", headers=asks)).status_code == 403
    async with client(listed) as http:
        for path in ("/models", "/nope"):
            answer = await http.get(path, headers=origin)
            assert answer.headers["access-control-allow-origin"] == "https://ui.example"
        preflight = await http.options("/generate", headers=asks)
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]


@pytest.mark.parametrize("path", ["/models", "/nope", "/docs", "/redoc", "/v1/chat/completions"])
async def test_every_answer_is_safe_to_show(app: Router, client: Client, path: str) -> None:
    """Browsers are told not to guess, frame or tell on; pages alone may load things; errors are not kept."""
    async with client(app) as http:
        answers = [await http.get(path), await http.post(path, json={}), await http.options(path)]
    for answer in answers:
        told = answer.headers
        assert told["x-content-type-options"] == "nosniff"
        assert told["referrer-policy"] == "no-referrer"
        assert told["x-frame-options"] == "DENY"
        assert told["content-security-policy"].startswith("default-src 'none'")
        assert ("script-src" in told["content-security-policy"]) == ("text/html" in told["content-type"])
        assert (told.get("cache-control") == "no-store") == (answer.status_code >= 400)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_pages_load_only_what_their_policy_allows(app: Router, client: Client, path: str) -> None:
    """Each script, style and picture of the documentation comes from a host that the policy names."""
    async with client(app) as http:
        answer = await http.get(path)
    hosts = set(re.findall(r'(?:src|href)="(https://[^/"]+)', answer.text))
    assert hosts
    assert all(host in answer.headers["content-security-policy"] for host in hosts)
