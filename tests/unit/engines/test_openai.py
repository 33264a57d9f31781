"""vLLM's answers: what commits, what fails, what ends a stream; and nothing is changed."""

import json

import pytest

from pointsman import attempt
from pointsman.attempt import AttemptFailed, End
from pointsman.call import Api, Call, Operation
from pointsman.engines.base import Seen
from pointsman.engines.openai import HidingReader, OpenAIReader
from pointsman.generation import Tokens


def reader(operation: Operation = Operation.CHAT) -> OpenAIReader:
    return OpenAIReader(Call(Api.OPENAI, operation, "m"))


def chunk(delta: object = None, finish: object = None, **more: object) -> bytes:
    choice: dict[str, object] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}).encode()


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", Seen.QUIET),
        (b"[DONE]", Seen.LAST),
        (chunk({"role": "assistant", "content": ""}), Seen.QUIET),
        (chunk({"role": "assistant", "content": None}), Seen.QUIET),
        (chunk({}), Seen.QUIET),
        (chunk(None), Seen.QUIET),
        (chunk({"content": "ש"}), Seen.CONTENT),
        (chunk({"content": " "}), Seen.CONTENT),
        (chunk({"reasoning": "hm"}), Seen.CONTENT),
        (chunk({"reasoning_content": "hm"}), Seen.CONTENT),
        (chunk({"refusal": "no"}), Seen.CONTENT),
        (chunk({"tool_calls": [{"index": 0}]}), Seen.CONTENT),
        (chunk({"tool_calls": []}), Seen.QUIET),
        (chunk({"tool_calls": None}), Seen.QUIET),
        (chunk({}, "stop"), Seen.CONTENT),
        (chunk({"content": ""}, "length"), Seen.CONTENT),
        (chunk({}, "tool_calls"), Seen.CONTENT),
        (chunk({}, "repetition"), Seen.CONTENT),
        (chunk({}, "some_new_reason"), Seen.CONTENT),
        (b'{"choices":[{"index":0,"text":"a","finish_reason":null}]}', Seen.CONTENT),
        (b'{"choices":[{"index":0,"text":"","finish_reason":""}]}', Seen.QUIET),
        (b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', Seen.QUIET),
        (b'{"choices":null,"error":null}', Seen.QUIET),
        (b'{"choices":[{"delta":{"content":["new"]}}]}', Seen.CONTENT),
        (b'{"choices":{"new":"shape"}}', Seen.CONTENT),
        (b'{"choices":[{"delta":{"content":""}},{"delta":{"content":"x"}}]}', Seen.CONTENT),
    ],
)
def test_what_an_event_is(data: bytes, seen: Seen) -> None:
    """Text, tools, reasoning and finish reasons commit; role, usage and comments do not."""
    assert reader().look(data) == seen


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (chunk({}, "abort"), attempt.ABORTED),
        (chunk({"content": "x"}, "abort"), attempt.ABORTED),
        (b'{"error":{"message":"x","code":503,"type":"Service Unavailable"}}', attempt.REFUSED),
        (b'{"error":{"message":"x","code":500}}', attempt.ENGINE_ERROR),
        (b'{"error":"x"}', attempt.ENGINE_ERROR),
        (b'{"object":"error","message":"x","code":400}', attempt.REJECTED),
        (b'{"error":{"message":"x","code":500},"choices":"odd"}', attempt.ENGINE_ERROR),
        (b'{"error":{"message":"x","code":500},"usage":{"prompt_tokens":"odd"}}', attempt.ENGINE_ERROR),
        (b'{"object":"error","message":"x","code":400,"choices":"odd"}', attempt.REJECTED),
        (b'{"usage":7,"choices":[{"finish_reason":"abort"}]}', attempt.ABORTED),
        (b"hello", attempt.JUNK),
        (b"{", attempt.JUNK),
        (b"[1]", attempt.JUNK),
        (b'"text"', attempt.JUNK),
        (b'{"choices":[{"delta":{"content":"\xff"}}]}', attempt.JUNK),
        (b'{"choices":' + b"[" * 100_000, attempt.JUNK),
    ],
)
def test_what_fails_an_attempt(data: bytes, end: End) -> None:
    """Errors, aborts and nonsense under status 200 are failures, in whatever shape they come."""
    with pytest.raises(AttemptFailed) as caught:
        reader().look(data)
    assert caught.value.end is end


