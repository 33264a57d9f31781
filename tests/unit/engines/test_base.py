"""How answers of any engine are judged, and how bodies are written back."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import attempt
from pointsman.attempt import ALL_ENDS, End
from pointsman.call import Operation
from pointsman.engines.base import engine_message, join, judge_error, judge_status
from pointsman.surfaces.base import read_fields

CHAT = Operation.CHAT


@pytest.mark.parametrize(
    ("status", "end", "passed_on"),
    [
        (400, attempt.REJECTED, 400),
        (401, attempt.MISCONFIGURED, None),
        (403, attempt.MISCONFIGURED, None),
        (404, attempt.MISCONFIGURED, None),
        (405, attempt.MISCONFIGURED, None),
        (408, attempt.REJECTED, 400),
        (409, attempt.REJECTED, 400),
        (413, attempt.REJECTED, 413),
        (415, attempt.REJECTED, 400),
        (422, attempt.REJECTED, 422),
        (424, attempt.ENGINE_ERROR, None),
        (429, attempt.REFUSED, None),
        (500, attempt.ENGINE_ERROR, None),
        (501, attempt.REJECTED, 400),
        (502, attempt.BAD_GATEWAY, None),
        (503, attempt.REFUSED, None),
        (504, attempt.GATEWAY_TIMEOUT, None),
        (507, attempt.ENGINE_ERROR, None),
        (301, attempt.JUNK, None),
        (302, attempt.JUNK, None),
        (304, attempt.JUNK, None),
        (600, attempt.JUNK, None),
        (0, attempt.JUNK, None),
    ],
)
def test_a_status_is_judged(status: int, end: End, passed_on: int | None) -> None:
    """Each status has one meaning; only the client's own mistakes keep a status."""
    failure = judge_status(status, b"", CHAT, 1.0)
    assert failure is not None
    assert (failure.end, failure.status) == (end, passed_on)
    assert failure.retry_after_s == (1.0 if end is attempt.REFUSED else None)


@given(st.integers(200, 299))
def test_a_good_status_is_no_failure(status: int) -> None:
    """2xx is good so far."""
    assert judge_status(status, b"", CHAT) is None


@given(st.integers(-1, 1000), st.binary(max_size=60), st.sampled_from(Operation))
def test_no_answer_confuses_the_judge(status: int, body: bytes, operation: Operation) -> None:
    """Any status with any body gives a verdict of the table."""
    failure = judge_status(status, body, operation)
    assert failure is None or failure.end in ALL_ENDS


def test_a_model_without_embeddings_says_so() -> None:
    """vLLM's 404 for a model that makes no embeddings is the client's to know, in words of ours."""
    failure = judge_status(404, b'{"detail":"Not Found"}', Operation.EMBEDDING)
    assert failure is not None
    assert (failure.end, failure.status) == (attempt.REJECTED, 400)
    assert failure.client_message == "This model makes no embeddings."


