"""OpenAI's chat before an engine that only continues texts: what is asked for, and how it is answered."""

import json
from typing import Any

import pytest
from msgspec import Raw

from pointsman.apis.base import Reply
from pointsman.apis.openai import ChatWriter, read
from pointsman.call import Api, Call, Operation
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Delta, Finish, Message, Tokens, Wish
from pointsman.surfaces.base import read_fields

HELLO = [{"role": "user", "content": "Hi"}]
REPLY = Reply("req-1", 'my "model"', "m", 1767000000, lambda: 0.0)


def call(**body: Any) -> Call:
    raw = json.dumps({"messages": HELLO, **body}).encode()
    return Call(Api.OPENAI, Operation.CHAT, "m", bool(body.get("stream")), raw, read_fields(raw))


def wish(**body: Any) -> Wish:
    return read(call(**body))


def refusal(**body: Any) -> RouterError:
    with pytest.raises(RouterError) as caught:
        read(call(**body))
    assert caught.value.kind is INVALID_PARAMETER
    return caught.value


def test_the_least_that_is_asked() -> None:
    """A conversation alone: sampled, as long as fits, lengths lowered to the context."""
    assert wish() == Wish(messages=(Message("user", "Hi"),), length_name="max_tokens", clamps=True)


def test_every_parameter_keeps_its_meaning() -> None:
    """Each under its own name; the newer name of the length counts before the older one."""
    asked = wish(
        max_tokens=5, max_completion_tokens=7, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, seed=3,
        repetition_penalty=1.1, frequency_penalty=-0.5, presence_penalty=0.5, stop=["a", "ב"],
    )  # fmt: skip
    assert asked == Wish(
        messages=(Message("user", "Hi"),), max_new=7, length_name="max_completion_tokens", temperature=0.5,
        top_p=0.9, top_k=4, min_p=0.1, seed=3, repetition_penalty=1.1, frequency_penalty=-0.5,
        presence_penalty=0.5, stop=("a", "ב"), clamps=True,
    )  # fmt: skip


def test_null_is_as_if_it_were_not_there() -> None:
    """Clients send every field they know."""
    names = (
        "max_tokens",
        "temperature",
        "stop",
        "response_format",
        "tools",
        "seed",
        "n",
        "structured_outputs",
    )
    assert wish(**dict.fromkeys(names)) == wish()


@pytest.mark.parametrize(
    ("body", "sampling"),
    [({}, True), ({"temperature": 0}, False), ({"top_p": 0}, False), ({"temperature": 2, "top_p": 1}, True)],
)
def test_when_it_samples(body: dict[str, Any], sampling: bool) -> None:
    """Temperature 0 and top_p 0 mean the likeliest token; top_p 1 and top_k 0 or -1 mean nothing."""
    asked = wish(**body)
    assert (asked.sampling, asked.top_p) == (sampling, None)
    assert wish(top_k=0).top_k is wish(top_k=-1).top_k is None


def test_seeds_of_64_bits() -> None:
    """A negative seed is one too."""
    assert wish(seed=-1).seed == 2**64 - 1
    assert wish(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "x"),
        ("temperature", True),
        ("top_p", 1.1),
        ("min_p", 2),
        ("frequency_penalty", 3),
        ("presence_penalty", -3),
        ("top_k", -2),
        ("top_k", 1.5),
        ("repetition_penalty", 0),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_completion_tokens", 0),
        ("seed", 2**63),
        ("seed", "x"),
        ("stop", 5),
        ("stop", list("abcde")),
        ("stop", [1]),
        ("messages", []),
        ("messages", "x"),
        ("messages", None),
        ("response_format", "x"),
        ("response_format", {}),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("structured_outputs", {"choice": ["a"]}),
        ("structured_outputs", {}),
        ("structured_outputs", 5),
        ("tools", [{}]),
        ("n", 2),
        ("logprobs", True),
        ("guided_choice", ["a"]),
        ("continue_final_message", True),
    ],
)
def test_what_is_wrong_is_named(name: str, value: object) -> None:
    """The field, or the part of it, that cannot be."""
    error = refusal(**{name: value})
    assert (error.param or "").partition("[")[0] == name
    assert f"`{name}" in error.message


def test_roles_and_texts() -> None:
    """A developer speaks as the system does; parts are lines; an assistant may have said nothing."""
    turns = [
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "ב"}],
            "name": "x",
        },
        {"role": "assistant", "content": None},
    ]
    expected = (Message("system", "Be short."), Message("user", "a\nב"), Message("assistant", ""))
    assert wish(messages=turns).messages == expected


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "tool", "content": "x"},
        {"role": "User", "content": "x"},
        {"content": "x"},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        "x",
    ],
)
def test_what_is_no_turn_of_a_text(turn: object) -> None:
    """Only the roles and the texts that lines can say; nothing is left out without a word."""
    assert "messages" in refusal(messages=[*HELLO, turn]).message


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"b": {}, "a": {}}}


