"""Seed 004's API over real sockets, by the rules of its own clients (`contracts/seeds.md` 6.5 and 6.6)."""

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from pointsman.cli import main
from processes import Emulator, Router, wait_for

MAILS = Path(__file__).parents[1] / "data" / "mails"
HEBREW = (MAILS / "hebrew.txt").read_text(encoding="utf-8")
ENGLISH = (MAILS / "english.txt").read_text(encoding="utf-8")
UI = {"X-Client-ID": "chatplg-ui", "Origin": "http://localhost:3000"}
CHAT = "/api/chat/stream"


@dataclass
class Page:
    """What the Next.js interface makes of a stream: it shows `error` as it is, and a bad line is fatal."""

    text: str = ""
    errors: list[str] = field(default_factory=list)
    ended: bool = False  # by [DONE]
    session: str | None = None
    _rest: str = ""

    def feed(self, chunk: str) -> None:
        lines = (self._rest + chunk).split("\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith("data: "):
                self._take(line[6:].strip())

    def _take(self, payload: str) -> None:
        assert not self.ended, f"after [DONE] came {payload}"
        if payload == "[DONE]":
            self.ended = True
            return
        frame = json.loads(payload)  # what is no JSON is fatal to it
        if frame.get("error"):
            assert isinstance(frame["error"], str)
            self.errors.append(frame["error"])
        for choice in frame.get("choices", [])[:1]:
            self.text += choice.get("delta", {}).get("content") or ""
        if frame.get("type") == "done":
            self.session = frame["session_id"]


def body(content: str = "שלום", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": content}],
        "session_id": "chat_1_ab",
        "stream": True,
        **more,
    }


def ask(router: Router, value: dict[str, Any]) -> Page:
    """Ask as the interface does, and read as it does."""
    page = Page()
    with router.http.stream("POST", CHAT, json=value, headers=UI) as answer:
        assert answer.status_code == 200, answer.read()
        for chunk in answer.iter_text():
            page.feed(chunk)
    return page


def asked(engine: Emulator, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    return [json.loads(entry["body"]) for entry in engine.sent() if entry["path"] == path]


@pytest.fixture(scope="module")
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm", "--max-model-len", "2000") as engine:
        yield engine


@pytest.fixture(scope="module")
def tgi() -> Iterator[Emulator]:
    with Emulator("tgi", "--chat-template", "--max-total-tokens", "4000") as engine:
        yield engine


@pytest.fixture(scope="module")
def router(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    settings = {
        "TGI_CHAT_ENDPOINT": tgi.url,
        "VLLM_GEMMA3_ENDPOINT": vllm.url,
        "LLM_API_MODEL_NAME": "gemma-3-12b",
        "ALLOWED_ORIGINS": "http://localhost:3000",
        "RETRY__MAX_ATTEMPTS": "2",
    }
    with Router(**settings) as running:
        running.wait_until_up("chat", "gemma-3-12b")
        yield running


@pytest.fixture(autouse=True)
def calm(tgi: Emulator, vllm: Emulator) -> Iterator[None]:
    yield
    tgi.disarm()
    vllm.disarm()


@pytest.mark.parametrize("model", ["chat", "gemma-3-12b"])
def test_the_interface_reads_the_models_own_text(router: Router, model: str) -> None:
    """Streamed and whole are one text, on vLLM and on TGI."""
    value = body(max_tokens=30, temperature=0, model=model)
    page = ask(router, value)
    whole = router.http.post(CHAT, json={**value, "stream": False}).json()
    assert (page.errors, page.ended, page.session) == ([], True, "chat_1_ab")
    assert page.text == whole["content"] == whole["choices"][0]["message"]["content"]
    assert whole["session_id"] == "chat_1_ab"
    assert whole["usage"]["completion_tokens"] > 0


def test_the_engine_gets_what_was_typed(router: Router, vllm: Emulator) -> None:
    """Each message byte for byte, behind a system prompt, with the length and sampling asked for."""
    vllm.reset()
    history = [
        {"role": "user", "content": "  def f():\n\treturn 1\n"},
        {"role": "assistant", "content": "\u2028כן\r\n"},
        {"role": "user", "content": " ועכשיו? "},
    ]
    ask(router, body() | {"messages": history, "max_tokens": 3, "temperature": 0.25})
    (sent,) = asked(vllm)
    assert sent["messages"][1:] == history
    assert sent["messages"][0]["role"] == "system"
    assert "עברית" in sent["messages"][0]["content"]
    assert (sent["max_tokens"], sent["temperature"]) == (3, 0.25)


def test_two_questions_in_a_row_are_one(router: Router, vllm: Emulator) -> None:
    """Gemma's template takes turns only, so the texts go out as one; on OpenAI's route they do not."""
    vllm.reset()
    asks = [" a\n", "b"]
    messages = [{"role": "assistant", "content": "Hello!"}]
    messages += [{"role": "user", "content": content} for content in asks]
    page = ask(router, body(max_tokens=3) | {"messages": messages})
    assert (page.errors, page.ended) == ([], True)
    (sent,) = asked(vllm)
    assert [turn["role"] for turn in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in sent["messages"][1:]] == ["", "Hello!", " a\n\n\nb"]
    passed = router.http.post("/v1/chat/completions", json={"model": "gemma-3-12b", "messages": messages})
    assert (passed.status_code, passed.json()["error"]["code"]) == (400, "engine_rejected")
    assert asked(vllm)[-1]["messages"] == messages


def test_a_long_conversation_is_counted_as_it_is_sent(router: Router, vllm: Emulator) -> None:
    """Also where what is said in several messages goes out as one."""
    vllm.reset()
    history = [{"role": "user", "content": f"q{number} " + "question " * 60} for number in range(60)]
    answer = router.http.post(CHAT, json=body(max_tokens=200) | {"messages": history}, headers=UI)
    assert answer.status_code == 200, answer.text
    dropped = int(answer.headers["x-pointsman-trimmed"])
    (sent,) = asked(vllm)
    assert sent["messages"][-1]["content"] == "\n\n".join(one["content"] for one in history[dropped:])


@pytest.mark.parametrize("session", ["שיחה חדשה", "a\r\nx-evil: 1\r\n\r\n", "\x00\x7f", "", "🚂" * 500, None])
@pytest.mark.parametrize("stream", [True, False])
def test_any_session_id_is_taken(router: Router, session: str | None, stream: bool) -> None:
    """A newline killed the seed's connection; now the header is safe and the body exact."""
    answer = router.http.post(CHAT, json=body(session_id=session, max_tokens=2, stream=stream), headers=UI)
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers
    header = answer.headers["x-session-id"]
    assert header.isascii()
    assert header.replace("_", "").replace("-", "").isalnum()
    if stream:
        page = Page()
        page.feed(answer.text)
        told = page.session
    else:
        told = answer.json()["session_id"]
    assert told == (session or header)


def test_a_page_may_send_its_client_id_and_read_the_session(router: Router) -> None:
    """The interface's preflight passes, and its origin may see our headers."""
    headers = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-client-id",
    }
    preflight = router.http.options(CHAT, headers=headers)
    assert preflight.status_code == 204
    assert "x-client-id" in preflight.headers["access-control-allow-headers"].lower()
    answer = router.http.post(CHAT, json=body(max_tokens=2), headers=UI)
    exposed = answer.headers["access-control-expose-headers"]
    assert {"X-Session-ID", "X-Pointsman-Trimmed"} <= set(exposed.split(", "))


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"null", b'{"messages":1}', b'{"messages":[]}', b"\xff", b'{"messages":[{"role":"user"}]}'],
)
def test_a_bad_body_is_400_with_a_string(router: Router, content: bytes) -> None:
    """Bad JSON and a bad form alike."""
    answer = router.http.post(CHAT, content=content, headers={"content-type": "application/json", **UI})
    assert answer.status_code == 400
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    ("fault", "arg"),
    [
        ("error_after", "4"),
        ("eof_after", "4"),
        ("abort", "4"),
        ("cut_bytes", "1500"),
        ("cut_bytes", "1500:fin"),
        ("no_done", None),
    ],
)
def test_a_stream_that_fails_ends_with_a_string_and_done(
    router: Router, vllm: Emulator, fault: str, arg: str | None
) -> None:
    """What came before stays; no text of an engine or a library is shown; `[DONE]` is last."""
    value = body(max_tokens=40, temperature=0)
    good = ask(router, value)
    vllm.arm(fault, arg)
    page = ask(router, value)
    assert good.text.startswith(page.text)
    assert page.text
    assert len(page.errors) == 1
    assert "emulat" not in page.errors[0].lower()
    assert (page.ended, page.session) == (True, None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("fault", "arg"), [("status", "500"), ("close_before_headers", None), ("bad_json", None)]
)
def test_a_failure_before_the_first_word_is_an_http_error(
    router: Router, vllm: Emulator, stream: bool, fault: str, arg: str | None
) -> None:
    """The interface shows the number, and tries again from 500 on."""
    vllm.arm(fault, arg)
    answer = router.http.post(CHAT, json=body(stream=stream))
    assert answer.status_code in (502, 503)
    assert isinstance(answer.json()["detail"], str)
    assert answer.headers["x-session-id"] == "chat_1_ab"


