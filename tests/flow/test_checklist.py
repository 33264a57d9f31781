"""The compatibility checklist (`contracts/seeds.md` 9) line by line, and the clients of section 6.

What is proved elsewhere is named in `PROVED`, what is not is proved here; each line is to be found in this
file.
"""

import ast
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from flow.test_go_gateway import Gateway
from nginx import tool
from pointsman.cli import main
from pointsman.knobs import KNOBS
from pointsman.settings import load
from processes import Emulator, Router, wait_for

TESTS = Path(__file__).parents[1]
DEMOS = Path(__file__).parent / "data" / "llm_service_demos.sh"
KEY = "a-key-of-my-own-for-demos"
# Each line of the checklist, and each client, with the tests that hold it.
PROVED = {
    "1. the gateway's calls": [
        "flow/test_go_gateway.py::test_each_call_is_accepted_on_one_connection",
        "flow/test_go_gateway.py::test_what_is_missing_or_zero",
        "flow/test_go_gateway.py::test_gos_own_client",
        "flow/test_checklist.py::test_the_gateway_needs_no_key",
    ],
    "2. client_example.py": [
        "flow/test_distilgpt2_api.py::test_the_seeds_example_client",
        "flow/test_checklist.py::test_the_fields_of_code_and_readme",
    ],
    "3. 002: curl scripts": ["flow/test_checklist.py::test_the_demos_by_curl"],
    "3. 002: error shapes": ["flow/test_llm_service.py::test_errors_come_in_the_seeds_order"],
    "3. 002: X-Process-Time": ["flow/test_llm_service.py::test_a_prompt_is_continued_by_a_chat_model"],
    "3. 002: cached false, then true": ["flow/test_llm_service.py::test_the_cache_demo"],
    "3. 002: three turns": ["flow/test_llm_service.py::test_the_history_demo"],
    "3. 002: a stream byte for byte": ["flow/test_llm_service.py::test_a_stream_is_byte_exact"],
    "4. 003: an array of models": [
        "flow/test_tour.py::test_models_lists_both_with_their_availability",
        "flow/test_backend_api.py::test_the_page_lists_the_models",
    ],
    "4. 003: a string in detail": [
        "flow/test_backend_api.py::test_the_page_shows_what_went_wrong",
        "flow/test_checklist.py::test_models_that_are_not_there",
    ],
    "4. 003: temperature 0 and top_p 1": [
        "flow/test_backend_api.py::test_values_that_engines_refuse_succeed"
    ],
    "4. 003: unknown is 404, down is 503": ["flow/test_checklist.py::test_models_that_are_not_there"],
    "5. 004: the page's parser": [
        "flow/test_plg_api.py::test_the_interface_reads_the_models_own_text",
        "flow/test_plg_api.py::test_silence_is_bridged_and_may_still_fail",
    ],
    "5. 004: a string in error, [DONE] last": [
        "flow/test_plg_api.py::test_a_stream_that_fails_ends_with_a_string_and_done"
    ],
    "5. 004: X-Client-ID in a preflight": [
        "flow/test_plg_api.py::test_a_page_may_send_its_client_id_and_read_the_session"
    ],
    "5. 004: /api/metrics": ["flow/test_checklist.py::test_the_figures_of_the_readme"],
    "5. 004: counts of /api/health": [
        "flow/test_plg_api.py::test_health_counts_what_runs_and_waits",
        "contract/test_seeds.py::test_health_of_plgs_counts",
    ],
    "5. 004: an unhealthy body": [
        "flow/test_plg_api.py::test_health_is_200_and_unhealthy_when_the_engine_is_gone",
        "flow/test_checklist.py::test_the_unhealthy_body",
    ],
    "6. first token after 45 s, streams of 5 minutes": [
        "flow/test_checklist.py::test_the_defaults_admit_a_long_stream",
        "flow/test_checklist.py::test_a_long_stream_survives",
    ],
    "6. a client's leaving reaches the engine": [
        "flow/test_abort.py::test_the_engine_is_left_when_the_client_leaves",
        "flow/test_plg_api.py::test_who_leaves_ends_the_generation",
    ],
    "client 6.1: Go gateway": ["flow/test_go_gateway.py::test_gos_own_client"],
    "client 6.2: seed 000's own": ["flow/test_distilgpt2_api.py::test_every_error_has_a_string_in_detail"],
    "client 6.3: seed 002's scripts": ["flow/test_checklist.py::test_the_demos_by_curl"],
    "client 6.4: seed 003's page": ["flow/test_backend_api.py::test_the_page_asks_two_models_at_once"],
    "client 6.5: PLG's page": ["flow/test_plg_api.py::test_the_interface_reads_the_models_own_text"],
    "client 6.6: PLG's load simulator": ["flow/test_plg_api.py::test_the_load_simulator_has_no_failures"],
    "client 6.7: OpenAI's API with a bearer key": [
        "contract/test_through_router.py::test_a_stream_gives_the_same_text",
        "flow/test_keys.py",
    ],
}


