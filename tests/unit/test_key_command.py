"""`pointsman keys`: make, list, revoke."""

import json
from pathlib import Path

import pytest

from pointsman.cli import main
from pointsman.keyring import Keyring
from pointsman.keys import Scope
from pointsman.waiting import Priority


def test_a_key_is_made_shown_once_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds its digest alone, for its owner alone; the list shows no secret."""
    path = tmp_path / "keys.json"
    more = ["--scope", "generate", "--scope", "ops", "--model", "a", "--concurrency", "3", "--expires", "2d"]
    assert main(["keys", "create", "--file", str(path), "--note", "for tests", *more]) == 0
    secret, told, _ = capsys.readouterr().out.splitlines()
    assert secret.startswith("pm-")
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    ring = Keyring(path)
    ring.load()
    key = ring.table.find(secret, 0)
    assert key is not None
    assert set(key.scopes) == {Scope.GENERATE, Scope.OPS}
    assert (set(key.models), key.concurrency) == ({"a"}, 3)

    assert main(["keys", "list", "--file", str(path)]) == 0
    listed = capsys.readouterr().out
    assert key.name in listed
    assert "for tests" in listed
    assert secret not in listed
    assert told == f"# {listed.strip()}"
    assert main(["keys", "revoke", "--file", str(path), key.name]) == 0
    assert json.loads(path.read_text()) == {"keys": []}


def test_a_key_has_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Normal unless it is said; the list shows it where it is another, and no other class is taken."""
    path = tmp_path / "keys.json"
    assert main(["keys", "create", "--file", str(path)]) == 0
    assert main(["keys", "create", "--file", str(path), "--priority", "low"]) == 0
    with pytest.raises(SystemExit):
        main(["keys", "create", "--file", str(path), "--priority", "urgent"])
    assert "'urgent'" in capsys.readouterr().err
    ring = Keyring(path)
    ring.load()
    assert [key.priority for key in ring.table.keys] == [Priority.NORMAL, Priority.LOW]
    assert main(["keys", "list", "--file", str(path)]) == 0
    usual, low = capsys.readouterr().out.splitlines()
    assert "priority" not in usual
    assert "; priority low" in low


def test_a_signing_key_is_kept_to_check_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file is closed to others from the first moment."""
    path = tmp_path / "keys.json"
    assert main(["keys", "create", "--sign", "--file", str(path)]) == 0
    secret = capsys.readouterr().out.splitlines()[0]
    ring = Keyring(path)
    ring.load()
    (key,) = ring.table.keys
    assert key.signs_with == bytes.fromhex(secret)
    assert ring.table.find(secret, 0) is None


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--route", "nonsense", "'nonsense' is no route of this router; write it like POST /v1/completions"),
        (
            "--route",
            "POST /models/gpt-2/generate",
            "is no route of this router; did you mean POST /models/{model_id}/generate?",
        ),
        ("--model", "gpt-2\x1b[2J", r"'gpt-2\x1b[2J' is no model's id; write it without control characters"),
        ("--model", "", "'' is no model's id"),
    ],
)
def test_a_key_for_nothing_is_not_made(
    option: str, value: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A route that there is not, and a model's id that nobody can read, are refused with a sentence."""
    path = tmp_path / "keys.json"
    with pytest.raises(SystemExit) as end:
        main(["keys", "create", "--file", str(path), option, value])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "12", "ffffffff"])
def test_only_a_key_that_is_there_is_revoked(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Part of a name takes nothing away."""
    path = tmp_path / "keys.json"
    main(["keys", "create", "--file", str(path)])
    before = path.read_text()
    assert main(["keys", "revoke", "--file", str(path), name]) == 1
    assert "no key is called" in capsys.readouterr().err
    assert path.read_text() == before


def test_a_broken_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is lost by a command that cannot read what there is."""
    path = tmp_path / "keys.json"
    path.write_text("{")
    assert main(["keys", "create", "--file", str(path)]) == 1
    assert "not valid JSON" in capsys.readouterr().err
    assert path.read_text() == "{"