def test_silence_is_bridged_and_may_still_fail(vllm: Emulator) -> None:
    """A slow engine's stream opens with comments, which are passed over; then come words or an error."""
    settings = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "TIMEOUT__OPEN_AFTER_S": "0.1", "RETRY__MAX_ATTEMPTS": "1"}
    with Router(**settings) as router:
        router.wait_until_up("gemma-3-12b")
        vllm.arm("slow_first_token", "0.5", times=1)
        late = ask(router, body(max_tokens=3))
        vllm.arm("delay", "0.5", times=1)
        vllm.arm("status", "500", times=1)
        failed = ask(router, body(max_tokens=3))
    assert (late.errors, late.ended) == ([], True)
    assert late.text
    assert (failed.text, len(failed.errors), failed.ended) == ("", 1, True)


def test_who_leaves_ends_the_generation(router: Router, vllm: Emulator) -> None:
    """Abort closes the connection, and the interface expects the engine to stop."""
    vllm.arm("hang_after", "3")
    with router.http.stream("POST", CHAT, json=body(max_tokens=1500)) as answer:
        next(answer.iter_raw())
    vllm.wait_until_quiet()
    router.wait_until_quiet()


def long_chat(turns: int, words: int = 60) -> list[dict[str, str]]:
    """A conversation of so many questions with their answers, and one more question."""
    said: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    for number in range(turns):
        said.append({"role": "user", "content": f"q{number} " + "question " * words})
        said.append({"role": "assistant", "content": f"a{number} " + "answer " * words})
    return [*said, {"role": "user", "content": "last " * words}]


