"""Taking new settings: whole and checked, when files have changed or somebody asks, and never bad ones."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pointsman import reload as reload_module
from pointsman.events import Events, Kind
from pointsman.mark import Mark, is_file, mark_of
from pointsman.reload import Reloader
from pointsman.settings import Settings, SettingsError
from pointsman.source import Source

pytestmark = pytest.mark.anyio


class App:
    """Takes settings, and tells which."""

    def __init__(self, folder: Path, workers: int = 1, **environ: str) -> None:
        self.source = Source.of(environ, folder)
        self.taken: list[Settings] = []
        self.events = Events()
        self.first = self.source.read()
        self.reloader = Reloader(self.source, self.first, lambda: workers, self.take, self.events)

    async def take(self, settings: Settings) -> str:
        self.taken.append(settings)
        return "all of it"

    async def keep_until(self, holds: Callable[[], bool]) -> None:
        keeper = asyncio.create_task(self.reloader.keep())
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.005)
        keeper.cancel()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload_module, "LOOK_EVERY_S", 0.01)


def write(folder: Path, **settings: str) -> None:
    (folder / "config.yml").write_text("".join(f"{name}: {text}\n" for name, text in settings.items()))


async def test_a_changed_file_is_taken(tmp_path: Path) -> None:
    """Written in place or put in its place; the event says so, and the figures are good."""
    write(tmp_path, default_model="one")
    app = App(tmp_path)
    write(tmp_path, default_model="two-longer")
    await app.keep_until(lambda: len(app.taken) == 1)
    fresh = tmp_path / "config.yml~"
    fresh.write_text("default_model: three\n")
    fresh.rename(tmp_path / "config.yml")
    await app.keep_until(lambda: len(app.taken) == 2)
    assert [settings.default_model for settings in app.taken] == ["two-longer", "three"]
    assert app.reloader.good
    assert app.events.latest(1)[0].what == "a changed file: reloaded: all of it"


async def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes swaps the folder of a ConfigMap."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yml").write_text(f"default_model: {name}\n")
    data = tmp_path / "..data"
    data.symlink_to("one")
    (tmp_path / "config.yml").symlink_to("..data/config.yml")
    app = App(tmp_path)
    swap = tmp_path / "..data_tmp"
    swap.symlink_to("two")
    swap.rename(data)
    await app.keep_until(lambda: bool(app.taken))
    assert app.taken[0].default_model == "two"


async def test_a_file_that_comes_is_taken(tmp_path: Path) -> None:
    """There was none at the start; `.env` counts as `config.yml` does."""
    app = App(tmp_path)
    (tmp_path / ".env").write_text("DEFAULT_MODEL=one\n")
    await app.keep_until(lambda: bool(app.taken))
    assert app.taken[0].default_model == "one"


@pytest.mark.parametrize(
    "text", ["nonsense: 1\n", "default_model: [a\n", "models: " + "[" * 3000, "\x00", "default_model: {}\n"]
)
async def test_bad_settings_are_told_and_not_taken(tmp_path: Path, text: str) -> None:
    """Once for each change; good ones after them are."""
    write(tmp_path, default_model="one")
    app = App(tmp_path)
    (tmp_path / "config.yml").write_text(text)
    await app.keep_until(lambda: not app.reloader.good)
    keeper = asyncio.create_task(app.reloader.keep())
    await asyncio.sleep(0.1)
    keeper.cancel()
    assert app.taken == []
    told = [event.what for event in app.events.latest(9)]
    assert len(told) == 1
    assert "the settings before are kept" in told[0]
    assert "config.yml" in told[0]
    write(tmp_path, default_model="two")
    await app.keep_until(lambda: bool(app.taken))
    assert app.reloader.good


@pytest.mark.parametrize("name", ["config.yml", ".env"])
async def test_a_file_that_is_emptied_is_no_wish_to_go_without_it(tmp_path: Path, name: str) -> None:
    """A full disk, or a write that broke off, leaves it so, however often somebody asks."""
    (tmp_path / name).write_text("DEFAULT_MODEL=one\n" if name == ".env" else "default_model: one\n")
    app = App(tmp_path)
    for rest in ("", " \n\n", "\ufeff\n"):
        (tmp_path / name).write_text(rest, encoding="utf-8")
        assert not await app.reloader.reload("SIGHUP")
        assert f"{name} is empty now; write it again" in app.events.latest(1)[0].what
    (tmp_path / name).write_text("# nothing is set\n")
    assert await app.reloader.reload("SIGHUP")
    assert app.taken[0].default_model is None


async def test_a_file_that_was_empty_may_be(tmp_path: Path) -> None:
    """At the start, and after it."""
    (tmp_path / "config.yml").write_text("\n")
    (tmp_path / ".env").touch()
    app = App(tmp_path)
    assert await app.reloader.reload("SIGHUP")
    (tmp_path / "config.yml").write_text("")
    assert await app.reloader.reload("SIGHUP")
    write(tmp_path, default_model="one")
    assert await app.reloader.reload("SIGHUP")
    (tmp_path / "config.yml").write_text("")
    assert not await app.reloader.reload("SIGHUP")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.EIO])
async def test_files_out_of_reach_are_told_once_and_taken_when_they_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As behind a folder that was locked; the look-out goes on all the while, and heeds SIGHUP."""
    write(tmp_path, default_model="one")
    app, locked, stat = App(tmp_path), [True], Path.stat

    def look(self: Path) -> os.stat_result:
        if locked and self.parent == tmp_path:
            raise OSError(number, os.strerror(number), str(self))
        return stat(self)

    monkeypatch.setattr(Path, "stat", look)
    keeper = asyncio.create_task(app.reloader.keep())
    async with asyncio.timeout(60):
        while app.reloader.good:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)  # some looks more, which find nothing new
        assert len(app.events) == 1
        app.reloader.ask()
        while len(app.events) < 2:
            await asyncio.sleep(0.005)
        for event in app.events.latest(2):
            assert f"config.yml cannot be read ({os.strerror(number)}); check its path" in event.what
        locked.clear()
        while not app.reloader.good:
            await asyncio.sleep(0.005)
    keeper.cancel()
    assert app.taken[0].default_model == "one"


