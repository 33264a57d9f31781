"""The key file: read at the start, read again when it changes, kept when it cannot be used."""

import json
import logging
from pathlib import Path

import pytest

from pointsman.keyring import Keyring, read_file
from pointsman.keys import Key, Scope, digest_of

SECRET = "pm-0123456789abcdef"


def entry(of: str = SECRET, **more: object) -> dict[str, object]:
    return {"sha256": digest_of(of).hex(), **more}


def write(path: Path, *entries: dict[str, object]) -> None:
    path.write_text(json.dumps({"keys": entries}))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """Each field of an entry arrives; keys of the settings stand beside."""
    path = tmp_path / "keys.json"
    write(
        path,
        entry(
            scopes=["generate", "ops"], models=["a"], routes=["POST /x"], requests_per_minute=6,
            tokens_per_minute=600, concurrency=2, expires="2030-01-01T00:00:00Z", tenant="t", note="n",
        ),
    )  # fmt: skip
    own = Key(digest_of("another-secret-here"))
    ring = Keyring(path, (own,))
    ring.load()
    found = ring.table.find(SECRET, 0)
    assert found == Key(
        digest_of(SECRET), frozenset({Scope.GENERATE, Scope.OPS}), frozenset({"a"}), frozenset({"POST /x"}),
        6, 600, 2, 1893456000.0, "t", "n",
    )  # fmt: skip
    assert ring.table.find("another-secret-here", 0) is own


def test_a_change_is_taken_and_a_broken_file_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Revoked keys end at once; a file that cannot be read leaves the keys as they were."""
    path = tmp_path / "keys.json"
    ring = Keyring(path)
    ring.look()
    assert not ring.table
    write(path, entry())
    ring.look()
    assert ring.table.find(SECRET, 0) is not None
    with caplog.at_level(logging.WARNING, "pointsman.keyring"):
        path.write_text('{"keys":[{"sha256":')
        ring.look()
        ring.look()
    assert ring.table.find(SECRET, 0) is not None
    assert len(caplog.messages) == 1
    assert "keys stay as they were" in caplog.messages[0]
    write(path)
    ring.look()
    assert ring.table.find(SECRET, 0) is None


def test_a_file_that_is_gone_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no key exists routes are open, so it is taken for a slip, and told once; back again, it holds."""
    path, told = tmp_path / "keys.json", list[str]()
    ring = Keyring(path, tell=told.append)
    write(path, entry())
    ring.look()
    path.unlink()
    with caplog.at_level(logging.WARNING, "pointsman.keyring"):
        ring.look()
        ring.look()
    assert ring.table.find(SECRET, 0) is not None
    assert caplog.messages == [f"key file {path}: it is gone; the keys stay as they were"]
    assert told[1:] == ["the key file is unusable; the keys stay as they were"]
    write(path, entry(concurrency=7))
    ring.look()
    found = ring.table.find(SECRET, 0)
    assert found is not None
    assert found.concurrency == 7


def test_another_file_is_taken_if_it_is_there(tmp_path: Path) -> None:
    """New settings that name a file in vain leave the keys; those that name none have none."""
    path = tmp_path / "keys.json"
    write(path, entry())
    ring = Keyring(path)
    ring.load()
    ring.renew(tmp_path / "elsewhere.json", ())
    assert ring.table.find(SECRET, 0) is not None
    ring.renew(None, ())
    assert not ring.table


def test_a_file_with_a_signing_key_is_for_the_router_alone(tmp_path: Path) -> None:
    """What signs stands in it, so nobody else may read it."""
    path = tmp_path / "keys.json"
    write(path, entry(secret="aa" * 32))
    path.chmod(0o640)
    with pytest.raises(ValueError, match="mode 0600"):
        Keyring(path).load()
    path.chmod(0o600)
    ring = Keyring(path)
    ring.load()
    assert ring.table.signing(digest_of(SECRET).hex()[:8], 0) is not None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("x", "not valid JSON"),
        ("[]", "form of a key file"),
        ('{"key":[]}', "form of a key file"),
        ('{"keys":[{"sha256":"ab"}]}', r"keys\[0\].sha256"),
        (json.dumps({"keys": [entry(extra=1)]}), "form of a key file"),
        (json.dumps({"keys": [entry(), entry()]}), "twice"),
        (json.dumps({"keys": [entry("changeit")]}), "everybody knows"),
        (json.dumps({"keys": [entry(concurrency=0)]}), r"keys\[0\].concurrency"),
        (json.dumps({"keys": [entry(requests_per_minute=-1)]}), "requests_per_minute"),
        (json.dumps({"keys": [entry(expires="2030-01-01T00:00:00")]}), "zone"),
        (json.dumps({"keys": [entry(scopes=["root"])]}), "form of a key file"),
        (json.dumps({"keys": [entry(priority="urgent")]}), "form of a key file"),
        (json.dumps({"keys": [entry(secret="aa")]}), "16 bytes"),
        (json.dumps({"keys": [entry(tenant="")]}), r"keys\[0\].tenant must not be empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content: str, sentence: str) -> None:
    """One sentence that names the place, and nothing secret."""
    with pytest.raises(ValueError, match=sentence) as caught:
        read_file(content.encode())
    assert SECRET not in str(caught.value)