@pytest.mark.parametrize("model", ["chat", "gemma-3-12b"])
def test_a_long_conversation_loses_whole_oldest_pairs(
    router: Router, tgi: Emulator, vllm: Emulator, model: str
) -> None:
    """As many as must, by the engine's own count; a header says how many messages; the rest is untouched."""
    engine, context = (tgi, 4000) if model == "chat" else (vllm, 2000)
    engine.reset()
    history = long_chat(40)
    value = body() | {"messages": history, "max_tokens": 200, "temperature": 0, "model": model}
    answer = router.http.post(CHAT, json=value, headers=UI)
    dropped = int(answer.headers["x-pointsman-trimmed"])
    assert dropped % 2 == 0
    (sent,) = asked(engine)
    assert sent["messages"] == [history[0], *history[1 + dropped :]]
    page = Page()
    page.feed(answer.text)
    assert (page.errors, page.ended) == ([], True)
    # One pair more had not left room for the answer.
    more = [history[0], *history[dropped - 1 :]]
    asks = {"messages": more} if model != "chat" else {"model": "tgi", "messages": more}
    counted = engine.http.post("/tokenize" if model != "chat" else "/chat_tokenize", json=asks).json()
    size = counted["count"] if model != "chat" else len(counted["tokenize_response"])
    assert size + 200 > context


def test_a_short_conversation_asks_for_no_count(router: Router, vllm: Emulator) -> None:
    """Fewer bytes than tokens are free cannot be too long."""
    vllm.reset()
    answer = router.http.post(CHAT, json=body("a" * 500, max_tokens=100))
    assert "x-pointsman-trimmed" not in answer.headers
    assert asked(vllm, "/tokenize") == []


def test_what_must_stay_and_does_not_fit_is_a_400(router: Router) -> None:
    """The seed dropped it and answered the system prompt alone."""
    answer = router.http.post(CHAT, json=body("word " * 5000, max_tokens=100))
    assert answer.status_code == 400
    assert "this model takes 2000" in answer.json()["detail"]


