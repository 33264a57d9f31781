"""Sessions and answers with Redis: two routers are one, and what happens when it is gone."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from nginx import short_folder
from processes import Emulator, Router, wait_for
from redis_server import RedisServer

if not os.environ.get("CI"):
    pytest.importorskip("redis", reason="the extra redis is not installed")

KEY = "a-key-of-my-own-for-tests"


@dataclass
class Pair:
    """Two routers on one Redis before one engine."""

    first: Router
    second: Router
    engine: Emulator
    redis: RedisServer


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(stack.enter_context(short_folder())))
        engine = stack.enter_context(Emulator("vllm"))
        settings = {
            "VLLM_GEMMA3_ENDPOINT": engine.url,
            "SECURITY__API_KEY": KEY,
            "RATE_LIMIT__ENABLED": "false",
            "CHAT_HISTORY__ENABLED": "true",
            "CACHE__ENABLED": "true",
            "STORE__URL": redis.url,
            "STORE__TIMEOUT_S": "5",  # a busy machine is not a dead Redis
        }
        routers = [stack.enter_context(Router(**settings)) for _ in range(2)]
        for router in routers:
            router.http.headers["X-API-Key"] = KEY
            router.wait_until_up("gemma-3-12b")
        yield Pair(routers[0], routers[1], engine, redis)


def chat(router: Router, text: str, **more: Any) -> httpx.Response:
    turn = {"messages": [{"role": "user", "content": text}], "max_tokens": 4}
    return router.http.post("/v1/chat", json={**turn, **more})


def asked(engine: Emulator) -> list[str]:
    """The contents of the messages that the engine was asked last."""
    body = engine.sent()[-1]["body"]
    held = json.loads(body) if isinstance(body, str) else body
    return [turn["content"] for turn in held["messages"]]


def test_two_routers_are_one(pair: Pair) -> None:
    """A session goes on at the other router, and an answer kept by one is given again by the other."""
    answers = [
        chat(router, text, session_id="שיחה").json()["message"]["content"]
        for router, text in ((pair.first, "one"), (pair.second, "two"), (pair.first, "three"))
    ]
    assert asked(pair.engine) == ["one", answers[0], "two", answers[1], "three"]
    assert chat(pair.first, "once").json()["cached"] is False
    assert chat(pair.second, "once").json()["cached"] is True


def test_without_redis_sessions_are_503_and_the_rest_goes_on(pair: Pair) -> None:
    """A session without its past is refused with a code; other calls are answered; then all is well."""
    assert chat(pair.first, "one", session_id="s").status_code == 200
    pair.redis.kill()
    refused = chat(pair.first, "two", session_id="s")
    assert (refused.status_code, refused.json()["code"]) == (503, "history_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    for _ in range(2):
        answer = chat(pair.first, "alone")
        assert (answer.status_code, answer.json()["cached"]) == (200, False)
    pair.redis.start()  # empty: what was said is lost, and the session begins anew
    wait_for(lambda: chat(pair.first, "again", session_id="s").status_code == 200, "the session goes on")
    wait_for(lambda: chat(pair.second, "alone").json()["cached"], "the cache is back")