@pytest.mark.parametrize("line", PROVED)
def test_what_proves_a_line_is_there(line: str) -> None:
    """A test that is renamed or taken out is missed here."""
    for named in PROVED[line]:
        path, _, name = named.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in tests if name else tests, named


# --- 1 and 2: seed 000


def test_the_gateway_needs_no_key(tgi: Emulator, tmp_path: Path) -> None:
    """Nor can it send one: its routes stay open where others need a key."""
    path = tmp_path / "keys.json"
    assert main(["keys", "create", "--file", str(path)]) == 0
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, KEYS_FILE=str(path)) as router:
        router.wait_until_up("distilgpt2")
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        assert router.http.post("/v1/chat/completions", json=chat).status_code == 401
        with Gateway(router.port) as gateway:
            assert gateway.model_info()["status"] == "loaded"
            assert gateway.complete("Hi", 5)
            assert gateway.generate("Hi", 5).startswith("Hi")
            assert isinstance(gateway.chat(chat["messages"], 5), str)


def test_the_fields_of_code_and_readme(router: Router) -> None:
    """`/health` and `/model-info` have what the seed's client indexes, and what its README names besides."""
    health, info = router.http.get("/health").json(), router.http.get("/model-info").json()
    assert (health["status"], health["model_name"]) == ("healthy", "distilgpt2")
    assert isinstance(health["security"]["access_control_enabled"], bool)
    assert (info["model_name"], info["model_size"]) == ("distilgpt2", "82M parameters")
    assert info["optimized_for"]
    assert (info["parameters"], info["max_length"], info["status"]) == ("82M", 1024, "loaded")
    assert info["capabilities"]


# --- 3: seed 002


def test_the_demos_by_curl(tgi: Emulator, vllm: Emulator) -> None:
    """The seed's scripts, by the real curl, read what they read there."""
    tool("curl")
    settings = {
        "SECURITY__API_KEY": KEY,
        "KEYS_FILE": "/nonexistent/keys.json",
        "RATE_LIMIT__ENABLED": "false",
        "CACHE__ENABLED": "true",
        "CHAT_HISTORY__ENABLED": "true",
        "MODEL__MAX_TOKENS": "12",
    }
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as router:
        router.wait_until_up("distilgpt2", "gemma-3-12b")
        env = {**os.environ, "ROUTER_URL": router.url, "ROUTER_KEY": KEY, "NO_PROXY": "*"}
        done = subprocess.run(
            ["bash", str(DEMOS)], env=env, capture_output=True, text=True, timeout=300, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert int(told.pop("stream")) >= 3
    assert told == {
        "generated": "True",
        "first cached": "False",
        "second cached": "True",
        **{f"turn {number}": "True" for number in (1, 2, 3)},
        "stream ends": "data: [DONE]",
        "no key": "401",
        "no key says": "Missing API key",
        "wrong key": "403",
        "wrong key says": "Invalid API key",
        "no prompt": "422",
        "no prompt says": "list",
        "long prompt": "400",
        "long prompt says": "('Prompt too long', 4100)",
        "took": "1",
        "health": "healthy",
    }


# --- 4: seed 003


def test_models_that_are_not_there(tgi: Emulator) -> None:
    """Unknown is 404 and lists those that are known, down is 503; `detail` is a string without an address."""
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, TGI_PHI2_ENDPOINT="http://127.0.0.1:9") as router:
        router.wait_until_up("distilgpt2")
        wait_for(lambda: router.http.get("/models/phi-2/health").json()["state"] != "unknown", "a check")
        for model, status in (("nobody", 404), ("phi-2", 503)):
            answer = router.http.post("/generate", json={"model_id": model, "prompt": "Hi"})
            detail = answer.json()["detail"]
            assert (answer.status_code, type(detail)) == (status, str)
            assert "127.0.0.1" not in detail
            assert status != 404 or "distilgpt2" in detail
        assert [model["id"] for model in router.http.get("/models").json()] == ["distilgpt2", "phi-2"]


# --- 5: seed 004


def test_the_figures_of_the_readme(router: Router) -> None:
    """`/api/metrics` has the names and kinds of seed 004's README."""
    told = router.http.get("/api/metrics").json()
    kinds = {
        "active_sessions": int,
        "total_requests_24h": int,
        "average_response_time": float,
        "error_rate": float,
        "uptime": float,
        "window_s": int,
        "resource_usage": dict,
    }
    assert {name: type(value) for name, value in told.items()} == kinds
    usage = told["resource_usage"]
    assert set(usage) == {"memory", "gpu_memory", "cpu_percent"}
    assert usage["memory"].endswith("GB")