@pytest.mark.parametrize("error", [OSError("no room"), RecursionError("too deep"), SettingsError("no")])
async def test_what_fails_while_it_is_taken_does_not_end_the_look_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is told as bad settings are."""
    app = App(tmp_path)

    async def take(_: Settings) -> str:
        raise error

    monkeypatch.setattr(app.reloader, "_take", take)
    app.reloader.ask()
    await app.keep_until(lambda: not app.reloader.good)
    (event,) = app.events.latest(9)
    assert event.what == f"SIGHUP: not reloaded, the settings before are kept: {error}"


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied", "ca.pem"), RecursionError()]
)
def test_what_reading_raises_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """In a sentence, whatever part of it."""

    def fail(*_: object) -> Settings:
        raise error

    monkeypatch.setattr("pointsman.source.load", fail)
    sentence = "ca.pem: Permission denied" if isinstance(error, OSError) else "nested too deeply"
    with pytest.raises(SettingsError, match=sentence):
        Source.of({}, tmp_path).read()


async def test_a_file_that_is_gone_is_no_wish_to_go_without_it(tmp_path: Path) -> None:
    """However often somebody asks; put back, it counts again."""
    write(tmp_path, default_model="one")
    app = App(tmp_path)
    (tmp_path / "config.yml").unlink()
    for _ in range(2):
        assert not await app.reloader.reload("SIGHUP")
    assert "config.yml is gone" in app.events.latest(1)[0].what
    write(tmp_path, default_model="one")
    assert await app.reloader.reload("SIGHUP")


async def test_who_asks_is_heard_without_a_change(tmp_path: Path) -> None:
    """For what the settings name may have changed, such as the key file."""
    app = App(tmp_path)
    app.reloader.ask()
    await app.keep_until(lambda: bool(app.taken))
    assert app.events.latest(1)[0].what.startswith("SIGHUP: reloaded")


async def test_a_file_that_still_changes_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor in the middle of its work is not disturbed: a change counts once it stood for one look."""
    write(tmp_path, default_model="one")
    app = App(tmp_path)
    looks = 0
    plain = Source.marks

    def marks(source: Source, settings: Settings) -> dict[Path, Mark | None]:
        nonlocal looks
        looks += 1
        if looks <= 5:
            (tmp_path / "config.yml").write_text("nonsense" * looks)
        elif looks == 6:
            write(tmp_path, default_model="whole")
        return plain(source, settings)

    monkeypatch.setattr(Source, "marks", marks)
    await app.keep_until(lambda: bool(app.taken))
    assert [settings.default_model for settings in app.taken] == ["whole"]
    assert app.reloader.good
    assert all("not reloaded" not in event.what for event in app.events.latest(9))


