"""TGI's words: what a call asks for, and how an answer is written."""

import json
from typing import Any

import msgspec
import pytest

from pointsman.apis.tgi import Form, Writer, form, read
from pointsman.call import Api, Call, Operation
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Delta, Finish, Token, Tokens, Wish
from pointsman.surfaces.base import read_fields


def call(
    parameters: object = ...,
    operation: Operation = Operation.GENERATE,
    *,
    stream: bool = False,
    prompt: object = "Hi",
) -> Call:
    body: dict[str, object] = {"inputs": prompt}
    if parameters is not ...:
        body["parameters"] = parameters
    return Call(Api.TGI, operation, "m", stream, fields=read_fields(json.dumps(body).encode()))


def wish(parameters: object = ..., **more: Any) -> Wish:
    return read(call(parameters, **more))


@pytest.mark.parametrize(
    ("parameters", "sampling"),
    [
        (..., True),
        (None, True),
        ({}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.3}, True),
        ({"top_k": 3}, True),
        ({"top_p": 0.5}, True),
        ({"typical_p": 0.5}, True),
        ({"repetition_penalty": 1.2}, False),
        ({"temperature": 0, "do_sample": True}, False),
        ({"temperature": 0, "top_p": 1}, False),
        ({"temperature": None, "top_p": None}, False),
    ],
)
def test_when_it_samples(parameters: object, sampling: bool) -> None:
    """Sampling is on when it is named or any of its knobs is, and without parameters at all."""
    assert wish(parameters).sampling is sampling


def test_what_is_asked_for_arrives() -> None:
    """Every parameter that has a meaning elsewhere keeps it."""
    asked = {
        "max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1,
        "frequency_penalty": -0.5, "seed": 2**64 - 1, "stop": ["a", "ב"], "truncate": 100,
    }  # fmt: skip
    assert wish(asked) == Wish(
        prompt="Hi", max_new=7, temperature=0.5, top_p=0.9, top_k=5, repetition_penalty=1.1,
        frequency_penalty=-0.5, seed=2**64 - 1, stop=("a", "ב"), keeps_stop=True, last_tokens=100,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "json_schema", "regex"])
def test_a_grammar_keeps_its_bytes(kind: str) -> None:
    """A schema passes as it was written, and a regular expression is told apart."""
    told = wish({"grammar": {"type": kind, "value": {"b": 1, "a": 1.50}}})
    assert json.loads(bytes(told.grammar or b"")) == {"b": 1, "a": 1.5}
    assert told.grammar_is_regex is (kind == "regex")


def test_what_cannot_be_said_is_named() -> None:
    """Fields without a counterpart are told, so that nobody believes in them; harmless values are not."""
    asked = {"watermark": True, "typical_p": 0.4, "top_n_tokens": 3, "decoder_input_details": True}
    assert set(wish(asked).ignored) == set(asked)
    assert wish({"watermark": False, "typical_p": 1, "top_n_tokens": 0, "best_of": 1}).ignored == ()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"temperature": -1}, "`temperature` must be strictly positive. Given: -1"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0. Given: 0"),
        ({"top_p": 1.5}, "`top_p` must be > 0.0 and < 1.0. Given: 1.5"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive. Given: 0"),
        ({"top_k": 0}, "`top_k` must be strictly positive. Given: 0"),
        ({"frequency_penalty": 3}, "`frequency_penalty` must be >= -2.0 and <= 2.0. Given: 3"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"best_of": 2}, "`best_of` other than 1"),
        ({"adapter_id": "x"}, "`adapter_id` is not offered"),
        ({"seed": -1}, "`seed` must fit into 64 bits"),
        ({"grammar": {"type": "xml", "value": 1}}, "`grammar` must have the type"),
        ({"grammar": "x"}, "`grammar` must be an object"),
        ({"top_p": "x"}, "`parameters.top_p` is of the wrong kind"),
        ({"stop": [1]}, "`parameters.stop[0]` is of the wrong kind"),
        ([], "`parameters` is of the wrong kind"),
    ],
)
def test_what_is_wrong_is_said_as_tgi_says_it(parameters: object, sentence: str) -> None:
    """The field is named, in TGI's own sentence where it has one."""
    with pytest.raises(RouterError) as caught:
        wish(parameters)
    assert caught.value.kind is INVALID_PARAMETER
    assert caught.value.message.removeprefix("Input validation error: ").startswith(sentence)


