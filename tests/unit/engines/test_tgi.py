"""The dialect of TGI: translated so that it refuses nothing it could do, and mended for OpenAI's clients."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import attempt, sse
from pointsman.apis.base import Reply
from pointsman.attempt import AttemptFailed, End
from pointsman.call import Api, Call, Operation
from pointsman.engines.base import Reader, Seen
from pointsman.engines.tgi import Tgi
from pointsman.errors import RouterError
from pointsman.replica import Endpoint, Engine, Replica
from pointsman.surfaces.base import read_fields

REPLY = Reply("req-1", "public", "public-model", 1767000000, lambda: 1.5)
DIALECT = Tgi()
REPLICA = Replica("m-0", "m", Engine.TGI, Endpoint("http", "h", 80), served_name="real/name")


def call(api: Api, operation: Operation, body: bytes, *, stream: bool = False) -> Call:
    return Call(api, operation, "m", stream, body, read_fields(body))


def native(body: bytes, operation: Operation = Operation.GENERATE) -> bytes:
    return DIALECT.encode(call(Api.TGI, operation, body), REPLICA).body


def openai(body: bytes, operation: Operation = Operation.CHAT) -> dict[str, Any]:
    sent: dict[str, Any] = json.loads(DIALECT.encode(call(Api.OPENAI, operation, body), REPLICA).body)
    return sent


def reader(api: Api = Api.TGI, operation: Operation = Operation.GENERATE) -> Reader:
    return DIALECT.reader(Call(api, operation, "m"), REPLY)


@pytest.mark.parametrize(
    ("operation", "stream", "method", "path"),
    [
        (Operation.GENERATE, False, "POST", "/generate"),
        (Operation.GENERATE, True, "POST", "/generate_stream"),
        (Operation.COMPAT, False, "POST", "/"),
        (Operation.COMPAT, True, "POST", "/"),
        (Operation.TOKENIZE, False, "POST", "/tokenize"),
        (Operation.CHAT_TOKENIZE, False, "POST", "/chat_tokenize"),
        (Operation.INFO, False, "GET", "/info"),
    ],
)
def test_each_operation_has_its_route(operation: Operation, stream: bool, method: str, path: str) -> None:
    """Paths are constants of the dialect."""
    outgoing = DIALECT.encode(call(Api.TGI, operation, b'{"inputs":"x"}', stream=stream), REPLICA)
    assert (outgoing.method, outgoing.path) == (method, path)
    assert (outgoing.body == b"") == (operation is Operation.INFO)


def test_it_speaks_all_but_embeddings() -> None:
    """TGI has no embeddings."""
    silent = {
        (api, operation)
        for api in Api
        for operation in Operation
        if not DIALECT.speaks(Call(api, operation, None))
    }
    assert silent == {(api, Operation.EMBEDDING) for api in Api}


@pytest.mark.parametrize(
    "body",
    [
        b'{ "inputs" : "\xd7\xa9\\u05dc" , "x":{"b":1E2} }',
        b'{"inputs":"x","parameters":{}}',
        b'{"inputs":"x","parameters":null}',
        b'{"inputs":"x","parameters":7}',
        b'{"inputs":"x","parameters":{"temperature":0.50,"top_p":0.9,"seed":18446744073709551615}}',
        b'{"inputs":"x","parameters":{"temperature":"hot","top_p":true}}',
        b'{"inputs":"x","parameters":{"temperature":1e400}}',
        b'{"inputs":"x","parameters":{"top_p":1.1}}',
    ],
)
def test_what_tgi_can_judge_passes_untouched(body: bytes) -> None:
    """The very bytes are sent where nothing must be translated; nonsense is TGI's to name."""
    assert native(body) is body


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.0, "do_sample": True}, {"do_sample": False}),
        ({"temperature": -0.0, "top_p": 0.9, "top_k": 5}, {"do_sample": False}),
        ({"top_p": 0, "seed": 3}, {"seed": 3, "do_sample": False}),
        ({"top_p": 1}, {"do_sample": True}),
        ({"top_p": 1.0, "temperature": 0.7}, {"temperature": 0.7, "do_sample": True}),
        ({"typical_p": 1.0}, {"do_sample": True}),
        ({"top_p": 1.0, "do_sample": False}, {"do_sample": False}),
        ({"top_p": 1.0, "temperature": 0}, {"do_sample": False}),
    ],
)
def test_sampling_that_tgi_refuses_is_said_otherwise(
    parameters: dict[str, object], expected: dict[str, object]
) -> None:
    """Temperature 0 means greedy, a top_p of 1 means nothing; neither turns sampling on or off by itself."""
    body = json.dumps({"inputs": "x", "parameters": parameters}).encode()
    assert json.loads(native(body)) == {"inputs": "x", "parameters": expected}


