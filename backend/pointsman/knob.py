"""One setting: its names, its kind of value, its default and what it says."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pointsman.values import Kind


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting.

    `also` are further names that the environment may use. `in_file`: `config.yml` may hold it.
    `restart`: it is read at the start only; a reload takes all others.
    """

    name: str
    kind: Kind
    default: Any  # of the kind; None: not set
    sentence: str
    also: tuple[str, ...] = ()
    in_file: bool = True
    restart: bool = False  # a change needs a new start

    @property
    def section(self) -> str:
        """The part before the last `__`; empty for a plain name."""
        return self.name.rpartition("__")[0]

    @property
    def key(self) -> str:
        """The name in `config.yml`, within its section, and the field of the section's config object."""
        return self.name.rpartition("__")[2].lower()

    @property
    def names_in_file(self) -> tuple[str, ...]:
        """The names by which `config.yml` may hold it: its own, and further ones that stand in sections."""
        return (self.name, *[name for name in self.also if "__" in name]) if self.in_file else ()

    @property
    def default_text(self) -> str:
        """The default as one would write it; empty where not set."""
        return "" if self.default is None else self.kind.show(self.default)


def at_start(knobs: Iterable[Knob], *names: str) -> tuple[Knob, ...]:
    """The knobs, of which those with these names, or all, are read at the start only."""
    return tuple(replace(knob, restart=True) if not names or knob.name in names else knob for knob in knobs)


def section(
    name: str, defaults: object, rows: dict[str, tuple[Kind, str]], **also: tuple[str, ...]
) -> tuple[Knob, ...]:
    """The knobs of a section, one for each field of its config object; `also` are further names by field."""
    return tuple(
        Knob(
            f"{name}__{field.upper()}",
            kind,
            getattr(defaults, field),
            sentence,
            also.get(field, ()),
        )
        for field, (kind, sentence) in rows.items()
    )