async def test_what_needs_a_new_start_is_told_and_the_rest_taken(tmp_path: Path) -> None:
    """Once, until it is changed back; the store stays the one that is there."""
    app = App(tmp_path)
    (tmp_path / "config.yml").write_text("port: 1234\nkeep_alive_s: 7\ndefault_model: new\n")
    assert await app.reloader.reload("SIGHUP")
    assert await app.reloader.reload("SIGHUP")
    told = [event for event in app.events.latest(9) if "next start" in event.what]
    assert [(event.kind, event.what) for event in told] == [
        (Kind.RELOAD, "KEEP_ALIVE_S, PORT: changed, and in force at the next start only")
    ]
    assert app.taken[0].default_model == "new"


async def test_what_is_taken_fits_what_stays(tmp_path: Path) -> None:
    """A store of several workers that is not there yet does not allow what needs it."""
    app = App(tmp_path, workers=2)
    (tmp_path / "config.yml").write_text(
        "chat_history: {enabled: true}\nstore: {url: 'redis://127.0.0.1:1/0'}\n"
    )
    assert not await app.reloader.reload("SIGHUP")
    assert "CHAT_HISTORY__ENABLED" in app.events.latest(1)[0].what


async def test_another_config_file_is_looked_after_too(tmp_path: Path) -> None:
    """Once `.env` names it."""
    (tmp_path / "other.yml").write_text("default_model: one\n")
    app = App(tmp_path)
    (tmp_path / ".env").write_text(f"CONFIG_FILE={tmp_path / 'other.yml'}\n")
    await app.keep_until(lambda: len(app.taken) == 1)
    (tmp_path / "other.yml").write_text("default_model: another\n")
    await app.keep_until(lambda: len(app.taken) == 2)
    assert [settings.default_model for settings in app.taken] == ["one", "another"]


def test_the_first_file_that_is_there_counts(tmp_path: Path) -> None:
    """Of several folders; a change of which one it is, is a change."""
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    (far / "config.yml").write_text("default_model: far\n")
    source = Source.of({}, near, far)
    settings = source.read()
    before = source.marks(settings)
    assert settings.default_model == "far"
    (near / "config.yml").write_text("default_model: near\n")
    assert source.marks(settings) != before
    assert source.read().default_model == "near"


def test_a_file_that_is_read_no_more_stops_who_had_it(tmp_path: Path) -> None:
    """By name."""
    with pytest.raises(SettingsError, match=r"config\.yml is gone; put it back"):
        Source.of({}, tmp_path).read(had={tmp_path / "config.yml": True})


def test_a_mark_changes_with_whatever_happens_to_a_file(tmp_path: Path) -> None:
    """Written, replaced, gone; a file in place of its folder is none."""
    path = tmp_path / "file"
    assert mark_of(path) is None
    path.write_text("a")
    first = mark_of(path)
    assert first == mark_of(path)
    path.write_text("bb")
    second = mark_of(path)
    assert second != first
    (tmp_path / "other").write_text("bb")
    (tmp_path / "other").rename(path)
    assert mark_of(path) != second
    assert mark_of(path / "below") is None
    third = mark_of(path)
    path.chmod(0o600)
    assert mark_of(path) != third


def test_what_cannot_be_looked_at_has_a_mark(tmp_path: Path) -> None:
    """It is not gone, and it is no file either; a name that no file can have is none."""
    path = tmp_path / "file"
    path.symlink_to(path)
    long = tmp_path / ("a" * 300)
    assert None is not mark_of(path) == mark_of(path)
    assert None is not mark_of(long) != mark_of(path)
    for one in (path, long):
        with pytest.raises(OSError, match=one.name):
            is_file(one)
    assert not is_file(tmp_path)
    assert not is_file(tmp_path / "none")
    assert not is_file(Path("a\0b"))