VALIDATION = "Input validation error: `temperature` must be strictly positive"
GENERATION = "Request failed during generation: Server error: CUDA out of memory"
ERRORS: list[tuple[str, dict[str, object], End, int | None, str | None]] = [
    # vLLM since 0.10.1
    (
        "vllm 400",
        {
            "error": {
                "message": "max_tokens is too large",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
        attempt.REJECTED,
        400,
        "max_tokens is too large",
    ),
    (
        "vllm 500",
        {"error": {"message": "Internal server error", "type": "InternalServerError", "code": 500}},
        attempt.ENGINE_ERROR,
        None,
        None,
    ),
    (
        "vllm late admission",
        {"error": {"message": "The engine is currently busy", "type": "Service Unavailable", "code": 503}},
        attempt.REFUSED,
        None,
        None,
    ),
    (
        "vllm paused",
        {"error": {"message": "Generation is paused.", "type": "ServiceUnavailableError", "code": 503}},
        attempt.REFUSED,
        None,
        None,
    ),
    (
        "vllm 501",
        {"error": {"message": "not supported", "type": "NotImplementedError", "code": 501}},
        attempt.REJECTED,
        400,
        "not supported",
    ),
    # vLLM up to 0.10.0: flat, and in streams nested with an object of its own
    (
        "vllm flat",
        {"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 400},
        attempt.REJECTED,
        400,
        "bad",
    ),
    (
        "vllm old stream",
        {"error": {"object": "error", "message": "boom", "type": "InternalServerError", "code": 500}},
        attempt.ENGINE_ERROR,
        None,
        None,
    ),
    ("string error", {"error": "Unauthorized"}, attempt.ENGINE_ERROR, None, None),
    (
        "anthropic",
        {"type": "error", "error": {"type": "overloaded_error", "message": "x"}},
        attempt.REFUSED,
        None,
        None,
    ),
    # TGI's own routes
    ("tgi full", {"error": "Model is overloaded", "error_type": "overloaded"}, attempt.REFUSED, None, None),
    ("tgi invalid", {"error": VALIDATION, "error_type": "validation"}, attempt.REJECTED, 422, VALIDATION),
    ("tgi failed", {"error": GENERATION, "error_type": "generation"}, attempt.ENGINE_ERROR, None, None),
    (
        "tgi cut",
        {"error": "Incomplete generation stream", "error_type": "incomplete_generation_stream"},
        attempt.ENGINE_ERROR,
        None,
        None,
    ),
    (
        "tgi template",
        {"error": "Template error: template not found", "error_type": "template_error"},
        attempt.REJECTED,
        422,
        "Template error: template not found",
    ),
    # TGI's OpenAI routes: 422 whatever the cause
    (
        "tgi chat full",
        {"error": {"message": "Model is overloaded", "http_status_code": 422}},
        attempt.REFUSED,
        None,
        None,
    ),
    (
        "tgi chat invalid",
        {"error": {"message": VALIDATION, "http_status_code": 422}},
        attempt.REJECTED,
        422,
        VALIDATION,
    ),
    (
        "tgi chat failed",
        {"error": {"message": GENERATION, "http_status_code": 422}},
        attempt.ENGINE_ERROR,
        None,
        None,
    ),
    # nobody's
    ("empty", {"error": {}}, attempt.ENGINE_ERROR, None, None),
    ("code is a bool", {"error": {"message": "x", "code": True}}, attempt.ENGINE_ERROR, None, None),
    ("code is text", {"error": {"message": "x", "code": "400"}}, attempt.ENGINE_ERROR, None, None),
    ("code is good", {"error": {"message": "x", "code": 200}}, attempt.ENGINE_ERROR, None, None),
    ("detail", {"detail": "Not Found"}, attempt.ENGINE_ERROR, None, None),
    ("list", {"error": ["x"]}, attempt.ENGINE_ERROR, None, None),
]


@pytest.mark.parametrize(
    ("payload", "end", "status", "message"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_an_error_event_is_judged(
    payload: dict[str, object], end: End, status: int | None, message: str | None
) -> None:
    """Each shape in which the engines say an error under status 200 has its meaning."""
    failure = judge_error(payload, CHAT)
    assert (failure.end, failure.status, failure.client_message) == (end, status, message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["error", "error_type", "type", "code", "message", "http_status_code", "object"])


@given(st.dictionaries(WORDS, JSON, max_size=5))
def test_no_error_event_confuses_the_judge(payload: dict[str, object]) -> None:
    """Whatever an engine calls an error, there is a verdict."""
    assert judge_error(payload, CHAT).end in ALL_ENDS


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error":{"message":" too long ","code":400}}', "too long"),
        (b'{"object":"error","message":"flat"}', "flat"),
        (b'{"error":"words","error_type":"validation"}', "words"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body"],"msg":"x"}]}', None),
        (b'{"error":null,"message":"m"}', None),
        (b'{"error":{"code":400}}', None),
        (b"Failed to parse the request body as JSON: EOF", "Failed to parse the request body as JSON: EOF"),
        (b"", None),
        (b"   ", None),
        (b"[1]", None),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"error":"\\ud800"}', '{"error":"\\ud800"}'),
        (b"[" * 100_000, "[" * 1000),
        (json.dumps({"error": "x" * 5000}).encode(), "x" * 1000),
        ('{"error":"יותר מדי"}'.encode(), "יותר מדי"),
        (
            b'{"error":"`inputs` tokens + `max_new_tokens` must be <= 1024"}',
            "`inputs` tokens + `max_new_tokens` must be <= 1024",
        ),
        (b'{"error":"roles must alternate user/assistant/user"}', "roles must alternate user/assistant/user"),
        (
            b'{"error":"temperature must be in 0.0/2.0, got 3.5.1"}',
            "temperature must be in 0.0/2.0, got 3.5.1",
        ),
    ],
)
def test_the_engines_sentence_is_found(body: bytes, sentence: str | None) -> None:
    """In each known shape, cut to 1,000 characters; nothing where there is no sentence."""
    assert engine_message(body) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "see http://engine:8000/docs",
        "Traceback (most recent call last):",
        'File "/usr/lib/x.py", line 3',
        "<html><body>502</body></html>",
        "<!DOCTYPE html>",
        "connect to 10.0.3.17 failed",
        "no such file: /opt/vllm/models/secret/config.json",
        "raised in serving_chat.py line 3",
        "<vllm.engine.Engine object at 0x7f3ef864d830>",
    ],
)
def test_a_sentence_that_tells_of_the_inside_is_not_shown(text: str) -> None:
    """Addresses, paths, tracebacks and pages stay in the engine."""
    assert engine_message(json.dumps({"error": {"message": text}}).encode()) is None
    assert engine_message(text.encode()) is None


RAW_VALUES = [
    b"1",
    b"-0",
    b"1.50",
    b"1E+2",
    b"123456789012345678901234567890",
    b'"\\u05e9\\/\\n"',
    '"שלום \u2028 🙂"'.encode(),
    b'{"b":1,"a":[1.0,null,{"x":"]}"}]}',
    b'{ "spaced" : [ 1 , 2 ] }',
    b"[]",
    b"null",
    b"true",
]


def test_what_the_client_sent_is_not_shown_again() -> None:
    """A validation error of vLLM keeps place and reason, and loses the value."""
    kept = "{'type': 'list_type', 'loc': 'body.stop', 'msg': 'Input should be a valid list'"
    told = f"1 validation error:\n  {kept}, 'input': 'say, \"}}\\n\"'}}\n  and so on"
    body = json.dumps({"error": {"message": told}}).encode()
    assert engine_message(body) == f"1 validation error:\n  {kept}}}\n  and so on"


@given(st.dictionaries(st.text(max_size=8), st.sampled_from(RAW_VALUES), max_size=8))
def test_joining_gives_the_raw_values_back(values: dict[str, bytes]) -> None:
    """Order, digits, escapes, blanks and nesting survive reading and writing."""
    body = join({name: msgspec.Raw(value) for name, value in values.items()})
    again = read_fields(body)
    assert [(name, bytes(raw)) for name, raw in again.items()] == list(values.items())
    assert join(again) == body
    assert json.loads(body) == {name: json.loads(value) for name, value in values.items()}
