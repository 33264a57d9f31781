"""`/status` in seed 002's shape, and `/cache` for operators."""

from types import MappingProxyType

import pytest

from pointsman.app import Router, build
from pointsman.cache import request_key
from pointsman.keys import Key, KeyTable, Scope, digest_of
from pointsman.settings import load
from pointsman.store.base import Shelf, Size, Unavailable
from pointsman.store.memory import MemoryStore
from unit.control.conftest import ENGINES, Client

pytestmark = pytest.mark.anyio
SECRET = "pm-0123456789abcdef"
STRANGER = "10.0.0.9"  # let in, but no operator
ON = MappingProxyType({**ENGINES, "CACHE__ENABLED": "true", "CACHE__SIZE": "7"})


async def keep_one(app: Router) -> None:
    """Have an answer kept and found, and another one not found."""
    key = request_key("t", "m", {"prompt": "Hi"})
    assert await app.cache.put("t", key, b"{}", "stop")
    assert await app.cache.get("t", key) == b"{}"
    assert await app.cache.get("u", key) is None


async def test_status_without_a_cache(app: Router, client: Client) -> None:
    """Its fields are there, open to all whom the IP rules let in; the model is the one made for chat."""
    async with client(app, STRANGER) as http:
        status = (await http.get("/status")).json()
        assert (await http.get("/status", headers={"X-API-Key": "no-key-of-ours"})).status_code == 200
    assert status["service_name"] == "Pointsman"
    assert (status["model_name"], status["model_device"]) == ("gemma-3-12b", "remote")
    assert status["rate_limit_enabled"] is True
    assert status["cache_stats"] == {
        "enabled": False,
        "size": 0,
        "max_size": 0,
        "hits": 0,
        "misses": 0,
        "hit_rate_percent": 0.0,
    }


async def test_status_tells_how_the_cache_does(client: Client) -> None:
    """Size and bound, hits and misses, and their share."""
    app = build(load(ON, None, None))
    await keep_one(app)
    async with client(app) as http:
        stats = (await http.get("/status")).json()["cache_stats"]
    assert (stats["enabled"], stats["size"], stats["max_size"]) == (True, 1, 7)
    assert (stats["hits"], stats["misses"], stats["hit_rate_percent"]) == (1, 1, 50.0)


async def test_examples_are_what_is_told(client: Client) -> None:
    """The fields that `/docs` shows are those of the answers."""
    app = build(load(ON, None, None))
    await keep_one(app)
    async with client(app) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
        for method, path in (("get", "/status"), ("get", "/cache"), ("delete", "/cache")):
            told = (await http.request(method, path)).json()
            shown = paths[path][method]["responses"]["200"]["content"]["application/json"]["example"]
            assert set(shown) == set(told)


async def test_the_cache_is_for_operators(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Strangers may neither look at it nor empty it; emptied, it tells how many answers there were."""
    caplog.set_level("INFO", "pointsman.audit")
    app = build(load(ON, None, None))
    await keep_one(app)
    async with client(app, STRANGER) as http:
        for method in ("GET", "DELETE"):
            refused = await http.request(method, "/cache")
            assert (refused.status_code, refused.json()["code"]) == (401, "key_missing")
    async with client(app) as http:
        assert (await http.get("/cache")).json()["size"] == 1
        assert (await http.delete("/cache")).json() == {"removed": 1}
        assert (await http.get("/cache")).json()["size"] == 0
    told = [record.getMessage() for record in caplog.records if record.name == "pointsman.audit"]
    assert told == [
        f"address {STRANGER}: cache: key_missing",
        "address 127.0.0.1: cache: ok: 1 answers removed",
    ]


@pytest.mark.parametrize(
    ("scope", "looks", "clears"),
    [(Scope.OPS, 200, 403), (Scope.ADMIN, 200, 200), (Scope.GENERATE, 403, 403), (Scope.TRUSTED, 403, 403)],
)
async def test_keys_from_anywhere_look_or_clear_by_their_scope(
    client: Client, scope: Scope, looks: int, clears: int, caplog: pytest.LogCaptureFixture
) -> None:
    """`ops` sees and changes nothing, `admin` does both; the clearing is on the audit log with the key."""
    caplog.set_level("INFO", "pointsman.audit")
    app = build(load(ON, None, None))
    key = Key(digest_of(SECRET), frozenset({scope}))
    app.keyring.table = KeyTable([key])
    await keep_one(app)
    async with client(app, STRANGER) as http:
        http.headers["X-API-Key"] = SECRET
        assert (await http.get("/cache")).status_code == looks
        cleared = await http.delete("/cache")
    assert cleared.status_code == clears
    how = "ok: 1 answers removed" if clears == 200 else "key_forbidden"
    told = [record.getMessage() for record in caplog.records if record.name == "pointsman.audit"]
    assert told == [f"key {key.name} at {STRANGER}: cache: {how}"]
    async with client(app) as http:  # an operator's address, whatever key it has
        http.headers["X-API-Key"] = SECRET
        assert (await http.delete("/cache")).json() == {"removed": int(clears != 200)}


async def test_without_being_enabled_it_holds_what_was_asked_for(app: Router, client: Client) -> None:
    """Requests on any route may ask for it; the operators' figures tell so, seed 002's do not count them."""
    async with client(app) as http:
        told = (await http.get("/cache")).json()
        assert (told["enabled"], told["on_request"], told["size"]) == (False, True, 0)
        await keep_one(app)
        assert (await http.get("/cache")).json()["size"] == 1
        assert (await http.get("/status")).json()["cache_stats"]["size"] == 0
        assert (await http.delete("/cache")).json() == {"removed": 1}


async def test_a_store_that_is_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of this worker are told all the same; emptying is 503, for answers may still be there."""

    async def away(self: MemoryStore, shelf: Shelf, prefix: str = "") -> Size:
        raise Unavailable("it is away")

    app = build(load(ON, None, None))
    await keep_one(app)
    monkeypatch.setattr(MemoryStore, "size", away)
    monkeypatch.setattr(MemoryStore, "drop_under", away)
    async with client(app) as http:
        stats = (await http.get("/cache")).json()
        refused = await http.delete("/cache")
    assert (stats["size"], stats["hits"]) == (None, 1)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["code"] == "store_unavailable"
