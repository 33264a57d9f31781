"""OpenAI's API: bodies pass, steering and remote media do not, errors have its shape."""

import json

import pytest

from pointsman import errors
from pointsman.call import Api, Call, Operation
from pointsman.engines.vllm import CONTROL_FIELDS
from pointsman.errors import ALL_KINDS, ErrorKind, RouterError
from pointsman.guard import Caller, check_call
from pointsman.sse import data
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.openai import OpenAI

SURFACE = OpenAI()
REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETION: "prompt", Operation.EMBEDDING: "input"}


STRANGER = Caller("10.0.0.1", is_ops=False)


def decode(body: bytes, operation: Operation = Operation.CHAT, surface: OpenAI = SURFACE) -> Call:
    call = surface.decode(operation, read_fields(body), body, stream=False)
    check_call(STRANGER, call, "m")
    return call


def refused(body: object, operation: Operation = Operation.CHAT) -> RouterError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RouterError) as caught:
        decode(raw, operation)
    return caught.value


def test_a_call_keeps_the_clients_bytes() -> None:
    """The body is handed on as the object it came in."""
    body = b'{ "model":"gemma","messages":[],"stream":true,"new":1.50 }'
    call = decode(body)
    assert call.body is body
    assert (call.api, call.operation, call.model, call.stream) == (Api.OPENAI, Operation.CHAT, "gemma", True)


@pytest.mark.parametrize("operation", REQUIRED)
def test_each_operation_needs_its_field(operation: Operation) -> None:
    """The field that is missing is named."""
    name = REQUIRED[operation]
    error = refused(b"{}", operation)
    assert (error.kind, error.param) == (errors.INVALID_PARAMETER, name)
    assert decode(json.dumps({name: []}).encode(), operation).model is None


def test_embeddings_do_not_stream() -> None:
    """There is no stream of embeddings to wait for."""
    assert not decode(b'{"input":"x","stream":true}', Operation.EMBEDDING).stream


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 7),
        ("model", ["gemma"]),
        ("model", "x" * 257),
        ("stream", 1),
        ("stream", "true"),
        ("n", 17),
        ("n", "2"),
        ("n", True),
        ("n", 1.5),
        ("n", -1),
        ("best_of", 17),
        ("seed", 2**64),
        ("max_tokens", -(2**63) - 1),
    ],
)
def test_fields_that_are_routed_on_are_strict(field: str, value: object) -> None:
    """Where an engine's lenient reading could differ from ours, the field is refused by name."""
    error = refused({"messages": [], field: value})
    assert (error.kind, error.param) == (errors.INVALID_PARAMETER, field)


@pytest.mark.parametrize("field", ["temperature", "top_p", "logit", "x"])
def test_numbers_beyond_doubles_are_refused(field: str) -> None:
    """1e400 is infinity to some parsers and an error to others."""
    assert refused(b'{"messages":[],"%s":1e400}' % field.encode()).param == field


@pytest.mark.parametrize("operation", REQUIRED)
@pytest.mark.parametrize("field", sorted(CONTROL_FIELDS))
def test_control_fields_are_refused(field: str, operation: Operation) -> None:
    """What steers the engine is refused by name, in every spelling that JSON has for it."""
    escaped = "".join(f"\\u{ord(sign):04x}" for sign in field)
    for name in (field, escaped, field[:-1] + f"\\u{ord(field[-1]):04x}"):
        body = f'{{"{REQUIRED[operation]}":[],"{name}":1}}'.encode()
        error = refused(body, operation)
        assert (error.kind, error.param) == (errors.CONTROL_FIELD, field)
        assert f"`{field}`" in error.message


def test_a_control_field_that_says_nothing_passes() -> None:
    """Some clients send every field they know as null."""
    decode(b'{"messages":[],"priority":null,"chat_template":null}')


def test_engines_do_not_take_other_spellings_of_control_fields() -> None:
    """Case and blanks make another name, which vLLM ignores: it has no aliases for these."""
    decode(b'{"messages":[],"Priority":1," priority":1,"priority ":1,"extra_body":{"priority":1}}')