@pytest.mark.parametrize(
    ("body", "expected", "is_regex"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, SCHEMA, False),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            {"type": "object"},
            False,
        ),
        ({"response_format": {"type": "json_object"}}, {"type": "object"}, False),
        ({"response_format": {"type": "json", "value": SCHEMA}}, SCHEMA, False),
        ({"structured_outputs": {"json": SCHEMA}}, SCHEMA, False),
        ({"structured_outputs": {"json": None, "regex": "[a]"}}, "[a]", True),
        ({"structured_outputs": {"json_object": True}}, {"type": "object"}, False),
        ({"guided_json": SCHEMA}, SCHEMA, False),
        ({"guided_json": json.dumps(SCHEMA)}, SCHEMA, False),
        ({"guided_regex": "[a]"}, "[a]", True),
        ({"guided_regex": "[a]", "structured_outputs": {"regex": "[b]"}}, "[b]", True),
    ],
)
def test_a_structure_by_any_name(body: dict[str, Any], expected: object, is_regex: bool) -> None:
    """What OpenAI, vLLM old and new, and TGI's client call it."""
    asked = wish(**body)
    assert json.loads(bytes(asked.grammar or b"0")) == expected
    assert asked.grammar_is_regex is is_regex


def test_a_text_has_no_structure() -> None:
    """`text` is what there is without a format."""
    assert wish(response_format={"type": "text"}).grammar is None


def written(*deltas: Delta, tokens: Tokens | None = None, **body: Any) -> list[Any]:
    """The data of each event that a stream has."""
    writer = ChatWriter(call(stream=True, **body), REPLY)
    out = b"".join(writer.write(delta) for delta in deltas) + writer.end(tokens or Tokens(3, 2))
    parts = out.decode().split("\n\n")
    assert parts.pop() == ""
    return [
        data if data == "[DONE]" else json.loads(data) for data in (p.removeprefix("data: ") for p in parts)
    ]


def test_a_stream() -> None:
    """Id, time and name on each chunk, the role once, the reason last, then `[DONE]`."""
    *chunks, done = written(Delta("He"), Delta(""), Delta("llo ש\n"), Delta("", finish=Finish.END, last=True))
    assert done == "[DONE]"
    for chunk in chunks:
        assert (chunk["id"], chunk["object"]) == ("chatcmpl-req-1", "chat.completion.chunk")
        assert (chunk["created"], chunk["model"]) == (1767000000, 'my "model"')
    assert [chunk["choices"] for chunk in chunks] == [
        [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "He"},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        [{"index": 0, "delta": {"content": "llo ש\n"}, "logprobs": None, "finish_reason": None}],
        [{"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop"}],
    ]


def test_a_stream_without_a_text_has_its_role_and_reason() -> None:
    """One chunk says both."""
    (chunk, _) = written(Delta("", finish=Finish.END))
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunk["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("finish", "reason"), [(Finish.END, "stop"), (Finish.STOP, "stop"), (Finish.LENGTH, "length")]
)
def test_reasons(finish: Finish, reason: str) -> None:
    """OpenAI knows no difference between the model's own end and a stop sequence."""
    (chunk, _) = written(Delta("a", finish=finish))
    assert (chunk["choices"][0]["delta"]["content"], chunk["choices"][0]["finish_reason"]) == ("a", reason)
    whole = json.loads(ChatWriter(call(), REPLY).whole(Delta("a", finish=finish), Tokens(3, 2)))
    assert whole["choices"][0]["finish_reason"] == reason


def test_usage_is_told_when_asked() -> None:
    """In a chunk of its own without choices, before `[DONE]`; not where the router ended the text itself."""
    end = Delta("a", finish=Finish.END)
    *_, usage, done = written(end, stream_options={"include_usage": True})
    assert (usage["choices"], done) == ([], "[DONE]")
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert len(written(end, stream_options={"include_usage": True}, tokens=Tokens())) == 2
    for options in (None, {}, {"include_usage": False}, {"include_usage": None}):
        assert len(written(end, stream_options=options)) == 2


@pytest.mark.parametrize("options", ["x", 5, [], {"include_usage": "yes"}])
def test_options_of_another_kind_are_refused(options: object) -> None:
    """Before anything is sent."""
    with pytest.raises(RouterError, match="`stream_options"):
        ChatWriter(call(stream=True, stream_options=options), REPLY)


def test_a_whole_answer() -> None:
    """OpenAI's shape, with what the engine counted."""
    told = json.loads(ChatWriter(call(), REPLY).whole(Delta('"ש"\n', finish=Finish.LENGTH), Tokens(3, 2)))
    assert told == {
        "object": "chat.completion",
        "id": "chatcmpl-req-1",
        "created": 1767000000,
        "model": 'my "model"',
        "system_fingerprint": "pointsman",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": '"ש"\n'},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_a_schema_passes_byte_for_byte() -> None:
    """Order and numbers as they came."""
    body = b'{"messages":[{"role":"user","content":"x"}],"guided_json":{"b":1.50,"a":1}}'
    asked = read(Call(Api.OPENAI, Operation.CHAT, "m", False, body, read_fields(body)))
    assert asked.grammar is not None
    assert bytes(asked.grammar) == b'{"b":1.50,"a":1}'
    assert isinstance(asked.grammar, Raw)
