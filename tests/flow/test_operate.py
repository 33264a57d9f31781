"""Comparing models, warming them and changing the default, at the running router."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman.cli import main
from pointsman.control.compare import BODY_MAX_BYTES
from pointsman.signature import Signed, sign
from processes import Emulator, Router, wait_for
from wire import Client, lines_of, post, request

_LONG_S = 20.0  # much less than engines are waited for
BOTH = ["gemma-3-12b", "distilgpt2"]
ASKED: dict[str, Any] = {"models": BOTH, "prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}


@pytest.fixture
def engines() -> Iterator[tuple[Emulator, Emulator]]:
    """A TGI and a vLLM of the test's own, to do harm to."""
    with Emulator("tgi") as tgi, Emulator("vllm") as vllm:
        yield tgi, vllm


@pytest.fixture
def vllm_pair() -> Iterator[tuple[Emulator, Emulator]]:
    """Two replicas of one model."""
    with Emulator("vllm") as one, Emulator("vllm") as other:
        yield one, other


@pytest.fixture
def own(engines: tuple[Emulator, Emulator]) -> Iterator[Router]:
    tgi, vllm = engines
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url) as router:
        router.wait_until_up(*BOTH)
        yield router


def told_of(engines: tuple[Emulator, Emulator], count: str) -> int:
    """The sum of a count of theirs."""
    return sum(int(engine.stats()[count]) for engine in engines)


