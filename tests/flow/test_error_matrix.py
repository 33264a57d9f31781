"""Each fault of each engine on each API: the error has that API's shape, and nothing of the engine in it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from processes import Emulator, Router
from wire import KINDS, Incoming, call, check_silent, data_of, post

MODELS = {"distilgpt2": "tgi", "gemma-3-12b": "vllm", "base-model": "vllm"}
FACTS = {"code", "owner", "retryable", "request_id"}
_FULL, _FAILED = "503 engine_overloaded", "502 engine_failed"
_CUT, _JUNK = "502 engine_cut", "502 engine_junk"
_LATE, _TOTAL = "504 first_event_timeout", "504 total_timeout"


@dataclass(frozen=True)
class Surface:
    """One API as a client of it sees its errors. `passes`: on these models nothing is translated."""

    name: str
    path: str
    body: dict[str, Any]
    streams_by: str = ""
    passes: tuple[str, ...] = ()
    bad: int = 422  # status of a client's mistake

    def request(self, model: str, *, stream: bool) -> bytes:
        more = {"stream": True} if stream and not self.streams_by else {}
        path = self.streams_by if stream and self.streams_by else self.path
        return post(f"/models/{model}{path}", {**self.body, **more}, "x-request-id: matrix-1")

    def code(self, payload: Any, *, frame: bool) -> str:
        """The code of an error, whose shape is checked."""
        if self.name.startswith("openai"):
            assert set(payload) == {"error"}
            told = payload["error"]
            assert set(told) == {"message", "type", "param"} | FACTS
            sentence = told["message"]
        elif self.name == "tgi":
            told, sentence = payload, payload["error"]
            assert set(told) == {"error", "error_type"} | FACTS
            assert told["error_type"] in {
                "validation",
                "overloaded",
                "generation",
                "incomplete_generation_stream",
            }
        elif self.name.startswith("002") and not frame:
            told = payload
            if payload["error"] == "HTTP error":
                assert set(told) == {"error", "detail", "path"} | FACTS
                sentence = told["detail"]["message"]
            else:
                assert set(told) == {"error", "details", "path"} | FACTS
                sentence = told["details"]["error"]
        else:
            told, sentence = payload, payload["detail"]
            assert set(told) == {"detail"} | FACTS | ({"error"} if frame else set())
            assert told.get("error", sentence) == sentence
        kind = KINDS[told["code"]]
        assert isinstance(sentence, str)
        assert (told["owner"], told["retryable"]) == (kind.owner.value, kind.retryable)
        assert told["request_id"] == "matrix-1"
        if kind.status >= 500:
            assert sentence == kind.message
        return kind.code

    def outcome(self, answer: Incoming, *, stream: bool) -> str:
        """`ok`, `502 engine_cut` or `frame engine_cut`; anything that is no honest answer fails."""
        assert answer.ended
        if answer.status != 200:
            assert answer.header("content-type") == "application/json"
            assert (answer.status == 503) is (answer.header("retry-after") is not None)
            return f"{answer.status} {self.code(answer.json(), frame=False)}"
        if not stream:
            return "ok"
        told = data_of(answer.body)
        done = told[-1] == "[DONE]"
        payloads = [json.loads(one) for one in told if one != "[DONE]"]
        errors = [payload for payload in payloads if payload.get("error")]
        if errors:
            assert errors == payloads[-1:]
            assert "[DONE]" not in told
            return f"frame {self.code(payloads[-1], frame=True)}"
        assert done is (self.name != "tgi")
        assert told.count("[DONE]") == done
        if self.name == "tgi":
            assert isinstance(payloads[-1]["generated_text"], str)
        return "ok"


TURNS = [{"role": "user", "content": "Say hello."}]
SURFACES = (
    Surface(
        "openai chat",
        "/v1/chat/completions",
        {"messages": TURNS, "max_tokens": 5},
        passes=("gemma-3-12b",),
        bad=400,
    ),
    Surface(
        "openai completions",
        "/v1/completions",
        {"prompt": "Once", "max_tokens": 5},
        passes=tuple(MODELS),
        bad=400,
    ),
    Surface(
        "tgi",
        "/generate",
        {"inputs": "Once", "parameters": {"max_new_tokens": 5}},
        "/generate_stream",
        passes=("distilgpt2",),
    ),
    Surface("003", "/generate", {"model_id": "any", "prompt": "Once", "max_new_tokens": 5}),
    Surface("000 generate", "/generate", {"prompt": "Once", "max_length": 5}),
    Surface("000 complete", "/complete", {"prompt": "Once", "max_tokens": 5}),
    Surface("000 chat", "/chat/completions", {"messages": TURNS, "max_tokens": 5}),
    Surface("002 generate", "/v1/generate", {"prompt": "Once", "max_tokens": 5}, bad=400),
    Surface("002 chat", "/v1/chat", {"messages": TURNS, "max_tokens": 5}, bad=400),
)

# What a client may be told of a fault, streamed and whole; `|` between.
CASES: dict[tuple[str, object], tuple[str, str]] = {
    ("reset_before_headers", None): (_CUT, _CUT),
    ("close_before_headers", None): (_CUT, _CUT),
    ("hang_before_headers", None): (_LATE, _TOTAL),
    ("status", 401): ("502 engine_misconfigured", "502 engine_misconfigured"),
    ("status", 429): (_FULL, _FULL),
    ("status", 500): (_FAILED, _FAILED),
    ("status", 503): (_FULL, _FULL),
    ("status", 504): (_TOTAL, _TOTAL),
    ("redirect", None): (_JUNK, _JUNK),
    ("html", None): (_JUNK, _JUNK),
    ("bad_json", None): (_JUNK, _JUNK),
    ("not_http", None): (_JUNK, _JUNK),
    ("huge_headers", None): (_JUNK, _JUNK),
    ("hang_first_event", None): (_LATE, _TOTAL),
    ("hang_after", 2): ("frame idle_timeout", _TOTAL),
    ("comments_after", "2:0.05"): ("frame idle_timeout", _TOTAL),
    ("abort", None): (f"{_FULL}|{_FAILED}", f"{_FULL}|{_FAILED}"),
    ("empty", None): ("ok", "ok"),
    ("comment_first", None): ("ok", "ok"),
    ("error_first", None): (_FULL, _FULL),
    ("error_first", "internal"): (_FAILED, _FAILED),
    ("error_after", "2:generation"): ("frame engine_failed", _FAILED),
    ("error_after", "2:overloaded"): ("frame engine_overloaded", _FULL),
    ("eof_after", 2): ("frame engine_cut", "ok"),
    ("no_done", None): ("frame engine_cut", "ok"),
    ("usage_only", None): ("ok", "ok"),
    ("cut_bytes", 50): (_CUT, _CUT),
    ("wrong_content_length", None): ("ok", _CUT),
    ("no_length", None): ("ok", "ok"),
}


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Emulator]]:
    flags = ("--eos-after", "0")
    with (
        Emulator("tgi", *flags) as tgi,
        Emulator("vllm", *flags) as vllm,
        Emulator("vllm", "--no-chat-template", *flags) as base,
    ):
        yield dict(zip(MODELS, (tgi, vllm, base), strict=True))


@pytest.fixture(scope="module")
def faced(engines: dict[str, Emulator]) -> Iterator[Router]:
    settings = {
        "TIMEOUT__FIRST_EVENT_S": "1",
        "TIMEOUT__BYTE_IDLE_S": "1",
        "TIMEOUT__TOKEN_IDLE_S": "1",
        "TIMEOUT__TOTAL_S": "1.2",
        "RETRY__BUDGET_FLOOR_PER_S": "1000",
        "RATE_LIMIT__ENABLED": "false",
        "KEY_NEEDS": "POST /models/{model_id}/v1/generate=never,POST /models/{model_id}/v1/chat=never",
    }
    names = ("TGI_DISTILGPT2_ENDPOINT", "VLLM_GEMMA3_ENDPOINT", "VLLM_BASE_MODEL_ENDPOINT")
    urls = {name: engines[model].url for name, model in zip(names, MODELS, strict=True)}
    with Router(**urls, **settings) as running:
        running.wait_until_up(*MODELS)
        yield running


def outcomes(router: Router, model: str) -> dict[str, str]:
    """What each API is told, streamed and not, all asking at once."""

    def one(surface: Surface, *, stream: bool) -> str:
        answer = call(router.port, surface.request(model, stream=stream))
        check_silent(answer, "CUDA", "EngineCore")
        assert model in surface.passes or b"padding" not in answer.body  # the engine's own field
        return surface.outcome(answer, stream=stream)

    with ThreadPoolExecutor(2 * len(SURFACES)) as pool:
        waiting = {
            f"{surface.name}, {'stream' if stream else 'whole'}": pool.submit(one, surface, stream=stream)
            for surface in SURFACES
            for stream in (True, False)
        }
    return {name: future.result() for name, future in waiting.items()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("fault", "arg"), CASES, ids=str)
def test_a_fault_on_each_api(
    faced: Router, engines: dict[str, Emulator], model: str, fault: str, arg: object
) -> None:
    """An allowed outcome, in the API's own shape; afterwards all of them are served again."""
    streamed, whole = CASES[fault, arg]
    engines[model].arm(fault, arg)
    try:
        told = outcomes(faced, model)
    finally:
        engines[model].disarm()
    wrong = {
        name: outcome
        for name, outcome in told.items()
        if outcome not in (streamed if name.endswith("stream") else whole).split("|")
    }
    assert wrong == {}
    faced.wait_until_quiet()
    assert set(outcomes(faced, model).values()) == {"ok"}


