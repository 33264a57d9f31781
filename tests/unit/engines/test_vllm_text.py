"""vLLM's completions for calls in TGI's words."""

import json
from typing import Any

import msgspec
import pytest

from pointsman import attempt
from pointsman.apis import wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.attempt import AttemptFailed
from pointsman.bridge import Bridge
from pointsman.call import Api, Call, Operation
from pointsman.engines.base import Reader, Seen
from pointsman.engines.vllm import Vllm
from pointsman.engines.vllm_text import ask
from pointsman.generation import Wish
from pointsman.replica import Endpoint, Engine, Facts, Replica
from pointsman.surfaces.base import read_fields

REPLY = Reply("id", "m", "m", 0, lambda: 0.0)


def replica(context: int | None = 100) -> Replica:
    made = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80))
    made.facts = Facts(names=("real/name",), max_total_tokens=context)
    return made


def sent(wish: Wish, *, stream: bool = False, context: int | None = 100) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(wish, replica(context), stream=stream).body)
    return found


def test_the_least_that_is_asked() -> None:
    """The engine's own model name, and sampling at temperature 1 as TGI's default is."""
    assert sent(Wish(prompt="Hi", max_new=5)) == {
        "prompt": "Hi",
        "model": "real/name",
        "max_tokens": 5,
        "temperature": 1.0,
        "stream": False,
    }


def test_every_parameter_in_vllms_words() -> None:
    """Greedy is temperature 0; a stop sequence stays in the text; a seed of 64 bits fits."""
    wish = Wish(
        prompt="Hi", max_new=5, sampling=False, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1,
        repetition_penalty=1.1, frequency_penalty=-0.5, presence_penalty=0.5, seed=2**64 - 1, stop=("x",),
        keeps_stop=True, last_tokens=9, grammar=msgspec.Raw(b'{"type":"object"}'), tells_tokens=True,
    )  # fmt: skip
    assert sent(wish, stream=True) == {
        "prompt": "Hi",
        "model": "real/name",
        "max_tokens": 5,
        "temperature": 0,
        "stream": True,
        "top_p": 0.9,
        "top_k": 4,
        "repetition_penalty": 1.1,
        "frequency_penalty": -0.5,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "seed": 2**63 - 1,
        "stop": ["x"],
        "include_stop_str_in_output": True,
        "truncate_prompt_tokens": 9,
        "structured_outputs": {"json": {"type": "object"}},
        "logprobs": 0,
        "return_token_ids": True,
        "stream_options": {"include_usage": True},
    }
    regex = Wish(prompt="Hi", grammar=msgspec.Raw(b'"[ab]"'), grammar_is_regex=True)
    assert sent(regex)["structured_outputs"] == {"regex": "[ab]"}


def reader(parameters: object, *, stream: bool = True) -> Reader:
    body = json.dumps({"inputs": "Hi", "parameters": parameters}).encode()
    call = Call(Api.TGI, Operation.GENERATE, "m", stream, fields=read_fields(body))
    asked = wish_of(call)
    return Bridge(Vllm().source(asked), writer_of(call, REPLY), asked)


def chunk(
    text: str, ids: list[int], shown: list[str | None], finish: str | None = None, **more: object
) -> bytes:
    logprobs = {"tokens": shown, "token_logprobs": [-1.0] * len(shown)}
    choice = {
        "index": 0,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish,
        "token_ids": ids,
        **more,
    }
    return json.dumps({"choices": [choice]}).encode()


USAGE = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'


def streamed(*datas: bytes, parameters: object = ...) -> list[dict[str, Any]]:
    made = reader({"details": True} if parameters is ... else parameters)
    out = b""
    for data in datas:
        made.look(data)
        out += made.mend(data)
    return [json.loads(part.removeprefix(b"data: ")) for part in out.split(b"\n\n") if part]


def test_a_stream_in_tgis_words() -> None:
    """One event a token, the last with the text, the reason and the engine's own counts."""
    events = streamed(
        chunk(" a", [7], [" a"]),
        chunk("שb", [8, 9, 10], ["\ufffd", "\ufffd", "b"]),
        chunk("", [2], ["</s>"], "stop"),
        USAGE,
        b"[DONE]",
    )
    assert [event["token"]["text"] for event in events] == [" a", "", "", "שb", "</s>"]
    assert [event["index"] for event in events] == [1, 2, 3, 4, 5]
    assert events[-1]["token"]["special"]
    assert events[-1]["generated_text"] == " aשb"
    told = {"finish_reason": "eos_token", "generated_tokens": 4, "seed": None, "input_length": 3}
    assert events[-1]["details"] == told


@pytest.mark.parametrize(
    ("finish", "stop_reason", "reason"),
    [("length", None, "length"), ("stop", "b", "stop_sequence"), ("stop", 106, "eos_token")],
)
def test_reasons(finish: str, stop_reason: object, reason: str) -> None:
    """A string that stopped it is a stop sequence; a token is the model's own end."""
    events = streamed(chunk("b", [9], ["b"], finish, stop_reason=stop_reason), USAGE, b"[DONE]")
    assert events[-1]["details"]["finish_reason"] == reason


def test_what_an_event_is() -> None:
    """`[DONE]` ends an answer that began; an empty stream is no answer; an abort is a failure."""
    made = reader({})
    assert made.look(b"[DONE]") is Seen.LAST
    assert made.look(chunk("a", [1], ["a"])) is Seen.CONTENT
    assert made.look(chunk("", [], [], "stop")) is Seen.CONTENT
    assert made.look(b"[DONE]") is Seen.FINAL
    with pytest.raises(AttemptFailed) as caught:
        made.look(chunk("", [], [], "abort"))
    assert caught.value.end is attempt.ABORTED
    assert made.mends


def test_a_whole_answer_in_tgis_words() -> None:
    """Text alone, or with all tokens when asked."""
    body = chunk("ab", [1, 2], ["a", "b"], "length")
    assert json.loads(reader({}, stream=False).whole(body)) == {"generated_text": "ab"}
    told = json.loads(reader({"details": True}, stream=False).whole(body))["details"]
    assert [token["id"] for token in told["tokens"]] == [1, 2]
    assert told["finish_reason"] == "length"


@pytest.mark.parametrize("body", [b"{}", b'{"choices":[]}', b'{"choices":[{"text":1}]}', b"x"])
def test_nonsense_is_nonsense(body: bytes) -> None:
    """An answer that is no completion is a failure of the engine, not a bug of ours."""
    with pytest.raises(AttemptFailed) as caught:
        reader({}, stream=False).whole(body)
    assert caught.value.end is attempt.JUNK