def compare(router: Router, headers: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    answer = router.http.post("/models/compare", json={**ASKED, **asked}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_model_answers_with_its_figures(router: Router) -> None:
    """In the order that was asked for: the text each would give alone, its tokens, its seconds, its end."""
    results = compare(router)["results"]
    assert [result["model"] for result in results] == BOTH
    for result in results:
        alone = router.http.post(
            "/generate",
            json={
                "model_id": result["model"],
                "prompt": ASKED["prompt"],
                "max_new_tokens": 6,
                "temperature": 0,
            },
        )
        assert result["text"] == alone.json()["generated_text"]
        assert (result["completion_tokens"], result["finish_reason"]) == (6, "length")
        assert result["prompt_tokens"] > 0
        assert result["seconds"] >= 0
    talk = compare(router, prompt=None, messages=[{"role": "user", "content": "Hi"}])["results"]
    assert all(result["text"] for result in talk)


def test_a_large_text_is_compared_up_to_two_mebibytes(router: Router) -> None:
    """Each part reads it anew, so that a comparison takes less than a single call; what it takes is told."""
    text = "word " * (BODY_MAX_BYTES // 10)
    (result,) = compare(router, models=BOTH[1:], prompt=text)["results"]
    assert result.get("text") or result["error"]["owner"] == "client"  # of an engine with less of a context
    answer = router.http.post("/models/compare", json={**ASKED, "prompt": text * 2})
    assert answer.status_code == 413
    assert f"{BODY_MAX_BYTES:,} bytes" in answer.text


def test_they_are_asked_at_the_same_time(own: Router, engines: tuple[Emulator, Emulator]) -> None:
    """Two answers of a second each take about one."""
    for engine in engines:
        engine.arm("slow_first_token", 1.0, times=10)
    begin = time.monotonic()
    results = compare(own)["results"]
    whole = time.monotonic() - begin
    assert min(result["seconds"] for result in results) >= 1.0
    assert whole < sum(result["seconds"] for result in results) - 0.5


def test_one_models_failure_is_its_own(own: Router, engines: tuple[Emulator, Emulator]) -> None:
    """The others answer; what failed is told in the form of every error, with the part's own request id."""
    engines[1].stop()
    results = compare(own, {"x-request-id": "part"}, models=["distilgpt2", "gemma-3-12b", "nope"])["results"]
    assert results[0]["text"]
    failed, unknown = results[1]["error"], results[2]["error"]
    assert failed["status"] in {502, 503}
    assert set(failed) >= {"status", "message", "code", "owner", "retryable", "request_id"}
    assert failed["request_id"] == "part-2"
    assert (unknown["status"], unknown["code"]) == (404, "model_not_found")
    for number, code in ((1, ""), (2, failed["code"]), (3, "model_not_found")):
        line = own.access_line(f"part-{number}")
        assert (line["route"], line["error_code"]) == ("/models/compare", code)
    assert 'route="/models/compare"' in own.http.get("/metrics").text


def test_each_part_is_charged_and_needs_a_key_for_its_model(
    engines: tuple[Emulator, Emulator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a key 401; with one for a model, only that; with three requests a minute, three."""
    path = str(tmp_path / "keys.json")

    def key(*options: str) -> dict[str, str]:
        assert main(["keys", "create", "--file", path, *options]) == 0
        return {"authorization": f"Bearer {capsys.readouterr().out.splitlines()[0]}"}

    one = key("--model", "distilgpt2")
    few = key("--requests-per-minute", "3")
    tgi, vllm = engines
    with Router(KEYS_FILE=path, TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url) as router:
        router.wait_until_up(*BOTH)
        assert router.http.post("/models/compare", json=ASKED).status_code == 401
        results = compare(router, one)["results"]
        assert results[0]["error"]["code"] == "key_forbidden"
        assert results[1]["text"]
        codes = [
            part.get("error", {}).get("code") for part in compare(router, few, models=BOTH * 2)["results"]
        ]
        assert sorted(codes, key=str) == [None, None, None, "rate_limited"]


def test_a_signed_comparison_counts_once(
    engines: tuple[Emulator, Emulator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key is settled with the whole, so each part answers; the same again, or another body, is 401."""
    path = tmp_path / "keys.json"
    assert main(["keys", "create", "--sign", "--file", str(path)]) == 0
    secret = bytes.fromhex(capsys.readouterr().out.splitlines()[0])
    name = json.loads(path.read_text())["keys"][0]["sha256"][:8]
    body = json.dumps(ASKED).encode()
    told = Signed(name, int(time.time()), "a-nonce-of-a-comparison", hashlib.sha256(body).digest(), b"")
    headers = {
        "content-type": "application/json",
        "x-key": name,
        "x-timestamp": str(told.timestamp),
        "x-nonce": told.nonce,
        "x-content-sha256": told.content_sha256.hex(),
        "x-signature": sign(secret, "POST", "/models/compare", "", told).hex(),
    }
    tgi, vllm = engines
    with Router(
        KEYS_FILE=str(path), TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url
    ) as router:
        router.wait_until_up(*BOTH)
        other = router.http.post("/models/compare", content=body + b" ", headers=headers)
        first = router.http.post("/models/compare", content=body, headers=headers)
        again = router.http.post("/models/compare", content=body, headers=headers)
    assert all(part["text"] for part in first.json()["results"])
    assert [(one.status_code, one.json()["code"]) for one in (other, again)] == [(401, "key_wrong")] * 2


@pytest.mark.parametrize(
    ("change", "status", "names"),
    [
        ({"models": []}, 400, "models"),
        ({"models": BOTH * 3}, 400, "models"),
        ({"models": "gemma-3-12b"}, 400, "models"),
        ({"prompt": ""}, 400, "prompt"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, 400, "prompt"),
        ({"prompt": None, "messages": [{"role": "tool", "content": "Hi"}]}, 400, "messages"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": 3}, 400, "temperature"),
    ],
)
def test_a_bad_comparison_is_refused_as_a_whole(
    router: Router, change: dict[str, Any], status: int, names: str
) -> None:
    """No model is asked, and the error names the field."""
    answer = router.http.post("/models/compare", json={**ASKED, **change})
    assert answer.status_code == status
    assert f"`{names}`" in answer.json()["detail"]
    plain = router.http.post("/models/compare", content="{}", headers={"content-type": "text/plain"})
    assert plain.status_code == 415


def test_a_client_that_leaves_ends_all_parts(own: Router, engines: tuple[Emulator, Emulator]) -> None:
    """Each engine is freed, and each part is logged as left."""
    for engine in engines:
        engine.arm("slow_first_token", 30.0, times=10)
    client = Client(own.port)
    client.send(post("/models/compare", ASKED, "x-request-id: gone"))
    wait_for(lambda: all(engine.stats()["running"] for engine in engines), "both engines are at it")
    client.sock.close()
    own.wait_until_quiet()
    for number in (1, 2):
        line = own.access_line(f"gone-{number}")
        assert (line["status"], line["end"]) == (499, "client_abort")


def test_a_model_called_compare_keeps_its_other_routes(vllm: Emulator) -> None:
    """Only `/models/compare` itself is taken."""
    with Router(VLLM_COMPARE_ENDPOINT=vllm.url) as router:
        router.wait_until_up("compare")
        body = {"inputs": "Hi", "parameters": {"max_new_tokens": 2}}
        assert router.http.post("/models/compare/generate", json=body).status_code == 200
        assert router.http.post("/models/compare", json=body).json()["code"] == "invalid_parameter"


def test_every_replica_is_warmed(engines: tuple[Emulator, Emulator], vllm: Emulator) -> None:
    """Each gets one call for one token; a replica that is down is told as such, the others are well."""
    tgi, gone = engines
    urls = f"{vllm.url},{gone.url}"
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=urls) as router:
        router.wait_until_up(*BOTH)
        wait_for(lambda: router.metric("pointsman_replica_up") >= 3, "all replicas are up")
        whole = router.http.post("/models/gemma-3-12b/warm").json()
        assert [(one["id"], one["ok"]) for one in whole["replicas"]] == [
            ("gemma-3-12b-0", True),
            ("gemma-3-12b-1", True),
        ]
        assert json.loads(gone.sent()[-1]["body"])["max_tokens"] == 1
        gone.stop()
        part = router.http.post("/models/gemma-3-12b/warm").json()["replicas"]
        assert part[0]["ok"]
        assert not part[1]["ok"]
        assert part[1]["error"]["code"] in {"engine_unreachable", "no_replica", "engine_cut"}
        assert router.http.post("/models/distilgpt2/warm").json()["replicas"][0]["ok"]
        assert router.http.post("/models/nope/warm").status_code == 404
        page = {"origin": "https://evil.example"}
        assert router.http.post("/models/distilgpt2/warm", headers=page).status_code in {403, 415}
        assert router.metric("pointsman_in_flight") == 0
        found = router.read_until(r'\{[^\n]*"what":"warm"[^\n]*\}\n')
        assert json.loads(found)["outcome"] == "ok: 2 of 2 replicas of gemma-3-12b"


@pytest.mark.parametrize("how", ["close", "half"])
@pytest.mark.parametrize("path", ["/models/gemma-3-12b/warm", "/models/compare"])
def test_who_leaves_is_not_worked_for(vllm_pair: tuple[Emulator, Emulator], path: str, how: str) -> None:
    """Every engine is left at once, though it hangs; nothing is held, and it is no fault of anybody's."""
    urls = ",".join(engine.url for engine in vllm_pair)
    with Router(VLLM_GEMMA3_ENDPOINT=urls) as router, Client(router.port) as client:
        wait_for(lambda: router.metric("pointsman_replica_up") >= 2, "all replicas are up")
        for engine in vllm_pair:
            engine.arm("hang_before_headers", times=10)
        asked = {"models": ["gemma-3-12b"], "prompt": "Hi"} if path == "/models/compare" else {}
        parts = 1 if asked else 2
        client.send(post(path, asked))
        wait_for(lambda: sum(len(engine.sent()) for engine in vllm_pair) == parts, "the engines are asked")
        assert router.metric("pointsman_in_flight") == parts
        client.sock.shutdown(socket.SHUT_WR) if how == "half" else client.sock.close()
        wait_for(lambda: router.metric("pointsman_in_flight") == 0, "nothing is held", _LONG_S)
        wait_for(lambda: told_of(vllm_pair, "disconnects") == parts, "the engines are left", _LONG_S)
        if not asked:
            found = router.read_until(r'\{[^\n]*"what":"warm"[^\n]*\}\n')
            assert json.loads(found)["outcome"] == "broken off"
        assert router.metric("pointsman_replica_up") >= 2
        assert '"level":"ERROR"' not in router.output()


def test_the_default_model_is_changed_under_load(own: Router) -> None:
    """Every answer is of the old model or the new one, and once changed of the new one."""
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            with Client(own.port) as client:
                client.send(post("/generate", {"prompt": "Hi", "max_length": 1}))
                answer = client.read()
            seen.append((answer.status, answer.header("x-pointsman-model") or ""))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_for(lambda: len(seen) > 5, "some answers")
        change = request(
            "PUT", "/admin/default-model", b'{"model":"gemma-3-12b"}', "content-type: application/json"
        )
        with Client(own.port) as client:
            client.send(change)
            assert client.read().status == 200
        after = len(seen) + 1  # one may be under way
        wait_for(lambda: len(seen) > after + 5, "some more")
    finally:
        stop.set()
        asking.join(30)
    assert {status for status, _ in seen} == {200}
    assert {model for _, model in seen} <= set(BOTH)
    assert {model for _, model in seen[after:]} == {"gemma-3-12b"}
    audit = json.loads(own.read_until(r'\{[^\n]*"logger":"pointsman.audit"[^\n]*default model[^\n]*\}\n'))
    assert (audit["who"], audit["outcome"]) == ("address 127.0.0.1", "ok: None -> gemma-3-12b")
    assert not any("audit" in line["logger"] for line in lines_of(own.output()))