def test_other_parameters_keep_their_bytes() -> None:
    """Translating one parameter leaves the spelling of the others."""
    body = b'{"inputs":"x","parameters":{"stop":[ "\\u05d0" ],"top_p":1.0,"repetition_penalty":1.20}}'
    sent = native(body)
    assert b'"stop":[ "\\u05d0" ]' in sent
    assert b'"repetition_penalty":1.20' in sent


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETION])
def test_the_model_is_always_tgi(operation: Operation) -> None:
    """Any other name is taken for a LoRA adapter."""
    assert openai(b'{"model":"public"}', operation) == {"model": "tgi"}
    assert openai(b'{"mod\\u0065l":"adapter","model":"m"}', operation) == {"model": "tgi"}
    assert json.loads(native(b'{"messages":[],"model":"adapter"}', Operation.CHAT_TOKENIZE)) == {
        "messages": [],
        "model": "tgi",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"presence_penalty": 0, "frequency_penalty": 0.0}, {}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
        ({"top_p": 1}, {}),
        ({"top_p": 1.0, "temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 0}, {"temperature": 0.0}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["END"]}, {"stop": ["END"]}),
        ({"stop": None, "user": None}, {}),
        ({"n": 1}, {"n": 1}),
        ({"n": 0}, {"n": 0}),
    ],
)
def test_openai_parameters_are_translated(given: dict[str, object], expected: dict[str, object]) -> None:
    """What TGI's OpenAI routes refuse or misread is said in their way."""
    assert openai(json.dumps(given).encode()) == {**expected, "model": "tgi"}


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
            {"type": "json", "value": SCHEMA},
        ),
        ({"type": "json_object"}, {"type": "json", "value": {"type": "object"}}),
        ({"type": "text"}, None),
        ({"type": "json_object", "value": SCHEMA}, {"type": "json_object", "value": SCHEMA}),
        (
            {"type": "json_schema", "value": {"schema": SCHEMA}},
            {"type": "json_schema", "value": {"schema": SCHEMA}},
        ),
        ({"type": "regex", "value": "a+"}, {"type": "regex", "value": "a+"}),
        ({"type": "json_schema", "json_schema": 7}, {"type": "json_schema", "json_schema": 7}),
        ("odd", "odd"),
    ],
)
def test_response_formats_become_grammars(given: object, expected: object) -> None:
    """OpenAI's forms are said in TGI's way, its own pass, and plain text asks for nothing."""
    assert openai(json.dumps({"response_format": given}).encode()).get("response_format") == expected


def test_several_choices_are_refused_rather_than_ignored() -> None:
    """TGI would answer one choice and say nothing."""
    with pytest.raises(RouterError) as caught:
        openai(b'{"n":2}')
    assert (caught.value.kind.code, caught.value.param) == ("invalid_parameter", "n")


REMOTE = [
    {"inputs": "![](http://169.254.169.254/latest)"},
    {"inputs": "look: ![](https://evil.example/x.png) nice"},
    {"messages": [{"role": "user", "content": "![](http://a/)"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "![](http://a/)"}]}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": t} for t in ("!", "[]", "(ht", "tp://a/)")]}
        ]
    },
    {"messages": [], "tools": [{"function": {"description": "![](http://a/)"}}]},
    {"messages": [], "tools": [{"function": {"![](http://a/)": 1}}]},
    {"prompt": ["fine", "![](http://a/)"]},
]


@pytest.mark.parametrize("body", REMOTE, ids=str)
@pytest.mark.parametrize("escape", ["plain", "brackets", "slashes"])
def test_no_text_makes_tgi_fetch_an_image(body: dict[str, object], escape: str) -> None:
    """Markdown images with a remote URL are refused in whatever text, spelling or pieces they come."""
    text = json.dumps(body)
    if escape == "brackets":
        text = text.replace("![]", "!\\u005b]").replace('"!"', '"\\u0021"')
    elif escape == "slashes":
        text = text.replace("://", ":\\/\\/")
    raw = text.encode()
    for api, operation in ((Api.TGI, Operation.GENERATE), (Api.OPENAI, Operation.CHAT)):
        with pytest.raises(RouterError) as caught:
            DIALECT.encode(call(api, operation, raw), REPLICA)
        assert caught.value.kind.code == "remote_media_refused"


