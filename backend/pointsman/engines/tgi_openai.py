"""Repairs the answers of TGI's OpenAI routes. Source: `contracts/tgi.md` 4.2, 4.3 and 5."""

import msgspec

from pointsman.apis.base import Reply
from pointsman.call import Call, Fields, Operation
from pointsman.engines.openai import OpenAIReader, decode_object, tells_usage_alone
from pointsman.generation import Delta, Finish
from pointsman.sse import frame
from pointsman.stops import Stops

_FINISH = {"eos_token": "stop", "stop_sequence": "stop", "": None}


class MendingReader(OpenAIReader):
    """Mends what OpenAI's clients trip over: ids, names, roles, finish reasons, stop sequences in texts."""

    mends = True
    edits = False

    def __init__(self, call: Call, reply: Reply) -> None:
        super().__init__(call)
        prefix = "chatcmpl" if call.operation is Operation.CHAT else "cmpl"
        self._id = f"{prefix}-{reply.request_id}"
        self._name = reply.name
        self._greeted: set[int] = set()  # choices whose role was told
        self._hides_usage = call.hides_usage
        self._stop = _stops(call.fields)
        self._stops: dict[int, Stops] = {}  # of each choice

    def mend(self, data: bytes) -> bytes:
        if self._hides_usage and tells_usage_alone(data):
            return b""
        return frame(data if data == b"[DONE]" else self._repair(decode_object(data)))

    def whole(self, body: bytes) -> bytes:
        return self._repair(decode_object(super().whole(body)))

    def _repair(self, payload: dict[str, object]) -> bytes:
        payload["id"] = self._id
        payload["model"] = self._name
        choices = payload.get("choices")
        if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
            for choice in choices:
                self._repair_choice(choice)
            choices.sort(key=_index)  # TGI lists them as they finish
        return msgspec.json.encode(payload)

    def _repair_choice(self, choice: dict[str, object]) -> None:
        finish = choice.get("finish_reason")
        if isinstance(finish, str):
            choice["finish_reason"] = _FINISH.get(finish, finish)
        delta = choice.get("delta")
        if isinstance(delta, dict) and "role" in delta:
            if _index(choice) in self._greeted:
                del delta["role"]
            self._greeted.add(_index(choice))
        if self._stop:
            said = choice.get("message", delta)
            if isinstance(said, dict):
                self._cut(choice, said, "content")
            else:
                self._cut(choice, choice, "text")

    def _cut(self, choice: dict[str, object], said: dict[str, object], name: str) -> None:
        """Take a stop sequence, which TGI leaves in the text, out of it."""
        text = said.get(name)
        if not isinstance(text, str):
            return
        stops = self._stops.setdefault(_index(choice), Stops(self._stop, bare=False))
        ends = choice.get("finish_reason") is not None
        said[name] = stops.cut(Delta(text, finish=Finish.END if ends else None)).text


def _stops(fields: Fields) -> tuple[str, ...]:
    """The sequences that the client named; none where they are of another kind, which TGI says better."""
    raw = fields.get("stop", msgspec.Raw(b"null"))
    try:
        named = msgspec.json.decode(raw, type=str | list[str] | None)
    except msgspec.DecodeError:
        return ()
    return tuple([stop for stop in ([named] if isinstance(named, str) else named or []) if stop])


def _index(choice: dict[str, object]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0