@pytest.mark.parametrize("name", ["_backend", "_backend_was_auto", "\\u005fbackend"])
def test_the_private_part_of_structured_outputs_is_refused(name: str) -> None:
    """The backend that constrains the output is the operator's to choose."""
    error = refused(b'{"messages":[],"structured_outputs":{"regex":"a","%s":"x"}}' % name.encode())
    assert error.kind is errors.CONTROL_FIELD
    decode(b'{"messages":[],"structured_outputs":{"json":{"properties":{"_x":{"type":"string"}}}}}')
    decode(b'{"messages":[],"structured_outputs":"_odd","x":"\\u0041"}')


def part(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, fields]}]}


REMOTE = [
    part(type="image_url", image_url={"url": "http://169.254.169.254/latest/meta-data"}),
    part(type="image_url", image_url={"url": "https://img.example/a.png"}),
    part(type="image_url", image_url="https://img.example/a.png"),
    part(image_url={"url": "HTTP://img.example"}),
    part(image_url={"url": "file:///etc/passwd"}),
    part(image_url={"url": " data:image/png;base64,AA"}),
    part(image_url={"url": "DATA:image/png;base64,AA"}),
    part(image_url={"url": "//img.example/a"}),
    part(image_url={"url": ""}),
    part(image_url={"url": 7}),
    part(image_url={"url": ["http://x"]}),
    part(image_url=["http://x"]),
    part(audio_url={"url": "http://x"}),
    part(video_url={"url": "http://x"}),
    part(type="input_image", image_url="http://x"),
    part(image_url={"url": "data:,x)![](http://evil.example/"}),
    part(image_url={"url": "data:,x) ![](http://evil.example/"}),
    part(type="tool_result", content=[{"deep": [{"image_url": {"url": "http://x"}}]}]),
    {"messages": {"image_url": {"url": "http://x"}}},
    {"messages": [], "x": 1, "prompt": "", "input": "", "messages ": 1} | part(image_url="http://x"),
]


@pytest.mark.parametrize("body", REMOTE, ids=str)
@pytest.mark.parametrize("spelling", ["_url", "\\u005furl", "_\\u0075rl", "_ur\\u006C"])
def test_no_engine_fetches_for_a_stranger(body: dict[str, object], spelling: str) -> None:
    """Any part with a URL that is no data: URL is refused, wherever and however it is written."""
    raw = json.dumps(body).replace('_url"', spelling + '"').encode()
    assert refused(raw).kind is errors.REMOTE_MEDIA


@pytest.mark.parametrize("operation", [Operation.EMBEDDING, Operation.COMPLETION])
def test_messages_are_looked_through_on_every_route(operation: Operation) -> None:
    """vLLM makes embeddings of messages too, and fetches what they name."""
    body = {REQUIRED[operation]: "x", **part(image_url={"url": "http://x"})}
    assert refused(body, operation).kind is errors.REMOTE_MEDIA


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "image_embeds", "image_embeds": "AAAA"},
        {"type": "audio_embeds", "audio_embeds": {"a": "AAAA"}},
        {"type": "video_embeds", "video_embeds": {}},
        {"type": "prompt_embeds", "data": "AAAA"},
    ],
)
def test_tensors_are_not_handed_to_an_engine(fields: dict[str, object]) -> None:
    """An engine would unpack what a stranger packed."""
    assert refused(part(**fields)).kind is errors.CONTROL_FIELD
    raw = json.dumps(part(**fields)).replace("_embeds", "\\u005fembeds").encode()
    assert refused(raw).kind is errors.CONTROL_FIELD


