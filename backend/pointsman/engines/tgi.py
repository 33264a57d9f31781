"""The dialect of Hugging Face text-generation-inference. Source: `contracts/tgi.md`."""

import re
from typing import TypeVar

import msgspec

from pointsman import attempt
from pointsman.apis.base import Reply
from pointsman.apis.fields import sort_out
from pointsman.attempt import AttemptFailed
from pointsman.call import Api, Call, Operation
from pointsman.engines import chat, tgi_fields, tgi_text
from pointsman.engines.base import Outgoing, Reader, Seen, Source, Tokenized, join, judge_error
from pointsman.engines.markdown import refuse_remote_images
from pointsman.engines.openai import ABSENT, ROUTES, decode_object, given
from pointsman.engines.tgi_openai import MendingReader
from pointsman.gauges import Load, count, total_of
from pointsman.generation import Message, Tokens, Wish
from pointsman.replica import Engine, Facts, Replica
from pointsman.sse import frame

_NATIVE = {
    Operation.GENERATE: "/generate",
    Operation.COMPAT: "/",
    Operation.TOKENIZE: "/tokenize",
    Operation.CHAT_TOKENIZE: "/chat_tokenize",
    Operation.INFO: "/info",
}
# Counted for each step; the first before it, the second after (tgi.md section 10).
_WORK = (b"tgi_batch_inference_count", b"tgi_batch_inference_success")
# Headers of TGI's own that reach its clients (tgi.md 3.3), and what they look like.
_COUNTS = (
    *(b"x-compute-type", b"x-compute-time", b"x-compute-characters", b"x-total-time", b"x-validation-time"),
    *(b"x-queue-time", b"x-inference-time", b"x-time-per-token", b"x-prompt-tokens", b"x-generated-tokens"),
)
_VALUE = re.compile(rb"[ -~]{1,128}")
_NOT_IN_CHAT = ("top_k", "min_p", "repetition_penalty")  # what TGI's chat route does not know