MARKED = [
    b'{"error":{"message":"x"}}',
    b'{"object":"error","message":"x"}',
    b"[DONE]",
    chunk({}, "abort"),
    json.dumps({"choices": [], "usage": {"prompt_tokens": 1}}, separators=(",", ":")).encode(),
]


@pytest.mark.parametrize("data", MARKED)
def test_what_is_more_than_content_has_a_mark(data: bytes) -> None:
    """Events without a mark may pass unread."""
    assert any(mark in data for mark in reader().marks)


def test_plain_content_has_no_mark() -> None:
    """The hot path stays hot: tokens pass without being parsed, even if they speak of errors."""
    data = chunk({"content": 'an "error" [DON E] "abort"'})
    assert not any(mark in data for mark in reader().marks)


def test_events_and_answers_pass_untouched() -> None:
    """What vLLM says is already in the words of the call's API."""
    made = reader()
    body = b'{"choices":[{"finish_reason":"stop"}],"big":123456789012345678901234567890,"x":1.50}'
    assert not made.mends
    assert made.whole(body) is body


def test_tokens_are_counted() -> None:
    """Usage is read from a stream's last chunk and from a whole answer."""
    made = reader()
    made.look(b'{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}')
    assert (made.tokens.prompt, made.tokens.completion) == (12, 3)
    made = reader(Operation.EMBEDDING)
    made.whole(b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":4,"total_tokens":4}}')
    assert (made.tokens.prompt, made.tokens.completion) == (4, 0)
    made = reader()
    made.look(b'{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":null}}')
    assert (made.tokens.prompt, made.tokens.completion) == (0, 0)


@pytest.mark.parametrize(
    ("operation", "body", "end"),
    [
        (Operation.CHAT, b'{"choices":[{"finish_reason":"abort"}]}', attempt.ABORTED),
        (
            Operation.CHAT,
            b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"abort"}]}',
            attempt.ABORTED,
        ),
        (Operation.CHAT, b'{"choices":[]}', attempt.JUNK),
        (Operation.CHAT, b"{}", attempt.JUNK),
        (Operation.CHAT, b"[]", attempt.JUNK),
        (Operation.CHAT, b"", attempt.JUNK),
        (Operation.CHAT, b'{"choices":[{"finish', attempt.JUNK),
        (Operation.CHAT, b'{"error":{"message":"x","code":500}}', attempt.ENGINE_ERROR),
        (Operation.EMBEDDING, b'{"choices":[{}]}', attempt.JUNK),
        (Operation.EMBEDDING, b'{"data":null}', attempt.JUNK),
        (Operation.EMBEDDING, b'{"error":"x"}', attempt.ENGINE_ERROR),
    ],
)
def test_an_answer_that_is_none(operation: Operation, body: bytes, end: End) -> None:
    """Cut, empty, aborted and foreign answers under status 200 are failures."""
    with pytest.raises(AttemptFailed) as caught:
        reader(operation).whole(body)
    assert caught.value.end is end


def test_a_count_that_nobody_asked_for_is_not_shown() -> None:
    """The event of the counts is left out, everything else passes as it is, and the router has counted."""
    made = HidingReader(Call(Api.OPENAI, Operation.CHAT, "m", True))
    text = b'{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
    usage = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    out = b""
    for event in (text, usage, b"[DONE]"):
        made.look(event)
        out += made.mend(event)
    assert out == b"data: " + text + b"\n\ndata: [DONE]\n\n"
    assert made.tokens == Tokens(3, 4)
