"""Where settings come from, and which of several wins.

Command line, then `POINTSMAN_X`, then plain `X`, then `config.yml`; of the same name the environment's beats
the one in `.env`. The prefix counts more than the place, so that it can overrule a HOST or PORT that a shell
or a platform puts into the environment.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pointsman.config_file import Section, suggestion
from pointsman.knob import Knob
from pointsman.knobs import KNOBS, NAMESPACES, UNREAD
from pointsman.values import SettingsError

PREFIX = "POINTSMAN_"
_OF_ENGINES = ("LLM_API_BASE_URL", "LLM_API_VLLM_PORT")  # which `naming` reads

# What Kubernetes puts into every pod for a Service named `pointsman`.
_SERVICE_LINK = re.compile(r"POINTSMAN_(SERVICE_(HOST|PORT)(_.*)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_.*)?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://.*")


@dataclass(frozen=True, slots=True)
class Given:
    """A setting as the user gave it: its text, what messages call it, and where it stands, for people."""

    text: str = field(repr=False)  # may be a key
    called: str
    where: str


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment on top of the file `.env`, by name. `file` is what that file is called."""

    process: Mapping[str, str] = field(repr=False)
    dotenv: Mapping[str, str] = field(repr=False)
    file: str = ".env"

    def names(self) -> Iterator[str]:
        """All names: first those of `.env` in its order, then the others by name.

        The order of a process environment is an accident; replica ids and the first model hang on this one.
        """
        yield from self.dotenv
        yield from sorted(set(self.process) - set(self.dotenv))

    def get(self, name: str, empty: bool = False) -> Given | None:
        """What is set under a name; an empty text counts only if `empty`."""
        in_dotenv = f"{name} in {self.file}"
        for texts, called, where in (
            (self.process, name, f"{name} in the environment"),
            (self.dotenv, in_dotenv, in_dotenv),
        ):
            text = texts.get(name)
            if text is not None and (empty or text.strip()) and not _is_service_link(name, text):
                return Given(text.strip(), called, where)
        return None


def _is_service_link(name: str, text: str) -> bool:
    own = _SERVICE_LINK.fullmatch(name) is not None
    return own or (name == "POINTSMAN_PORT" and _SERVICE_URL.fullmatch(text) is not None)


def refuse_unknown(environment: Environment) -> None:
    """Hold the strict namespaces: our prefix and our sections.

    Raises:
        SettingsError: a name in them is not ours.
    """
    plain = {*UNREAD, *(name for knob in KNOBS.values() for name in (knob.name, *knob.also))}
    known = {*plain, *(PREFIX + name for name in plain)}
    sections = tuple({section.partition("__")[0] + "__" for section in NAMESPACES})
    for name in environment.names():
        ours = name.startswith((PREFIX, *sections))
        if ours and name not in known and not _SERVICE_LINK.fullmatch(name):
            hint = suggestion(name, sorted(known if name.startswith(PREFIX) else plain))
            beside = _beside(name.removeprefix(PREFIX))
            if beside:
                hint = f"{hint.rstrip('?')}; known there are {', '.join(beside)}"
            raise SettingsError(f"{_called(environment, name)} is not a setting{hint or '; remove it'}")


def _beside(name: str) -> list[str]:
    """The settings of the section that a name begins with; none where it begins with no section."""
    section, mark, _ = name.partition("__")
    known = dict.fromkeys(name for knob in KNOBS.values() for name in (knob.name, *knob.also))
    return [other for other in known if mark and other.startswith(section + mark)]


def lookalikes(environment: Environment) -> list[str]:
    """A notice for each plain name that is almost one of ours: it may be a slip, or none of our business."""
    plain = [name for name in KNOBS if len(name) >= 8]
    names = [name for name in environment.names() if len(name) >= 8 and name not in KNOBS]
    hints = {name: suggestion(name, plain, cutoff=0.9) for name in names}
    return [f"{_called(environment, name)} is not a setting{hint}" for name, hint in hints.items() if hint]


def _called(environment: Environment, name: str) -> str:
    return name if name in environment.process else f"{name} in {environment.file}"


def find(
    knob: Knob, flags: Mapping[str, str], environment: Environment, file: Section
) -> tuple[Given | None, list[str]]:
    """Find what is given for a knob, and a notice for each name that loses against another one."""
    if knob.name in flags:
        flag = "--" + knob.name.removesuffix("_FILE").lower()  # --config gives CONFIG_FILE
        return Given(flags[knob.name], flag, f"{flag} on the command line"), []
    names = (knob.name, *knob.also)
    asked = [environment.get(name, knob.kind.many) for name in (*(PREFIX + name for name in names), *names)]
    found = [given for given in asked if given is not None]
    if found:
        return found[0], _losers(found)
    found = [given for name in knob.names_in_file if (given := _in_file(name, knob, file)) is not None]
    return (found[0] if found else None), _losers(found)


def _losers(found: list[Given]) -> list[str]:
    """A notice for each that says another thing than the first, which counts."""
    return [
        f"{loser.called} is ignored: {found[0].called} is set to another value and comes first"
        for loser in found[1:]
        if loser.text != found[0].text
    ]


def _in_file(name: str, knob: Knob, file: Section) -> Given | None:
    path, _, key = name.rpartition("__")
    section = file.below(path)
    text = section.text(key.lower(), knob.kind.many)
    called = section.called(key.lower())
    return None if text is None else Given(text, called, called)


def unread(environment: Environment, file: Section) -> list[str]:
    """A notice for each setting of an earlier service that is given and says nothing to us."""
    notices = []
    for name, reason in UNREAD.items():
        path, _, key = name.rpartition("__")
        section = file.below(path)
        given = environment.get(name)
        if given is not None:
            notices.append(f"{given.called} is not read: {reason}")
        elif key.lower() in section.entries:
            notices.append(f"{section.called(key.lower())} is not read: {reason}")
    known = {*UNREAD, *_OF_ENGINES, *(name for knob in KNOBS.values() for name in knob.also)}
    others = [name for name in environment.names() if name.startswith("LLM_API_") and name not in known]
    return notices + [f"{_called(environment, name)} is not a setting" for name in others]
