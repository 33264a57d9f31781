"""vLLM: event streams, byte for byte."""

import httpx
import pytest

from .process import NAME
from .schema import check
from .sse import DONE, KEEP_ALIVE, read
from .test_vllm_answers import CHAT, COMPLETIONS, HI

HEBREW = "שלום לכולם 🙂 👍🏽"
USAGE = {"include_usage": True}


@pytest.mark.parametrize(("path", "prompt"), [(CHAT, {"messages": HI}), (COMPLETIONS, {"prompt": "Hi"})])
def test_framing(client: httpx.Client, path: str, prompt: dict[str, object]) -> None:
    """Each frame is `data: `, one JSON object on one line and a blank line; [DONE] is the last."""
    stream = read(client, path, prompt | {"max_tokens": 5, "temperature": 0})
    assert stream.status == 200
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in stream.headers
    frames = [frame for frame in stream.frames if frame != KEEP_ALIVE]
    assert frames[-1] == DONE
    for frame in frames[:-1]:
        assert frame.startswith(b'data: {"id":"')
        assert frame.endswith(b"}")
        assert b"\n" not in frame
        assert b"\r" not in frame
        assert b'": ' not in frame  # no space after the colons of its own keys
    assert len(stream.events) == len(frames) - 1


def test_chat_chunks(client: httpx.Client) -> None:
    """A role-only chunk opens, text follows, the last chunk has the reason and the fingerprint."""
    stream = read(client, CHAT, {"messages": HI, "max_tokens": 5, "temperature": 0})
    for event in stream.events:
        check("vllm", "ChatCompletionChunk", event)
        assert event["object"] == "chat.completion.chunk"
        assert event["model"] == NAME
    first, *rest = stream.chunks
    assert first["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert len({event["id"] for event in stream.events}) == 1
    assert len({event["created"] for event in stream.events}) == 1
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in rest)
    assert [chunk["choices"][0]["finish_reason"] for chunk in rest][-2:] == [None, "length"]
    assert "stop_reason" in rest[-1]["choices"][0]
    assert [("system_fingerprint" in event) for event in stream.events].count(True) == 1
    assert "system_fingerprint" in rest[-1]
    assert all("usage" not in event for event in stream.events)


def test_completion_chunks(client: httpx.Client) -> None:
    """Chunks of a completion carry text; the last one has the reason too."""
    stream = read(client, COMPLETIONS, {"prompt": "Hi", "max_tokens": 5, "temperature": 0})
    for event in stream.events:
        check("vllm", "CompletionChunk", event)
        assert event["object"] == "text_completion"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in stream.chunks]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) == {None}


def test_stream_says_what_the_whole_answer_says(client: httpx.Client) -> None:
    """At temperature 0 the deltas joined are the text of the whole answer, on both routes."""
    chat = {"messages": HI, "max_tokens": 20, "temperature": 0}
    whole = client.post(CHAT, json=chat).json()["choices"][0]["message"]["content"]
    assert read(client, CHAT, chat).text() == whole
    completion = {"prompt": "Hi there", "max_tokens": 20, "temperature": 0}
    text = client.post(COMPLETIONS, json=completion).json()["choices"][0]["text"]
    assert read(client, COMPLETIONS, completion).text() == text


@pytest.mark.parametrize(("path", "prompt"), [(CHAT, {"messages": HI}), (COMPLETIONS, {"prompt": "Hi"})])
def test_include_usage(client: httpx.Client, path: str, prompt: dict[str, object]) -> None:
    """include_usage adds one event without choices before [DONE]; the fingerprint moves there."""
    stream = read(client, path, prompt | {"max_tokens": 5, "temperature": 0, "stream_options": USAGE})
    last = stream.events[-1]
    assert last["choices"] == []
    usage = last["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["prompt_tokens"] + 5 == usage["total_tokens"]
    assert "system_fingerprint" in last
    assert all("usage" not in event and "system_fingerprint" not in event for event in stream.events[:-1])


def test_continuous_usage(client: httpx.Client) -> None:
    """continuous_usage_stats puts growing counts on every chunk, from 0 on the role chunk."""
    options = USAGE | {"continuous_usage_stats": True}
    stream = read(client, CHAT, {"messages": HI, "max_tokens": 5, "stream_options": options})
    counts = [event["usage"]["completion_tokens"] for event in stream.events]
    assert counts[0] == 0
    assert counts[-1] == 5
    assert counts == sorted(counts)


def test_several_choices_interleave(client: httpx.Client) -> None:
    """With n=2 each choice has its own role chunk, text and reason, told apart by `index`."""
    stream = read(client, CHAT, {"messages": HI, "n": 2, "max_tokens": 4, "temperature": 1})
    for index in (0, 1):
        own = [chunk["choices"][0] for chunk in stream.chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in own].count("length") == 1
        assert own[-1]["finish_reason"] == "length"
    assert stream.frames[-1] == DONE


def test_hebrew_and_emoji_are_whole_in_frames(client: httpx.Client) -> None:
    """Text beyond ASCII is sent as UTF-8, not escaped, and no frame holds a part of a character."""
    request = {"prompt": HEBREW, "echo": True, "max_tokens": 2, "temperature": 0}
    stream = read(client, COMPLETIONS, request)
    assert stream.text().startswith(HEBREW)
    assert "ש".encode() in stream.body
    assert b"\\u05" not in stream.body
    assert b"\\ud83" not in stream.body
    for frame in stream.frames:
        assert "\ufffd" not in frame.decode("utf-8")
    assert client.post(COMPLETIONS, json=request).json()["choices"][0]["text"].startswith(HEBREW)


def test_request_id_on_streams(client: httpx.Client) -> None:
    """X-Request-Id rules the ids of a stream's chunks as well."""
    stream = read(client, CHAT, {"messages": HI, "max_tokens": 2}, **{"X-Request-Id": "abc-a2"})
    assert {event["id"] for event in stream.events} == {"chatcmpl-abc-a2"}
    assert stream.headers["x-request-id"] == "abc-a2"


def test_stop_string_in_a_stream(client: httpx.Client) -> None:
    """A stop string never shows in the deltas, not even its first part."""
    request = {"prompt": "Hi there", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    whole = read(client, COMPLETIONS, request).text()
    stop = whole[3:7]
    stream = read(client, COMPLETIONS, request | {"stop": [stop]})
    assert stream.text() == whole[: whole.index(stop)]
    last = stream.chunks[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
