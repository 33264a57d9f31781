"""What gunicorn's master keeps: settings that were good, and a folder for its workers."""

import os
from pathlib import Path

import pytest

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
