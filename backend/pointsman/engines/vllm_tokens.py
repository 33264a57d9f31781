"""TGI's `/tokenize`, `/chat_tokenize` and `/info` on vLLM. Sources: `contracts/vllm.md` 2.3, `tgi.md` 5.4.

vLLM tells tokens as its tokenizer keeps them: a word's blank as ▁ or Ġ, a byte as <0xNN> or another letter.
TGI tells slices of the text and where they are, in bytes, so the pieces are read back into bytes.
"""

import re

import msgspec

from pointsman import attempt
from pointsman.apis.base import Reply, decode
from pointsman.attempt import AttemptFailed
from pointsman.call import Call, Operation
from pointsman.engines.base import Outgoing, Seen, Tokenized, judge_error
from pointsman.engines.openai import decode_object
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Tokens
from pointsman.replica import Replica

OPERATIONS = frozenset({Operation.TOKENIZE, Operation.CHAT_TOKENIZE, Operation.INFO})
_BYTE = re.compile("<0x([0-9A-F]{2})>")


def _stand_ins() -> dict[str, int]:
    """The letter by which byte-level tokenizers show each byte: itself where printable, else one from 256 on.

    Source: GPT-2's encoder, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_STAND_INS = _stand_ins()


class _Tokenized(msgspec.Struct):
    tokens: list[int]
    token_strs: list[str | None] | None = None


class _Ids(msgspec.Struct):
    tokens: list[int]


class _Counted(msgspec.Struct):
    count: int


class _Token(msgspec.Struct):
    id: int
    text: str = ""
    start: int = 0
    stop: int = 0


class _Model(msgspec.Struct):
    id: str
    root: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


def encode(call: Call, replica: Replica) -> Outgoing:
    """Ask vLLM's tokenizer, or its list of models.

    Raises:
        RouterError: INVALID_PARAMETER, naming the field.
    """
    if call.operation is Operation.INFO:
        return Outgoing("GET", "/v1/models", b"")
    if call.operation is Operation.TOKENIZE:
        text = decode(call.fields, "inputs", str)
        if not text:
            sentence = "Input validation error: `inputs` cannot be empty"
            raise RouterError(INVALID_PARAMETER, sentence, param="inputs")
        return tokenize(text, replica)
    return _ask({"messages": call.fields["messages"]}, replica)


def tokenize(text: str, replica: Replica) -> Outgoing:
    """Ask for the tokens of a text."""
    return _ask({"prompt": text}, replica)


def count_chat(turns: list[dict[str, str]], replica: Replica) -> Outgoing:
    """Ask for the number of tokens of a conversation as the model's template writes it."""
    return _ask({"messages": turns}, replica, strings=False)


def read_counted(body: bytes) -> int:
    """Read the answer to `count_chat`."""
    try:
        return msgspec.json.decode(body, type=_Counted).count
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AttemptFailed(attempt.JUNK, "no count of tokens") from None


def _ask(what: dict[str, object], replica: Replica, *, strings: bool = True) -> Outgoing:
    asked = what | {"return_token_strs": strings}
    if replica.own_name is not None:
        asked["model"] = replica.own_name
    return Outgoing("POST", "/tokenize", msgspec.json.encode(asked))


def read(body: bytes, text: str) -> Tokenized:
    """Read the answer to `tokenize`."""
    try:
        count = len(msgspec.json.decode(body, type=_Ids).tokens)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AttemptFailed(attempt.JUNK, "no tokens") from None

    def ends() -> tuple[int, ...]:
        placed = _placed(_pieces(_tokenized(body)), text.encode())
        found = [] if placed is None else [max(end - placed.extra, 0) for end in placed.ends[:count]]
        return tuple(found) if any(found) else ()

    return Tokenized(count, ends)


class TokensReader:
    """Reads vLLM's answers to `encode`, and says them as TGI does. They are never streams."""

    headers = b""
    mends = True
    edits = False
    marks: tuple[bytes, ...] = ()
    last_mark = b""

    def __init__(self, call: Call, reply: Reply) -> None:
        self.tokens = Tokens()
        self._call = call
        self._reply = reply

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """Nothing of use is told there."""

    def look(self, data: bytes) -> Seen:
        raise AttemptFailed(attempt.JUNK, "an event where none can be")

    def mend(self, data: bytes) -> bytes:
        return b""

    def whole(self, body: bytes) -> bytes:
        payload = decode_object(body)
        if "error" in payload:
            raise judge_error(payload, self._call.operation)
        if self._call.operation is Operation.INFO:
            return msgspec.json.encode(_info(body, self._reply.name))
        tokenized = _tokenized(body)
        if self._call.operation is Operation.TOKENIZE:
            return msgspec.json.encode(_tokens(tokenized, decode(self._call.fields, "inputs", str).encode()))
        text = _joined(_pieces(tokenized))
        said = {
            "tokenize_response": _tokens(tokenized, text),
            "templated_text": text.decode("utf-8", "replace"),
        }
        return msgspec.json.encode(said)


