"""Limits at the running router: what the refused hear, what a key learns of itself, what nobody leaks."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from pointsman.cli import main
from pointsman.signature import Signed, sign
from processes import Emulator, Router, wait_for

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "gemma-3-12b", "messages": MESSAGES, "max_tokens": 4}


@pytest.fixture(scope="module")
def engine() -> Iterator[Emulator]:
    """One vLLM for all routers here."""
    with Emulator("vllm", "--eos-after", "0", "--tokens-per-s", "100") as vllm:
        yield vllm


def started(engine: Emulator, **settings: str) -> Router:
    router = Router(VLLM_GEMMA3_ENDPOINT=engine.url, **settings)
    router.wait_until_up("gemma-3-12b")
    return router


def made(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    assert main(["keys", "create", "--file", str(path), *options]) == 0
    return {"authorization": f"Bearer {capsys.readouterr().out.splitlines()[0]}"}


def test_an_address_has_so_many_requests(engine: Emulator) -> None:
    """The fourth of three is a 429 in each surface's shape, says when to come again, and costs no engine."""
    with started(engine, LIMITS__REQUESTS_PER_MINUTE="3") as router:
        before = len(engine.sent())
        answers = [router.http.post("/v1/chat/completions", json=CHAT) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        told = [(a.headers["x-ratelimit-limit"], a.headers["x-ratelimit-remaining"]) for a in answers]
        assert told == [("3", "2"), ("3", "1"), ("3", "0"), ("3", "0")]
        refused = answers[3]
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["error"]["type"] == "rate_limit_error"
        text = router.http.post("/generate", json={"inputs": "Hi"})
        assert (text.status_code, text.json()["error_type"]) == (429, "overloaded")
        plain = router.http.post("/complete", json={"prompt": "Hi"})
        assert (plain.status_code, plain.json()["code"]) == (429, "rate_limited")
        assert isinstance(plain.json()["detail"], str)
        assert len(engine.sent()) == before + 3


def test_tokens_are_counted_and_the_count_is_not_shown(
    engine: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stream that did not ask for usage has none, and its key has paid; `/usage` tells the key alone."""
    headers = made(tmp_path / "keys.json", capsys, "--tokens-per-minute", "1000", "--note", "x")
    with started(engine, KEYS_FILE=str(tmp_path / "keys.json")) as router:
        streaming = {**CHAT, "stream": True}
        text = router.http.post("/v1/chat/completions", json=streaming, headers=headers).text
        assert text.endswith("data: [DONE]\n\n")
        assert "prompt_tokens" not in text
        asking = {**streaming, "stream_options": {"include_usage": True}}
        text = router.http.post("/v1/chat/completions", json=asking, headers=headers).text
        usage = next(json.loads(line[6:])["usage"] for line in text.splitlines() if '"usage":{' in line)

        def told_usage() -> Any:
            return router.http.get("/usage", headers=headers).json()

        wait_for(lambda: told_usage()["used"]["requests"] == 2, "both are counted")  # a stream after its end
        told = told_usage()
        assert told["used"]["prompt_tokens"] == 2 * usage["prompt_tokens"]
        assert told["used"]["completion_tokens"] == 2 * usage["completion_tokens"] == 8
        left = 1000 - 2 * usage["total_tokens"]
        assert left <= told["remaining"]["tokens"] <= left + 20
        assert told["limits"]["tokens_per_minute"] == 1000
        assert router.http.get("/usage").status_code == 401


@pytest.mark.parametrize(
    ("path", "streams"), [("/generate", False), ("/generate_stream", True), ("/", False), ("/", True)]
)
def test_tgis_own_calls_reserve_and_pay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, *, streams: bool
) -> None:
    """Short ones at once fit where their length says so; a stream pays for its prompt as a whole answer does.

    A large body is let go before its answer ends, and paid for all the same.
    """
    keys, per_s = tmp_path / "keys.json", 20_000 / 60
    narrow = made(keys, capsys, "--tokens-per-minute", "300", "--note", "narrow")
    wide = made(keys, capsys, "--tokens-per-minute", "20000", "--note", "wide")
    with ExitStack() as stack:
        tgi = stack.enter_context(Emulator("tgi", "--max-total-tokens", "32768"))
        router = stack.enter_context(Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, KEYS_FILE=str(keys)))
        router.wait_until_up("distilgpt2")

        def ask(headers: dict[str, str], inputs: str, tokens: int, scope: str = "") -> int:
            body = {"inputs": inputs, "stream": streams, "parameters": {"max_new_tokens": tokens}}
            return router.http.post(scope + path, json=body, headers=headers).status_code

        def usage() -> Any:
            return router.http.get("/usage", headers=wide).json()

        def ended(requests: int) -> Callable[[], bool]:
            return lambda: usage()["used"]["requests"] == requests

        with ThreadPoolExecutor(3) as pool:
            scopes = ("", "/models/distilgpt2", "")
            assert list(pool.map(lambda scope: ask(narrow, "Hi", 20, scope), scopes)) == [200] * 3
        assert ask(narrow, "Hi", 290) == 429
        for number, words in enumerate((600, 17_000), 1):
            begun, before = time.monotonic(), usage()["remaining"]["tokens"]
            assert ask(wide, " the" * words, 5) == 200
            wait_for(ended(number), "it has ended and is paid")
            paid = before - usage()["remaining"]["tokens"]
            assert 0.9 * words <= paid + per_s * (time.monotonic() - begun)
            assert paid <= 1.1 * words + 50


def test_a_key_learns_of_a_surfaces_own_limit(
    engine: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`/usage` tells what the 429 of `/v1/generate` told; a key with a limit of its own has only that."""
    path = tmp_path / "keys.json"
    plain = made(path, capsys, "--note", "plain")
    own = made(path, capsys, "--requests-per-minute", "6000", "--note", "own")
    with started(engine, KEYS_FILE=str(path), RATE_LIMIT__REQUESTS_PER_MINUTE="0.1") as router:

        def usage(headers: dict[str, str]) -> Any:
            return router.http.get("/usage", headers=headers).json()

        def told(remaining: int) -> dict[str, Any]:
            return {
                "llm_service": {"limits": {"requests_per_minute": 0.1}, "remaining": {"requests": remaining}}
            }

        assert usage(plain)["surfaces"] == told(15)
        answers = [router.http.post("/v1/generate", json={"prompt": ""}, headers=plain) for _ in range(16)]
        assert [answer.status_code for answer in answers] == [422] * 15 + [429]
        after = usage(plain)
        assert after["surfaces"] == told(0)
        assert after["limits"]["requests_per_minute"] is None
        assert after["remaining"] == {"requests": None, "tokens": None}
        assert usage(own)["surfaces"] == {}
        assert usage(own)["limits"]["requests_per_minute"] == 6000


def test_leases_end_however_a_request_ends(
    engine: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answered, refused by the engine, or left by its client: the next one finds its place free."""
    headers = made(tmp_path / "keys.json", capsys, "--concurrency", "1")
    with started(engine, KEYS_FILE=str(tmp_path / "keys.json")) as router:

        def status(**more: object) -> int:
            return router.http.post(
                "/v1/chat/completions", json={**CHAT, **more}, headers=headers
            ).status_code

        assert [status(), status(max_tokens=-5), status(model="none"), status()] == [200, 400, 404, 200]
        endless = {**CHAT, "stream": True, "max_tokens": 4000}
        with router.http.stream("POST", "/v1/chat/completions", json=endless, headers=headers) as answer:
            pieces = iter(answer.iter_bytes())
            next(pieces)
            assert status() == 429
        wait_for(lambda: status() == 200, "the place of the client that left is free")


def test_in_the_shadow_all_pass(engine: Emulator) -> None:
    """An operator sees what a limit would do before it does it."""
    with started(engine, LIMITS__REQUESTS_PER_MINUTE="1", LIMITS__SHADOW="true") as router:
        answers = [router.http.post("/v1/chat/completions", json=CHAT) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert answers[2].headers["x-ratelimit-remaining"] == "0"


def test_an_exempt_gateway_brings_all_its_users(engine: Emulator) -> None:
    """Its address is everybody's."""
    with started(engine, LIMITS__REQUESTS_PER_MINUTE="1", LIMITS__EXEMPT="127.0.0.0/8") as router:
        answers = [router.http.post("/v1/chat/completions", json=CHAT) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert "x-ratelimit-limit" not in answers[0].headers


def test_a_signed_request_counts_once(
    engine: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key never travels; the same request sent again, or with another body, is refused."""
    path = tmp_path / "keys.json"
    assert main(["keys", "create", "--sign", "--file", str(path)]) == 0
    secret = bytes.fromhex(capsys.readouterr().out.splitlines()[0])
    name = json.loads(path.read_text())["keys"][0]["sha256"][:8]
    body = json.dumps(CHAT).encode()

    def headers(nonce: str, late_s: int = 0) -> dict[str, str]:
        told = Signed(name, int(time.time()) - late_s, nonce, hashlib.sha256(body).digest(), b"")
        return {
            "content-type": "application/json",
            "x-key": name,
            "x-timestamp": str(told.timestamp),
            "x-nonce": nonce,
            "x-content-sha256": told.content_sha256.hex(),
            "x-signature": sign(secret, "POST", "/v1/chat/completions", "a=b", told).hex(),
        }

    with started(engine, KEYS_FILE=str(path)) as router:

        def post(told: dict[str, str], content: bytes = body, query: str = "a=b") -> httpx.Response:
            return router.http.post(f"/v1/chat/completions?{query}", content=content, headers=told)

        first = headers("nonce-number-one-1")
        assert post(first).status_code == 200
        again = post(first)
        assert (again.status_code, again.json()["error"]["code"]) == (401, "key_wrong")
        assert "sent before" in again.json()["error"]["message"]
        assert post(headers("nonce-number-two-2")).status_code == 200
        assert post(headers("nonce-number-three"), body.replace(b"Hi", b"Ho")).status_code == 401
        assert post(headers("nonce-number-four4"), query="a=c").status_code == 401
        assert post(headers("nonce-number-five5", late_s=301)).status_code == 401
        assert post({"content-type": "application/json"}).status_code == 401