@pytest.mark.parametrize(
    "text",
    [
        "![](data:image/png;base64,AAAA)",
        "![logo](https://site.example/x.png)",
        "[](http://link.example)",
        "! [](http://x)",
        "see http://x",
        "שלום ![]",
    ],
)
def test_other_text_is_left_alone(text: str) -> None:
    """Inline images, links and pictures with a caption are text like any other."""
    body = json.dumps({"inputs": text}).encode()
    assert native(body) is body


def event(text: str = "a", generated: str | None = None, **more: object) -> bytes:
    token = {"id": 1, "text": text, "logprob": -1.5, "special": False}
    return json.dumps(
        {"index": 1, "token": token, "generated_text": generated, "details": None, **more},
        separators=(",", ":"),
    ).encode()


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", Seen.QUIET),
        (event(), Seen.CONTENT),
        (event(""), Seen.CONTENT),
        (event("", "all"), Seen.FINAL),
        (event("", ""), Seen.FINAL),
        (b"{}", Seen.QUIET),
        (b'{"token":null}', Seen.QUIET),
    ],
)
def test_what_a_native_event_is(data: bytes, seen: Seen) -> None:
    """Each token commits, empty ones too; the event with the whole text ends the stream."""
    assert reader().look(data) == seen


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', attempt.REFUSED),
        (b'{"error":"Input validation error: x","error_type":"validation"}', attempt.REJECTED),
        (b'{"error":"Request failed during generation","error_type":"generation"}', attempt.ENGINE_ERROR),
        (b"[DONE]", attempt.JUNK),
        (b"[]", attempt.JUNK),
        (b"nonsense", attempt.JUNK),
        (b'{"token":{"text":"\xff"},"generated_text":"\xff"}', attempt.JUNK),
        (b'{"token":' + b"[" * 100_000, attempt.JUNK),
    ],
)
def test_what_fails_a_native_stream(data: bytes, end: End) -> None:
    """Errors come as events under 200."""
    with pytest.raises(AttemptFailed) as caught:
        reader().look(data)
    assert caught.value.end is end


@pytest.mark.parametrize(
    ("datas", "marked"),
    [
        ([event()], False),
        ([event(), event("")], False),
        ([event('"generated_text":null "error"')], False),
        ([event(), event("x", "all")], True),
        ([b'{"error":"x","error_type":"overloaded"}'], True),
        ([event(), b""], False),
    ],
)
def test_only_tokens_pass_unread(datas: list[bytes], marked: bool) -> None:
    """Tokens have no mark, whatever their text says; errors and the last event have one."""
    block = b"".join(b"data: " + data + b"\n\n" for data in datas)
    assert any(mark in block for mark in reader().marks) is marked


def test_tokens_are_counted_in_streams_and_headers() -> None:
    """The last event's index counts the tokens of a stream, TGI's headers those of a whole answer."""
    made = reader()
    made.look(event("x", "all", index=7, details={"input_length": 4, "generated_tokens": 7}))
    assert (made.tokens.prompt, made.tokens.completion) == (4, 7)
    made = reader()
    made.heed({b"x-prompt-tokens": b"12", b"x-generated-tokens": b"3"})
    assert (made.tokens.prompt, made.tokens.completion) == (12, 3)
    made.heed({b"x-prompt-tokens": b"-1", b"x-generated-tokens": b"9" * 5000})
    assert (made.tokens.prompt, made.tokens.completion) == (0, 0)


NAMES = [b"x-compute-type", b"x-total-time", b"server", b"set-cookie", b"x-request-id", b"location", b"via"]


