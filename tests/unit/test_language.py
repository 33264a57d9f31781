"""Which of two languages is meant."""

import pytest

from pointsman.language import Language, language_named, language_of

HE, EN = Language.HEBREW, Language.ENGLISH


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", EN),
        ("שלום", HE),
        ("Hello", EN),
        ("מה זה pip?", HE),
        ("Please tell me what שלום means", EN),
        ("Привет", EN),
        ("x" * 5000 + "שלום", EN),
        ("שלום" + "x" * 12, HE),
        ("שלום" + "x" * 13, EN),
    ],
)
def test_language_by_letters(text: str, language: Language) -> None:
    """Hebrew with foreign words in it is Hebrew; a Hebrew word in another language is not."""
    assert language_of(text) is language


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("he", HE),
        ("HE-il", HE),
        ("iw", HE),
        ("עברית", HE),
        (" English ", EN),
        ("en_GB", EN),
        ("fr", None),
        ("", None),
    ],
)
def test_language_by_name(name: str, language: Language | None) -> None:
    """Codes, tags and names, in any case; what we have no words in is None."""
    assert language_named(name) is language
