"""TGI's own API: bodies pass, errors have `error` and `error_type`."""

import json

import pytest

from pointsman import errors
from pointsman.call import Api, Call, Operation
from pointsman.errors import ALL_KINDS, ErrorKind, RouterError
from pointsman.sse import data
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.tgi import Tgi

SURFACE = Tgi()


def decode(body: bytes, operation: Operation = Operation.GENERATE, *, stream: bool = False) -> Call:
    return SURFACE.decode(operation, read_fields(body), body, stream=stream)


def test_a_call_keeps_the_clients_bytes_and_names_no_model() -> None:
    """The path or the default names the model; a field of that name is none of TGI's."""
    body = b'{ "inputs":"x","model":"other","model_id":"other" }'
    call = decode(body)
    assert call.body is body
    assert (call.api, call.model, call.stream) == (Api.TGI, None, False)


@pytest.mark.parametrize(
    ("operation", "route_streams", "body_streams", "streams"),
    [
        (Operation.GENERATE, False, True, False),
        (Operation.GENERATE, True, False, True),
        (Operation.COMPAT, False, True, True),
        (Operation.COMPAT, False, False, False),
        (Operation.TOKENIZE, False, True, False),
    ],
)
def test_who_says_that_it_streams(
    operation: Operation, route_streams: bool, body_streams: bool, streams: bool
) -> None:
    """The route, and on `POST /` the body; elsewhere TGI ignores the field, and so do we."""
    body = json.dumps({"inputs": "x", "stream": body_streams}).encode()
    assert decode(body, operation, stream=route_streams).stream is streams


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (Operation.GENERATE, "inputs"),
        (Operation.COMPAT, "inputs"),
        (Operation.TOKENIZE, "inputs"),
        (Operation.CHAT_TOKENIZE, "messages"),
    ],
)
def test_each_operation_needs_its_field(operation: Operation, name: str) -> None:
    """The field that is missing is named; a GET of /info has none."""
    with pytest.raises(RouterError) as caught:
        decode(b"{}", operation)
    assert caught.value.param == name
    assert SURFACE.decode(Operation.INFO, {}, b"", stream=False).operation is Operation.INFO


@pytest.mark.parametrize(
    "body", [b'{"inputs":"x","seed":1e400}', b'{"inputs":"x","seed":18446744073709551616}']
)
def test_numbers_must_fit(body: bytes) -> None:
    """What parsers disagree on is refused by name."""
    with pytest.raises(RouterError) as caught:
        decode(body)
    assert caught.value.param == "seed"


@pytest.mark.parametrize(
    ("parameters", "passes"),
    [
        ('{"best_of":16}', True),
        ('{"best_of":null}', True),
        ('{"best_of":17}', False),
        ('{"best_of":4000000000}', False),
        ('{"best\\u005fof":4000000000}', False),
        ('{"best_of":-1}', False),
        ('{"best_of":"2"}', False),
        ("null", True),
        ("5", True),
    ],
)
def test_an_engine_is_not_asked_for_a_million_copies(parameters: str, passes: bool) -> None:
    """TGI copies a request `best_of` times before it checks the number; what else is wrong it says itself."""
    body = f'{{"inputs":"x","parameters":{parameters}}}'.encode()
    if passes:
        assert decode(body).body == body
        return
    with pytest.raises(RouterError) as caught:
        decode(body)
    assert caught.value.param == "best_of"


@pytest.mark.parametrize("key", ["image_url", "image\\u005furl"])
def test_chat_tokenize_fetches_nothing(key: str) -> None:
    """TGI would load an image to count its tokens."""
    body = b'{"messages":[{"role":"user","content":[{"type":"image_url","%s":{"url":"http://x"}}]}]}'
    with pytest.raises(RouterError) as caught:
        decode(body % key.encode(), Operation.CHAT_TOKENIZE)
    assert caught.value.kind is errors.REMOTE_MEDIA


TYPES = {
    "rate_limited": "overloaded",
    "no_replica": "overloaded",
    "engine_overloaded": "overloaded",
    "over_share": "overloaded",
    "model_not_found": None,
    "replica_not_found": None,
    "route_not_found": None,
}


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
def test_each_error_has_tgis_shape(kind: ErrorKind) -> None:
    """A string `error` and its type; bad fields are 422; a 404 has no type (huggingface_hub reads it)."""
    status, body = SURFACE.error(RouterError(kind), "r-1")
    told = json.loads(body)
    field_errors = {errors.INVALID_PARAMETER, errors.UNSUPPORTED, errors.ENGINE_REJECTED}
    assert status == (422 if kind in field_errors else kind.status)
    assert (told["error"], told["code"], told["request_id"]) == (kind.message, kind.code, "r-1")
    expected = TYPES.get(kind.code, "validation" if kind.status < 500 else "generation")
    assert told.get("error_type") == expected
    assert ("error_type" in told) == (expected is not None)


def test_a_status_of_the_engine_stays() -> None:
    """A 413 that is passed on is not turned into a 422."""
    assert SURFACE.error(RouterError(errors.ENGINE_REJECTED, status=413), "r")[0] == 413


def test_a_cut_stream_says_so_in_tgis_word() -> None:
    """The frame of a stream that ended early has TGI's type for it, on one line and under no `[DONE]`."""
    frame = SURFACE.error_frame(RouterError(errors.ENGINE_CUT), "r-1")
    told = json.loads(data(frame))
    assert (told["error"], told["error_type"]) == (errors.ENGINE_CUT.message, "incomplete_generation_stream")
    assert frame.count(b"\n") == 2
