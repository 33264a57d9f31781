"""The dialect of vLLM: bytes pass unless the model's name or a null must change."""

import json

import pytest

from pointsman.apis.base import Reply
from pointsman.call import Api, Call, Operation
from pointsman.engines.openai import OpenAIReader
from pointsman.engines.vllm import Vllm
from pointsman.replica import Endpoint, Engine, Facts, Replica
from pointsman.surfaces.base import read_fields

DIALECT = Vllm()


def replica(*names: str, served: str | None = None) -> Replica:
    made = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80), served_name=served)
    made.facts = Facts(names=names)
    return made


def call(body: bytes, model: str | None = "m", operation: Operation = Operation.CHAT) -> Call:
    return Call(Api.OPENAI, operation, model, body=body, fields=read_fields(body))


def sent(body: bytes, to: Replica, model: str | None = "m") -> bytes:
    return DIALECT.encode(call(body, model), to).body


ODD = (
    b'{ "messages" : [ {"role":"user","content":"\xd7\xa9\\u05dc\\/ \xe2\x80\xa8"} ],'
    b'"temperature":0.70,"seed":18446744073709551615,"x":{"b":1,"a":1E2},"model":"m","y":[] }'
)


def test_a_body_whose_model_the_engine_knows_passes_untouched() -> None:
    """The very bytes are sent: unknown fields, order, numbers, blanks and odd signs included."""
    assert sent(ODD, replica("m")) is ODD
    assert sent(ODD, replica(served="m")) is ODD


def test_only_the_model_changes_for_an_alias() -> None:
    """Every other value keeps its bytes, and every field its place."""
    changed = read_fields(sent(ODD, replica("real/name", "lora")))
    before = read_fields(ODD)
    assert list(changed) == list(before)
    assert bytes(changed.pop("model")) == b'"real/name"'
    before.pop("model")
    assert {k: bytes(v) for k, v in changed.items()} == {k: bytes(v) for k, v in before.items()}


@pytest.mark.parametrize(
    ("body", "model", "names", "served", "expected"),
    [
        (b'{"model":"dummy","a":1}', None, ("real",), None, {"model": "real", "a": 1}),
        (b'{"a":1}', None, ("real",), None, {"a": 1, "model": "real"}),
        (b'{"a":1}', None, ("real",), "served", {"a": 1, "model": "served"}),
        (b'{"model":"dummy","a":1}', None, (), None, {"a": 1}),
        (b'{"model":"alias","a":1}', "alias", (), None, {"a": 1}),
        (b'{"model":"lora","a":1}', "lora", ("real", "lora"), None, {"model": "lora", "a": 1}),
        (b'{"model":"x","mod\\u0065l":"alias"}', "alias", ("real",), None, {"model": "real"}),
    ],
)
def test_the_engine_is_asked_for_a_model_it_has(
    body: bytes, model: str | None, names: tuple[str, ...], served: str | None, expected: dict[str, object]
) -> None:
    """The path's or the default's model gets the engine's name; unknown, it is left out."""
    assert json.loads(sent(body, replica(*names, served=served), model)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m","stop":null,"n":1}', {"model": "m", "n": 1}),
        (
            b'{"model":"m","messages":[{"role":"user","content":"null","name":null}]}',
            {"model": "m", "messages": [{"role": "user", "content": "null"}]},
        ),
        (
            b'{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[{"x":null}]}]}',
            {"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": [{"x": None}]}]},
        ),
        (b'{"model":"m","messages":null}', {"model": "m"}),
        (b'{"model":"m","x":{"y":null}}', {"model": "m", "x": {"y": None}}),
        (b'{"model":"m","messages":"null"}', {"model": "m", "messages": "null"}),
        (b'{"model":"m","messages":[null]}', {"model": "m", "messages": [None]}),
        (b'{"model":"m","messages":[{"a":null},"null"]}', {"model": "m", "messages": [{"a": None}, "null"]}),
    ],
)
def test_nulls_that_vllm_refuses_are_dropped(body: bytes, expected: dict[str, object]) -> None:
    """At the top and in messages; `content` and deeper values stay, and so does what is no message list."""
    assert json.loads(sent(body, replica("m"))) == expected


@pytest.mark.parametrize("kind", ["json_object", "json"])
def test_a_grammar_is_said_as_a_schema(kind: str) -> None:
    """huggingface_hub's form would be taken and ignored; the schema keeps its bytes."""
    body = b'{"model":"m","response_format":{"type":"%s","value":{ "maximum":1.0 }},"z":1}' % kind.encode()
    expected = b'{"type":"json_schema","json_schema":{"name":"answer","schema":{ "maximum":1.0 }}}'
    assert sent(body, replica("m")) == b'{"model":"m","response_format":' + expected + b',"z":1}'


