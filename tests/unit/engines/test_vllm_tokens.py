"""TGI's token routes on vLLM, whichever way a tokenizer shows its pieces."""

import json
from typing import Any

import pytest

from pointsman import attempt
from pointsman.apis.base import Reply
from pointsman.attempt import AttemptFailed
from pointsman.call import Api, Call, Operation
from pointsman.engines import vllm_tokens
from pointsman.engines.base import Tokenized
from pointsman.engines.vllm import Vllm
from pointsman.errors import RouterError
from pointsman.replica import Endpoint, Engine, Facts, Replica
from pointsman.surfaces.base import read_fields

REPLY = Reply("id", "gemma", "gemma", 0, lambda: 0.0)
STAND_INS = {byte: letter for letter, byte in vllm_tokens._STAND_INS.items()}


def bytewise(*parts: bytes) -> list[str]:
    """Pieces as GPT-2's kind of tokenizer shows them."""
    return ["".join(STAND_INS[byte] for byte in part) for part in parts]


def call(operation: Operation, body: dict[str, Any]) -> Call:
    return Call(Api.TGI, operation, None, fields=read_fields(json.dumps(body).encode()))


def answer(pieces: list[str] | None, count: int | None = None) -> bytes:
    ids = list(range(count or len(pieces or [])))
    return json.dumps({"count": len(ids), "tokens": ids, "token_strs": pieces}).encode()


def tokens(text: str, pieces: list[str] | None, count: int | None = None) -> list[tuple[str, int, int]]:
    """Text, start and stop of each token of `/tokenize`."""
    reader = Vllm().reader(call(Operation.TOKENIZE, {"inputs": text}), REPLY)
    told = json.loads(reader.whole(answer(pieces, count)))
    assert [token["id"] for token in told] == list(range(len(told)))
    assert all(list(token) == ["id", "text", "start", "stop"] for token in told)
    return [(token["text"], token["start"], token["stop"]) for token in told]


def test_the_route_and_the_question() -> None:
    """vLLM's own name goes along, and the pieces are asked for."""
    replica = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80), facts=Facts(("real/name",)))
    sent = Vllm().encode(call(Operation.TOKENIZE, {"inputs": "Hi"}), replica)
    assert (sent.method, sent.path) == ("POST", "/tokenize")
    assert json.loads(sent.body) == {"prompt": "Hi", "return_token_strs": True, "model": "real/name"}
    turns = [{"role": "user", "content": "שלום"}]
    sent = Vllm().encode(call(Operation.CHAT_TOKENIZE, {"messages": turns, "model": "x"}), replica)
    assert json.loads(sent.body) == {"messages": turns, "return_token_strs": True, "model": "real/name"}
    sent = Vllm().encode(call(Operation.INFO, {}), replica)
    assert (sent.method, sent.path, sent.body) == ("GET", "/v1/models", b"")


@pytest.mark.parametrize("inputs", [None, 7, ["a"], ""])
def test_only_a_text_has_tokens(inputs: object) -> None:
    """Anything else is refused with the field's name, an empty text as TGI refuses it."""
    replica = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80))
    with pytest.raises(RouterError, match="`inputs`"):
        Vllm().encode(call(Operation.TOKENIZE, {"inputs": inputs}), replica)


def test_sentence_pieces() -> None:
    """▁ is a blank, <0xNN> a byte, a token that begins each prompt has its place and no length."""
    pieces = ["<bos>", "Hello", "▁world", "\n", "▁▁", "שלום", "<0xF0>", "<0x9F>", "<0x9A>", "<0x82>"]
    assert tokens("Hello world\n  שלום🚂", pieces) == [
        ("<bos>", 0, 0), ("Hello", 0, 5), (" world", 5, 11), ("\n", 11, 12), ("  ", 12, 14), ("שלום", 14, 22),
        ("\ufffd", 22, 23), ("\ufffd", 23, 24), ("\ufffd", 24, 25), ("\ufffd", 25, 26),
    ]  # fmt: skip


def test_a_blank_that_a_tokenizer_puts_before_each_text() -> None:
    """It is no part of the text."""
    assert tokens("Hello", ["<s>", "▁Hel", "lo"]) == [("<s>", 0, 0), ("Hel", 0, 3), ("lo", 3, 5)]
    assert tokens(" Hello", ["<s>", "▁", "▁Hello"]) == [("<s>", 0, 0), ("", 0, 0), (" Hello", 0, 6)]


def test_byte_level_pieces() -> None:
    """Each letter stands for a byte; a Hebrew letter cut in two shows U+FFFD in both, as TGI shows it."""
    pieces = bytewise(b"Hi", b" ", b"\xd7", b"\xa9", "ל".encode(), b"\n")
    assert tokens("Hi של\n", pieces) == [
        ("Hi", 0, 2), (" ", 2, 3), ("\ufffd", 3, 4), ("\ufffd", 4, 5), ("ל", 5, 7), ("\n", 7, 8),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["é", "ñandú", "naïve ©", "ש", "a b"])
def test_letters_that_stand_in_for_bytes_are_letters_too(text: str) -> None:
    """What a SentencePiece tokenizer shows as é is é, not the byte E9; both kinds are read right."""
    assert [one[0] for one in tokens(text, [letter.replace(" ", "▁") for letter in text])] == list(text)
    assert [one[0] for one in tokens(text, bytewise(*[letter.encode() for letter in text]))] == list(text)


