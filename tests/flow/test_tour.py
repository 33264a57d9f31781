"""The calls of the README, through real processes and sockets."""

import json
from typing import Any

import pytest

from processes import Emulator, Router

HELLO = [{"role": "user", "content": "Say hello."}]


def events(text: str) -> list[str]:
    """The data of each event of a stream."""
    return [line[6:] for line in text.split("\n") if line.startswith("data: ")]


def test_models_lists_both_with_their_availability(router: Router) -> None:
    """`GET /models` is a bare array in seed 003's shape, with the router's own URL of each model."""
    models: list[dict[str, Any]] = router.http.get("/models").json()
    assert [(m["id"], m["hf_name"], m["available"]) for m in models] == [
        ("distilgpt2", "distilbert/distilgpt2", True),
        ("gemma-3-12b", "gaunernst/gemma-3-12b-it-qat-autoawq", True),
    ]
    assert models[0]["endpoint"] == f"{router.url}/models/distilgpt2"


def test_health_is_healthy(router: Router) -> None:
    """`GET /health` has the fields of seeds 000 and 002."""
    health = router.http.get("/health").json()
    assert (health["status"], health["model_loaded"], health["model_name"]) == ("healthy", True, "distilgpt2")
    assert health["security"]["access_control_enabled"] is True


def test_generate_in_seed_003s_form(router: Router, tgi: Emulator) -> None:
    """`model_id` with `prompt` is answered with the raw continuation and the model's id."""
    body = {"model_id": "distilgpt2", "prompt": "Once", "max_new_tokens": 5, "temperature": 0, "top_p": 1}
    answer = router.http.post("/generate", json=body)
    assert answer.status_code == 200
    assert set(answer.json()) == {"generated_text", "model_id"}
    direct = tgi.http.post(
        "/generate", json={"inputs": "Once", "parameters": {"max_new_tokens": 5, "do_sample": False}}
    )
    assert answer.json()["generated_text"] == direct.json()["generated_text"]


def test_generate_in_tgis_form(router: Router) -> None:
    """`inputs` is TGI's own call, answered in TGI's own words."""
    answer = router.http.post(
        "/generate", json={"inputs": "Once", "parameters": {"max_new_tokens": 4, "details": True}}
    )
    assert answer.status_code == 200
    assert answer.json()["details"]["generated_tokens"] == 4


def test_generate_stream_ends_with_the_whole_text(router: Router) -> None:
    """TGI's stream passes as it is: frames from index 1, the last with `generated_text`, no `[DONE]`."""
    answer = router.http.post(
        "/generate_stream", json={"inputs": "Once", "parameters": {"max_new_tokens": 6}}
    )
    assert answer.headers["x-accel-buffering"] == "no"
    frames = [json.loads(data) for data in events(answer.text)]
    assert [frame["index"] for frame in frames] == list(range(1, len(frames) + 1))
    assert isinstance(frames[-1]["generated_text"], str)


def test_chat_whole_and_streamed_give_the_same_text(router: Router) -> None:
    """`/v1/chat/completions` answers the same with and without streaming, and streams end with `[DONE]`."""
    body = {"model": "gemma-3-12b", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = router.http.post("/v1/chat/completions", json=body)
    assert whole.status_code == 200
    text = whole.json()["choices"][0]["message"]["content"]
    streamed = router.http.post("/v1/chat/completions", json={**body, "stream": True})
    data = events(streamed.text)
    assert data[-1] == "[DONE]"
    pieces = [json.loads(one)["choices"][0]["delta"].get("content", "") for one in data[:-1]]
    assert "".join(pieces) == text


def test_completion_on_tgis_own_openai_route_is_repaired(router: Router, tgi: Emulator) -> None:
    """TGI gets `model: "tgi"`; the client gets an id, the name it asked for and OpenAI's finish reason."""
    body = {"model": "distilgpt2", "prompt": "Once", "max_tokens": 4, "temperature": 0}
    answer = router.http.post("/v1/completions", json=body, headers={"x-request-id": "repair-1"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["id"], found["model"]) == ("cmpl-repair-1", "distilgpt2")
    assert found["choices"][0]["finish_reason"] in {"length", "stop"}
    sent = [
        entry for entry in tgi.stats()["last_requests"] if ["x-request-id", "repair-1-a1"] in entry["headers"]
    ]
    assert json.loads(sent[0]["body"])["model"] == "tgi"


INPUTS = {"inputs": "Once", "parameters": {"max_new_tokens": 3}}
BELOW = [
    ("gemma-3-12b", "/v1/chat/completions", {"messages": HELLO, "max_tokens": 3}),
    ("gemma-3-12b", "/v1/completions", {"prompt": "Once", "max_tokens": 3}),
    ("distilgpt2", "/v1/completions", {"prompt": "Once", "max_tokens": 3}),
    ("distilgpt2", "/generate", INPUTS),
    ("distilgpt2", "/generate", {"prompt": "Once", "model_id": "distilgpt2", "max_new_tokens": 3}),
    ("distilgpt2", "/generate_stream", INPUTS),
    ("distilgpt2", "", INPUTS),
    ("distilgpt2", "/tokenize", {"inputs": "Once"}),
]


@pytest.mark.parametrize(("model", "path", "body"), BELOW)
@pytest.mark.parametrize("named", [None, "distilgpt2", "gemma-3-12b", "any", "gpt-4"])
def test_the_path_decides_the_model(
    router: Router, model: str, path: str, body: dict[str, Any], named: str | None
) -> None:
    """Below `/models/{id}` every route serves that model, whatever name the body gives."""
    asked = body if named is None else {**body, "model": named}
    answer = router.http.post(f"/models/{model}{path}", json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pointsman-model"] == model


def test_info_below_a_model(router: Router) -> None:
    """TGI's `/info` of a model is its engine's own."""
    assert router.http.get("/models/distilgpt2/info").json()["model_id"] == "distilbert/distilgpt2"


def test_the_engine_gets_our_headers_and_not_the_clients(router: Router, vllm: Emulator) -> None:
    """Credentials, cookies and forwarding headers of a client stay here; the request id is the attempt's."""
    headers = {
        "authorization": "Bearer client-secret",
        "cookie": "a=b",
        "x-forwarded-for": "127.0.0.1",
        "x-data-parallel-rank": "1",
        "x-request-id": "mine-7",
    }
    body = {"model": "gemma-3-12b", "messages": HELLO, "max_tokens": 2}
    answer = router.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.headers["x-request-id"] == "mine-7"
    sent = [
        entry for entry in vllm.stats()["last_requests"] if ["x-request-id", "mine-7-a1"] in entry["headers"]
    ]
    names = {name for name, _ in sent[0]["headers"]}
    assert names.isdisjoint({"authorization", "cookie", "x-forwarded-for", "x-data-parallel-rank"})
