"""Reading `.env` and `config.yml` as text."""

from pathlib import Path

import pytest

from pointsman.config_file import Section, Tree, read_config_file, read_env_file, suggestion
from pointsman.values import SettingsError


def tree(folder: Path, text: str) -> dict[str, Tree]:
    (folder / "config.yml").write_text(text, encoding="utf-8")
    return read_config_file(folder / "config.yml")


def refused(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        tree(folder, text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_env_file_lines(tmp_path: Path) -> None:
    """Quotes, comments and `export` are understood; `$` means nothing; the last of equals counts."""
    (tmp_path / ".env").write_text(
        "\ufeffA=1 # one\nexport B='two words'\n# C=3\nD=a#b$HOME\nE=\nF\nA=2\n", encoding="utf-8"
    )
    assert read_env_file(tmp_path / ".env") == {"A": "2", "B": "two words", "D": "a#b$HOME", "E": ""}


def test_bad_env_line_stops_without_showing_it(tmp_path: Path) -> None:
    """A line that is no assignment is named by number: it may hold a key."""
    (tmp_path / ".env").write_text("A=1\n'KEY s3cret\n", encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        read_env_file(tmp_path / ".env")
    assert str(caught.value) == ".env: line 2 is no NAME=value; fix or remove it"


def test_unreadable_files_stop(tmp_path: Path) -> None:
    """A folder or other bytes in a file's place are told, not raised raw."""
    with pytest.raises(SettingsError, match="cannot be read"):
        read_env_file(tmp_path)
    (tmp_path / "config.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_config_file(tmp_path / "config.yml")


def test_scalars_stay_text(tmp_path: Path) -> None:
    """What YAML would take for numbers, dates and yes-words is left as written."""
    text = "a: off\nb: 1_000\nc: 010\nd: [1.50, 2024-01-01]\ne:\nf: '~'\n"
    assert tree(tmp_path, text) == {
        "a": "off",
        "b": "1_000",
        "c": "010",
        "d": ["1.50", "2024-01-01"],
        "e": "",
        "f": "~",
    }
    assert tree(tmp_path, "") == tree(tmp_path, "# nothing\n") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2\n", "config.yml has 'a' a second time in line 2"),
        ("a: {b: 1, b: 2}\n", "config.yml has 'b' a second time in line 1"),
        ("a: 1\n b: 2\n", "config.yml is not good YAML in line 2"),
        ("a: [1\n", "config.yml is not good YAML in line"),
        ("- a\n", "config.yml must hold `name: value` lines; it is a list"),
        ("word\n", "config.yml must hold `name: value` lines; it is a single value"),
        ("? [a]\n: 1\n", "config.yml has a key that is no plain word"),
        ("a: &x [*x]\n", "config.yml is nested too deeply"),
        ("a: " + "[" * 3000, "config.yml is nested too deeply"),
        ("a: 1\n---\nb: 2\n", "config.yml is not good YAML"),
        ("a: \x01\n", "config.yml holds signs that YAML does not allow"),
    ],
)
def test_bad_yaml_stops_with_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """What cannot be understood is named with its line."""
    assert refused(tmp_path, text).startswith(sentence)


def test_absent_and_empty_values() -> None:
    """Nothing, null and ~ mean not set; an empty list is a value where lists are read."""
    section = Section({"a": "", "b": "null", "c": "~", "d": [], "e": " x "}, "f.yml")
    assert [section.text(key) for key in ("a", "b", "c", "missing")] == [None] * 4
    assert section.text("d", many=True) == ""
    assert section.text("missing", many=True) is None
    assert section.text("e") == "x"


def test_suggestion_needs_likeness() -> None:
    """Only a near name is suggested."""
    assert suggestion("prot", ["port", "host"]) == "; did you mean port?"
    assert suggestion("zebra", ["port", "host"]) == ""
