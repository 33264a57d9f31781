"""Where the settings come from: read whole, at the start and again whenever somebody asks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pointsman.mark import Mark, mark_of
from pointsman.settings import Settings, SettingsError, check_workers, load


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

    def read(self, workers: int = 1, had: Iterable[Path] = ()) -> Settings:
        """Read, check and assemble the settings.

        Args:
            workers: processes that serve by them.
            had: files that were read before; that one is gone is a slip and no wish to go without it.

        Raises:
            SettingsError: one sentence that says which setting is wrong and what to do.
        """
        gone = next((path for path in had if mark_of(path) is None), None)
        if gone is not None:
            raise SettingsError(f"{gone.name} is gone; put it back, or start anew without it")
        settings = load(self.environ, _first(self.env_files), _first(self.config_files), self.flags)
        check_workers(settings, workers)
        return settings

    def files(self, settings: Settings) -> tuple[Path, ...]:
        """The files whose change may change the settings; not all of them need be there."""
        named = next(origin.text for origin in settings.origins if origin.name == "CONFIG_FILE")
        found = (*self.env_files, *self.config_files, *((Path(named),) if named else ()))
        return tuple(dict.fromkeys(found))

    def marks(self, settings: Settings) -> dict[Path, Mark | None]:
        """How these files are now."""
        return {path: mark_of(path) for path in self.files(settings)}


def _first(files: tuple[Path, ...]) -> Path | None:
    return next((path for path in files if path.is_file()), None)
