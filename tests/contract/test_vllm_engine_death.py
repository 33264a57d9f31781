"""vLLM's engine dies while it answers: the emulator's bytes are those recorded from the real one."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from processes import Emulator

from .schema import DATA
from .sse import DONE, cut
from .test_vllm_answers import CHAT, HI

ASKED: dict[str, Any] = {"messages": HI, "max_tokens": 5}


def recorded(name: str) -> tuple[bytes, bytes]:
    """Head and body as they came."""
    head, _, body = (DATA / "recorded" / name).read_bytes().partition(b"\n\n")
    return head, body


@pytest.fixture(scope="module")
def dying() -> Iterator[Emulator]:
    with Emulator("vllm") as started:
        started.arm("error_after", "2:internal")
        yield started


def test_error_frame(dying: Emulator) -> None:
    """In a stream: one frame with blanks after colons and commas, as no other frame has, and [DONE]."""
    _, body = recorded("chat-stream-engine-death.txt")
    *before, error, done = cut(dying.http.post(CHAT, json=ASKED | {"stream": True}).content)
    assert [error, done] == list(cut(body)[-2:])
    assert done == DONE
    assert error.startswith(b'data: {"error": {"message": "')
    assert all(json.loads(frame[6:])["choices"] for frame in before)
    assert not any(b'": ' in frame for frame in before)


def test_error_answer(dying: Emulator) -> None:
    """Before a stream has begun, and on whole answers: 500 with the same error, without blanks."""
    head, body = recorded("error-500-engine-death.txt")
    answer: httpx.Response = dying.http.post(CHAT, json=ASKED)
    assert answer.content == body
    assert head.startswith(b"HTTP/1.1 500 ")
    assert answer.status_code == 500
    for name in ("content-type", "content-length", "vary"):
        assert f"{name}: {answer.headers[name]}".encode() in head.splitlines()
