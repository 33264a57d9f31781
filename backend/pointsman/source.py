"""Where the settings come from: read whole, at the start and again whenever somebody asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from pointsman.config_file import is_blank, is_there
from pointsman.mark import Mark, mark_of
from pointsman.settings import Settings, SettingsError, check_workers, load

Had: TypeAlias = Mapping[Path, bool]  # the files that were there, and whether anything stood in them


@dataclass(frozen=True, slots=True)
class Source:
    """The environment of the process, and the files.

    Args:
        env_files: of these the first that is there counts.
        config_files: likewise, unless CONFIG_FILE names another.
        flags: knobs by name as the command line gives them.
    """

    environ: Mapping[str, str]
    env_files: tuple[Path, ...] = ()
    config_files: tuple[Path, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, environ: Mapping[str, str], *folders: Path) -> "Source":
        """The first `.env` and `config.yml` that the folders hold."""
        return cls(
            environ,
            tuple(folder / ".env" for folder in folders),
            tuple(folder / "config.yml" for folder in folders),
        )

    def read(self, workers: int = 1, had: Had = MappingProxyType({})) -> Settings:
        """Read, check and assemble the settings.

        Args:
            workers: processes that serve by them.
            had: files that were read before; that one is gone or emptied is a slip and no wish to go without.

        Raises:
            SettingsError: one sentence that says which setting is wrong and what to do.
        """
        for path, full in had.items():
            if mark_of(path) is None:
                raise SettingsError(f"{path.name} is gone; put it back, or start anew without it")
            if full and is_blank(path):
                raise SettingsError(f"{path.name} is empty now; write it again, or start anew with it so")
        try:
            settings = load(self.environ, _first(self.env_files), _first(self.config_files), self.flags)
        except OSError as error:
            what = f"{error.filename or 'a file'}: {error.strerror or error}"
            raise SettingsError(f"the settings cannot be read ({what})") from None
        except RecursionError:
            raise SettingsError("the settings are nested too deeply") from None
        check_workers(settings, workers)
        return settings

    def had(self, settings: Settings) -> Had:
        """The files that are there now, for a later reading."""
        return {path: full for path in self.files(settings) if (full := _full(path)) is not None}

    def files(self, settings: Settings) -> tuple[Path, ...]:
        """The files whose change may change the settings; not all of them need be there."""
        named = next(origin.text for origin in settings.origins if origin.name == "CONFIG_FILE")
        found = (*self.env_files, *self.config_files, *((Path(named),) if named else ()))
        return tuple(dict.fromkeys(found))

    def marks(self, settings: Settings) -> dict[Path, Mark | None]:
        """How these files are now."""
        return {path: mark_of(path) for path in self.files(settings)}


def _first(files: tuple[Path, ...]) -> Path | None:
    return next((path for path in files if is_there(path)), None)


def _full(path: Path) -> bool | None:
    """Whether anything stands in a file; None: it is not there, or is not ours to read."""
    try:
        return not is_blank(path) if is_there(path) else None
    except SettingsError:
        return None