@pytest.mark.parametrize("pieces", [["Hel", "LO"], ["Hello", "x"], None, [], ["Hello"], ["", ""]])
def test_pieces_that_do_not_add_up(pieces: list[str] | None) -> None:
    """The ids are told all the same, without slices, as TGI has it with a tokenizer that tells none."""
    if pieces == ["Hello", "x"]:
        assert tokens("Hello", pieces, 2) == [("Hello", 0, 5), ("x", 5, 5)]  # a token after the text
    elif pieces == ["Hello"]:
        assert tokens("Hello", pieces, 2) == [("Hello", 0, 5), ("", 5, 5)]
    else:
        assert tokens("Hello", pieces, 2) == [("", 0, 0), ("", 0, 0)]


def test_the_count_of_a_text() -> None:
    """Where the pieces add up, it comes with each token's end, in bytes."""

    def counted(tokenized: Tokenized) -> tuple[int, tuple[int, ...]]:
        return tokenized.count, tokenized.ends

    assert counted(vllm_tokens.read(answer(["<bos>", "a", "▁ש"]), "a ש")) == (3, (0, 1, 4))
    assert counted(vllm_tokens.read(answer(["▁a", "▁ש"]), "a ש")) == (2, (1, 4))  # a blank before the text
    assert counted(vllm_tokens.read(answer(["x", "y"]), "a ש")) == (2, ())
    assert counted(vllm_tokens.read(answer(None, 2), "a ש")) == (2, ())


def test_where_tokens_end_is_found_once_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a long text takes as long as all the rest; who wants the count alone does without."""
    asked: list[list[str]] = []
    placed = vllm_tokens._placed

    def noted(pieces: list[str], text: bytes) -> object:
        asked.append(pieces)
        return placed(pieces, text)

    monkeypatch.setattr(vllm_tokens, "_placed", noted)
    tokenized = vllm_tokens.read(answer(["a", "b"]), "ab")
    assert (tokenized.count, asked) == (2, [])
    assert (tokenized.ends, tokenized.ends, asked) == ((1, 2), (1, 2), [["a", "b"]])


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["<bos>", "<start_of_turn>", "user", "\n", "Hé", "▁ש"], "<bos><start_of_turn>user\nHé ש"),
        (["a", "<0xF0>", "<0x9F>", "<0x9A>", "<0x82>"], "a🚂"),
        (bytewise(b"a", b" ", b"\xd7", b"\xa9\n"), "a ש\n"),
        (["é"], "é"),
        (["<|im_start|>", *bytewise("é".encode())], "<|im_start|>é"),
        (["a", "<0xD7>"], "a\ufffd"),
    ],
)
def test_a_templated_text_is_told_with_its_tokens(pieces: list[str], text: str) -> None:
    """`/chat_tokenize` answers with both; vLLM tells the pieces alone."""
    reader = Vllm().reader(call(Operation.CHAT_TOKENIZE, {"messages": []}), REPLY)
    told = json.loads(reader.whole(answer(pieces)))
    assert told["templated_text"] == text
    ends = [token["stop"] for token in told["tokenize_response"]]
    assert ends[-1] == len(text.encode()) or text.endswith("\ufffd")
    assert [token["start"] for token in told["tokenize_response"]] == [0, *ends[:-1]]


def test_what_the_model_is() -> None:
    """`/info` has every field of TGI's own; the figures that clients keep to are those of this way."""
    models = b'{"data":[{"id":"served","root":"org/model","max_model_len":8192},{"id":"lora"}]}'
    reader = Vllm().reader(call(Operation.INFO, {}), REPLY)
    told = json.loads(reader.whole(models))
    assert list(told) == [
        "model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of",
        "max_stop_sequences", "max_input_tokens", "max_total_tokens", "validation_workers",
        "max_client_batch_size", "router", "version", "sha", "docker_label",
    ]  # fmt: skip
    assert (told["model_id"], told["max_total_tokens"], told["max_input_tokens"]) == ("org/model", 8192, 8191)
    bare = json.loads(reader.whole(b'{"data":[{"id":"served"}]}'))
    assert (bare["model_id"], bare["max_total_tokens"], bare["max_input_tokens"]) == ("gemma", 0, 0)


@pytest.mark.parametrize("operation", [Operation.TOKENIZE, Operation.CHAT_TOKENIZE, Operation.INFO])
@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"{}", b'{"tokens":"x"}', b'{"data":[]}', b'{"data":7}'])
def test_nonsense_is_nonsense(operation: Operation, body: bytes) -> None:
    """An answer that is none is a failure of the engine."""
    reader = Vllm().reader(call(operation, {"inputs": "Hi"}), REPLY)
    with pytest.raises(AttemptFailed) as caught:
        reader.whole(body)
    assert caught.value.end is attempt.JUNK


def test_an_error_is_an_error_and_no_stream_comes() -> None:
    """vLLM's own error under status 200, and an event where none can be."""
    reader = Vllm().reader(call(Operation.TOKENIZE, {"inputs": "Hi"}), REPLY)
    with pytest.raises(AttemptFailed) as caught:
        reader.whole(b'{"error":{"message":"No.","type":"BadRequestError","code":400}}')
    assert caught.value.end is attempt.REJECTED
    with pytest.raises(AttemptFailed):
        reader.look(b"{}")
    assert (reader.mend(b"{}"), reader.headers) == (b"", b"")