@given(
    headers=st.dictionaries(st.sampled_from(NAMES) | st.binary(), st.binary() | st.just(b"1-a10g")),
    api=st.sampled_from([Api.TGI, Api.OPENAI]),
)
def test_of_the_engines_headers_its_own_figures_pass(headers: dict[bytes, bytes], api: Api) -> None:
    """On TGI's own routes; by name, and no value can add a line."""
    made = reader(api)
    made.heed(headers)
    *lines, rest = made.headers.split(b"\r\n")
    assert rest == b""
    figures = rb"compute-(type|time|characters)|(total|validation|queue|inference)-time|time-per-token"
    figures += rb"|(prompt|generated)-tokens"
    assert all(re.fullmatch(rb"x-(" + figures + rb"): [ -~]{1,128}", line) for line in lines)
    told = api is Api.TGI and headers.get(b"x-compute-type") == b"1-a10g"
    assert (b"x-compute-type: 1-a10g" in lines) >= told


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.GENERATE, b'{"generated_text":" x","details":{"generated_tokens":1}}'),
        (Operation.COMPAT, b'[{"generated_text":" x"}]'),
        (Operation.TOKENIZE, b'[{"id":1,"text":"x","start":0,"stop":1}]'),
        (Operation.TOKENIZE, b"[]"),
        (Operation.CHAT_TOKENIZE, b'{"tokenize_response":[],"templated_text":""}'),
        (Operation.INFO, b'{"model_id":"x"}'),
    ],
)
def test_whole_answers_pass_untouched(operation: Operation, body: bytes) -> None:
    """TGI's own words need no mending."""
    assert reader(operation=operation).whole(body) is body


@pytest.mark.parametrize(
    ("operation", "body", "end"),
    [
        (Operation.GENERATE, b"", attempt.JUNK),
        (Operation.GENERATE, b"{}", attempt.JUNK),
        (Operation.GENERATE, b'{"generated_text":null}', attempt.JUNK),
        (Operation.GENERATE, b'[{"generated_text":"x"}]', attempt.JUNK),
        (Operation.GENERATE, b'{"generated_text":"x"', attempt.JUNK),
        (Operation.COMPAT, b"[]", attempt.JUNK),
        (Operation.COMPAT, b"[7]", attempt.JUNK),
        (Operation.TOKENIZE, b"<html>", attempt.JUNK),
        (Operation.GENERATE, b'{"error":"Model is overloaded","error_type":"overloaded"}', attempt.REFUSED),
        (Operation.COMPAT, b'[{"error":"x","error_type":"generation"}]', attempt.ENGINE_ERROR),
    ],
)
def test_a_whole_answer_that_is_none(operation: Operation, body: bytes, end: End) -> None:
    """Cut, empty and foreign answers under 200 are failures."""
    with pytest.raises(AttemptFailed) as caught:
        reader(operation=operation).whole(body)
    assert caught.value.end is end


def mended(data: bytes, made: Reader) -> dict[str, Any]:
    repaired: dict[str, Any] = json.loads(sse.data(made.mend(data)))
    return repaired


def chat_chunk(content: str, index: int = 0, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": {"role": "assistant", "content": content}, "finish_reason": finish}
    return json.dumps({"id": "", "model": "real/name", "created": 7, "choices": [choice]}).encode()


def test_chunks_get_an_id_and_the_public_name() -> None:
    """OpenAI's clients need one id for the stream, and know the model by our name."""
    for operation, prefix in ((Operation.CHAT, "chatcmpl"), (Operation.COMPLETION, "cmpl")):
        made = reader(Api.OPENAI, operation)
        assert made.mends
        for _ in range(2):
            chunk = mended(chat_chunk("a"), made)
            assert (chunk["id"], chunk["model"], chunk["created"]) == (f"{prefix}-req-1", "public", 7)


def test_the_role_is_told_once_per_choice() -> None:
    """TGI repeats the role in every delta; the first of each choice stays."""
    made = reader(Api.OPENAI, Operation.CHAT)
    chunks = [mended(chat_chunk("a", index), made) for index in (0, 1, 0, 1)]
    assert ["role" in chunk["choices"][0]["delta"] for chunk in chunks] == [True, True, False, False]
    assert all(chunk["choices"][0]["delta"]["content"] == "a" for chunk in chunks)


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("", None),
        (None, None),
    ],
)
def test_finish_reasons_are_openais(finish: str | None, expected: str | None) -> None:
    """In streams and whole answers alike."""
    made = reader(Api.OPENAI, Operation.CHAT)
    assert mended(chat_chunk("a", finish=finish), made)["choices"][0]["finish_reason"] == expected
    whole = json.dumps({"choices": [{"index": 0, "finish_reason": finish}]}).encode()
    assert json.loads(made.whole(whole))["choices"][0]["finish_reason"] == expected


def test_choices_come_in_order() -> None:
    """TGI lists the answers to several prompts as they finish."""
    body = json.dumps({"choices": [{"index": i, "text": str(i)} for i in (2, 0, 1)], "usage": {}}).encode()
    answer = json.loads(reader(Api.OPENAI, Operation.COMPLETION).whole(body))
    assert [choice["text"] for choice in answer["choices"]] == ["0", "1", "2"]
    assert answer["usage"] == {}


