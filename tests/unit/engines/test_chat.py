"""A conversation as both engines take it on `/v1/chat/completions`, for APIs that are not OpenAI's."""

import json
from typing import Any

import pytest

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.engines.chat import ChatSource, fields
from pointsman.engines.tgi import Tgi
from pointsman.engines.vllm import Vllm
from pointsman.generation import Delta, Finish, Message, Tokens, Wish
from pointsman.replica import Endpoint, Engine, Facts, Replica

TURNS = (Message("system", "Be short."), Message("user", "שלום"))
FULL = Wish(
    messages=TURNS, max_new=5, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, repetition_penalty=1.1,
    frequency_penalty=-0.5, presence_penalty=0.5, seed=3, stop=("a", "b"), ignored=("user_id",),
)  # fmt: skip


def said(wish: Wish, *, stream: bool = False) -> dict[str, Any]:
    return {name: json.loads(bytes(raw)) for name, raw in fields(wish, stream=stream).items()}


def test_the_least_that_is_asked() -> None:
    """The turns, and with a stream the counts."""
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "שלום"}]
    assert said(Wish(messages=TURNS)) == {"messages": turns, "stream": False}
    streamed = {"messages": turns, "stream": True, "stream_options": {"include_usage": True}}
    assert said(Wish(messages=TURNS), stream=True) == streamed


def test_greedy_is_temperature_zero() -> None:
    """Whatever temperature was named."""
    assert said(Wish(messages=TURNS, sampling=False, temperature=0.7))["temperature"] == 0


def test_every_parameter() -> None:
    """In vLLM's words all of them."""
    more = {name: value for name, value in said(FULL).items() if name not in ("messages", "stream")}
    assert more == {
        "temperature": 0.5, "top_p": 0.9, "frequency_penalty": -0.5, "presence_penalty": 0.5, "seed": 3,
        "top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "max_tokens": 5, "stop": ["a", "b"],
    }  # fmt: skip


def replica(engine: Engine) -> Replica:
    return Replica("m-0", "m", engine, Endpoint("http", "h", 80), facts=Facts(("real/name",)))


def test_each_engine_gets_what_it_knows() -> None:
    """vLLM its own name for the model; TGI `tgi`, and what its route does not know is told."""
    vllm = Vllm().ask(FULL, replica(Engine.VLLM), stream=False)
    assert (vllm.path, vllm.ignored) == ("/v1/chat/completions", ("user_id",))
    assert json.loads(vllm.body)["model"] == "real/name"
    tgi = Tgi().ask(FULL, replica(Engine.TGI), stream=False)
    assert (tgi.path, tgi.ignored) == (
        "/v1/chat/completions",
        ("user_id", "top_k", "min_p", "repetition_penalty"),
    )
    body = json.loads(tgi.body)
    assert body["model"] == "tgi"
    assert {"top_k", "min_p", "repetition_penalty"}.isdisjoint(body)


def chunk(text: str | None, finish: str | None = None, stop_reason: object = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish, "stop_reason": stop_reason}
    return json.dumps({"choices": [choice]}).encode()


def test_a_stream() -> None:
    """Role and null contents say nothing; several tokens may come in one event; counts come last."""
    source = ChatSource()
    assert source.read(b'{"choices":[{"delta":{"role":"assistant","content":""}}]}') == Delta("")
    assert source.read(chunk(None)) == Delta("")
    assert source.read(chunk("a ש\n")) == Delta("a ש\n")
    assert source.read(chunk("", "stop")) == Delta("", finish=Finish.END)
    assert source.read(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}') is None
    assert source.read(b"[DONE]") == Delta(last=True)
    assert source.tokens == Tokens(3, 4)
    assert source.leaves == ()


@pytest.mark.parametrize(
    ("finish", "stop_reason", "expected"),
    [
        ("stop", None, Finish.END), ("stop", 106, Finish.END), ("stop", "END", Finish.STOP),
        ("length", None, Finish.LENGTH), ("stop_sequence", None, Finish.STOP),
        ("eos_token", None, Finish.END),
        ("repetition", None, Finish.END), (None, None, None), ("", None, None),
    ],
)  # fmt: skip
def test_reasons(finish: str | None, stop_reason: object, expected: Finish | None) -> None:
    """Both engines' words, with null and empty for none."""
    told = ChatSource().read(chunk("a", finish, stop_reason))
    assert told == Delta("a", finish=expected)


def test_a_whole_answer() -> None:
    """Its first choice, and the counts."""
    body = b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3}}'
    source = ChatSource()
    assert source.whole(body) == Delta("a", finish=Finish.END)
    assert source.tokens == Tokens(3, 0)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"x", attempt.JUNK),
        (b"[1]", attempt.JUNK),
        (b'{"choices":[5]}', attempt.JUNK),
        (b'{"choices":[{"finish_reason":"abort"}]}', attempt.ABORTED),
        (b'{"error":{"message":"busy","type":"Service Unavailable","code":503}}', attempt.REFUSED),
        (b'{"error":{"message":"no","type":"BadRequestError","code":400}}', attempt.REJECTED),
        (b'{"object":"error","message":"x","type":"InternalServerError","code":500}', attempt.ENGINE_ERROR),
        (b'{"object":"error","message":"x","choices":5,"code":500}', attempt.ENGINE_ERROR),
        (b'{"error":"Unauthorized"}', attempt.ENGINE_ERROR),
        (b'{"error":{"message":"Model is overloaded","http_status_code":422}}', attempt.REFUSED),
    ],
)
def test_what_is_no_answer(data: bytes, end: attempt.End) -> None:
    """Errors of both engines, old and new; an abort; nonsense; streamed and whole alike."""
    for read in (ChatSource().read, ChatSource().whole):
        with pytest.raises(AttemptFailed) as caught:
            read(data)
        assert caught.value.end is end


def test_a_whole_answer_has_a_choice() -> None:
    """Without one it is none; in a stream such an event says nothing."""
    assert ChatSource().read(b'{"choices":[]}') is None
    with pytest.raises(AttemptFailed) as caught:
        ChatSource().whole(b'{"choices":[]}')
    assert caught.value.end is attempt.JUNK
