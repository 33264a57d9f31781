"""The dialect of Hugging Face text-generation-inference. Source: `contracts/tgi.md`."""

import msgspec

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.call import Api, Call, Fields, Operation
from pointsman.engines.base import Outgoing, Reader, Seen, join, judge_error
from pointsman.engines.markdown import refuse_remote_images
from pointsman.engines.openai import ABSENT, ROUTES, OpenAIReader, decode_object, given
from pointsman.engines.response_format import for_tgi
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Tokens
from pointsman.replica import Engine, Facts, Replica
from pointsman.sse import frame

_NATIVE = {
    Operation.GENERATE: "/generate",
    Operation.COMPAT: "/",
    Operation.TOKENIZE: "/tokenize",
    Operation.CHAT_TOKENIZE: "/chat_tokenize",
    Operation.INFO: "/info",
}
_FINISH = {"eos_token": "stop", "stop_sequence": "stop", "": None}
_SAMPLING = ("temperature", "top_k", "top_p", "typical_p")


class Tgi:
    """TGI 1.4 to 3.3.7."""

    engine = Engine.TGI
    idle_expiry_s = 50.0  # the server never closes an idle connection; boxes in between do
    health_path = "/health"
    facts_path = "/info"
    body_max_bytes: int | None = 2_000_000  # TGI's own --payload-limit (tgi.md section 2)

    def read_facts(self, payload: bytes) -> Facts:
        """Read `GET /info`.

        Raises:
            ValueError: with a sentence, when the payload is not TGI's.
        """
        try:
            info = msgspec.json.decode(payload, type=_Info)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ValueError("GET /info is not TGI's: is this another engine?") from None
        return Facts((info.model_id,), info.version, info.max_total_tokens, info.max_concurrent_requests)

    def speaks(self, call: Call) -> bool:
        if call.api is Api.OPENAI:
            return call.operation in (Operation.CHAT, Operation.COMPLETION)
        return call.operation in _NATIVE

    def encode(self, call: Call, replica: Replica) -> Outgoing:
        """Translate what TGI would refuse; everything else passes untouched.

        Raises:
            RouterError: INVALID_PARAMETER, for what this engine would silently ignore; REMOTE_MEDIA.
        """
        if call.operation is Operation.INFO:
            return Outgoing("GET", "/info", b"")
        refuse_remote_images(call.fields, call.body)
        if call.api is Api.OPENAI:
            return Outgoing("POST", ROUTES[call.operation], join(_openai_fields(call.fields)))
        path = _NATIVE[call.operation]
        if call.operation is Operation.GENERATE and call.stream:
            path = "/generate_stream"
        fields = call.fields
        if call.operation is Operation.CHAT_TOKENIZE:
            fields = {**fields, "model": msgspec.Raw(b'"tgi"')}
        elif "parameters" in fields:
            fields = _native_fields(fields)
        if call.body is not None and fields is call.fields:
            return Outgoing("POST", path, call.body)
        return Outgoing("POST", path, join(fields))

    def reader(self, call: Call, request_id: str, public_name: str) -> Reader:
        if call.api is Api.OPENAI:
            return _MendingReader(call, request_id, public_name)
        return TgiReader(call)


class _Info(msgspec.Struct):
    model_id: str
    version: str | None = None
    max_total_tokens: int | None = None
    max_concurrent_requests: int | None = None


def _number(value: msgspec.Raw | None) -> float | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=float)
    except msgspec.DecodeError:
        return None  # not a number: TGI names the field


def _native_fields(fields: Fields) -> Fields:
    """Say temperature 0 as greedy and leave out a top_p or typical_p of 1, which TGI refuses.

    Naming any of these had turned sampling on; what is left must not turn it off (tgi.md 3.1).
    """
    try:
        given = msgspec.json.decode(fields["parameters"], type=Fields | None)
    except msgspec.DecodeError:
        return fields
    if given is None:
        return fields
    parameters = dict(given)
    for name in ("top_p", "typical_p"):
        number = _number(parameters.get(name))
        if number is not None and number >= 1.0 and number < 1.0 + 1e-6:
            del parameters[name]
            parameters.setdefault("do_sample", msgspec.Raw(b"true"))
    if _number(parameters.get("temperature")) == 0.0 or _number(parameters.get("top_p")) == 0.0:
        for name in _SAMPLING:
            parameters.pop(name, None)
        parameters["do_sample"] = msgspec.Raw(b"false")
    if parameters == given:
        return fields
    return {**fields, "parameters": msgspec.Raw(join(parameters))}