class Tgi:
    """TGI 1.4 to 3.3.7."""

    engine = Engine.TGI
    idle_expiry_s = 50.0  # the server never closes an idle connection; boxes in between do
    health_path = "/health"
    facts_path = "/info"
    load_path = "/metrics"
    body_max_bytes: int | None = 2_000_000  # TGI's own --payload-limit (tgi.md section 2)
    goes_on = True

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

    def read_load(self, page: bytes) -> Load:
        if b"tgi_" not in page and page.strip():
            return Load()
        # Its gauges are not there before its first request (tgi.md section 7).
        return Load(count(page, b"tgi_batch_current_size") or 0, count(page, b"tgi_queue_size") or 0)

    def read_progress(self, page: bytes) -> float | None:
        if b"tgi_" not in page and page.strip():
            return None
        return total_of(page, _WORK) or 0.0

    def template_probe(self, questions: int = 1) -> Outgoing:
        asked = {"model": "tgi", "messages": chat.turns((Message("user", "Hello"),) * questions)}
        return Outgoing("POST", "/chat_tokenize", msgspec.json.encode(asked))

    def speaks(self, call: Call) -> bool:
        return call.operation is not Operation.EMBEDDING

    def carries(self, call: Call, replica: Replica) -> bool:
        if call.api is Api.PLAIN:
            return False
        return call.operation is not Operation.CHAT or replica.facts.chat_template is not False

    def encode(self, call: Call, replica: Replica) -> Outgoing:
        """Translate what TGI would refuse; everything else passes untouched.

        Raises:
            RouterError: INVALID_PARAMETER, for what this engine would silently ignore; REMOTE_MEDIA.
        """
        if call.operation is Operation.INFO:
            return Outgoing("GET", "/info", b"")
        refuse_remote_images(call.fields, call.body)
        if call.api is Api.OPENAI:
            ignored = sort_out(call.fields, tgi_fields.TABLES[call.operation])
            body = join(tgi_fields.openai(call.fields))
            return Outgoing("POST", ROUTES[call.operation], body, ignored)
        path = _NATIVE[call.operation]
        if call.operation is Operation.GENERATE and call.stream:
            path = "/generate_stream"
        fields = call.fields
        if call.operation is Operation.CHAT_TOKENIZE:
            fields = {**fields, "model": msgspec.Raw(b'"tgi"')}
        elif "parameters" in fields:
            fields = tgi_fields.native(fields)
        if call.body is not None and fields is call.fields:
            return Outgoing("POST", path, call.body)
        return Outgoing("POST", path, join(fields))

    def reader(self, call: Call, reply: Reply) -> Reader:
        return MendingReader(call, reply) if call.api is Api.OPENAI else TgiReader(call)

    def ask(self, wish: Wish, replica: Replica, *, stream: bool) -> Outgoing:
        if not wish.messages:
            return tgi_text.ask(wish, stream=stream)
        fields = tgi_fields.openai(chat.fields(wish, stream=stream))
        told = tuple([name for name in _NOT_IN_CHAT if fields.pop(name, None) is not None])
        return Outgoing("POST", ROUTES[Operation.CHAT], join(fields), wish.ignored + told)

    def source(self, wish: Wish) -> Source:
        return chat.ChatSource() if wish.messages else tgi_text.GenerateSource(wish)

    def tokenize(self, text: str, replica: Replica) -> Outgoing:
        return Outgoing("POST", "/tokenize", msgspec.json.encode({"inputs": text}))

    def read_tokenized(self, body: bytes, text: str) -> Tokenized:
        def ends() -> tuple[int, ...]:
            found = tuple([token.stop for token in _listed(body, _tokens)])
            return found if any(found) else ()

        return Tokenized(len(_listed(body, _untold)), ends)

    def count_chat(self, messages: tuple[Message, ...], replica: Replica) -> Outgoing:
        asked = {"model": "tgi", "messages": chat.turns(messages)}
        return Outgoing("POST", "/chat_tokenize", msgspec.json.encode(asked))

    def read_counted(self, body: bytes) -> int:
        try:
            return len(msgspec.json.decode(body, type=_Templated).tokenize_response)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise AttemptFailed(attempt.JUNK, "no tokens of a conversation") from None


class _Info(msgspec.Struct):
    model_id: str
    version: str | None = None
    max_total_tokens: int | None = None
    max_concurrent_requests: int | None = None


class _Untold(msgspec.Struct):
    """A token of which nothing is read."""


class _Token(msgspec.Struct):
    stop: int = 0  # 0 where the tokenizer tells no offsets


class _Templated(msgspec.Struct):
    tokenize_response: list[_Token]


class _Details(msgspec.Struct):
    input_length: int | None = None


class _Event(msgspec.Struct):
    index: int = 0  # counts tokens from 1
    token: msgspec.Raw = ABSENT
    generated_text: str | None = None
    details: _Details | None = None
    error: msgspec.Raw = ABSENT


_T = TypeVar("_T")
_events = msgspec.json.Decoder(_Event)
_tokens = msgspec.json.Decoder(list[_Token])
_untold = msgspec.json.Decoder(list[_Untold])


def _listed(body: bytes, decoder: msgspec.json.Decoder[list[_T]]) -> list[_T]:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AttemptFailed(attempt.JUNK, "no tokens") from None


def _count(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else 0


class TgiReader:
    """Reads answers of TGI's own routes, which pass untouched.

    A token frame commits even when its text is empty: bytes of a half character are held back by TGI.
    """

    mends = False
    edits = False
    last_mark = b'"generated_text":"'
    marks: tuple[bytes, ...] = (last_mark, b'"error"')

    def __init__(self, call: Call) -> None:
        self.tokens = Tokens()
        self._operation = call.operation
        self._told: dict[bytes, bytes] = {}

    @property
    def headers(self) -> bytes:
        told = self._told
        passed = [name for name in _COUNTS if _VALUE.fullmatch(told.get(name, b""))]
        return b"".join([b"%s: %s\r\n" % (name, told[name]) for name in passed])

    def heed(self, headers: dict[bytes, bytes]) -> None:
        self._told = headers
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