def test_mending_keeps_what_it_does_not_know() -> None:
    """Order, unknown fields, Hebrew and large numbers survive."""
    data = '{"new":{"b":1,"a":[null]},"id":"","big":123456789012345678901234567890,"choices":[],"t":"שלום"}'
    repaired = sse.data(reader(Api.OPENAI, Operation.CHAT).mend(data.encode())).decode()
    assert repaired == data.replace('"id":""', '"id":"chatcmpl-req-1"')[:-1] + ',"model":"public"}'


def test_usage_and_done_pass() -> None:
    """A usage chunk has no choices; the terminal event is no JSON; both are left whole."""
    made = reader(Api.OPENAI, Operation.CHAT)
    usage = b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
    assert made.look(usage) == Seen.QUIET
    assert made.tokens.completion == 2
    assert mended(usage, made)["usage"]["total_tokens"] == 7
    assert made.mend(b"[DONE]") == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "choices",
    [
        b"null",
        b'"x"',
        b"[7]",
        b'[{"index":"b"},{"index":1}]',
        b'[{"index":[]},{"delta":{"role":"assistant"},"index":{}}]',
        b'[{"finish_reason":["odd"]}]',
        b'[{"finish_reason":{"odd":1}},{"delta":7}]',
    ],
)
def test_odd_choices_do_not_break_the_router(choices: bytes) -> None:
    """An engine that sends unknown shapes gets them passed on, never a bug of ours."""
    data = b'{"choices":' + choices + b"}"
    made = reader(Api.OPENAI, Operation.CHAT)
    made.look(data)
    assert mended(data, made)["model"] == "public"


def test_every_event_of_the_openai_routes_is_looked_at() -> None:
    """What must be mended cannot pass unread."""
    assert reader(Api.OPENAI, Operation.CHAT).mends


def test_the_body_may_differ_from_the_fields() -> None:
    """A call that a surface translated has no bytes of its own: its fields are sent."""
    translated = Call(Api.TGI, Operation.GENERATE, "m", fields={"inputs": msgspec.Raw(b'"x"')})
    assert DIALECT.encode(translated, REPLICA).body == b'{"inputs":"x"}'


def test_facts_come_from_info() -> None:
    """Name, version and limits as TGI tells them."""
    info = {
        "model_id": "gpt2",
        "version": "3.3.6-dev0",
        "max_total_tokens": 1024,
        "max_concurrent_requests": 128,
    }
    facts = DIALECT.read_facts(json.dumps({**info, "router": "x"}).encode())
    assert (facts.names, facts.version, facts.max_total_tokens, facts.max_concurrent) == (
        ("gpt2",),
        "3.3.6-dev0",
        1024,
        128,
    )


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b'{"model_id":3}', b'{"version":"0.33.0"}', b"[]"])
def test_facts_of_another_program_are_refused(payload: bytes) -> None:
    """What is no TGI is not taken for one."""
    with pytest.raises(ValueError, match="GET /info"):
        DIALECT.read_facts(payload)


@pytest.mark.parametrize("pieces", [("ab", "c\nUser", ": x"), ("abc\nUser: x",), tuple("abc\nUser: x")])
@pytest.mark.parametrize("stop", ['"\\nUser:"', '["zz","\\nUser:"]'])
def test_stop_sequences_are_no_part_of_an_answer(pieces: tuple[str, ...], stop: str) -> None:
    """TGI leaves them in its texts; OpenAI's clients never see one, however it is cut."""
    asked = Call(Api.OPENAI, Operation.CHAT, "m", fields=read_fields(b'{"stop":%s}' % stop.encode()))
    made, said = DIALECT.reader(asked, REPLY), ""
    for number, piece in enumerate(pieces, 1):
        finish = "stop_sequence" if number == len(pieces) else None
        choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": finish}
        told = json.loads(sse.data(made.mend(json.dumps({"choices": [choice]}).encode())))["choices"][0]
        said += told["delta"]["content"]
    assert (said, told["finish_reason"]) == ("abc", "stop")
    whole = {"index": 0, "message": {"content": "abc\nUser: x"}, "finish_reason": "stop_sequence"}
    answer = json.loads(DIALECT.reader(asked, REPLY).whole(json.dumps({"choices": [whole]}).encode()))
    assert answer["choices"][0]["message"]["content"] == "abc"