def _openai_fields(fields: Fields) -> Fields:
    """Name the model as TGI wants it; leave out what it refuses or takes for something else."""
    kept = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    kept["model"] = msgspec.Raw(b'"tgi"')  # any other name is taken for a LoRA adapter (tgi.md 5.1)
    if (_number(kept.get("n")) or 1) > 1:
        raise RouterError(INVALID_PARAMETER, "`n` above 1 is not possible on this engine.", param="n")
    for name in ("presence_penalty", "frequency_penalty"):
        if _number(kept.get(name)) == 0.0:
            del kept[name]  # TGI makes a repetition penalty of 2.0 of a presence penalty of 0
    top_p = _number(kept.get("top_p"))
    if top_p is not None and (top_p == 0.0 or 1.0 <= top_p < 1.0 + 1e-6):
        del kept["top_p"]
        if top_p == 0.0:
            kept["temperature"] = msgspec.Raw(b"0.0")
    wanted = for_tgi(kept.pop("response_format")) if "response_format" in kept else None
    if wanted is not None:
        kept["response_format"] = wanted
    if bytes(kept.get("stop", b"")).startswith(b'"'):
        kept["stop"] = msgspec.Raw(b"[" + bytes(kept["stop"]) + b"]")
    return kept


class _Details(msgspec.Struct):
    input_length: int | None = None


class _Event(msgspec.Struct):
    index: int = 0  # counts tokens from 1
    token: msgspec.Raw = ABSENT
    generated_text: str | None = None
    details: _Details | None = None
    error: msgspec.Raw = ABSENT


_events = msgspec.json.Decoder(_Event)


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else 0


class TgiReader:
    """Reads answers of TGI's own routes, which pass untouched.

    A token frame commits even when its text is empty: bytes of a half character are held back by TGI.
    """

    mends = False
    last_mark = b'"generated_text":"'
    marks: tuple[bytes, ...] = (last_mark, b'"error"')

    def __init__(self, call: Call) -> None:
        self.tokens = Tokens()
        self._operation = call.operation

    def heed(self, headers: dict[bytes, bytes]) -> None:
        self.tokens.prompt = _count(headers.get(b"x-prompt-tokens"))
        self.tokens.completion = _count(headers.get(b"x-generated-tokens"))

    def look(self, data: bytes) -> Seen:
        if not data:
            return Seen.QUIET
        try:
            event = _events.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AttemptFailed(attempt.JUNK, "event is no such JSON") from None
        if given(event.error):
            raise judge_error(decode_object(data), self._operation)
        if event.generated_text is not None:
            self.tokens.completion = event.index
            if event.details is not None:
                self.tokens.prompt = event.details.input_length or 0
            return Seen.FINAL
        return Seen.CONTENT if given(event.token) else Seen.QUIET

    def mend(self, data: bytes) -> bytes:
        return frame(data)

    def whole(self, body: bytes) -> bytes:
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AttemptFailed(attempt.JUNK, "answer is no JSON") from None
        wrapped = self._operation is Operation.COMPAT and isinstance(answer, list) and answer
        first = answer[0] if wrapped else answer
        if isinstance(first, dict) and "error" in first:
            raise judge_error(first, self._operation)
        generates = self._operation in (Operation.GENERATE, Operation.COMPAT)
        if generates and not (isinstance(first, dict) and isinstance(first.get("generated_text"), str)):
            raise AttemptFailed(attempt.JUNK, "no generated_text")
        return body


class _MendingReader(OpenAIReader):
    """Reads TGI's OpenAI routes and repairs what OpenAI clients trip over: ids, names, finish reasons."""

    mends = True

    def __init__(self, call: Call, request_id: str, public_name: str) -> None:
        super().__init__(call)
        prefix = "chatcmpl" if call.operation is Operation.CHAT else "cmpl"
        self._id = f"{prefix}-{request_id}"
        self._name = public_name
        self._greeted: set[int] = set()  # choices whose role was told

    def mend(self, data: bytes) -> bytes:
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


def _index(choice: dict[str, object]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0
