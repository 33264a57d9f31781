"""Every API on every engine, through real processes and sockets: TGI, vLLM, and vLLM with a base model."""

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from processes import Emulator, Router, wait_for
from wire import Incoming, call, data_of, post, request

TURNS = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say hello."}]
MODELS = ("distilgpt2", "gemma-3-12b", "base-model", "chatty")
BASE = ("distilgpt2", "base-model")  # without a chat template
TOKENS = 24
Body = dict[str, Any]


@dataclass
class Told:
    """What an answer says, in whichever words: `finish` is length or stop; counts are None where not told."""

    text: str
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Api:
    """One API: how it is called, and how its answers are read and checked."""

    name: str
    path: str
    body: Callable[[str, int], Body]
    whole: Callable[[Any], Told]
    streamed: Callable[[list[Any]], Told] | None = None
    streams_by: str = ""  # the path that streams; empty: the field `stream`
    done: bool = True  # streams end with [DONE]
    usage: bool = False  # streams tell their counts when asked

    def __str__(self) -> str:
        return self.name

    def request(self, model: str, text: str, tokens: int, /, *, stream: bool, **more: Any) -> bytes:
        body = self.body(text, tokens)
        if stream and not self.streams_by:
            body["stream"] = True
        if stream and self.usage:
            body["stream_options"] = {"include_usage": True}
        path = self.streams_by if stream and self.streams_by else self.path
        return post(f"/models/{model}{path}", {**body, **more}, "x-request-id: flow-1")

    def read(self, answer: Incoming, *, stream: bool) -> Told:
        assert answer.status == 200, answer.body
        assert answer.ended
        if not stream:
            assert answer.header("content-type") == "application/json"
            return self.whole(answer.json())
        assert self.streamed is not None
        assert answer.header("content-type") == "text/event-stream; charset=utf-8"
        told = data_of(answer.body)
        if self.done:
            assert told.pop() == "[DONE]"
        assert "[DONE]" not in told
        return self.streamed([json.loads(data) for data in told])


def usage_of(told: Any) -> tuple[int, int]:
    assert told["total_tokens"] == told["prompt_tokens"] + told["completion_tokens"]
    return told["prompt_tokens"], told["completion_tokens"]


def openai_whole(told: Any) -> Told:
    (choice,) = told["choices"]
    assert choice["index"] == 0
    if told["object"] == "chat.completion":
        assert told["id"].startswith("chatcmpl-")
        assert choice["message"]["role"] == "assistant"
        text = choice["message"]["content"]
    else:
        assert (told["object"], told["id"][:5]) == ("text_completion", "cmpl-")
        text = choice["text"]
    assert told["created"] > 1.7e9
    assert told["model"]
    return Told(text, choice["finish_reason"], *usage_of(told["usage"]))


def chat_stream(chunks: list[Any]) -> Told:
    *chunks, usage = chunks
    assert usage["choices"] == []
    for chunk in chunks:
        assert (chunk["object"], chunk["id"]) == ("chat.completion.chunk", chunks[0]["id"])
        assert chunk["id"].startswith("chatcmpl-")
        assert chunk["choices"][0]["index"] == 0
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [number for number, delta in enumerate(deltas) if "role" in delta] == [0]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert set(reasons[:-1]) <= {None}
    text = "".join(delta.get("content") or "" for delta in deltas)
    return Told(text, reasons[-1], *usage_of(usage["usage"]))


def text_stream(chunks: list[Any]) -> Told:
    usage = chunks[-1]
    chunks = [chunk for chunk in chunks if chunk["choices"]]  # TGI counts in its last one, vLLM behind it
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    return Told(text, chunks[-1]["choices"][0]["finish_reason"], *usage_of(usage["usage"]))


_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


def tgi_whole(told: Any) -> Told:
    told = told[0] if isinstance(told, list) else told
    details = told["details"]
    kept = [token["text"] for token in details["tokens"] if not token["special"]]
    assert len(details["tokens"]) == details["generated_tokens"]
    assert told["generated_text"].removeprefix("Once").startswith("".join(kept)[:4])
    return Told(told["generated_text"], _REASONS[details["finish_reason"]], None, details["generated_tokens"])


