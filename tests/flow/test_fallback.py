"""Fallback chains: what clients of a model get, and are told, when none of its replicas can answer."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import BACKEND, Emulator, Router, wait_for
from wire import Incoming, call, data_of, post

_CONFIG = """
models:
- {{id: big, engine: vllm, aliases: [gpt-4], fallbacks: [small, last], replicas: ["{big}", "{big2}"]}}
- {{id: small, engine: tgi, fallbacks: [big], replicas: ["{small}"]}}
- {{id: last, engine: vllm, replicas: ["{last}"]}}
- {{id: alone, engine: vllm, replicas: ["{big}"]}}
"""
_SETTINGS = {
    "HEALTH__INTERVAL_S": "0.5",
    "HEALTH__INTERVAL_CHANGING_S": "0.1",
    "EJECTION__FAILURES": "1000",
    "EJECTION__CONNECT_ERRORS": "1000",
    "EJECTION__SUCCESS_SHARE": "0",
    "RETRY__BUDGET_FLOOR_PER_S": "1000",
}
_CHAT = {"model": "big", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


class House:
    """A router before one engine of each model, two of the first."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.engines = {
            "big": Emulator("vllm"),
            "big2": Emulator("vllm"),
            "small": Emulator("tgi"),
            "last": Emulator("vllm"),
        }
        config = folder / "config.yml"
        config.write_text(_CONFIG.format(**{name: one.url for name, one in self.engines.items()}))
        try:
            self.router = Router(CONFIG_FILE=str(config), **{**_SETTINGS, **settings})
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for engine in self.engines.values():
            engine.stop()
        if hasattr(self, "router"):
            self.router.stop()

    def clean(self) -> None:
        for engine in self.engines.values():
            engine.disarm()
            engine.reset()

    def chat(self, *lines: str, **more: Any) -> Incoming:
        return call(self.router.port, post("/v1/chat/completions", {**_CHAT, **more}, *lines))

    def fail(self, *names: str, fault: str = "status", arg: str | None = "502") -> None:
        for name in names:
            self.engines[name].arm(fault, arg)

    def asked(self) -> dict[str, int]:
        """How many calls each engine got, those without any left out."""
        counts = {name: len(engine.sent()) for name, engine in self.engines.items()}
        return {name: count for name, count in counts.items() if count}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    try:
        made.router.wait_until_up("big", "small", "last", "alone")
        wait_for(
            lambda: all(
                one["state"] == "up" for one in made.router.http.get("/models/big/health").json()["replicas"]
            ),
            "both replicas are up",
        )
        yield made
    finally:
        made.stop()


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    shared.clean()
    yield shared
    shared.clean()


def test_a_model_that_can_answer_is_not_stood_in_for(house: House) -> None:
    """Its name is in the header, and no other engine is asked."""
    answer = house.chat()
    assert (answer.status, answer.header("x-pointsman-model")) == (200, "big")
    assert set(house.asked()) < {"big", "big2"}


@pytest.mark.parametrize("asked_for", ["big", "gpt-4"])
def test_a_fallback_answers_where_the_model_fails(house: House, asked_for: str) -> None:
    """In the words of the API that was called, though its engine is another; the header tells who it was."""
    house.fail("big", "big2", fault="status", arg="503")
    answer = house.chat(f"x-request-id: failed-{asked_for}", model=asked_for)
    assert answer.status == 200
    told = answer.json()
    assert told["model"] == asked_for  # as ever: what the client calls it
    assert told["choices"][0]["message"]["content"]
    assert answer.header("x-pointsman-model") == "small"
    assert answer.header("x-pointsman-replica") == "small-0"
    assert answer.header("x-pointsman-attempts") == "3"
    assert house.asked() == {"big": 1, "big2": 1, "small": 1}
    line = house.router.access_line(f"failed-{asked_for}")
    assert (line["model"], line["wanted_model"], line["replica"], line["end"]) == (
        "small", "big", "small-0", "ok",
    )  # fmt: skip


