"""Tokens to steps."""

from emulator.assembly import Assembly, Step, Wish
from emulator.text import GEMMA, GPT2, Alphabet, script


def _run(wish: Wish) -> list[Step]:
    assembly, steps = Assembly(wish), list[Step]()
    while not steps or steps[-1].finish is None:
        steps.append(assembly.next())
    return steps


def _wish(text: str, alphabet: Alphabet, **more: object) -> Wish:
    facts = {"max_tokens": 100, **more}
    return Wish("", script("", text, alphabet), 0, **facts)  # type: ignore[arg-type]  # facts of any field


def test_bytes_of_a_hebrew_letter_are_held_back() -> None:
    """The first byte's step has no text; the second one carries the letter."""
    steps = _run(_wish("שם", GPT2))
    assert [step.text for step in steps] == ["", "ש", "", "ם", ""]
    assert steps[-1].finish == "eos"


def test_vllm_cuts_a_stop_string_that_spans_tokens() -> None:
    """Nothing of the stop string is ever shown, and it is named."""
    steps = _run(_wish("one two three", GEMMA, stop=("e tw",)))
    assert "".join(step.text for step in steps) == "on"
    assert (steps[-1].finish, steps[-1].stop) == ("stop", "e tw")


def test_vllm_keeps_the_stop_string_when_asked() -> None:
    """`include_stop_str_in_output` shows it and nothing behind it."""
    steps = _run(_wish("one two three", GEMMA, stop=("two",), keep_stop=True))
    assert "".join(step.text for step in steps) == "one two"


def test_held_text_is_released_when_no_stop_string_comes() -> None:
    """A possible beginning of a stop string is shown at the end."""
    steps = _run(_wish("one tw", GEMMA, stop=("two",)))
    assert "".join(step.text for step in steps) == "one tw"


def test_tgi_keeps_the_stop_string() -> None:
    """TGI stops at the token that completes it and does not cut."""
    steps = _run(_wish(" one two three", GPT2, stop=("two",), stop_on_token=True))
    assert "".join(step.text for step in steps) == " one two"


def test_limit_and_abort() -> None:
    """`length` comes with the last token, `abort` without one."""
    assert [step.finish for step in _run(_wish(" one two three", GPT2, max_tokens=2))] == [None, "length"]
    last = _run(_wish(" one two three", GPT2, abort_after=1))[-1]
    assert (last.finish, last.token, last.count) == ("abort", None, 1)