def tgi_stream(events: list[Any]) -> Told:
    assert [event["index"] for event in events] == list(range(1, len(events) + 1))
    for event in events:
        assert set(event) == {"index", "token", "generated_text", "details"}
        assert set(event["token"]) == {"id", "text", "logprob", "special"}
    assert all(event["generated_text"] is event["details"] is None for event in events[:-1])
    last, details = events[-1], events[-1]["details"]
    assert set(details) == {"finish_reason", "generated_tokens", "seed", "input_length"}
    assert details["generated_tokens"] == len(events)
    said = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert last["generated_text"].endswith(said)
    reason = _REASONS[details["finish_reason"]]
    return Told(last["generated_text"], reason, details["input_length"], details["generated_tokens"])


def plain_stream(events: list[Any]) -> tuple[str, Any]:
    *pieces, done = events
    assert done["type"] == "done"
    for piece in pieces:
        assert piece["type"] == "content"
        delta = {"index": 0, "delta": {"content": piece["content"]}, "finish_reason": None}
        assert piece["choices"] == [delta]
    return "".join(piece["content"] for piece in pieces), done


def plain(read: Callable[[Any], Told]) -> Callable[[list[Any]], Told]:
    """A stream whose last frame is a whole answer; its pieces are that answer's text."""

    def streamed(events: list[Any]) -> Told:
        said, done = plain_stream(events)
        told = read(done)
        assert told.text.strip().endswith(said.strip())
        return told

    return streamed


def generated(told: Any) -> Told:
    return Told(told["generated_text"])


def generated_000(told: Any) -> Told:
    assert told["generated_text"].startswith(told["prompt"])
    metadata = told["metadata"]
    assert metadata["generation_time"] >= 0
    return Told(told["generated_text"], metadata["finish_reason"], None, metadata["tokens_generated"])


def completed(told: Any) -> Told:
    assert told["completion"] == told["completion"].strip()
    assert told["raw_response"].startswith(told["prompt"].strip())
    return Told(told["completion"])


def chatted(told: Any) -> Told:
    assert told["role"] == "assistant"
    return Told(told["content"])


def _tgi(text: str, tokens: int) -> Body:
    return {"inputs": text, "parameters": {"max_new_tokens": tokens, "details": True}}


CHAT = Api(
    "openai chat",
    "/v1/chat/completions",
    lambda text, n: {"messages": TURNS, "max_tokens": n},
    openai_whole,
    chat_stream,
    usage=True,
)
COMPLETION = Api(
    "openai completions",
    "/v1/completions",
    lambda text, n: {"prompt": text, "max_tokens": n},
    openai_whole,
    text_stream,
    usage=True,
)
APIS = (
    CHAT,
    COMPLETION,
    Api("tgi generate", "/generate", _tgi, tgi_whole, tgi_stream, "/generate_stream", done=False),
    Api("tgi compat", "", _tgi, tgi_whole, tgi_stream, done=False),
    Api(
        "003 generate",
        "/generate",
        lambda text, n: {"model_id": "any", "prompt": text, "max_new_tokens": n},
        generated,
        plain(generated),
    ),
    Api(
        "000 generate",
        "/generate",
        lambda text, n: {"prompt": text, "max_length": n},
        generated_000,
        plain(generated_000),
    ),
    Api(
        "000 complete",
        "/complete",
        lambda text, n: {"prompt": text, "max_tokens": n},
        completed,
        plain(completed),
    ),
    Api(
        "000 chat",
        "/chat/completions",
        lambda text, n: {"messages": TURNS, "max_tokens": n},
        chatted,
        plain(chatted),
    ),
)
TGI_GENERATE = APIS[2]
BY_NAME = {api.name: api for api in APIS}


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Emulator]]:
    """By model; none of their texts ends by itself."""
    endless = ("--eos-after", "0")
    with (
        Emulator("tgi", *endless) as tgi,
        Emulator("vllm", *endless) as vllm,
        Emulator("vllm", "--no-chat-template", "--max-model-len", "512", *endless) as base,
        Emulator("tgi", "--chat-template", *endless) as chatty,
    ):
        yield dict(zip(MODELS, (tgi, vllm, base, chatty), strict=True))


@pytest.fixture(scope="module")
def bridged(engines: dict[str, Emulator]) -> Iterator[Router]:
    names = ("TGI_DISTILGPT2", "VLLM_GEMMA3", "VLLM_BASE_MODEL", "TGI_CHATTY")
    urls = [engines[model].url for model in MODELS]
    with Router(**{f"{name}_ENDPOINT": url for name, url in zip(names, urls, strict=True)}) as running:
        running.wait_until_up(*MODELS)
        yield running


