"""TGI's own Python client, the package `text-generation`, on the emulated TGI and through the router.

It runs in an environment of its own (scripts/tgi-client), one process for the calls of a test. Its streamed
chat is left out: version 0.7.0 wants `tool_calls` in every delta and cannot read that of today's TGI.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from processes import Emulator, Router

from .tgi_client import PROMPT, Ask, call, whole

# One worker for all of them: what they share is made once.
pytestmark = pytest.mark.xdist_group("text_generation")


@pytest.fixture(scope="module")
def emulated(python: str) -> Iterator[Emulator]:
    """The engine; none is started where the client cannot be had."""
    with Emulator("tgi", "--chat-template") as started:
        yield started


@pytest.fixture(scope="module")
def router(emulated: Emulator) -> Iterator[Router]:
    with Router(TGI_DISTILGPT2_ENDPOINT=emulated.url) as started:
        started.wait_until_up("distilgpt2")
        yield started


@pytest.fixture(params=["direct", "routed"])
def url(request: pytest.FixtureRequest, emulated: Emulator) -> str:
    """A base URL as the client takes it: the engine's, or the router's for this model."""
    if request.param == "direct":
        return emulated.url
    router: Router = request.getfixturevalue("router")
    return f"{router.url}/models/distilgpt2"


def test_generate(url: str, ask: Ask) -> None:
    """A whole answer has the text and the details, which this client always asks for."""
    plain, full = map(
        whole,
        ask(
            url,
            call("generate", max_new_tokens=5),
            call("generate", max_new_tokens=5, return_full_text=True),
        ),
    )
    details = plain["details"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 5)
    assert plain["generated_text"] == "".join(token["text"] for token in details["tokens"])
    assert full["generated_text"] == PROMPT + plain["generated_text"]


def test_generate_stream(url: str, ask: Ask) -> None:
    """A stream is read to its last token, which alone has the whole text and the details."""
    plain, streamed = ask(url, call("generate", max_new_tokens=5), call("generate_stream", max_new_tokens=5))
    assert streamed.raised == ""
    *before, last = streamed.pieces
    assert len(before) == 4
    assert all(piece["generated_text"] is piece["details"] is None for piece in before)
    assert last["generated_text"] == "".join(piece["token"]["text"] for piece in streamed.pieces)
    assert last["generated_text"] == whole(plain)["generated_text"]
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 5, "seed": None}


def test_stop_sequences(url: str, ask: Ask) -> None:
    """A stop sequence ends the text, stays in it and is the reason, whole and streamed."""
    (free,) = ask(url, call("generate", max_new_tokens=8))
    stop = whole(free)["details"]["tokens"][3]["text"]
    stopped, streamed = ask(
        url,
        call("generate", max_new_tokens=8, stop_sequences=[stop]),
        call("generate_stream", max_new_tokens=8, stop_sequences=[stop]),
    )
    for end in (whole(stopped), streamed.pieces[-1]):
        assert end["details"]["finish_reason"] == "stop_sequence"
        assert end["details"]["generated_tokens"] <= 4
        assert end["generated_text"].endswith(stop)


def test_sampling_parameters(url: str, ask: Ask) -> None:
    """What steers sampling is taken, and a seed is told again."""
    sampled, best = ask(
        url,
        call("generate", max_new_tokens=4, do_sample=True, seed=7, temperature=0.7, top_k=5, top_p=0.9),
        call("generate", max_new_tokens=4, do_sample=True, best_of=2, truncate=2, repetition_penalty=1.1),
    )
    assert whole(sampled)["details"]["seed"] == 7
    assert whole(best)["details"]["generated_tokens"] == 4


def test_bad_parameters(url: str, ask: Ask) -> None:
    """ValidationError, be it the client that refuses or the engine, and on streams too."""
    own, *theirs = ask(
        url,
        call("generate", top_p=1.0),
        call("generate", max_new_tokens=0),
        call("generate_stream", max_new_tokens=0),
        call("generate", stop_sequences=list("abcde")),
        call("generate", max_new_tokens=100_000, client="AsyncClient"),
    )
    assert (own.raised, own.pieces) == ("ValidationError", [])
    assert "top_p" in own.message
    for outcome in theirs:
        assert (outcome.raised, outcome.pieces) == ("ValidationError", [])
        assert outcome.message.startswith("Input validation error: ")


@pytest.mark.parametrize(
    ("fault", "argument", "method", "raised", "pieces"),
    [
        ("status", "429", "generate", "OverloadedError", 0),
        ("status", "424", "generate", "GenerationError", 0),
        ("error_after", "2:generation", "generate_stream", "GenerationError", 2),
    ],
)
def test_failures(
    url: str, ask: Ask, emulated: Emulator, fault: str, argument: str, method: str, raised: str, pieces: int
) -> None:
    """Each failure of an engine is the same exception of the client's, with the tokens before it read."""
    emulated.arm(fault, argument)
    try:
        (outcome,) = ask(url, call(method, max_new_tokens=5))
    finally:
        emulated.disarm()
    assert (outcome.raised, len(outcome.pieces)) == (raised, pieces)
    assert outcome.message


def test_a_cut_stream_is_noticed(router: Router, ask: Ask, emulated: Emulator) -> None:
    """A stream that ends early raises, which this client alone would not notice."""
    emulated.arm("eof_after", 2)
    try:
        (direct,) = ask(emulated.url, call("generate_stream", max_new_tokens=5))
        (routed,) = ask(router.url, call("generate_stream", max_new_tokens=5))
    finally:
        emulated.disarm()
    assert (direct.raised, len(direct.pieces)) == ("", 2)
    # Our frame has TGI's error_type for it, incomplete_generation_stream, which this client does not know.
    assert (routed.raised, len(routed.pieces)) == ("UnknownError", 2)


def test_chat(url: str, ask: Ask) -> None:
    """Chat works, though this client names every model `tgi`."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    for outcome in ask(url, call("chat", **asked), call("chat", client="AsyncClient", **asked)):
        answer = whole(outcome)
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 5


def test_async_client(url: str, ask: Ask) -> None:
    """AsyncClient reads what Client reads."""
    methods = ("generate", "generate_stream")
    calls = [call(name, client, max_new_tokens=5) for client in ("Client", "AsyncClient") for name in methods]
    outcomes = ask(url, *calls)
    assert [outcome.raised for outcome in outcomes] == [""] * 4
    assert outcomes[:2] == outcomes[2:]


def test_the_routers_root_is_the_default_model(router: Router, ask: Ask) -> None:
    """Without a model in its base URL the client reaches the default model."""
    (outcome,) = ask(router.url, call("generate", max_new_tokens=3))
    assert whole(outcome)["details"]["generated_tokens"] == 3