def test_health_counts_what_runs_and_waits(vllm: Emulator) -> None:
    """The gauges of both replicas together, while their streams run; distinct sessions."""
    flags = ("--tokens-per-s", "20", "--max-num-seqs", "2", "--eos-after", "0")
    with Emulator("vllm", *flags) as one, Emulator("vllm", *flags) as other:
        settings = {"VLLM_GEMMA3_ENDPOINT": f"{one.url},{other.url}"}
        with Router(**settings) as router, ThreadPoolExecutor(6) as pool:
            router.wait_until_up("gemma-3-12b")
            values = [body(max_tokens=100, session_id=f"s{number % 3}") for number in range(6)]
            pages = [pool.submit(ask, router, value) for value in values]

            def health() -> dict[str, Any]:
                found: dict[str, Any] = router.http.get("/api/health").json()
                return found

            def counts() -> tuple[Any, Any]:
                told = health()
                return told["vllm_running_requests"], told["vllm_waiting_requests"]

            wait_for(lambda: counts() == (4, 2), "4 running and 2 waiting")
            assert health()["active_sessions"] == 3
            assert all(page.result().ended for page in pages)
            wait_for(lambda: counts() == (0, 0), "nothing running")
            metrics = router.http.get("/api/metrics").json()
            assert (metrics["total_requests_24h"], metrics["error_rate"]) == (6, 0.0)
            assert metrics["average_response_time"] > 1
            assert 0 < metrics["uptime"] <= 100


def test_a_hung_engine_hangs_no_health(router: Router, vllm: Emulator) -> None:
    """Counts that are not told in time are null, and status is the health checks' own."""
    vllm.arm("metrics_hang")
    time.sleep(0.6)  # for a page that was kept to grow old
    told = router.http.get("/api/health", timeout=10).json()
    assert (told["status"], told["vllm_running_requests"], told["vllm_waiting_requests"]) == (
        "healthy",
        None,
        None,
    )


def test_health_is_200_and_unhealthy_when_the_engine_is_gone() -> None:
    """And a chat is then a 503."""
    with Router(VLLM_GEMMA3_ENDPOINT="http://127.0.0.1:9") as router:
        wait_for(lambda: not router.http.get("/models/gemma-3-12b/health").json()["healthy"], "down")
        health = router.http.get("/api/health")
        assert (health.status_code, health.json()["status"]) == (200, "unhealthy")
        wait_for(lambda: router.http.post(CHAT, json=body()).status_code == 503, "503")
        title = router.http.post("/api/title/generate", json={"user_message": "שלום לך"})
        assert (title.status_code, title.json()) == (200, {"title": "שיחה חדשה"})
        tasks = router.http.post("/api/tasks/extract", json={"email_content": ENGLISH})
        assert (tasks.status_code, type(tasks.json()["detail"])) == (503, str)


GOOD: dict[str, tuple[dict[str, Any], str, Any]] = {
    "/api/tasks/extract": (
        {"email_content": HEBREW},
        (
            '{"tasks":[{"sender":"נועה לוי","sending_date":"2025-08-03","assigned_to":"דן",'
            '"title":"חשבוניות","description":"לשלוח את חשבוניות יולי",'
            '"due_date":"06/08/2025"},{"assigned_to":"","title":"x"}]}'
        ),
        [
            {
                "sender": "נועה לוי",
                "sending_date": "2025-08-03",
                "assigned_to": "דן",
                "title": "חשבוניות",
                "description": "לשלוח את חשבוניות יולי",
                "due_date": "2025-08-06",
            }
        ],
    ),
    "/api/summarization/summarize": (
        {"email_content": ENGLISH, "length": 60},
        (
            'Sure:\n```json\n{"sender":"Ruth Amsel <ruth@example.org>",'
            '"sending_date":"Mon, 4 Aug 2025 14:30:00 +0300",'
            '"title":"New depot","summary":"The move is on 18 August."}\n```\n'
        ),
        {
            "sender": "ruth@example.org",
            "sending_date": "2025-08-04T14:30:00+03:00",
            "title": "New depot",
            "summary": "The move is on 18 August.",
        },
    ),
    "/api/title/generate": (
        {"user_message": "How do I renew a passport?"},
        '{"title": "Renewing a passport in six easy steps now."}',
        {"title": "Renewing a passport in six easy"},
    ),
}


