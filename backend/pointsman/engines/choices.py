"""Reads answers that come as `choices`, as deltas: what completions and chats have in common."""

from typing import Generic, Protocol, TypeVar

import msgspec

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.call import Operation
from pointsman.engines.base import judge_error
from pointsman.engines.openai import ABSENT, Usage, decode_object, given
from pointsman.generation import Delta, Tokens


class _Choice(Protocol):
    finish_reason: str | None


C = TypeVar("C", bound=_Choice)


class Answer(msgspec.Struct, Generic[C]):
    """A whole answer, or an event of a stream."""

    choices: list[C] = []
    usage: Usage | None = None
    error: msgspec.Raw = ABSENT
    object: str | None = None


class ChoicesSource(Generic[C]):
    """A `Source`; what a choice says is the subclass's to tell."""

    operation: Operation
    answers: msgspec.json.Decoder[Answer[C]]

    def __init__(self, leaves: tuple[str, ...] = ()) -> None:
        self.tokens = Tokens()
        self.leaves = leaves

    def delta(self, choice: C) -> Delta:
        """What a choice says."""
        raise NotImplementedError

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """The counts come in the body."""

    def read(self, data: bytes) -> Delta | None:
        return Delta(last=True) if data == b"[DONE]" else self._read(data)

    def whole(self, body: bytes) -> Delta:
        delta = self._read(body)
        if delta is None:
            raise AttemptFailed(attempt.JUNK, "no choices")
        return delta

    def _read(self, data: bytes) -> Delta | None:
        try:
            answer = self.answers.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            payload = decode_object(data)
            if payload.get("error") is not None or payload.get("object") == "error":
                raise judge_error(payload, self.operation) from None
            raise AttemptFailed(attempt.JUNK, "no such answer") from None
        if given(answer.error) or answer.object == "error":
            raise judge_error(decode_object(data), self.operation)
        if answer.usage is not None:
            self.tokens = answer.usage.counted()
        if not answer.choices:
            return None
        choice = answer.choices[0]
        if choice.finish_reason == "abort":
            raise AttemptFailed(attempt.ABORTED, "finish_reason abort")
        return self.delta(choice)
