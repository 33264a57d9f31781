"""Answers of the APIs that belong to no engine: frames that each known reader finds its text in."""

import json
from typing import Any

import pytest

from pointsman.apis.base import Reply
from pointsman.apis.plain import PlainWriter
from pointsman.generation import Delta, Finish, Said, Tokens

REPLY = Reply("req-1", "asked", "served", 0, lambda: 1.5)


def shape(said: Said) -> dict[str, object]:
    told = (
        said.text,
        said.finish.name,
        said.tokens.prompt,
        said.tokens.completion,
        said.model_id,
        said.seconds,
    )
    return {"told": list(told)}


def stream(*deltas: Delta) -> list[Any]:
    writer = PlainWriter(shape, REPLY)
    out = b"".join(writer.write(delta) for delta in deltas) + writer.end(Tokens(3, 2))
    parts = out.decode().split("\n\n")
    assert parts.pop() == ""
    return [
        data if data == "[DONE]" else json.loads(data) for data in (p.removeprefix("data: ") for p in parts)
    ]


def test_each_piece_is_there_for_each_reader() -> None:
    """`type` and `content`, and OpenAI's `choices` beside them; a piece without text has no frame."""
    first, second, *_ = stream(Delta("ש\n"), Delta(""), Delta('"'), Delta(finish=Finish.END))
    assert first == {
        "type": "content",
        "content": "ש\n",
        "choices": [{"index": 0, "delta": {"content": "ש\n"}, "finish_reason": None}],
    }
    assert second["content"] == second["choices"][0]["delta"]["content"] == '"'


@pytest.mark.parametrize("finish", list(Finish))
def test_the_last_frame_is_what_a_whole_answer_would_be(finish: Finish) -> None:
    """With `type` done, and `[DONE]` behind it."""
    *_, last, done = stream(Delta("a"), Delta("ב", finish=finish, last=True))
    assert done == "[DONE]"
    whole = json.loads(PlainWriter(shape, REPLY).whole(Delta("aב", finish=finish), Tokens(3, 2)))
    assert whole == {"told": ["aב", finish.name, 3, 2, "served", 1.5]}
    assert last == {"type": "done", **whole}


def test_an_answer_without_text() -> None:
    """A stream of its end alone."""
    assert stream(Delta(finish=Finish.END))[:-1] == [
        {"type": "done", "told": ["", "END", 3, 2, "served", 1.5]}
    ]
    whole = json.loads(PlainWriter(shape, REPLY).whole(Delta(""), Tokens()))
    assert whole["told"][:2] == ["", "END"]