@pytest.mark.parametrize("model", ["chat", "gemma-3-12b"])
@pytest.mark.parametrize("path", GOOD)
def test_services_give_what_the_model_says(
    router: Router, tgi: Emulator, vllm: Emulator, path: str, model: str
) -> None:
    """On either engine, with the schema enforced, and the mail as it came."""
    engine = tgi if model == "chat" else vllm
    engine.reset()
    value, said, expected = GOOD[path]
    engine.arm("say", said)
    answer = router.http.post(path, json={**value, "model": model})
    assert (answer.status_code, answer.json()) == (200, expected)
    (sent,) = asked(engine)
    assert sent["messages"][-1]["content"] == next(iter(value.values()))
    assert sent["response_format"]["type"] == ("json" if model == "chat" else "json_schema")


@pytest.mark.parametrize("model", ["chat", "gemma-3-12b"])
@pytest.mark.parametrize("path", GOOD)
def test_the_schema_alone_makes_a_good_answer(router: Router, path: str, model: str) -> None:
    """An engine that obeys it, as the emulated ones do, never needs a repair."""
    answer = router.http.post(path, json={**GOOD[path][0], "model": model})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-pointsman-attempts"] == "1"


@pytest.mark.parametrize("path", ["/api/tasks/extract", "/api/summarization/summarize"])
def test_a_broken_answer_is_repaired_once(router: Router, vllm: Emulator, path: str) -> None:
    """The model is told what it said and what was wrong; its second answer counts."""
    vllm.reset()
    value, said, expected = GOOD[path]
    vllm.arm("say", said)
    vllm.arm("say", '{"tasks": [{"title"', times=1)
    answer = router.http.post(path, json=value)
    assert (answer.status_code, answer.json()) == (200, expected)
    first, second = asked(vllm)
    assert second["messages"][:2] == first["messages"]
    assert [turn["role"] for turn in second["messages"][2:]] == ["assistant", "user"]
    assert second["messages"][2]["content"] == '{"tasks": [{"title"'


