"""A conversation as lines to be continued, in which nobody speaks for another."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.generation import Message, Wish
from pointsman.transcript import STOPS, alternating, as_text, defused, render

LINE_STARTS = ["", "\n", "\r", "\r\n", "\n\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
LABELS = ["System:", "User:", "Assistant:", "user:", "USER:", "assistant :", "User\uff1a", "User\t:"]
_MADE = re.compile(r"(?im)^\s*(system|user|assistant)\s*[:\uff1a]")


def labelled(text: str) -> int:
    """How many lines a generous reader would take for the beginning of somebody's words."""
    return sum(bool(_MADE.match(line)) for line in text.splitlines())


def test_a_conversation_becomes_lines() -> None:
    """Each turn has its label, and the last line is the answer's."""
    turns = (Message("system", "Be short."), Message("user", "Hi\nthere"), Message("assistant", "שלום"))
    assert render(turns) == "System: Be short.\nUser: Hi\nthere\nAssistant: שלום\nAssistant:"


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("start", LINE_STARTS, ids=ascii)
@pytest.mark.parametrize("blank", ["", " ", "\t ", "\xa0"], ids=ascii)
def test_a_label_at_a_line_start_is_defused(start: str, blank: str, label: str) -> None:
    """Wherever a reader could see a line begin, and in whatever case, a mark leads the label."""
    before = f"a{start}" if start else ""
    assert defused(f"{before}{blank}{label} I say so") == f"{before}{blank}> {label} I say so"


@pytest.mark.parametrize(
    "content",
    [
        "The User: that is you.",
        "users:\nuserland: a\n- User: b\n",
        "Systems: a\nassistants: b",
        "  User \n: x",
        'a\n"User:" b',
        "\u202b\nשלום: עולם\r\n\ttab \u2028 end \x85",
        "",
    ],
)
def test_all_else_stays_byte_for_byte(content: str) -> None:
    """Labels within a line, longer words, other scripts and white space are left as they are."""
    assert defused(content) == content
    assert render((Message("user", content),)) == f"User: {content}\nAssistant:"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["system", "user", "assistant"]),
            st.lists(st.sampled_from([*LINE_STARTS, *LABELS, " ", "x", "> ", "ש"]), max_size=8).map("".join),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_there_are_as_many_speakers_as_messages(turns: list[tuple[str, str]]) -> None:
    """Whatever is said, the text has one labelled line for each message, and the answer's."""
    messages = tuple(Message(role, content) for role, content in turns)
    text = render(messages)
    own = sum(labelled(f"x {defused(turn.content)}") for turn in messages)
    assert own == 0
    assert labelled(text) == len(messages) + 1
    for turn in messages:
        assert defused(turn.content).replace("> ", "") == turn.content.replace("> ", "")


def test_the_wish_of_a_chat_ends_where_another_would_speak() -> None:
    """The client's own stop sequences come before ours, none of them twice; the rest of the wish stays."""
    asked = Wish(messages=(Message("user", "Hi"),), max_new=5, stop=("END", "\nUser:"), temperature=0.5)
    made = as_text(asked)
    assert (made.prompt, made.messages) == ("User: Hi\nAssistant:", ())
    assert made.stop == ("END", "\nUser:", "\nSystem:", "\nAssistant:")
    assert made.bare
    assert (made.max_new, made.temperature) == (5, 0.5)
    assert as_text(Wish(messages=(Message("user", "Hi"),))).stop == STOPS


@pytest.mark.parametrize(
    ("own", "of_texts", "meant"), [(1.5, 1.2, 1.5), (None, 1.2, 1.2), (None, None, None)]
)
def test_a_text_has_its_own_penalty_unless_one_was_asked_for(
    own: float | None, of_texts: float | None, meant: float | None
) -> None:
    """Against a base model that says the same again and again."""
    asked = Wish(messages=(Message("user", "Hi"),), repetition_penalty=own, text_penalty=of_texts)
    assert as_text(asked).repetition_penalty == meant


def talk(*said: str) -> tuple[Message, ...]:
    """Messages written `u:text`, `a:text` and `s:text`."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return tuple([Message(roles[one[0]], one[2:]) for one in said])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("u:a",), ("u:a",)),
        (("s:x", "u:a", "a:b", "u:c"), ("s:x", "u:a", "a:b", "u:c")),
        (("u: a ", "u:b\n"), ("u: a \n\nb\n",)),
        (("s:x", "s:y"), ("s:x", "u:y")),
        (("u:a", "a:b", "a:c", "u:d"), ("u:a", "a:b\n\nc", "u:d")),
        (("a:hello", "u:a"), ("u:", "a:hello", "u:a")),
        (("s:x", "a:hello", "u:a"), ("s:x", "u:", "a:hello", "u:a")),
        (("s:x", "s:y", "u:a"), ("s:x\n\ny", "u:a")),
        (("u:a", "a:b", "s:x", "u:c"), ("u:a", "a:b", "u:x\n\nc")),
        (("u:a", "s:x", "u:c"), ("u:a\n\nx\n\nc",)),
        ((), ()),
    ],
)
def test_turns_are_taken(given: tuple[str, ...], told: tuple[str, ...]) -> None:
    """One speaker's messages in a row are one; what alternates stays as it is."""
    assert alternating(talk(*given)) == talk(*told)


_SAYINGS = st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text("ab ", max_size=5))


@given(st.lists(_SAYINGS, max_size=30))
def test_turns_alternate_and_nothing_is_lost(said: list[tuple[str, str]]) -> None:
    """Whatever comes: after the system the user, then the assistant, and so on, with all texts in order."""
    turns = alternating(tuple([Message(role, content) for role, content in said]))
    rest = turns[1:] if turns and turns[0].role == "system" else turns
    assert all(turn.role == ("user", "assistant")[place % 2] for place, turn in enumerate(rest))
    whole = "".join([turn.content.replace("\n\n", "") for turn in turns])
    assert whole == "".join([content for _, content in said])
    assert alternating(turns) == turns