@pytest.mark.parametrize(
    "body",
    [
        part(type="image_url", image_url={"url": "data:image/png;base64,iVBOR/w0+KGgo="}),
        part(type="image_url", image_url="data:image/png;base64,AA"),
        part(type="image_url", image_url=None),
        part(type="image_url", image_url={"url": None}),
        part(type="text", text="see http://x and image_url"),
        part(type="text", text="\u05e9 http://x"),
        part(type="text", url="http://x", url_citation={"url": "http://x"}),
        part(type="image_embeds", image_embeds=None),
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"arguments": '{"image_url":"http://x"}'}}]}
            ]
        },
        {
            "messages": [],
            "tools": [{"function": {"parameters": {"properties": {"image_url": {"type": "string"}}}}}],
        },
        {"messages": None, "note": "_url"},
        {"messages": "image_url"},
    ],
    ids=str,
)
def test_inline_media_and_plain_talk_pass(body: dict[str, object]) -> None:
    """Data URLs, texts about URLs and tools with such a parameter are no remote media."""
    decode(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("url", "passes"),
    [
        ("https://img.example/a.png", True),
        ("http://img.example/", True),
        ("https://img.example:8443/a", True),
        ("https://img.example", False),
        ("https://img.example.evil/a", False),
        ("https://img.example@evil/a", False),
        ("https://img.example:1/a", False),
        ("https://evil/https://img.example/", False),
        ("ftp://img.example/a", False),
        ("https://IMG.example/a", False),
        ("https://img.example\\@evil/a", False),
        ("https://img.example/a)![](http://evil/", False),
        ("https://img.example/a b", False),
    ],
)
def test_media_hosts_are_exact(url: str, passes: bool) -> None:
    """A host that the operator allows is compared as a whole, up to the slash."""
    surface = OpenAI(("img.example", "img.example:8443"))
    body = json.dumps(part(image_url={"url": url})).encode()
    if passes:
        decode(body, surface=surface)
        return
    with pytest.raises(RouterError) as caught:
        decode(body, surface=surface)
    assert caught.value.kind is errors.REMOTE_MEDIA


def test_messages_beside_media_hold_few_values() -> None:
    """All are made into objects to be looked through; without media they are not, whatever they hold."""
    values = "1," * 300_000
    error = refused(f'{{"messages":[{{"image_url":null,"x":[{values}1]}}]}}'.encode())
    assert (error.param, "150,000" in error.message) == ("messages", True)
    decode(f'{{"messages":[{{"x":[{values}1]}}]}}'.encode())


def test_structured_outputs_have_few_fields() -> None:
    """Each is looked at; so there are as many as in a whole body, and a long list within one is no field."""
    names = ",".join([f'"f{number}":1' for number in range(20_000)])
    error = refused(f'{{"messages":[],"structured_outputs":{{"_x":1,{names}}}}}'.encode())
    assert (error.param, "1,000 fields" in error.message) == ("structured_outputs", True)
    words = ",".join(['"_a"'] * 20_000)
    decode(f'{{"messages":[],"structured_outputs":{{"choice":[{words}]}}}}'.encode())


def test_messages_no_parser_agrees_on_are_refused_by_name() -> None:
    """A number that is infinite to some, within messages that must be read, is the client's mistake."""
    error = refused(b'{"messages":[{"image_url":null,"x":1e400}]}')
    assert (error.kind, error.param) == (errors.INVALID_PARAMETER, "messages")


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
def test_each_error_has_openais_shape(kind: ErrorKind) -> None:
    """An object `error` with message, type, param and a stable code, under the table's status."""
    status, body = SURFACE.error(RouterError(kind, param="p"), "r-1")
    assert status == kind.status
    (error,) = json.loads(body).values()
    assert (error["message"], error["code"], error["param"]) == (kind.message, kind.code, "p")
    assert (error["request_id"], error["retryable"], error["owner"]) == ("r-1", kind.retryable, kind.owner)
    types = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    expected = types.get(kind.status, "server_error" if kind.status >= 500 else "invalid_request_error")
    assert error["type"] == expected


def test_an_error_frame_is_one_event_of_one_line() -> None:
    """A stream that failed ends with the same object, whatever signs are in the words."""
    frame = SURFACE.error_frame(RouterError(errors.ENGINE_CUT, "a\nb\u2028c"), "r-1")
    assert frame.endswith(b"\n\n")
    assert len(frame.decode().splitlines()) == 2
    assert json.loads(data(frame))["error"]["message"] == "a\nb\u2028c"