def test_streams_fall_back_before_their_first_event(house: House) -> None:
    """One good stream of the fallback, and nothing of what failed."""
    house.fail("big", "big2", fault="error_first", arg="overloaded")
    answer = house.chat(stream=True)
    assert (answer.status, answer.header("x-pointsman-model")) == (200, "small")
    *events, done = data_of(answer.body)
    assert done == "[DONE]"
    assert {json.loads(event)["model"] for event in events} == {"big"}


def test_a_stream_with_content_stays_with_its_model(house: House) -> None:
    """It ends with an error frame; another model cannot go on where it stopped."""
    house.fail("big", "big2", fault="error_after", arg="2:internal")
    answer = house.chat(stream=True)
    assert answer.header("x-pointsman-model") == "big"
    assert b'"code":"engine_failed"' in answer.body
    assert "small" not in house.asked()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"model_id": "big", "prompt": "Hi", "max_new_tokens": 3}),
        ("/models/big/generate", {"inputs": "Hi", "parameters": {"max_new_tokens": 3}}),
        ("/models/big", {"inputs": "Hi", "parameters": {"max_new_tokens": 3}}),
        ("/v1/completions", {"model": "big", "prompt": "Hi", "max_tokens": 3}),
        ("/models/big/api/chat/stream", {"messages": [{"role": "user", "content": "Hi"}], "stream": False}),
    ],
)
def test_each_api_falls_back(house: House, path: str, body: dict[str, Any]) -> None:
    """And answers as it would have; a model's name in it is the one that was asked for."""
    house.fail("big", "big2", fault="status", arg="503")
    answer = call(house.router.port, post(path, body))
    assert (answer.status, answer.header("x-pointsman-model")) == (200, "small")
    assert "small" not in answer.body.decode()
    if path == "/generate":
        assert answer.json()["model_id"] == "big"


@pytest.mark.parametrize(
    ("path", "body", "theirs"),
    [
        ("/v1/embeddings", {"model": "big", "input": "Hi"}, "/v1/embeddings"),
        ("/models/big/tokenize", {"inputs": "Hi"}, "/tokenize"),
    ],
)
def test_what_only_the_model_itself_can_tell_does_not_fall_back(
    house: House, path: str, body: dict[str, Any], theirs: str
) -> None:
    """Tokens or embeddings of another model are no answer."""
    for name in ("big", "big2"):
        house.engines[name].arm("status", "503", route=theirs)
    answer = call(house.router.port, post(path, body))
    assert answer.status == 503
    assert house.asked() == {"big": 1, "big2": 1}


def test_a_comparison_is_of_the_models_it_names(house: House) -> None:
    """A model that fails is told as failed."""
    house.fail("big", "big2", fault="status", arg="503")
    body = {"models": ["big", "small"], "prompt": "Hi", "max_tokens": 3}
    big, small = call(house.router.port, post("/models/compare", body)).json()["results"]
    assert big["error"]["code"] == "engine_overloaded"
    assert small["text"]
    assert house.asked()["small"] == 1


def test_a_fallback_that_cannot_take_the_call_is_not_spoken_of(house: House) -> None:
    """TGI gives no three answers: the client hears of the model it asked for."""
    house.fail("big", "big2", fault="status", arg="503")
    answer = house.chat(n=3)
    told = answer.json()
    assert (answer.status, told["error"]["code"]) == (503, "engine_overloaded")
    assert house.asked() == {"big": 1, "big2": 1}