def _info(body: bytes, name: str) -> dict[str, object]:
    """What TGI tells of itself, where vLLM has an answer; the counts that clients must keep to are ours."""
    try:
        listed = msgspec.json.decode(body, type=_Models)
    except msgspec.DecodeError:
        raise AttemptFailed(attempt.JUNK, "no model list") from None
    if not listed.data:
        raise AttemptFailed(attempt.JUNK, "an empty model list")
    most = listed.data[0].max_model_len or 0
    return {
        "model_id": listed.data[0].root or name,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 0,
        "max_best_of": 1,
        "max_stop_sequences": 4,
        "max_input_tokens": max(most - 1, 0),
        "max_total_tokens": most,
        "validation_workers": 0,
        "max_client_batch_size": 1,
        "router": "pointsman",
        "version": "vllm",
        "sha": None,
        "docker_label": None,
    }


def _tokenized(body: bytes) -> _Tokenized:
    try:
        return msgspec.json.decode(body, type=_Tokenized)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AttemptFailed(attempt.JUNK, "no tokens") from None


def _pieces(tokenized: _Tokenized) -> list[str]:
    told = [piece or "" for piece in tokenized.token_strs or []]
    return told + [""] * (len(tokenized.tokens) - len(told))


def _plain(piece: str) -> bytes:
    """The bytes that a token of a SentencePiece tokenizer stands for."""
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte is not None else piece.replace("▁", " ").encode()


def _bytewise(piece: str) -> bytes | None:
    """The bytes that a token of a byte-level tokenizer stands for; None: it is none of such."""
    if not all(letter in _STAND_INS for letter in piece):
        return None
    return bytes([_STAND_INS[letter] for letter in piece])


def _joined(pieces: list[str]) -> bytes:
    """The text of tokens. Pieces are byte-level where they make up UTF-8 as such and none is of others."""
    if not any("▁" in piece or _BYTE.fullmatch(piece) for piece in pieces):
        text = b"".join([piece.encode() if (read := _bytewise(piece)) is None else read for piece in pieces])
        if _is_utf8(text):
            return text
    return b"".join(map(_plain, pieces))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Placed(msgspec.Struct, frozen=True):
    """A text, where in it each piece ends, and how many bytes a tokenizer put before it."""

    text: bytes
    ends: list[int]
    extra: int


def _placed(pieces: list[str], text: bytes) -> _Placed | None:
    """Where the pieces are; None where they make up another text."""
    readings: dict[str, tuple[bytes, ...]] = {}
    for lead in (b"", b" "):  # some tokenizers put a blank before each text
        whole = lead + text
        ends, at = list[int](), 0
        for piece in pieces:
            known = readings.get(piece)
            if known is None:
                known = readings[piece] = _readings(piece)
            for read in known:
                if whole.startswith(read, at):
                    at += len(read)
                    break
            ends.append(at)
        if at == len(whole):
            return _Placed(whole, ends, len(lead))
    return None


def _readings(piece: str) -> tuple[bytes, ...]:
    """What a token may stand for, whichever kind of tokenizer shows it."""
    return tuple([read for read in (_plain(piece), _bytewise(piece), piece.encode()) if read])


def _tokens(tokenized: _Tokenized, text: bytes) -> list[_Token]:
    """Each token with the slice of the text it is.

    One that is not of the text, as the token that begins a prompt, is at its place with no length. Where the
    pieces do not make up the text there are no slices, as TGI has it with a tokenizer that tells none.
    """
    pieces = _pieces(tokenized)
    placed = _placed(pieces, text)
    if placed is None:
        return [_Token(number) for number in tokenized.tokens]
    whole, ends, extra = placed.text, placed.ends, placed.extra
    found = zip(tokenized.tokens, pieces, [0, *ends], ends, strict=False)
    return [
        _Token(
            number,
            whole[max(at, extra) : end].decode("utf-8", "replace") if end > at else piece,
            max(at - extra, 0),
            max(end - extra, 0),
        )
        for number, piece, at, end in found
    ]