def test_prompts_and_streams_have_their_limits() -> None:
    """No empty prompt, only text, and no details of the prompt on a stream."""
    for prompt in ("", 7, None, ["a"]):
        with pytest.raises(RouterError, match="`inputs`"):
            wish(prompt=prompt)
    with pytest.raises(RouterError, match="not supported when streaming"):
        wish({"decoder_input_details": True}, stream=True)


@pytest.mark.parametrize(
    ("operation", "full", "prefix"),
    [
        (Operation.GENERATE, None, ""),
        (Operation.GENERATE, True, "Hi"),
        (Operation.COMPAT, None, "Hi"),
        (Operation.COMPAT, False, ""),
    ],
)
def test_the_prompt_may_come_first(operation: Operation, full: bool | None, prefix: str) -> None:
    """`POST /` gives the full text unless told otherwise, `/generate` the other way round."""
    found = form(call({"return_full_text": full}, operation))
    assert (found.prefix, found.listed) == (prefix, operation is Operation.COMPAT)


def frames(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix(b"data: ")) for part in data.split(b"\n\n") if part]


A, B, END = Token(5, "a", -0.5), Token(6, "ש", -1.5), Token(2, "</s>", -0.1, special=True)


def test_one_event_for_each_token() -> None:
    """Indices count from 1 over all deltas, several tokens of one delta included; no text ends early."""
    writer = Writer(Form())
    events = frames(writer.write(Delta("aש", [A, B])) + writer.write(Delta("a", [A])))
    assert [event["index"] for event in events] == [1, 2, 3]
    assert events[1] == {
        "index": 2,
        "token": {"id": 6, "text": "ש", "logprob": -1.5, "special": False},
        "generated_text": None,
        "details": None,
    }


@pytest.mark.parametrize(
    ("finish", "reason"),
    [(Finish.END, "eos_token"), (Finish.LENGTH, "length"), (Finish.STOP, "stop_sequence")],
)
def test_the_last_event_has_the_text_and_the_counts(finish: Finish, reason: str) -> None:
    """It holds the last token, the whole text, and when asked why it ended, with what the engine counted."""
    writer = Writer(Form(prefix="Hi", details=True, seed=4))
    first = writer.write(Delta("a", [A]))
    assert frames(first + writer.write(Delta("ש", [B], finish))) == frames(first)
    (last,) = frames(writer.end(Tokens(prompt=3, completion=2)))
    assert (last["index"], last["token"]["id"], last["generated_text"]) == (2, 6, "Hiaש")
    told = {"finish_reason": reason, "generated_tokens": 2, "seed": 4, "input_length": 3}
    assert last["details"] == told


def test_an_end_without_a_token_has_an_event_all_the_same() -> None:
    """A client waits for `generated_text`; the token that there was not is special."""
    writer = Writer(Form())
    writer.write(Delta("a", [A]))
    writer.write(Delta("", [], Finish.STOP))
    (last,) = frames(writer.end(Tokens()))
    assert (last["generated_text"], last["token"]["special"], last["details"]) == ("a", True, None)


def test_nothing_ends_that_did_not_end() -> None:
    """Without a finish there is no last event."""
    writer = Writer(Form())
    writer.write(Delta("a", [A]))
    assert writer.end(Tokens()) == b""


def test_a_whole_answer() -> None:
    """Details only when asked; a list around it on `POST /`."""
    delta = Delta("aש", [A, B, END], Finish.END)
    plain = Writer(Form()).whole(delta, Tokens(3, 3))
    assert msgspec.json.decode(plain) == {"generated_text": "aש"}
    (full,) = json.loads(Writer(Form("Hi", details=True, listed=True, seed=1)).whole(delta, Tokens(3, 3)))
    assert full["generated_text"] == "Hiaש"
    assert (full["details"]["finish_reason"], full["details"]["generated_tokens"]) == ("eos_token", 3)
    assert [token["special"] for token in full["details"]["tokens"]] == [False, False, True]
