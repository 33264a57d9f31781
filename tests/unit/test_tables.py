"""Tables that callers fill: each has a bound that holds, and a gauge that tells how full it is."""

import re
from pathlib import Path

import pytest

from pointsman.access import CHAINS_CACHED, PEERS_CACHED
from pointsman.app import Router, build
from pointsman.call import Api, Call, Operation
from pointsman.errors import RouterError
from pointsman.exchange import Exchange
from pointsman.gcra import Rate
from pointsman.keys import Need
from pointsman.settings import load
from pointsman.store.base import Ask, Hold, Most, Once, Shelf, Take

pytestmark = pytest.mark.anyio

MANY = 10_000
CALL = Call(Api.OPENAI, Operation.CHAT, None)
README = Path(__file__).resolve().parents[2] / "README.md"
SETTINGS = {
    "MEMORY__RATES": "500",
    "MEMORY__LEASES": "500",
    "MEMORY__NONCES": "500",
    "LIMITS__REQUESTS_PER_MINUTE": "5",
    "CACHE__SIZE": "50",
    "CHAT_HISTORY__ENABLED": "true",
    "CHAT_HISTORY__SESSIONS": "50",
    "ALLOWED_NETWORKS": "10.0.0.0/8",
    "TRUSTED_PROXIES": "192.168.0.1",
    "SECURITY__API_KEY": "a-key-of-my-own-for-tests",
}


async def tables(app: Router) -> dict[str, int]:
    """The gauges, from the page of metrics."""
    page = (await app.render_metrics()).decode()
    found = re.findall(r'(?m)^pointsman_table_entries\{(?:[^}]*,)?table="([a-z_]+)"[^}]*\} (\d+)$', page)
    return {name: int(count) for name, count in found}


@pytest.fixture
def app() -> Router:
    return build(load(SETTINGS, None, None))


async def test_the_readme_lists_every_table(app: Router) -> None:
    """What the page of metrics shows is what the README explains, and nothing else."""
    await app.parts.store.size(Shelf("cache"))
    await app.parts.store.size(Shelf("history"))
    rows = re.findall(r"(?m)^\| `([a-z_]+)` \| [^|]*[0-9][^|]* \|", README.read_text(encoding="utf-8"))
    redis_only = {"connections", "returns"}
    assert set(await tables(app)) | redis_only <= set(rows)


async def test_ten_thousand_addresses_fill_nothing_beyond_its_bound(app: Router) -> None:
    """Addresses that call, addresses behind a proxy, and addresses with wrong keys."""
    guard, limiter = app.edition.guard, app.edition.limiter
    for number in range(MANY):
        address = f"10.0.{number // 256}.{number % 256}"
        caller = guard.admit(address, [])
        guard.admit("192.168.0.1", [(b"x-forwarded-for", f"10.1.{number // 256}.{number % 256}".encode())])
        with pytest.raises(RouterError):
            guard.authenticate(caller, {b"x-api-key": b"wrong"}, Need.ALWAYS, "POST /v1/generate")
        grant = await limiter.admit(limiter.rules(address, None, "openai"), CALL, 10, 1.0)
        assert grant.refusal is None
    told = await tables(app)
    assert told["callers"] <= 4096
    assert told["peers"] == PEERS_CACHED
    assert told["chains"] == CHAINS_CACHED
    assert told["wrong_keys"] == MANY
    assert told["rules"] <= 4096
    assert told["rates"] == 500


async def test_ten_thousand_sessions_fill_nothing_beyond_its_bound(app: Router) -> None:
    """Sessions of seed 004 that are counted, and of seed 002 that are remembered."""
    parts = app.parts
    shelf, most = Shelf("history", entries=50), Most(10, 1000)
    for number in range(7 * MANY):
        parts.sessions.note(f"session {number}", float(number) / 1000)
    for number in range(MANY):
        await parts.store.append(shelf, f"session {number}", "me", "1", b"turn", 60.0, most)
    told = await tables(app)
    assert told["sessions"] == 65_536
    assert told["history"] == 50


async def test_ten_thousand_names_fill_nothing_beyond_its_bound(app: Router) -> None:
    """Keys that use something, prompts that are cached, leases, nonces and divided rates."""
    parts = app.parts
    parts.share.workers = 3
    for number in range(MANY + 500):
        exchange = Exchange("id", "/x", "POST", 0.0, key=f"key {number}", ended_at=1.0)
        parts.usage.observe(exchange)
        await parts.cache.put("me", f"key {number}", b"answer", "stop")
        rate = Rate(1.0 + number, 10)
        ask = Ask((Take(f"{number}", rate),), (Hold(f"{number}", 1, "id", 60.0),), Once(f"{number}", 60.0))
        await parts.share.settle(ask)
        assert app.registry.find(f"model {number}") is None
    told = await tables(app)
    assert told["usage"] == MANY
    assert told["cache"] == 50
    assert told["leases"] == 500
    assert told["nonces"] <= 500
    assert told["rates"] <= 500
    assert told["divided_rates"] <= 1000
    assert told["served_names"] == 0