@pytest.mark.parametrize("model", MODELS)
def test_a_mistake_is_the_clients_on_each_api(
    faced: Router, engines: dict[str, Emulator], model: str
) -> None:
    """What the engine finds invalid has the API's own status for it, and the engine's sentence."""
    engines[model].arm("status", 422 if MODELS[model] == "tgi" else 400)
    try:
        told = outcomes(faced, model)
    finally:
        engines[model].disarm()
    for surface in SURFACES:
        status = 422 if MODELS[model] == "tgi" else surface.bad
        for kind in ("stream", "whole"):
            assert told[f"{surface.name}, {kind}"] == f"{status} engine_rejected"


@pytest.mark.parametrize("model", MODELS)
def test_an_event_too_large_to_hold(faced: Router, engines: dict[str, Emulator], model: str) -> None:
    """It passes where nothing is translated; elsewhere it is read, or the engine's nonsense."""
    engines[model].arm("big_event")
    try:
        told = outcomes(faced, model)
    finally:
        engines[model].disarm()
    for surface in SURFACES:
        assert told[f"{surface.name}, whole"] == "ok"
        assert told[f"{surface.name}, stream"] in ({"ok"} if model in surface.passes else {"ok", _JUNK})


@pytest.mark.parametrize("fault", ["hang_before_headers", "reset_before_headers", "bad_json", "status"])
@pytest.mark.parametrize("model", MODELS)
def test_a_tokenizer_that_fails(faced: Router, engines: dict[str, Emulator], model: str, fault: str) -> None:
    """A text is counted within the time of a first event; without a count the engine judges."""
    surface = Surface("000 generate", "/generate", {"prompt": f" time{fault} " * 300, "max_length": 5})
    engines[model].arm(fault, 500 if fault == "status" else None, route="/tokenize")
    expected = {
        "hang_before_headers": (_LATE, _LATE),
        "reset_before_headers": (_CUT, _CUT),
        "bad_json": (_JUNK, _JUNK),
        "status": ("ok", "ok"),
    }[fault]
    if fault == "status" and model == "distilgpt2":
        expected = ("422 engine_rejected", "422 engine_rejected")
    try:
        for stream, wanted in zip((True, False), expected, strict=True):
            answer = call(faced.port, surface.request(model, stream=stream))
            check_silent(answer)
            assert surface.outcome(answer, stream=stream) == wanted
    finally:
        engines[model].disarm()


def test_the_log_never_held_a_bug(faced: Router) -> None:
    """After all of it no line is an error."""
    assert '"level":"ERROR"' not in faced.output()