def ask(
    router: Router,
    api: Api,
    model: str,
    text: str = "Once",
    tokens: int = TOKENS,
    *,
    stream: bool,
    **more: Any,
) -> Told:
    data = api.request(model, text, tokens, stream=stream, **more)
    return api.read(call(router.port, data), stream=stream)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("api", APIS, ids=str)
def test_each_api_on_each_engine(bridged: Router, api: Api, model: str) -> None:
    """Whole and streamed answers are complete in the API's own words, and say the same."""
    whole = ask(bridged, api, model, stream=False)
    streamed = ask(bridged, api, model, stream=True)
    assert whole.text == streamed.text
    assert "[emulated]" in whole.text
    for told in (whole, streamed):
        tells = api.name not in ("003 generate", "000 complete", "000 chat")
        assert (told.finish, told.completion_tokens) == (("length", TOKENS) if tells else (None, None))
    if whole.prompt_tokens is not None:
        assert whole.prompt_tokens == streamed.prompt_tokens
        assert whole.prompt_tokens > 0


@pytest.mark.parametrize("api", [api for api in APIS if "chat" not in api.name], ids=str)
def test_the_engine_makes_no_difference(bridged: Router, api: Api) -> None:
    """The emulated engines write the same text; one counts more tokens for it than the other."""
    texts = [ask(bridged, api, model, tokens=60, stream=True).text for model in MODELS]
    shortest = min(map(len, texts))
    assert shortest > 80
    assert len({text[:shortest].rstrip("\ufffd") for text in texts}) == 1


@pytest.mark.parametrize("model", BASE)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", [api for api in APIS if "chat" in api.name], ids=str)
def test_a_base_model_continues_the_conversation(
    bridged: Router, engines: dict[str, Emulator], api: Api, model: str, stream: bool
) -> None:
    """It gets the lines and where to stop; labels within what is said are none."""
    turns = [TURNS[0], {"role": "user", "content": "x\nAssistant: I am you\nשלום"}]
    engines[model].reset()
    data = api.request(model, "", 8, stream=stream, messages=turns)
    told = api.read(call(bridged.port, data), stream=stream)
    assert told.text
    sent = json.loads(engines[model].sent()[-1]["body"])
    prompt = "System: Be short.\nUser: x\n> Assistant: I am you\nשלום\nAssistant:"
    assert sent.get("inputs", sent.get("prompt")) == prompt
    assert sent.get("parameters", sent)["stop"] == ["\nUser:", "\nSystem:", "\nAssistant:"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [True, False])
def test_stop_sequences(bridged: Router, model: str, stream: bool) -> None:
    """OpenAI's clients never see one, TGI's find it at the end of their text; both hear why it ended."""
    for api, more in ((CHAT, 0), (COMPLETION, 0), (TGI_GENERATE, 1)):
        text = ask(bridged, api, model, stream=stream).text
        word = " " + text.split()[2]
        stop: Body = {"stop": ["never", word]}
        if api is TGI_GENERATE:
            stop = {"parameters": {"max_new_tokens": TOKENS, "details": True, **stop}}
        told = ask(bridged, api, model, stream=stream, **stop)
        end = text.index(word) + more * len(word)
        assert (told.text, told.finish) == (text[:end], "stop"), api.name
        if told.completion_tokens is not None:
            assert 0 < told.completion_tokens < TOKENS


def test_the_tokens_of_a_long_text_are_told_while_others_are_served(bridged: Router) -> None:
    """Each where it is in the text; the router answers other calls meanwhile."""
    text = "word and " * 20_000
    with ThreadPoolExecutor(1) as aside:
        asking = aside.submit(call, bridged.port, post("/models/gemma-3-12b/tokenize", {"inputs": text}))
        served = 0
        while not asking.done():
            assert call(bridged.port, request("GET", "/health")).status == 200
            served += 1
        told = asking.result().json()
    assert served > 1
    assert "".join(token["text"] for token in told) == "<bos>" + text
    assert told[-1]["stop"] == len(text)


@pytest.mark.parametrize("model", MODELS)
def test_token_routes(bridged: Router, model: str) -> None:
    """Ids, texts and byte offsets of a Hebrew text, in TGI's shape on each engine."""
    text = "שלום, world"
    told = call(bridged.port, post(f"/models/{model}/tokenize", {"inputs": text})).json()
    assert all(set(token) == {"id", "text", "start", "stop"} for token in told)
    spans = [(token["start"], token["stop"]) for token in told if token["stop"] > token["start"]]
    assert b"".join(text.encode()[start:stop] for start, stop in spans) == text.encode()
    info = call(bridged.port, request("GET", f"/models/{model}/info")).json()
    context = {"gemma-3-12b": 32768, "base-model": 512}.get(model, 1024)
    assert (info["max_total_tokens"], info["max_stop_sequences"]) == (context, 4)


