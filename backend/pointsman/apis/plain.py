"""Answers of the APIs that belong to no engine, in frames for every known reader (`contracts/seeds.md` 5.4).

`type` and `content`, OpenAI's `choices` beside them; at the end one of `type` done that carries what a whole
answer would be, then `[DONE]`.
"""

import msgspec

from pointsman.apis.base import Reply
from pointsman.generation import Delta, Finish, Said, Shape, Tokens
from pointsman.sse import frame


class PlainWriter:
    """Writes one answer in the shape that its surface gave."""

    def __init__(self, shape: Shape, reply: Reply) -> None:
        self._shape = shape
        self._reply = reply
        self._texts: list[str] = []
        self._finish = Finish.END

    def write(self, delta: Delta) -> bytes:
        """One event of the text; none where there is no text."""
        if delta.finish is not None:
            self._finish = delta.finish
        if not delta.text:
            return b""
        self._texts.append(delta.text)
        text = msgspec.json.encode(delta.text)
        return frame(
            b'{"type":"content","content":%s,"choices":[{"index":0,"delta":{"content":%s},"finish_reason":null}]}'
            % (text, text)
        )

    def end(self, tokens: Tokens) -> bytes:
        said = self._said("".join(self._texts), tokens)
        told = msgspec.convert(self._shape(said), dict[str, object])
        return frame(msgspec.json.encode({"type": "done", **told})) + frame(b"[DONE]")

    def whole(self, delta: Delta, tokens: Tokens) -> bytes:
        self._finish = delta.finish or Finish.END
        return msgspec.json.encode(self._shape(self._said(delta.text, tokens)))

    def _said(self, text: str, tokens: Tokens) -> Said:
        return Said(text, self._finish, tokens, self._reply.model_id, self._reply.elapsed())