def test_a_repair_is_paid(vllm: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its key is charged for both calls, as much as the engine has counted."""
    assert main(["keys", "create", "--file", str(tmp_path / "keys.json"), "--tokens-per-minute", "9000"]) == 0
    headers = {"X-API-Key": capsys.readouterr().out.splitlines()[0]}
    value, said, expected = GOOD["/api/tasks/extract"]
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url, KEYS_FILE=str(tmp_path / "keys.json")) as router:
        router.wait_until_up("gemma-3-12b")

        def cost(answer: str, *unfit: str) -> tuple[int, int, int]:
            """Tokens of prompts and answers, and what the call took of the limit, at least."""
            begun, before = time.monotonic(), usage()
            vllm.arm("say", answer)
            for bad in unfit:
                vllm.arm("say", bad, times=1)
            assert router.http.post("/api/tasks/extract", json=value, headers=headers).json() == expected
            ended = before["used"]["requests"] + 1
            wait_for(lambda: usage()["used"]["requests"] == ended, "it has ended and is paid")
            after = usage()
            prompt, completion = (
                after["used"][name] - before["used"][name] for name in ("prompt_tokens", "completion_tokens")
            )
            paid = before["remaining"]["tokens"] - after["remaining"]["tokens"]
            return prompt, completion, paid + math.ceil(9000 / 60 * (time.monotonic() - begun))

        def usage() -> Any:
            return router.http.get("/usage", headers=headers).json()

        prompt, completion, _ = cost(said)
        both_prompts, both_completions, paid = cost(said, '{"tasks": [{"title"')
        assert both_prompts > 2 * prompt > 0
        assert both_completions > completion > 0
        assert paid >= both_prompts + both_completions


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("said", ["{", "", '{"tasks": 5, "title": ""}'])
def test_a_model_that_stays_unfit_is_a_502(router: Router, vllm: Emulator, path: str, said: str) -> None:
    """After one repair, and for a title the stand-in; the replica is not to blame and stays up."""
    vllm.reset()
    vllm.arm("say" if said else "empty", said or None)
    answer = router.http.post(path, json=GOOD[path][0])
    assert len(asked(vllm)) == 2
    if path == "/api/title/generate":
        assert (answer.status_code, answer.json()) == (200, {"title": "New conversation"})
    else:
        assert (answer.status_code, answer.json()["code"]) == (502, "answer_unfit")
        assert isinstance(answer.json()["detail"], str)
    assert router.http.get("/models/gemma-3-12b/health").json()["healthy"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/api/tasks/extract", {"email_content": ""}),
        ("/api/tasks/extract", {}),
        ("/api/summarization/summarize", {"email_content": " "}),
        ("/api/summarization/summarize", {"email_content": ENGLISH, "length": -5}),
        ("/api/title/generate", {"user_message": ""}),
        ("/api/tasks/extract", {"email_content": "word " * 5000}),
    ],
)
def test_bad_input_is_a_400(router: Router, path: str, value: dict[str, Any]) -> None:
    """Named, as a string; the seed answered 500, or took it. A mail beyond the context too."""
    answer = router.http.post(path, json=value)
    assert answer.status_code == 400
    assert isinstance(answer.json()["detail"], str)


def test_no_mail_is_in_the_log(vllm: Emulator) -> None:
    """Good, bad, unfit or cut: neither the mail, nor the chat, nor what the model said of them."""
    canary, said = "כנרת7319", "canary-of-the-model"
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url, LOG_LEVEL="DEBUG") as router:
        router.wait_until_up("gemma-3-12b")
        for fault, arg in (
            (None, None),
            ("say", said),
            ("status", "500"),
            ("bad_json", None),
            ("eof_after", "2"),
        ):
            if fault:
                vllm.arm(fault, arg)
            for path, name in (
                ("/api/tasks/extract", "email_content"),
                ("/api/summarization/summarize", "email_content"),
                ("/api/title/generate", "user_message"),
            ):
                router.http.post(path, json={name: f"{ENGLISH}\n{canary}"})
            router.http.post(CHAT, json=body(canary, session_id=canary))
            vllm.disarm()
        router.http.post("/api/summarization/summarize", json={"email_content": canary, "length": canary})
        router.http.post(CHAT, json=body(canary, temperature=canary), headers={"x-request-id": "the-last"})
        router.access_line("the-last")
        output = router.output()
    assert canary not in output
    assert json.dumps(canary)[1:-1] not in output
    assert said not in output
    assert "ruth@example.org" not in output


@dataclass
class Simulated:
    """One user of the load simulator: full history each turn; the first `data: ` line is the first token."""

    number: int
    waits_s: list[float] = field(default_factory=list)
    trimmed: int = 0
    failures: list[str] = field(default_factory=list)

    def talk(self, url: str, turns: int) -> None:
        history: list[dict[str, str]] = []
        session = f"sim_user_{self.number}_1754212345"
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            for turn in range(turns):
                history.append(
                    {"role": "user", "content": f"שאלה {turn} של משתמש {self.number}: " + "ספר עוד. " * 8}
                )
                text = self._ask(
                    http, {"messages": history, "session_id": session, "stream": True, "max_tokens": 40}
                )
                history.append({"role": "assistant", "content": text})

    def _ask(self, http: httpx.Client, value: dict[str, Any]) -> str:
        begun, text = time.monotonic(), ""
        with http.stream("POST", CHAT, json=value) as answer:
            if answer.status_code != 200:
                self.failures.append(f"HTTP {answer.status_code}")
                return "?"
            self.trimmed += int(answer.headers.get("x-pointsman-trimmed", 0))
            heard = False
            for line in answer.iter_lines():
                if not line.startswith("data: "):
                    continue
                if not heard:
                    heard = True
                    self.waits_s.append(time.monotonic() - begun)
                if line[6:] == "[DONE]":
                    return text
                frame = json.loads(line[6:])
                if "error" in frame:
                    self.failures.append(frame["error"])
                for choice in frame.get("choices", []):
                    text += choice["delta"].get("content", "")
        self.failures.append("no [DONE]")
        return text


def test_the_load_simulator_has_no_failures() -> None:
    """25 users with growing histories, most of them beyond the context at the end: every turn is answered."""
    flags = ("--max-model-len", "800", "--max-num-seqs", "25", "--tokens-per-s", "400")
    with (
        Emulator("vllm", *flags) as one,
        Emulator("vllm", *flags) as other,
        Router(VLLM_GEMMA3_ENDPOINT=f"{one.url},{other.url}") as router,
    ):
        router.wait_until_up("gemma-3-12b")
        users = [Simulated(number) for number in range(25)]
        with ThreadPoolExecutor(25) as pool:
            for done in [pool.submit(user.talk, router.url, 8) for user in users]:
                done.result()
        assert [user.failures for user in users] == [[]] * 25
        assert all(len(user.waits_s) == 8 for user in users)
        assert all(user.trimmed > 0 for user in users)
        assert router.http.get("/api/health").json()["active_sessions"] == 25
        assert router.http.get("/api/metrics").json()["total_requests_24h"] == 200