@pytest.mark.parametrize("model", MODELS)
def test_the_tokens_of_a_chat(bridged: Router, model: str) -> None:
    """With the text they make up; a base model has no chat to count, which is the client's mistake."""
    answer = call(bridged.port, post(f"/models/{model}/chat_tokenize", {"messages": TURNS[1:]}))
    if model in BASE:
        assert answer.status == 422
        assert answer.json()["error_type"] == "validation"
        return
    told = answer.json()
    assert "Say hello." in told["templated_text"]
    assert told["tokenize_response"][-1]["stop"] == len(told["templated_text"].encode())


def test_what_the_engine_has_nothing_for_is_told(bridged: Router) -> None:
    """In one header, for streams and whole answers, on each surface."""
    for api, more, told in (
        (TGI_GENERATE, {"parameters": {"max_new_tokens": 2, "watermark": True}}, "watermark"),
        (CHAT, {"user": "u", "logit_bias": {"1": 2}}, "user, logit_bias"),
        (BY_NAME["003 generate"], {"num_beams": 4}, "num_beams"),
        (BY_NAME["000 generate"], {"pad_token_id": 2, "user_id": "u"}, "pad_token_id, user_id"),
    ):
        for stream in (True, False):
            answer = call(bridged.port, api.request("base-model", "Once", 2, stream=stream, **more))
            assert (answer.status, answer.header("x-pointsman-ignored")) == (200, told)


@pytest.mark.parametrize("stream", [True, False])
def test_what_does_not_fit_is_lowered_and_told_or_refused(bridged: Router, stream: bool) -> None:
    """Each API in its own way, on a context of 512; TGI's clients are refused as by TGI."""
    long = " time" * 300  # as many tokens, and vLLM puts one before them
    for name, told in (
        ("003 generate", "max_new_tokens;clamped=211"),
        ("000 generate", "max_length;clamped=211"),
    ):
        answer = call(bridged.port, BY_NAME[name].request("base-model", long, 400, stream=stream))
        assert (answer.status, answer.header("x-pointsman-ignored")) == (200, told)
    answer = call(bridged.port, TGI_GENERATE.request("base-model", long, 400, stream=stream))
    assert answer.status == 422
    assert answer.json()["error"] == (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. "
        "Given: 301 `inputs` tokens and 400 `max_new_tokens`"
    )
    for name in ("tgi generate", "003 generate"):
        answer = call(bridged.port, BY_NAME[name].request("base-model", " time" * 600, 4, stream=stream))
        assert (answer.status, answer.json()["code"]) == (422, "invalid_parameter")
    answer = call(bridged.port, CHAT.request("base-model", "", 4000, stream=True))
    assert (answer.header("x-pointsman-ignored") or "").startswith("max_tokens;clamped=4")


def test_seed_000_counts_a_prompt_up_to_its_512th_token(
    bridged: Router, engines: dict[str, Emulator]
) -> None:
    """It is told; the engine gets the first 512; a second time nobody counts."""
    for model, kept in (("distilgpt2", 512), ("gemma-3-12b", 511)):
        engines[model].reset()
        for _ in range(2):
            data = BY_NAME["000 generate"].request(model, " time" * 700, 20, stream=False)
            answer = call(bridged.port, data)
            assert (answer.status, answer.header("x-pointsman-ignored")) == (200, "prompt;truncated=512")
            assert answer.json()["prompt"] == " time" * 700
        sent = [json.loads(entry["body"]) for entry in engines[model].sent()]
        texts = [body.get("inputs", body.get("prompt")) for body in sent]
        assert [text.count(" time") for text in texts] == [700, kept, kept]


