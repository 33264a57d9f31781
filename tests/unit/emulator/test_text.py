"""The toy tokenizer and writer."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from emulator.text import GEMMA, GPT2, MARK, Alphabet, script, story


def _bytes(text: str, alphabet: Alphabet, count: int, seed: int = 0) -> bytes:
    tokens = islice(story(text, alphabet, seed=seed, eos_after=0), count)
    return b"".join(token.data for token in tokens)


@pytest.mark.parametrize("alphabet", [GPT2, GEMMA])
@pytest.mark.parametrize("prompt", ["", "Hello", "שלום", "Say it: ", "a\n", "<bos><start_of_turn>model\n"])
def test_continuation_from_any_character_is_identical(alphabet: Alphabet, prompt: str) -> None:
    """Cut the text at any token that ends a character: what follows is the same."""
    whole = _bytes(prompt, alphabet, 300)
    done = b""
    for token in islice(story(prompt, alphabet, eos_after=0), 200):
        done += token.data
        try:
            text = done.decode()
        except UnicodeDecodeError:
            continue
        rest = _bytes(prompt + text, alphabet, 40)
        assert rest == whole[len(done) : len(done) + len(rest)]


def test_text_does_not_depend_on_the_hash_seed() -> None:
    """Two processes with different hash seeds write the same."""
    code = (
        "from itertools import islice;from emulator.text import *;"
        "print(b''.join(t.data for t in islice(story('x', GPT2, seed=3), 60)).hex())"
    )
    backend = Path(__file__).parents[3] / "backend"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(backend)},
            capture_output=True,
            check=True,
            timeout=20,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_text_says_it_is_emulated_and_holds_hebrew_and_emoji() -> None:
    """The first word is the mark; a longer text has Hebrew words and emoji."""
    text = _bytes("Hello", GPT2, 1500).decode("utf-8", "ignore")
    assert text.startswith(f" {MARK}")
    assert any("א" <= char <= "ת" for char in text)
    assert any(ord(char) > 0x1F000 for char in text)


def test_seed_changes_the_text() -> None:
    """Another seed, another text."""
    assert _bytes("Hello", GEMMA, 50, seed=1) != _bytes("Hello", GEMMA, 50, seed=2)


@pytest.mark.parametrize("alphabet", [GPT2, GEMMA])
def test_encoding_is_lossless_and_counted(alphabet: Alphabet) -> None:
    """Tokens give the text back; `count` is their number; `decode` reads their ids."""
    text = "Hi the engine, שלום עולם 🚂 [emulated] x1\n\n<start_of_turn>user\nžö"
    tokens = alphabet.encode(text)
    assert b"".join(token.data for token in tokens).decode() == text
    assert alphabet.count(text) == len(tokens)
    assert alphabet.decode([token.id for token in tokens]) == text


def test_a_hebrew_letter_is_two_tokens_of_gpt2_and_one_of_gemma() -> None:
    """As in the real tokenizers."""
    assert (GPT2.count("ש"), GEMMA.count("ש")) == (2, 1)


def test_generated_text_counts_the_same_when_it_is_sent_back() -> None:
    """A continued prompt costs exactly the tokens that were generated."""
    for alphabet in (GPT2, GEMMA):
        tokens = list(islice(story("the", alphabet, eos_after=0), 400))
        data = b"".join(token.data for token in tokens)
        assert abs(alphabet.count(data.decode("utf-8", "ignore")) - len(tokens)) <= 3


def test_text_ends_now_and_then_unless_it_must_not() -> None:
    """With `eos_after` the end token comes, and never with `ignore_eos`."""
    lengths = [sum(1 for _ in story(f"p{n}", GEMMA, eos_after=40)) for n in range(50)]
    assert 10 < sum(lengths) / len(lengths) < 160
    endless = islice(story("p1", GEMMA, eos_after=1, ignore_eos=True), 2000)
    assert not any(token.special for token in endless)


def test_script_goes_on_where_the_text_stopped() -> None:
    """Forced text is continued too."""
    tokens = list(script('prompt {"a":', '{"a":1}', GEMMA))
    assert b"".join(token.data for token in tokens[:-1]) == b"1}"
    assert tokens[-1] == GEMMA.eos
