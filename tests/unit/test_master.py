"""What gunicorn's master keeps: settings that were good, and a folder for its workers."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from pointsman import reload as reload_module
from pointsman.keys import digest_of
from pointsman.master import Kept
from pointsman.settings import SettingsError


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """A master whose folder has a config file."""
    for name in os.environ:
        if name.startswith(("TGI_", "VLLM_", "POINTSMAN_")):
            monkeypatch.delenv(name)
    write(tmp_path, "one")
    made = Kept()
    made.renew(tmp_path)
    return made


def break_off(path: Path, how: str) -> None:
    """Make a file one that cannot be used."""
    path.unlink()
    if how == "a link to itself":
        path.symlink_to(path)
    else:
        path.write_text(
            {"brackets": "models: " + "[" * 3000, "nonsense": "nonsense: 1\n", "empty": " \n"}[how]
        )


def told(kept: Kept) -> tuple[bool, list[str]]:
    """What a new worker tells of the last reading."""
    app = kept.app()
    assert app.reloader is not None
    return app.reloader.good, [event.what for event in app.parts.events.latest(9)]


def write(folder: Path, model: str, more: str = "") -> None:
    (folder / "config.yml").write_text(f"default_model: {model}\n{more}")


def model(kept: Kept) -> str | None:
    return kept.app().settings.default_model


def test_a_new_worker_gets_what_the_others_took_by_themselves(kept: Kept, tmp_path: Path) -> None:
    """A changed file that is good."""
    assert model(kept) == "one"
    write(tmp_path, "another")
    kept.catch_up(1)
    assert model(kept) == "another"
    kept.catch_up(1)
    assert model(kept) == "another"


def test_bad_settings_leave_those_before(
    kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told by SIGHUP's reading; a worker that is made meanwhile is spared the noise."""
    write(tmp_path, "two", "nonsense: 1\n")
    kept.catch_up(1)
    assert (model(kept), capsys.readouterr().err) == ("one", "")
    assert kept.renew(tmp_path).default_model == "one"
    assert "nonsense" in capsys.readouterr().err
    (tmp_path / "config.yml").unlink()
    for _ in range(2):
        kept.renew(tmp_path)
        assert "config.yml is gone" in capsys.readouterr().err
        kept.catch_up(1)
        assert model(kept) == "one"
    write(tmp_path, "three")
    kept.catch_up(1)
    assert model(kept) == "three"


def test_several_workers_must_fit(kept: Kept, tmp_path: Path) -> None:
    """As at the start."""
    write(tmp_path, "two", "chat_history: {enabled: true}\n")
    kept.catch_up(2)
    assert model(kept) == "one"
    with pytest.raises(SettingsError, match="CHAT_HISTORY__ENABLED"):
        Kept().renew(tmp_path, workers=2)


def test_the_folder_comes_and_goes(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its user alone; without one workers do not meet."""
    assert not kept.app().channel.connects
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept.open(os.geteuid(), os.getegid())
    (folder,) = tmp_path.glob("pointsman-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert kept.app().channel.connects
    (folder / "1.sock").touch()
    kept.close()
    assert not folder.exists()


def test_without_settings_there_is_no_app() -> None:
    """It says what to start gunicorn with."""
    with pytest.raises(RuntimeError, match="start gunicorn with"):
        Kept().app()


@pytest.mark.parametrize("how", ["nonsense", "a link to itself", "brackets", "empty"])
def test_new_workers_tell_that_the_settings_are_bad(kept: Kept, tmp_path: Path, how: str) -> None:
    """Whether SIGHUP made them or another's death, until the file is good; nothing of it ends the master."""
    path = tmp_path / "config.yml"
    assert told(kept) == (True, [])
    break_off(path, how)
    kept.catch_up(1)
    good, (event,) = told(kept)
    assert not good
    assert event.startswith("not reloaded, the settings before are kept: ")
    assert "config.yml" in event or "nonsense" in event
    kept.renew(tmp_path)
    kept.catch_up(1)
    assert told(kept) == (False, [event])
    assert model(kept) == "one"
    path.unlink()
    write(tmp_path, "two")
    kept.catch_up(1)
    assert told(kept) == (True, [])
    assert model(kept) == "two"


@pytest.mark.anyio
async def test_a_new_worker_sees_what_changed_since_the_master_looked(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad file that was mended just then is no longer bad."""
    monkeypatch.setattr(reload_module, "LOOK_EVERY_S", 0.01)
    (tmp_path / "config.yml").write_text("nonsense: 1\n")
    kept.catch_up(1)
    write(tmp_path, "mended")
    app = kept.app()
    assert app.reloader is not None
    assert not app.reloader.good
    keeper = asyncio.create_task(app.reloader.keep())
    async with asyncio.timeout(60):
        while not app.reloader.good:
            await asyncio.sleep(0.005)
    keeper.cancel()
    assert app.settings.default_model == "mended"


def test_a_refusal_keeps_the_time_of_the_good_reading(kept: Kept, tmp_path: Path) -> None:
    """As the metric of that name says."""
    first = kept.app().reloader
    break_off(tmp_path / "config.yml", "nonsense")
    kept.renew(tmp_path)
    second = kept.app().reloader
    assert first is not None
    assert second is not None
    assert first.at == second.at > 0


@pytest.mark.parametrize("how", ["gone", "nonsense", "a link to itself"])
def test_new_workers_have_the_keys_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Without them everybody would be let in."""
    path = tmp_path / "keys.json"
    monkeypatch.setenv("KEYS_FILE", str(path))
    secret = "pm-0123456789abcdef"
    path.write_text(json.dumps({"keys": [{"sha256": digest_of(secret).hex()}]}))
    kept = Kept()
    kept.renew(tmp_path)
    if how == "gone":
        path.unlink()
    else:
        break_off(path, how)
    for step in (lambda: kept.catch_up(1), lambda: kept.renew(tmp_path)):
        step()
        keyring = kept.app().keyring
        keyring.look()
        assert keyring.table.find(secret, 0) is not None
    path.unlink(missing_ok=True)
    path.write_text(json.dumps({"keys": [{"sha256": digest_of(secret + "2").hex()}]}))
    kept.catch_up(1)
    assert kept.app().keyring.table.find(secret, 0) is None
