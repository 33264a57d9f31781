"""How engines answer on their OpenAI routes; shared by the dialects.

Pure. Sources: `contracts/vllm.md` sections 3 and 4, `contracts/tgi.md` sections 4.2, 4.3 and 5.
"""

import msgspec

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.call import Call, Operation
from pointsman.engines.base import Seen, judge_error
from pointsman.generation import Tokens
from pointsman.sse import frame

ROUTES = {
    Operation.CHAT: "/v1/chat/completions",
    Operation.COMPLETION: "/v1/completions",
    Operation.EMBEDDING: "/v1/embeddings",
}

# Raw values cannot stand in a union, so that absent is empty and null is null.
ABSENT = msgspec.Raw()


def given(raw: msgspec.Raw) -> bool:
    """Whether a raw field was there and not null."""
    return bytes(raw) not in (b"", b"null")


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = ABSENT


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    """The counts that an engine tells."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0

    def counted(self) -> Tokens:
        return Tokens(self.prompt_tokens or 0, self.completion_tokens or 0)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = ABSENT
    object: str | None = None


class _Finish(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    choices: list[_Finish] | None = None
    data: msgspec.Raw = ABSENT
    usage: Usage | None = None
    error: msgspec.Raw = ABSENT
    object: str | None = None


_chunks = msgspec.json.Decoder(_Chunk)
_wholes = msgspec.json.Decoder(_Whole)


def decode_object(body: bytes) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        AttemptFailed: JUNK, when it is none.
    """
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise AttemptFailed(attempt.JUNK, "no JSON object")
    return payload


class OpenAIReader:
    """Reads vLLM's answers, which pass untouched."""

    headers = b""
    mends = False
    edits = False
    marks: tuple[bytes, ...] = (b"[DONE]", b'"error"', b'"abort"', b'"usage":{')
    last_mark = b""

    def __init__(self, call: Call) -> None:
        self.tokens = Tokens()
        self._operation = call.operation

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """vLLM counts in its bodies."""

    def look(self, data: bytes) -> Seen:
        if not data:
            return Seen.QUIET
        if data == b"[DONE]":
            return Seen.LAST
        try:
            chunk = _chunks.decode(data)
        except msgspec.ValidationError:
            return self._look_loosely(decode_object(data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AttemptFailed(attempt.JUNK, "event is no JSON") from None
        if given(chunk.error) or chunk.object == "error":
            raise judge_error(decode_object(data), self._operation)
        if chunk.usage is not None:
            self.tokens = chunk.usage.counted()
        seen = Seen.QUIET
        for choice in chunk.choices or ():
            if choice.finish_reason == "abort":
                raise AttemptFailed(attempt.ABORTED, "finish_reason abort")
            if choice.finish_reason or choice.text or _has_content(choice.delta):
                seen = Seen.CONTENT
        return seen

    def _look_loosely(self, payload: dict[str, object]) -> Seen:
        """Judge an unknown shape of a known thing; where it is no failure, it is the client's to read."""
        if payload.get("error") is not None or payload.get("object") == "error":
            raise judge_error(payload, self._operation)
        choices = payload.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason") == "abort":
                raise AttemptFailed(attempt.ABORTED, "finish_reason abort")
        return Seen.CONTENT

    def mend(self, data: bytes) -> bytes:
        return frame(data)

    def whole(self, body: bytes) -> bytes:
        try:
            answer = _wholes.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AttemptFailed(attempt.JUNK, "answer is no such JSON") from None
        if (answer.error is not ABSENT and given(answer.error)) or answer.object == "error":
            raise judge_error(decode_object(body), self._operation)
        if self._operation is Operation.EMBEDDING:
            if not given(answer.data):
                raise AttemptFailed(attempt.JUNK, "no data")
        elif not answer.choices:
            raise AttemptFailed(attempt.JUNK, "no choices")
        for choice in answer.choices or ():
            if choice.finish_reason == "abort":
                raise AttemptFailed(attempt.ABORTED, "finish_reason abort")
        if answer.usage is not None:
            self.tokens = answer.usage.counted()
        return body


class HidingReader(OpenAIReader):
    """Keeps the counts to itself: a client that did not ask for them knows no event without choices."""

    edits = True  # the event to hide holds a mark

    def mend(self, data: bytes) -> bytes:
        return b"" if data != b"[DONE]" and tells_usage_alone(data) else frame(data)


def tells_usage_alone(data: bytes) -> bool:
    """Whether an event is the one that `include_usage` asks for."""
    return b'"choices":[]' in data and b'"usage":{' in data


def _has_content(delta: _Delta | None) -> bool:
    if delta is None:
        return False
    return bool(
        delta.content
        or delta.reasoning
        or delta.reasoning_content
        or delta.refusal
        or bytes(delta.tool_calls) not in (b"", b"null", b"[]")
    )
