"""Reads `.env` and `config.yml` as text, strictly: what cannot be understood stops the start."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from dotenv.parser import parse_stream

from pointsman.mark import is_file
from pointsman.values import Kind, SettingsError

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"

_ABSENT = ("", "null", "~")
_MAX_DEPTH = 16  # of our own sections: 5; a YAML alias may hold itself


def read_env_file(path: Path) -> dict[str, str]:
    """Read `NAME=value` lines; `$` has no special meaning, the last of two equal names counts.

    Raises:
        SettingsError: the file is unreadable, or a line is no assignment.
    """
    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(_text(path))):
        if binding.error:
            raise SettingsError(
                f"{path.name}: line {binding.original.line} is no NAME=value; fix or remove it"
            )
        if binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    return found


def read_config_file(path: Path) -> dict[str, Tree]:
    """Read a YAML mapping whose leaves stay text, so that values are read and shown as they were written.

    Raises:
        SettingsError: the file is unreadable, is no YAML, has a key twice or is no mapping.
    """
    try:
        root = yaml.compose(_text(path), Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path.name} is not good YAML{line}: {error.problem}") from None
    except RecursionError:
        raise SettingsError(f"{path.name} is nested too deeply; no setting is that deep") from None
    except yaml.YAMLError:
        raise SettingsError(
            f"{path.name} holds signs that YAML does not allow; save it as plain text"
        ) from None
    tree = {} if root is None else _tree(root, path.name, 0)
    if not isinstance(tree, dict):
        raise SettingsError(f"{path.name} must hold `name: value` lines; it is a {_word(tree)}")
    return tree


def _tree(node: yaml.Node, file: str, depth: int) -> Tree:
    line = node.start_mark.line + 1
    if depth > _MAX_DEPTH:
        raise SettingsError(f"{file} is nested too deeply in line {line}; no setting is that deep")
    if isinstance(node, yaml.SequenceNode):
        return [_tree(item, file, depth + 1) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return str(node.value)
    found: dict[str, Tree] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{file} has a key that is no plain word in line {line}; write `name: value`")
        if key.value in found:
            line = key.start_mark.line + 1
            raise SettingsError(f"{file} has {key.value!r} a second time in line {line}; remove one")
        found[key.value] = _tree(value, file, depth + 1)
    return found


def is_there(path: Path) -> bool:
    """Whether it is a file.

    Raises:
        SettingsError: that cannot be known.
    """
    try:
        return is_file(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def is_blank(path: Path) -> bool:
    """Whether it is a file with nothing in it but blanks, as a full disk or a write that broke off leaves it.

    Raises:
        SettingsError: it cannot be read.
    """
    return is_there(path) and not _text(path).strip()


def _unreadable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(f"{path} cannot be read ({error.strerror}); check its path and rights")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text; save it as UTF-8") from None


def _word(tree: Tree) -> str:
    return {str: "single value", list: "list", dict: "section"}[type(tree)]


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.75) -> str:
    """`; did you mean X?`, or nothing when no known name is near; `cutoff` in [0, 1], 1: only the same."""
    near = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


@dataclass(frozen=True, slots=True)
class Section:
    """One mapping of `config.yml`; `place` says which, for messages, and is empty at the top."""

    entries: Mapping[str, Tree]
    file: str
    place: str = ""

    def called(self, key: str) -> str:
        """What a message calls a key of this section."""
        return f"{key}{f' of {self.place}' if self.place else ''} in {self.file}"

    def refuse_unknown(self, known: Iterable[str]) -> None:
        """Raises SettingsError naming all keys that are not among `known`, and those that are."""
        names = list(known)
        unknown = [str(key) for key in self.entries if key not in names]
        if not unknown:
            return
        where = f"{self.place} in {self.file}" if self.place else self.file
        listed = ", ".join(repr(key) for key in unknown)
        hint = suggestion(unknown[0].lower(), names).rstrip("?")
        raise SettingsError(f"{where} has an unknown key {listed}{hint}; known there are {', '.join(names)}")

    def text(self, key: str, many: bool = False) -> str | None:
        """The text of a value, None where there is none; a list is joined with commas if `many`."""
        tree = self.entries.get(key, "")
        if many and isinstance(tree, list) and all(isinstance(item, str) for item in tree):
            return ",".join(str(item) for item in tree)
        if not isinstance(tree, str):
            wanted = "values, not sections" if many else "one value"
            raise SettingsError(f"{self.called(key)} takes {wanted}; it has a {_word(tree)}")
        absent = key not in self.entries or (tree in _ABSENT and not (many and tree == ""))
        return None if absent else tree.strip()

    def value(self, key: str, kind: Kind, default: Any = None) -> Any:
        """The value of a key, read as `kind`."""
        text = self.text(key, kind.many)
        return default if text is None else kind.read(text, self.called(key))

    def section(self, key: str, place: str) -> "Section":
        """The section under a key; an empty one where there is none."""
        tree = self.entries.get(key, "")
        if isinstance(tree, str) and tree in _ABSENT:
            tree = {}
        if not isinstance(tree, dict):
            raise SettingsError(
                f"{self.called(key)} must be a section of `name: value` lines; it is a {_word(tree)}"
            )
        return Section(tree, self.file, place)

    def below(self, path: str) -> "Section":
        """The section at a path of keys with `__` between, in any case; this one for an empty path."""
        found = self
        for key in path.lower().split("__") if path else ():
            found = found.section(key, f"{key} of {found.place}" if found.place else key)
        return found

    def items_of(self, key: str) -> list[Tree]:
        """The list under a key; an empty one where there is none."""
        tree = self.entries.get(key, "")
        if isinstance(tree, str) and tree in _ABSENT:
            return []
        if not isinstance(tree, list):
            raise SettingsError(
                f"{self.called(key)} must be a list, each item with `- `; it is a {_word(tree)}"
            )
        return tree