def test_metrics_and_models_show_it(house: House) -> None:
    """Attempts are those of the model whose replica it was; the exchange is the one's that answered."""
    house.fail("big", "big2", fault="status", arg="503")
    before = house.router.metric("pointsman_fallbacks_total")
    assert house.chat().status == 200

    def page() -> str:
        return house.router.http.get("/metrics").text

    wait_for(lambda: house.router.metric("pointsman_fallbacks_total") == before + 1, "it is counted")
    assert 'pointsman_fallbacks_total{model="big",fallback="small"}' in page()
    assert 'pointsman_attempts_total{model="big",replica="big-0",end="refused"}' in page()
    assert 'pointsman_attempts_total{model="small",replica="big-0"' not in page()
    models = {one["id"]: one["fallbacks"] for one in house.router.http.get("/models").json()}
    assert models == {"big": ["small", "last"], "small": ["big"], "last": [], "alone": []}


def test_a_model_that_is_down_is_stood_in_for_at_once(tmp_path: Path) -> None:
    """By the first of its chain that is up; two models that stand in for each other make no loop."""
    house = House(tmp_path)
    try:
        house.router.wait_until_up("big", "small", "last")
        house.engines["big"].stop()
        house.engines["big2"].stop()

        def down(model: str) -> bool:
            told = house.router.http.get(f"/models/{model}/health").json()["replicas"]
            return all(one["state"] == "down" for one in told)

        wait_for(lambda: down("big") and down("alone"), "seen down")
        answer = house.chat()
        assert (answer.status, answer.header("x-pointsman-model")) == (200, "small")
        assert answer.header("x-pointsman-attempts") == "1"
        alone = house.chat(model="alone")
        assert (alone.status, alone.json()["error"]["code"]) == (503, "no_replica")
        house.engines["small"].stop()
        wait_for(lambda: down("small"), "seen down")
        answer = house.chat()
        assert (answer.status, answer.header("x-pointsman-model")) == (200, "last")
        small = house.chat(model="small")
        assert (small.status, small.json()["error"]["code"]) == (503, "no_replica")
        assert "'small'" in small.json()["error"]["message"]
        house.engines["last"].stop()
        wait_for(lambda: down("last"), "seen down")
        none = house.chat()
        assert (none.status, none.json()["error"]["code"]) == (503, "no_replica")
        assert "'big'" in none.json()["error"]["message"]
        assert none.header("retry-after") == "5"
    finally:
        house.stop()


def test_keys_and_limits_hold_for_the_model_that_is_asked_for(tmp_path: Path) -> None:
    """A key is not led to a model that it may not use; a request that falls back is counted once."""
    keys = tmp_path / "keys.json"

    def create(*flags: str) -> str:
        arguments = [sys.executable, "-m", "pointsman", "keys", "create", "--file", str(keys), *flags]
        done = subprocess.run(arguments, cwd=BACKEND, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout.split()[0]

    only_big = create("--model", "big")
    chained = create("--model", "big", "--model", "last", "--requests-per-minute", "3")
    house = House(tmp_path, KEYS_FILE=str(keys))
    try:
        with httpx.Client(base_url=house.router.url, trust_env=False) as client:

            def ask(key: str) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}"}
                return client.post("/v1/chat/completions", json=_CHAT, headers=headers)

            house.router.wait_until_up("big", "small", "last")
            wait_for(lambda: ask(only_big).status_code == 200, "it answers")
            house.clean()  # of what they were asked on the way up
            house.fail("big", "big2", fault="status", arg="503")
            refused = ask(only_big)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_overloaded")
            answers = [ask(chained) for _ in range(4)]
            assert [one.status_code for one in answers] == [200, 200, 200, 429]
            assert {one.headers.get("x-pointsman-model") for one in answers[:3]} == {"last"}
            assert "small" not in house.asked()
    finally:
        house.stop()


def test_an_unknown_name_in_a_chain_stops_the_start(tmp_path: Path) -> None:
    """With one sentence that names it."""
    config = tmp_path / "config.yml"
    config.write_text("models:\n- {id: a, engine: tgi, fallbacks: [bee], replicas: [http://127.0.0.1:9]}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", "check"],
        cwd=BACKEND,
        env={**os.environ, "CONFIG_FILE": str(config)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "fallbacks of model 'a' in config.yml: no model is configured as 'bee'; known are a" in done.stderr