def test_the_unhealthy_body() -> None:
    """All fields are there, and the counts that nobody tells are null."""
    with Router(VLLM_GEMMA3_ENDPOINT="http://127.0.0.1:9") as router:
        told = router.http.get("/api/health").json()
    assert set(told) >= {"timestamp", "uptime"}
    assert {name: told[name] for name in told if name not in ("timestamp", "uptime")} == {
        "status": "unhealthy",
        "vllm_healthy": False,
        "active_sessions": 0,
        "vllm_running_requests": None,
        "vllm_waiting_requests": None,
    }


# --- 6: long streams

FIRST_S, LASTS_S, TOKENS = 45.0, 300.0, 1500  # seed 004's worst measured hour (`contracts/seeds.md` 6.6)
# So many times faster than life. LONG_STREAM_FACTOR=1 takes the six minutes and the router's own settings.
FACTOR = float(os.environ.get("LONG_STREAM_FACTOR", "50"))
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "שלום"}], "max_tokens": TOKENS}


def test_the_defaults_admit_a_long_stream() -> None:
    """A first token after 45 s and 5 minutes of tokens are within every limit, with much to spare."""
    timeouts = load({}, None, None).timeouts
    assert timeouts.first_event_s >= 2 * FIRST_S
    assert timeouts.byte_idle_s >= FIRST_S
    assert timeouts.token_idle_s >= FIRST_S
    assert timeouts.total_stream_s >= 5 * (FIRST_S + LASTS_S)
    # Proxies and clients cut what is silent for 60 s: the stream is opened, and speaks, well before.
    assert 0 < timeouts.open_after_s <= 15


@dataclass
class Heard:
    """A stream as its client heard it: seconds until its first bytes, its first data and its end."""

    opened_s: float
    first_s: float
    took_s: float
    comments: int
    data: list[str]


def listen(url: str, path: str, body: dict[str, Any]) -> Heard:
    """Read a stream to its end."""
    began = time.monotonic()
    first, comments, data = 0.0, 0, []
    with httpx.stream("POST", url + path, json=body, timeout=600, trust_env=False) as answer:
        assert answer.status_code == 200
        opened = time.monotonic() - began
        for line in answer.iter_lines():
            comments += line.startswith(":")
            if line.startswith("data:"):
                first = first or time.monotonic() - began
                data.append(line)
    return Heard(opened, first, time.monotonic() - began, comments, data)


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[Router, Emulator, Emulator]]:
    """Engines as slow as life is, and a router whose limits are all faster by the same factor."""
    pace = ("--tokens-per-s", str(TOKENS / LASTS_S * FACTOR), "--eos-after", "0")
    settings = {}
    if FACTOR != 1:
        for knob in KNOBS.values():
            sections = ("TIMEOUT__", "PROGRESS__")
            timed = knob.name.startswith(sections) and knob.name.endswith("_S")
            # To connect takes no longer on a slow machine than on a fast one.
            if (
                timed
                and knob.name != "TIMEOUT__CONNECT_S"
                and isinstance(knob.default, float)
                and knob.default
            ):
                settings[knob.name] = f"{knob.default / FACTOR:g}"
    with (
        Emulator("tgi", "--max-total-tokens", "4000", *pace) as tgi,
        Emulator("vllm", "--max-model-len", "4000", *pace) as vllm,
        Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as router,
    ):
        router.wait_until_up("distilgpt2", "gemma-3-12b")
        yield router, tgi, vllm


def test_a_long_stream_survives(slow: tuple[Router, Emulator, Emulator]) -> None:
    """First token after 45 s, the last five minutes later, on each API; comments fill the wait."""
    router, *engines = slow
    for engine in engines:
        engine.arm("slow_first_token", f"{FIRST_S / FACTOR:g}")
    asked = {
        "/api/chat/stream": ASK,
        "/v1/chat/completions": {**ASK, "model": "gemma-3-12b", "stream": True},
        "/generate_stream": {"inputs": "Once", "parameters": {"max_new_tokens": TOKENS}},
    }
    with ThreadPoolExecutor(len(asked)) as pool:
        heard = dict(
            zip(asked, pool.map(lambda path: listen(router.url, path, asked[path]), asked), strict=True)
        )
    for path, stream in heard.items():
        assert stream.opened_s < stream.first_s, path
        assert stream.comments >= 2, path
        assert stream.first_s >= FIRST_S / FACTOR, path
        assert stream.took_s >= (FIRST_S + LASTS_S) / FACTOR * 0.9, path
        assert '"error"' not in "".join(stream.data), path
        if path == "/generate_stream":
            assert len(stream.data) == TOKENS
            assert json.loads(stream.data[-1][5:])["generated_text"]
        else:
            assert stream.data[-1] == "data: [DONE]"
    assert router.metric("pointsman_in_flight") == 0
