"""Redis behind TLS: it is verified, and what is wrong is said in a sentence without any name."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority, Identity
from nginx import short_folder
from pointsman.gcra import Rate
from pointsman.store.base import Ask, Shelf, Take, Unavailable
from pointsman.store.config import StoreConfig
from ports import free_port
from processes import Emulator, Process, Router, wait_for
from redis_server import RedisServer

if not os.environ.get("CI"):
    pytest.importorskip("redis", reason="the extra redis is not installed")

from pointsman.store.redis import RedisStore

pytestmark = pytest.mark.anyio
SHELF = Shelf("cache")
UNTRUSTED = "the certificate of Redis is not trusted: {}; see STORE__CA_FILE and STORE__URL"


@dataclass
class Secured:
    """A Redis that speaks TLS on a port, and plainly on its unix socket alone."""

    redis: RedisServer
    port: int
    authority: Authority

    def url(self, host: str = "localhost") -> str:
        return f"rediss://{host}:{self.port}/0"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.found(tmp_path_factory.mktemp("authority"), "authority")


def serving(authority: Authority, own: Identity, *, asks: bool = False) -> Any:
    """The flags of such a Redis; `asks`: for a certificate of each client."""
    flags = {
        "tls-cert-file": own.cert,
        "tls-key-file": own.key,
        "tls-ca-cert-file": authority.own.cert,
        "tls-auth-clients": "yes" if asks else "no",
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Secured]:
    own, port = authority.issue("redis", "DNS:localhost"), free_port()
    with (
        short_folder() as folder,
        RedisServer(folder, "--tls-port", str(port), *serving(authority, own)) as redis,
    ):
        yield Secured(redis, port, authority)


@asynccontextmanager
async def opened(url: str, **more: Any) -> Any:
    store = RedisStore(StoreConfig(url, timeout_s=10.0, pause_s=0.02, pause_max_s=0.1, **more))
    try:
        yield store
    finally:
        await store.close()
        for _ in range(3):
            await asyncio.sleep(0)  # a socket whose handshake failed closes in a later turn of the loop


async def test_a_store_works_behind_tls(secured: Secured) -> None:
    """Limits and values, on one connection that is verified by name and used again."""
    async with opened(secured.url(), ca_file=secured.authority.own.cert) as store:
        await store.check()
        for number in range(5):
            granted = await store.settle(Ask((Take("key", Rate(60, 100)),)))
            assert granted.levels[0].remaining == 99 - number
        assert await store.write(SHELF, "key", "me", b"x" * 200_000, 60.0)
        assert await store.read(SHELF, "key", "me") == b"x" * 200_000
        assert store.sizes()["connections"] == 1


@pytest.mark.parametrize(
    ("host", "trusts", "reason"),
    [
        ("localhost", False, UNTRUSTED.format("its authority is unknown")),
        ("127.0.0.1", True, UNTRUSTED.format("it is for another address")),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_told(
    secured: Secured, host: str, trusts: bool, reason: str
) -> None:
    """By what is wrong with it, without a name; nothing is sent to such a server."""
    ca_file = secured.authority.own.cert if trusts else None
    async with opened(secured.url(host), ca_file=ca_file) as store:
        with pytest.raises(Unavailable) as caught:
            await store.check()
        assert str(caught.value) == reason
        with pytest.raises(Unavailable) as caught:
            await store.read(SHELF, "key", "me")
        assert str(caught.value) == reason


async def test_a_server_without_tls_is_told(secured: Secured) -> None:
    """rediss:// never falls back to plain text; redis:// before a TLS port is no Redis either."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"-ERR unknown command\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    async with (
        await asyncio.start_server(serve, "127.0.0.1", port),
        opened(f"rediss://127.0.0.1:{port}") as store,
    ):
        with pytest.raises(Unavailable, match=r"^the TLS handshake with Redis failed$"):
            await store.check()
    async with opened(f"redis://localhost:{secured.port}") as store:
        with pytest.raises(Unavailable, match=r"^Redis cannot be reached$"):
            await store.check()


async def test_our_certificate_is_shown_where_it_is_asked_for(authority: Authority) -> None:
    """With it the store works; without it the reason names the setting."""
    own, client, port = authority.issue("redis-2", "DNS:localhost"), authority.issue("router"), free_port()
    url, ca_file = f"rediss://localhost:{port}", authority.own.cert
    with (
        short_folder() as folder,
        RedisServer(folder, "--tls-port", str(port), *serving(authority, own, asks=True)),
    ):
        async with opened(url, ca_file=ca_file, client_cert=client.cert, client_key=client.key) as store:
            await store.check()
        async with opened(url, ca_file=ca_file) as store:
            with pytest.raises(Unavailable, match="if it asks for a certificate, set STORE__CLIENT_CERT"):
                await store.check()


def test_a_router_keeps_what_it_has_to_behind_tls(secured: Secured) -> None:
    """A kept answer is in that Redis; without the authority's certificate the log says why nothing is."""
    settings = {"STORE__URL": secured.url(), "STORE__TIMEOUT_S": "5", "LIMITS__REQUESTS_PER_MINUTE": "1000"}
    trusting = {**settings, "STORE__CA_FILE": str(secured.authority.own.cert)}
    with Emulator("vllm") as engine:
        with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **trusting) as router:
            router.wait_until_up("gemma-3-12b")
            assert [asked(router) for _ in range(2)] == ["miss", "hit"]
        assert b"pointsman:value:cache:" in secured.redis.say("KEYS", "*")
        with Router(VLLM_GEMMA3_ENDPOINT=engine.url, **settings) as router:
            router.wait_until_up("gemma-3-12b")
            assert asked(router) == "bypass;unavailable"
            sentence = f"store: {UNTRUSTED.format('its authority is unknown')}"
            wait_for(lambda: sentence in router.output(), "the log says so")


def asked(router: Router) -> str:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
    answer = router.http.post(
        "/v1/chat/completions", json={"model": "gemma-3-12b", **body}, headers={"x-pointsman-cache": "use"}
    )
    assert answer.status_code == 200
    return str(answer.headers["x-pointsman-cache"])


def test_a_file_that_is_no_certificate_stops_the_start(tmp_path: Path) -> None:
    """The sentence names the setting."""
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    with pytest.raises(AssertionError, match="STORE__CA_FILE of the store cannot be used for TLS"):
        Process("-m", "pointsman", "serve", env={"STORE__URL": "rediss://x", "STORE__CA_FILE": str(junk)})
