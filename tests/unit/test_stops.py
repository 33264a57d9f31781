"""Where a text ends, however it comes in pieces."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.generation import Delta, Finish
from pointsman.stops import Stops


def said(pieces: list[str], stops: tuple[str, ...], *, bare: bool = False, ends: bool = True) -> str:
    """What comes through; the pieces after the end are offered too, as engines do that end late."""
    cutter, told = Stops(stops, bare=bare), []
    for number, piece in enumerate(pieces, 1):
        finish = Finish.END if ends and number == len(pieces) else None
        told.append(cutter.cut(Delta(piece, finish=finish)).text)
    return "".join(told)


def expected(text: str, stops: tuple[str, ...]) -> str:
    """The text before the stop sequence that is whole first; of those that are so together, the longest."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)]
    return text


def splittings(text: str) -> list[list[str]]:
    """Every way to cut a text into pieces."""
    made = []
    for cuts in product((False, True), repeat=max(0, len(text) - 1)):
        pieces = [text[:1]]
        for cut, letter in zip(cuts, text[1:], strict=True):
            if cut:
                pieces.append(letter)
            else:
                pieces[-1] += letter
        made.append(pieces)
    return made


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("abcabd", ("abd",)),
        ("aabaac", ("aac", "ab")),
        ("xabcdx", ("abcd", "bc")),
        ("xabcx", ("abc", "bc", "c")),
        ("aaaaab", ("aab",)),
        ("\n\nUser:", ("\nUser:", "\nSystem:")),
        ("שלום\nU", ("ום", "\nU")),
        ("abcde", ("zz",)),
        ("ab", ("abc",)),
        ("ab", ("ab",)),
        ("", ("a",)),
    ],
)
def test_every_splitting_says_the_same(text: str, stops: tuple[str, ...]) -> None:
    """Pieces do not matter, even where stop sequences overlap each other or a piece's end."""
    for pieces in splittings(text):
        assert said(pieces, stops) == expected(text, stops), pieces


_letters = st.text(alphabet="ab\nש", max_size=12)


@given(_letters, st.lists(_letters.filter(bool), min_size=1, max_size=5), st.data())
def test_any_text_any_stops_any_pieces(text: str, stops: list[str], data: st.DataObject) -> None:
    """What comes through is the text up to the first stop sequence, and the same for all pieces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert said(pieces, tuple(stops)) == expected(text, tuple(stops))


@given(_letters, st.lists(_letters.filter(bool), max_size=3), st.data())
def test_a_bare_text_is_the_same_without_the_blanks_before_it(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    """Blanks that may begin a stop sequence count for it first."""
    cut = data.draw(st.integers(0, len(text)))
    pieces = [text[:cut], text[cut:]]
    assert said(pieces, tuple(stops), bare=True) == expected(text, tuple(stops)).lstrip()


def test_nothing_is_held_longer_than_needed() -> None:
    """Text is passed on as soon as it cannot begin a stop sequence, and no sooner."""
    cutter = Stops(("\nUser:",), bare=False)
    told = [cutter.cut(Delta(piece)).text for piece in ("a\n", "b", "\nUse", "x")]
    assert told == ["a", "\nb", "", "\nUsex"]


def test_a_stop_sequence_is_the_end() -> None:
    """Its delta says so and is the last; nothing is said behind it."""
    cutter = Stops(("END",), bare=False)
    assert cutter.cut(Delta("a")) == Delta("a")
    assert cutter.cut(Delta("bENDc")) == Delta("b", finish=Finish.STOP, last=True)
    assert cutter.cut(Delta("d")).text == ""
    assert cutter.cut(Delta("e", finish=Finish.LENGTH, last=True)) == Delta(finish=Finish.LENGTH, last=True)


@pytest.mark.parametrize("finish", list(Finish))
def test_an_end_of_the_engines_lets_go_what_was_held(finish: Finish) -> None:
    """What only began to be a stop sequence is text after all."""
    cutter = Stops(("END",), bare=False)
    assert cutter.cut(Delta("aEN")).text == "a"
    assert cutter.cut(Delta("", finish=finish, last=True)) == Delta("EN", finish=finish, last=True)


@pytest.mark.parametrize("text", ["EN", "xEN"])
def test_an_end_without_a_reason_lets_go_too(text: str) -> None:
    """An engine's last word may carry no finish reason."""
    cutter = Stops(("END",), bare=False)
    first = cutter.cut(Delta(text)).text
    assert first + cutter.cut(Delta(last=True)).text == text
