"""Event streams cut into their frames, byte for byte."""

import json
from dataclasses import dataclass
from typing import Any

import httpx

KEEP_ALIVE = b": keep-alive"
DONE = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer as it came: the whole body, and its frames without the blank line that ends each."""

    status: int
    headers: httpx.Headers
    body: bytes
    frames: tuple[bytes, ...]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON of every data frame but [DONE]."""
        return [
            json.loads(frame.removeprefix(b"data: ").decode("utf-8"))
            for frame in self.frames
            if frame.startswith(b"data: {")
        ]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events with a choice: all but the usage event."""
        return [event for event in self.events if event["choices"]]

    def text(self, index: int = 0) -> str:
        """What the choice of this index says, of either route."""
        choices = [choice for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == index]
        return "".join(
            choice["delta"].get("content", "") if "delta" in choice else choice["text"] for choice in choices
        )


def cut(body: bytes) -> tuple[bytes, ...]:
    """The frames of a body that ends with a blank line; comments too."""
    *frames, rest = body.split(b"\n\n")
    assert rest == b"", f"the body ends inside a frame: {rest[-80:]!r}"
    return tuple(frames)


def read(client: httpx.Client, path: str, body: dict[str, Any], **headers: str) -> Stream:
    """Ask for a stream and read it to its end."""
    with client.stream("POST", path, json=body | {"stream": True}, headers=headers) as answer:
        raw = answer.read()
    return Stream(answer.status_code, answer.headers, raw, cut(raw))
