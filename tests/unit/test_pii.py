"""Personal data is found by its form; however a text is cut, the same is said; no text takes long."""

from itertools import pairwise
from random import Random
from time import process_time

import pytest

from pointsman.pii import HELD_MAX, Redactor, find, redact

CARD, SSN, MAIL = "4111111111111111", "123-45-6789", "dana.levi+news@mail.example.co.il"
FOUND = {
    MAIL: "[EMAIL]",
    "דנה@דוגמה.ישראל": "[EMAIL]",
    "a@b.co": "[EMAIL]",
    CARD: "[CARD]",
    "4111 1111 1111 1111": "[CARD]",
    "4111-1111-1111-1111": "[CARD]",
    "4111 1111-1111 1111": "[CARD]",
    SSN: "[SSN]",
}
LEFT = (
    "411111111111111",  # 15 digits
    "41111111111111111",  # 17 digits
    "4111  1111 1111 1111",
    "4111.1111.1111.1111",
    "123456789",
    "123 45 6789",
    "1123-45-6789",
    "123-45-67890",
    "a@b",
    "a@ b.com",
    "@example.com",
    "a@.com",
    "a@b.c",
    "a@b.c0m",
    "12:30, 3-4-5, +972-3-555-0100",
)
AROUND = ("{}", "Write to {}, please.", "({})", "{}\n", "\n{} {}", "«{}»", "א{}ב")
TRICKY = (
    f"{SSN}@example.com",
    f"a@{CARD}.com",
    f"{CARD}@b.com {CARD}-x@y.org-{SSN}",
    "4111 1111 1111 1111-x@b.com",
    "1111 2222 3333 4444 5555 6666 7777 8888 9999",
    "a@b.com@c.org@d.net",
    "a@b.com.",
    "a@b.com-1111 1111 1111 1111",
    f"{SSN} 1111 2222 3333 4444",
    f"{SSN}-{SSN}{SSN}",
    "x" * 100 + "@" + "y" * 300 + ".com",
    "x" * 64 + "@" + "y" * 251 + ".com",
    "x" * 65 + "@" + "y" * 252 + ".com",
    "1" * 40,
    "9" + CARD + "a" * 48,  # all but the 9 may be the name before an @
    "no such thing in here at all.",
)


def streamed(pieces: list[str]) -> str:
    redactor = Redactor()
    return "".join([*map(redactor.feed, pieces), redactor.flush()])


def cut(text: str, places: list[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *sorted(places), len(text)])]


@pytest.mark.parametrize("data", FOUND)
def test_each_form_is_found(data: str) -> None:
    """Each form is replaced by the name of its kind, in prose as by itself."""
    assert redact(data) == FOUND[data]
    for sentence in AROUND[:-1]:
        assert redact(sentence.replace("{}", data)) == sentence.replace("{}", FOUND[data])
    if "@" not in data:  # letters belong to the name before an @
        assert redact(AROUND[-1].replace("{}", data)) == AROUND[-1].replace("{}", FOUND[data])


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_alike_is_left(text: str) -> None:
    """Other numbers and signs stay as they are."""
    assert find(text) == []
    assert redact(text) == text


def test_what_overlaps_is_one() -> None:
    """A number that is part of an address is not told twice."""
    assert redact(f"{SSN}@example.com") == "[EMAIL]"
    assert redact("4111 1111 1111 1111-x@b.com") == "[CARD]"
    assert redact("1111 2222 3333 4444 5555") == "[CARD] 5555"


@pytest.mark.parametrize("text", [*TRICKY, *FOUND, *LEFT, "".join(FOUND), " ".join([*FOUND, *LEFT])])
def test_every_cut_gives_the_same(text: str) -> None:
    """A text in two pieces at every place, and letter by letter, gives what the whole text gives."""
    whole = redact(text)
    assert streamed(list(text)) == whole
    for place in range(len(text) + 1):
        assert streamed([text[:place], text[place:]]) == whole


def test_random_texts_in_random_pieces_give_the_same() -> None:
    """Texts of digits, dots, hyphens, blanks, letters and @ are the same however they are cut."""
    rng = Random(20261121)
    parts = ["@", ".", "-", " ", "a", "com", "1", "11", "1111", "111-", "\n", CARD, SSN, MAIL, "x" * 70]
    for _ in range(3000):
        text = "".join(rng.choices(parts, k=rng.randint(1, 14)))
        places = [rng.randint(0, len(text)) for _ in range(rng.randint(0, 8))]
        assert streamed(cut(text, places)) == redact(text), (text, places)


def test_little_is_held_back() -> None:
    """Of prose the last word waits; whatever comes, no more than the longest find."""
    redactor = Redactor()
    assert redactor.feed("The train to Haifa") == "The train to "
    assert redactor.feed(" leaves ") == "Haifa leaves "
    assert redactor.feed("1111 2222 3333 4444 5") == "[CARD] "
    for text in (*TRICKY, "1111 " * 400, "a" * 2000, "a@" * 1000, "a@b." * 500, "1" * 2000):
        redactor = Redactor()
        said = 0
        for taken, letter in enumerate(text, 1):
            said += len(redactor.feed(letter))
            assert taken - said <= HELD_MAX + text.count(" ") * 16, text  # a redacted card is shorter
        redactor.flush()


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1",
        "@",
        "a@",
        "a@b.",
        ".",
        "-",
        "1-",
        "111-",
        "1111 ",
        "111-11-",
        "a" * 63 + "!@",
        "@a.",
        "a@" + "b." * 127,
    ],
)
def test_a_megabyte_takes_no_time(unit: str) -> None:
    """Work grows with the text alone: the worst texts of 1 MB take less than seconds, whole and in pieces."""
    text = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    begin = process_time()
    whole = redact(text)
    assert process_time() - begin < 5
    pieces = [text[start : start + 1000] for start in range(0, len(text), 1000)]
    assert streamed(pieces) == whole
    assert process_time() - begin < 15
