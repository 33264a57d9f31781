"""TGI's generation for wishes of any API."""

import json
from typing import Any

import pytest
from msgspec import Raw

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.engines.tgi_text import GenerateSource, ask
from pointsman.generation import Delta, Finish, Tokens, Wish


def parameters(wish: Wish, *, stream: bool = False) -> dict[str, Any]:
    sent = ask(wish, stream=stream)
    body = json.loads(sent.body)
    assert list(body) == ["inputs", "parameters"]
    assert (sent.method, sent.path) == ("POST", "/generate_stream" if stream else "/generate")
    found: dict[str, Any] = body["parameters"]
    return found


@pytest.mark.parametrize("stream", [True, False])
def test_the_least_that_is_asked(stream: bool) -> None:
    """Whether to sample is always said, since TGI has two defaults; details carry the counts."""
    assert parameters(Wish(prompt="Hi"), stream=stream) == {"do_sample": True, "details": True}
    assert parameters(Wish(prompt="Hi", sampling=False), stream=stream) == {
        "do_sample": False,
        "details": True,
    }


def test_every_parameter_in_tgis_words() -> None:
    """What TGI has no word for is told, beside what was told already."""
    wish = Wish(
        prompt="Hi", max_new=5, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, repetition_penalty=1.1,
        frequency_penalty=-0.5, presence_penalty=0.5, seed=2**64 - 1, stop=("a", "ב"), last_tokens=9,
        grammar=Raw(b'{"b":1.50}'), ignored=("user",),
    )  # fmt: skip
    assert parameters(wish) == {
        "do_sample": True, "details": True, "temperature": 0.5, "top_p": 0.9, "top_k": 4,
        "repetition_penalty": 1.1, "frequency_penalty": -0.5, "max_new_tokens": 5, "seed": 2**64 - 1,
        "truncate": 9, "stop": ["a", "ב"], "grammar": {"type": "json", "value": {"b": 1.5}},
    }  # fmt: skip
    assert ask(wish, stream=False).ignored == ("user", "presence_penalty", "min_p")
    assert b'"value":{"b":1.50}' in ask(wish, stream=False).body


def test_greedy_has_no_knobs() -> None:
    """Naming one would turn sampling on again; penalties hold for the likeliest token too."""
    wish = Wish(prompt="Hi", sampling=False, temperature=0.5, top_p=0.5, top_k=3, repetition_penalty=1.2)
    assert parameters(wish) == {"do_sample": False, "details": True, "repetition_penalty": 1.2}


def test_a_regular_expression() -> None:
    """TGI's own word for it."""
    wish = Wish(prompt="Hi", grammar=Raw(b'"[ab]"'), grammar_is_regex=True)
    assert parameters(wish)["grammar"] == {"type": "regex", "value": "[ab]"}


def test_no_more_than_four_stop_sequences() -> None:
    """The rest is the router's to find, as is the text of all of them."""
    wish = Wish(prompt="Hi", stop=tuple("abcdef"))
    assert parameters(wish)["stop"] == list("abcd")
    assert GenerateSource(wish).leaves == tuple("abcdef")


def event(
    index: int, text: str, end: str | None = None, reason: str = "length", *, special: bool = False
) -> bytes:
    details = {"finish_reason": reason, "generated_tokens": index, "seed": None, "input_length": 7}
    token = {"id": 5, "text": text, "logprob": -0.5, "special": special}
    told = {
        "index": index,
        "token": token,
        "generated_text": end,
        "details": details if end is not None else None,
    }
    return json.dumps(told).encode()


def test_a_stream() -> None:
    """Texts as they come, empty ones too; the last event ends it and counts."""
    source = GenerateSource(Wish(prompt="Hi"))
    assert source.read(event(1, "a")) == Delta("a")
    assert source.read(event(2, "")) == Delta("")
    assert source.tokens == Tokens(0, 2)
    assert source.read(event(3, "ש", "aש")) == Delta("ש", finish=Finish.LENGTH, last=True)
    assert source.tokens == Tokens(7, 3)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("length", Finish.LENGTH), ("eos_token", Finish.END), ("stop_sequence", Finish.STOP),
        ("new", Finish.END),
    ],
)  # fmt: skip
def test_reasons(reason: str, finish: Finish) -> None:
    """A reason that is not known is an end all the same."""
    told = GenerateSource(Wish(prompt="Hi")).read(event(1, "a", "a", reason))
    assert told is not None
    assert told.finish is finish
    whole = {"generated_text": "a", "details": {"finish_reason": reason, "generated_tokens": 4}}
    source = GenerateSource(Wish(prompt="Hi"))
    source.heed({b"x-prompt-tokens": b"12"})
    assert source.whole(json.dumps(whole).encode()) == Delta("a", finish=finish)
    assert source.tokens == Tokens(12, 4)


def test_special_tokens_are_no_text() -> None:
    """The token by which a model ends is not said."""
    told = GenerateSource(Wish(prompt="Hi")).read(event(2, "<|endoftext|>", "a", "eos_token", special=True))
    assert told == Delta("", finish=Finish.END, last=True)


def test_an_end_without_details() -> None:
    """Some versions leave them out of streams."""
    source = GenerateSource(Wish(prompt="Hi"))
    told = source.read(b'{"index":3,"token":{"id":1,"text":"a"},"generated_text":"xya","details":null}')
    assert told == Delta("a", finish=Finish.END, last=True)
    assert source.tokens == Tokens(0, 3)


@pytest.mark.parametrize("header", [None, b"", b"x", b"-1", b"12345678901"])
def test_a_count_that_is_none(header: bytes | None) -> None:
    """It is not told then."""
    source = GenerateSource(Wish(prompt="Hi"))
    source.heed({} if header is None else {b"x-prompt-tokens": header})
    assert source.tokens == Tokens()


def test_what_says_nothing() -> None:
    """An event without a token."""
    assert GenerateSource(Wish(prompt="Hi")).read(b"{}") is None


@pytest.mark.parametrize(
    "data", [b"x", b"[]", b"\xff", b'{"index":"a"}', b'{"token":5}', b'{"generated_text":1}']
)
def test_nonsense_is_nonsense(data: bytes) -> None:
    """In a stream and as a whole."""
    source = GenerateSource(Wish(prompt="Hi"))
    for read in (source.read, source.whole):
        with pytest.raises(AttemptFailed) as caught:
            read(data)
        assert caught.value.end is attempt.JUNK


@pytest.mark.parametrize(
    ("kind", "end"),
    [("overloaded", attempt.REFUSED), ("validation", attempt.REJECTED), ("generation", attempt.ENGINE_ERROR)],
)
def test_errors(kind: str, end: attempt.End) -> None:
    """An error under status 200 is what it would be with a status of its own."""
    source = GenerateSource(Wish(prompt="Hi"))
    for read in (source.read, source.whole):
        with pytest.raises(AttemptFailed) as caught:
            read(json.dumps({"error": "No.", "error_type": kind}).encode())
        assert caught.value.end is end


def test_a_whole_answer_needs_its_text() -> None:
    """An object without it is none."""
    with pytest.raises(AttemptFailed) as caught:
        GenerateSource(Wish(prompt="Hi")).whole(b"{}")
    assert caught.value.end is attempt.JUNK
