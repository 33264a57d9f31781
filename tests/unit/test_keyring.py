"""The key file: read at the start, read again when it changes, kept when it cannot be used."""

import asyncio
import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pointsman import keyring
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
        ("[" * 3000, "form of a key file|not valid JSON"),
        (json.dumps({"keys": [entry(tenant="")]}), r"keys\[0\].tenant must not be empty"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content: str, sentence: str) -> None:
    """One sentence that names the place, and nothing secret."""
    with pytest.raises(ValueError, match=sentence) as caught:
        read_file(content.encode())
    assert SECRET not in str(caught.value)


def test_times_at_the_ends_of_the_calendar_are_read(tmp_path: Path) -> None:
    """In whatever zone."""
    path = tmp_path / "keys.json"
    ends = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00")
    write(path, *(entry(SECRET + end, expires=end) for end in ends))
    ring = Keyring(path)
    ring.load()
    assert ring.table.find(SECRET + ends[0], 0) is None
    assert ring.table.find(SECRET + ends[1], 0) is not None


def loop(path: Path) -> None:
    """Put a link to itself in a file's place: it is there, and nobody can look at it."""
    path.with_suffix(".link").symlink_to(path)
    path.with_suffix(".link").rename(path)


@pytest.mark.anyio
async def test_a_file_out_of_reach_leaves_the_keys_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its folder is locked, or it is a link to itself: told once, and looked after all the while."""
    monkeypatch.setattr(keyring, "LOOK_EVERY_S", 0.001)
    path, told, locked = tmp_path / "keys.json", list[str](), list[Path]()

    def behind(plain: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def look(self: Path) -> Any:
            if self in locked:
                raise PermissionError(errno.EACCES, "Permission denied", str(self))
            return plain(self)

        return look

    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.001)

    ring = Keyring(path, tell=told.append)
    write(path, entry())
    ring.look()
    for name in ("stat", "read_bytes"):
        monkeypatch.setattr(Path, name, behind(getattr(Path, name)))
    keeper = asyncio.create_task(ring.keep())
    locked.append(path)
    await until(lambda: len(told) == 2)
    await asyncio.sleep(0.05)  # some looks more, which find nothing new
    assert told[1:] == ["the key file is unusable; the keys stay as they were"]
    assert ring.table.find(SECRET, 0) is not None
    locked.clear()
    await until(lambda: len(told) == 3)
    loop(path)
    await until(lambda: len(told) == 4)
    assert ring.table.find(SECRET, 0) is not None
    path.unlink()
    await until(lambda: len(told) == 5)
    write(path)
    await until(lambda: ring.table.find(SECRET, 0) is None)
    assert not keeper.done()
    keeper.cancel()


def test_other_rights_are_a_change(tmp_path: Path) -> None:
    """A file that others might read is taken once they may not, without being written again."""
    path = tmp_path / "keys.json"
    ring = Keyring(path)
    write(path, entry(secret="aa" * 32))
    path.chmod(0o640)
    ring.look()
    assert not ring.table
    path.chmod(0o600)
    ring.look()
    assert ring.table


def test_a_file_that_cannot_be_there_is_an_error(tmp_path: Path) -> None:
    """A file in the place of its folder, or a link to itself, is no wish to go without keys."""
    (tmp_path / "file").touch()
    loop(tmp_path / "keys.json")
    for path, why in (
        (tmp_path / "file" / "keys.json", "Not a directory"),
        (tmp_path / "keys.json", "links"),
    ):
        with pytest.raises(ValueError, match=why):
            Keyring(path).load()


@pytest.mark.parametrize("harm", ["gone", "broken", "out of reach"])
def test_who_comes_later_goes_on_with_the_keys_of_others(tmp_path: Path, harm: str) -> None:
    """Where the file cannot be used any more; it says so, and takes the file that is back."""
    path, told = tmp_path / "keys.json", list[str]()
    write(path, entry())
    before, after = Keyring(path), Keyring(path, tell=told.append)
    before.load()
    path.unlink()
    if harm == "broken":
        path.write_text("{")
    if harm == "out of reach":
        loop(path)
    after.follow(before)
    after.look()
    after.look()
    assert after.table.find(SECRET, 0) is not None
    assert told == ["the key file is unusable; the keys stay as they were"]
    path.unlink(missing_ok=True)
    write(path, entry("another-secret-of-ours"))
    after.look()
    assert after.table.find(SECRET, 0) is None
    assert told[1].startswith("the key file was read: ok: added")


def test_who_comes_later_reads_the_file_that_is_there(tmp_path: Path) -> None:
    """As at a start."""
    path, told = tmp_path / "keys.json", list[str]()
    write(path, entry())
    before, after = Keyring(path), Keyring(path, tell=told.append)
    before.load()
    after.follow(before)
    after.look()
    assert told == [f"the key file was read: ok: there at the start {digest_of(SECRET).hex()[:8]}"]
    (tmp_path / "none").mkdir()
    none = Keyring(tmp_path / "none" / "keys.json", tell=told.append)
    none.follow(Keyring(None))
    none.look()
    assert len(told) == 1