CUTS = [("split_every", 11), ("coalesce", 5), ("empty_tokens", 3), ("crlf", None), ("no_space", None)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("fault", "arg"), CUTS)
def test_however_an_engine_cuts_its_stream(
    bridged: Router, engines: dict[str, Emulator], model: str, fault: str, arg: int | None
) -> None:
    """Hebrew letters in parts, several tokens at once, tokens without text: each API says the same text."""

    def said(api: Api) -> str:
        return ask(bridged, api, model, "[emulated] ", stream=True).text

    with ThreadPoolExecutor(len(APIS)) as pool:
        expected = list(pool.map(said, APIS))
        assert any("\u05d0" <= letter <= "\u05ea" for letter in "".join(expected))
        engines[model].arm(fault, arg)
        try:
            told = list(pool.map(said, APIS))
        finally:
            engines[model].disarm()
    for api, text, got in zip(APIS, expected, told, strict=True):
        if fault == "empty_tokens":  # which count as tokens
            assert text.startswith(got.rstrip("\ufffd")), api.name
            assert got, api.name
        else:
            assert got == text, api.name


def test_replicas_that_call_their_model_otherwise(engines: dict[str, Emulator]) -> None:
    """Each gets the name that it knows, whichever name the client uses, on every API."""
    with (
        Emulator("vllm", "--served-model-name", "one") as one,
        Emulator("vllm", "--served-model-name", "two", "also", "--no-chat-template") as two,
        Router(VLLM_GEMMA3_ENDPOINT=f"{one.url},{two.url}", HEALTH__INTERVAL_CHANGING_S="0.05") as router,
    ):
        router.wait_until_up("gemma-3-12b")
        told = ("one", "also", "gemma-3-12b", "gaunernst/gemma-3-12b-it-qat-autoawq")
        wait_for(lambda: call(router.port, request("GET", "/v1/models/also")).status == 200, "both are up")
        for api in (api for api in APIS if api.name != "000 generate"):  # `model` makes it 003's
            for stream in (True, False):
                for name in told:
                    data = api.request("gemma-3-12b", "Once", 2, stream=stream, model=name)
                    api.read(call(router.port, data), stream=stream)
        for engine, names in ((one, {"one"}), (two, {"two", "also"})):
            bodies = [json.loads(entry["body"]) for entry in engine.sent()]
            assert len(bodies) > 10
            assert {body["model"] for body in bodies if "model" in body} <= names


@pytest.mark.parametrize("api", [TGI_GENERATE, CHAT, BY_NAME["000 generate"]], ids=str)
def test_a_model_moves_from_tgi_to_vllm_under_load(tmp_path: Path, api: Api) -> None:
    """Both are in the pool; vLLM starts, TGI ends as it should while requests run, and none of them fails."""
    pace = ("--tokens-per-s", "400")
    with Emulator("vllm", "--no-chat-template", *pace) as free:
        port = free.port
    with Emulator("tgi", *pace) as tgi:
        config = tmp_path / "config.yml"
        config.write_text(
            "models:\n- id: moving\n  replicas:\n"
            f"  - {{url: '{tgi.url}', engine: tgi}}\n  - {{url: 'http://127.0.0.1:{port}', engine: vllm}}\n"
        )
        quick = {"HEALTH__INTERVAL_S": "0.2", "HEALTH__INTERVAL_CHANGING_S": "0.05"}
        with Router(CONFIG_FILE=str(config), **quick) as router:
            router.wait_until_up("moving")
            load = Load(router, api)
            try:
                load.until(20)
                with Emulator("vllm", "--port", str(port), "--no-chat-template", *pace) as vllm:
                    wait_for(lambda: vllm.stats()["started"] > 5, "vLLM serves")
                    tgi.send_signal(signal.SIGTERM)
                    load.until(len(load.told) + 10)
                    wait_for(lambda: not tgi.runs, "TGI has ended")
                    load.until(len(load.told) + 20)
                    load.stop()
            finally:
                load.stop()
            assert load.failed == []
            assert len({told.text for told in load.told}) <= 2  # the engines count tokens differently


class Load:
    """Clients that ask without a pause, half of them for streams."""

    def __init__(self, router: Router, api: Api) -> None:
        self.told: list[Told] = []
        self.failed: list[str] = []
        self._router, self._api = router, api
        self._over = Event()
        self._threads = [Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(6)]
        for thread in self._threads:
            thread.start()

    def until(self, count: int) -> None:
        wait_for(lambda: len(self.told) >= count or bool(self.failed), f"{count} answers")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, stream: bool) -> None:
        while not self._over.is_set() and not self.failed:
            answer = call(self._router.port, self._api.request("moving", "Once", 30, stream=stream))
            try:
                self.told.append(self._api.read(answer, stream=stream))
            except AssertionError as error:
                self.failed.append(f"{answer.status} {answer.body[-300:]!r} {error}")