@pytest.mark.parametrize(
    "shape",
    [
        b'{"type":"json_object"}',
        b'{"type":"text"}',
        b'{"type":"json_schema","json_schema":{"name":"n","schema":{}}}',
        b'"odd"',
        b"[]",
    ],
)
def test_other_response_formats_pass_untouched(shape: bytes) -> None:
    """What vLLM understands, or can name as wrong, is not rewritten."""
    body = b'{"model":"m","response_format":' + shape + b"}"
    assert sent(body, replica("m")) is body


def test_the_word_null_in_a_text_changes_nothing() -> None:
    """A body without null fields passes untouched even if it speaks of null."""
    body = b'{"model":"m","messages":[{"role":"user","content":"null"}]}'
    assert sent(body, replica("m")) is body


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (Operation.CHAT, "/v1/chat/completions"),
        (Operation.COMPLETION, "/v1/completions"),
        (Operation.EMBEDDING, "/v1/embeddings"),
    ],
)
def test_each_operation_has_its_route(operation: Operation, path: str) -> None:
    """The path is a constant, never the client's."""
    outgoing = DIALECT.encode(call(b'{"model":"m"}', operation=operation), replica("m"))
    assert (outgoing.method, outgoing.path) == ("POST", path)


@pytest.mark.parametrize("template", [None, True, False])
def test_what_it_carries(*, template: bool | None) -> None:
    """OpenAI's calls, but chat where there is no template; of TGI's the tokenizer's and `/info`."""
    engine = replica("m")
    engine.facts = Facts(chat_template=template)
    carried = {
        (api, operation)
        for api in Api
        for operation in Operation
        if DIALECT.carries(Call(api, operation, None), engine)
    }
    openai = {Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDING}
    openai -= {Operation.CHAT} if template is False else set()
    tokens = {Operation.TOKENIZE, Operation.CHAT_TOKENIZE, Operation.INFO}
    assert {operation for api, operation in carried if api is Api.OPENAI} >= openai
    assert {operation for api, operation in carried if api is Api.TGI} == tokens
    assert (Api.OPENAI, Operation.CHAT) in carried or template is False


def test_its_reader_leaves_answers_alone() -> None:
    """Nothing of vLLM's needs mending."""
    assert isinstance(DIALECT.reader(call(b"{}"), Reply("r", "m", "m", 0, lambda: 0.0)), OpenAIReader)


def test_facts_come_from_the_model_list() -> None:
    """All served names, the engine's own first, and the context length."""
    listed = {
        "data": [
            {"id": "gemma", "owned_by": "vllm", "max_model_len": 32768},
            {"id": "lora", "owned_by": "vllm", "max_model_len": None},
        ]
    }
    facts = DIALECT.read_facts(json.dumps(listed).encode())
    assert (facts.names, facts.max_total_tokens) == (("gemma", "lora"), 32768)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"<html>",
        b'{"data":[]}',
        b'{"data":[{"id":3}]}',
        b"\xff",
        b'{"object":"list","data":[{"id":"distilgpt2","object":"model","created":0,"owned_by":"distilgpt2"}]}',
    ],
)
def test_facts_of_another_program_are_refused(payload: bytes) -> None:
    """TGI and web pages are not taken for vLLM, and the sentence says what was asked."""
    with pytest.raises(ValueError, match="GET /v1/models"):
        DIALECT.read_facts(payload)


@pytest.mark.parametrize(
    ("old", "new"),
    [("guided_json", "json"), ("guided_regex", "regex"), ("guided_choice", "choice")],
)
def test_the_older_names_of_a_structure_are_obeyed(old: str, new: str) -> None:
    """vLLM passes over them since 0.12 without a word; the newer name stands beside, for each version one."""
    body = b'{"model":"m","messages":[],"%s":{"b":1,"a":1.50}}' % old.encode()
    sent = DIALECT.encode(call(body), replica("m")).body
    assert sent.endswith(b'"structured_outputs":{"%s":{"b":1,"a":1.50}}}' % new.encode())
    assert b'"%s":{"b":1' % old.encode() in sent
    named = b'{"model":"m","messages":[],"%s":1,"structured_outputs":{"json":{}}}' % old.encode()
    assert DIALECT.encode(call(named), replica("m")).body == named


@pytest.mark.parametrize(("fields", "mended"), [(1_000, True), (200_000, False)])
def test_nulls_are_left_out_of_messages_that_are_soon_looked_through(fields: int, mended: bool) -> None:
    """Of more than anybody sends, nothing is left out: vLLM then says what is wrong with it."""
    names = ",".join([f'"f{number}":null' for number in range(fields)])
    body = f'{{"model":"m","user":null,"messages":[{{"role":"user","content":"a",{names}}}]}}'.encode()
    told = sent(body, replica("m"))
    assert b'"user":null' not in told
    assert (b'"f1":null' not in told) is mended
