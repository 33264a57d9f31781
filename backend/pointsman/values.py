"""What a setting's text means: kinds of values, each with its reader, and the error of a bad one.

Every source gives text: the environment, `.env`, and `config.yml` too, whose scalars are left as written.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pointsman import guard_classes
from pointsman.access import parse_networks
from pointsman.front import ListenAddress, parse_listen
from pointsman.keys import Key, Need, own_key, parse_needs
from pointsman.mark import is_file
from pointsman.origin import parse_hosts, parse_origins
from pointsman.pii import PiiMode

_SHOWN_CHARS = 64  # of a bad value, in a message
_WORDS = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class SettingsError(ValueError):
    """A setting that cannot be used: one sentence for the operator, without any key or password."""


def shown(value: str) -> str:
    """`value` in quotes, cut to a length that leaves the message readable."""
    return repr(value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    `word` says what to write. `read` takes the text and the setting as the user wrote it, and raises
    SettingsError. `show` is its inverse, for documents. `many`: a list, so an empty text is a value too;
    for the others it means that the setting is not given.
    """

    word: str
    read: Callable[[str, str], Any]
    show: Callable[[Any], str] = str
    many: bool = False


def items(text: str) -> list[str]:
    """Cut at commas; blanks and empty items are dropped."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _many(values: Iterable[object]) -> str:
    return ",".join(str(value) for value in values)


def _number(text: str, name: str, low: float, high: float, whole: bool) -> float:
    value = float(text) if _NUMBER.fullmatch(text) and len(text) < 24 else math.nan
    if not low <= value <= high or (whole and "." in text):
        word = "a whole number" if whole else "a number"
        raise SettingsError(f"{name}: {shown(text)} is not {word} from {low:g} to {high:.10g}; write one")
    return value


def whole(low: int, high: int, unit: str = "number") -> Kind:
    """Whole numbers from `low` to `high`."""
    return Kind(
        f"{unit}, {low} to {high}", lambda text, name: int(_number(text, name, low, high, whole=True))
    )


def number(low: float, high: float, unit: str = "seconds") -> Kind:
    """Decimal numbers from `low` to `high`."""
    return Kind(
        f"{unit}, {low:g} to {high:.10g}",
        lambda text, name: _number(text, name, low, high, whole=False),
        lambda value: f"{value:.10g}",
    )


def choice(values: Iterable[str], make: Callable[[str], Any] = str) -> Kind:
    """One of a few words, in any case. They are all lower or all upper case."""
    known = {value.lower(): value for value in values}

    def read(text: str, name: str) -> Any:
        if text.lower() not in known:
            raise SettingsError(
                f"{name}: {shown(text)} is not one of {', '.join(known.values())}; write one of them"
            )
        return make(known[text.lower()])

    return Kind(" | ".join(known.values()), read)


def switch(on: str = "true", off: str = "false") -> Kind:
    """Yes or no; `on` and `off` are the words the documents use, all of `_WORDS` are understood."""

    def read(text: str, name: str) -> bool:
        if text.lower() not in _WORDS:
            raise SettingsError(f"{name}: {shown(text)} is neither yes nor no; write {on} or {off}")
        return _WORDS[text.lower()]

    return Kind(f"{on} | {off}", read, lambda value: on if value else off)


def _parsed(parse: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """Make a reader of a parser whose ValueErrors already are such sentences."""

    def read(text: str, name: str) -> Any:
        try:
            return parse(text, name)
        except ValueError as error:
            raise SettingsError(str(error)) from None

    return read


def _read_listen(text: str, name: str) -> tuple[ListenAddress, ...]:
    try:
        found = tuple(parse_listen(item) for item in items(text))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
    if len(set(found)) < len(found):
        raise SettingsError(f"{name} lists an address twice; list each once")
    return found


def _read_url(text: str, name: str) -> str:
    if "@" in text:  # a password may stand before it, so the value is not shown
        raise SettingsError(f"{name} holds a user name or an @; write the URL without")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "?" in text or "#" in text or not re.fullmatch(r"[!-~]+", text):
        raise SettingsError(
            f"{name}: {shown(text)} is not a base URL; write one like https://llm.example.org"
        )
    return text.rstrip("/")


def _read_path_prefix(text: str, name: str) -> str:
    prefix = text.rstrip("/")
    if prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", prefix):
        raise SettingsError(f"{name}: {shown(text)} is not a path prefix; write one like /llm, or nothing")
    return prefix


def _read_file(text: str, name: str) -> Path:
    path = Path(text)
    try:
        there = is_file(path)
    except OSError as error:
        raise SettingsError(
            f"{name}: {shown(text)} cannot be read ({error.strerror}); check its path and rights"
        ) from None
    if not there:
        raise SettingsError(f"{name}: there is no file {shown(text)}; write the path of a file that exists")
    return path


def _read_host(text: str, name: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9.:_%-]+", host):
        raise SettingsError(
            f"{name}: {shown(text)} is not an address or host name; write one such as 0.0.0.0"
        )
    return host


def _read_name(text: str, name: str) -> str:
    if not re.fullmatch(r"[!-~]{1,256}", text):
        raise SettingsError(f"{name}: {shown(text)} is not a name; write it without spaces, in ASCII")
    return text


def _read_pii(text: str, name: str) -> PiiMode:
    known: dict[str, PiiMode] = {mode.value: mode for mode in PiiMode}
    switched = _WORDS.get(text.lower())
    if switched is not None:  # as seed 002 has it: on is to reject
        return PiiMode.REJECT if switched else PiiMode.OFF
    if text.lower() not in known:
        raise SettingsError(f"{name}: {shown(text)} is not one of {', '.join(known)}; write one of them")
    return known[text.lower()]


def _read_own_key(text: str, name: str) -> Key:
    if not re.fullmatch(r"[!-~]+", text):
        raise SettingsError(f"{name} has spaces or signs outside ASCII; write the key alone")
    try:
        return own_key(text)
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from None


NETWORKS = Kind("networks and addresses, comma-separated", _parsed(parse_networks), _many, many=True)
ORIGINS = Kind("origins, comma-separated, or *", _parsed(parse_origins), _many, many=True)
HOSTS = Kind("host names, comma-separated", _parsed(parse_hosts), _many, many=True)
LISTEN = Kind("host:port or unix:/path, comma-separated", _read_listen, _many, many=True)
URL = Kind("base URL", _read_url)


def _read_needs(text: str, name: str) -> dict[str, Need]:
    try:
        needs = parse_needs(items(text))
        for guard_class in needs:
            if guard_class != Need.IF_ANY:
                guard_classes.check(guard_class)
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
    return needs


def _show_needs(needs: dict[str, Need]) -> str:
    return ",".join(f"{guard_class}={need}" for guard_class, need in needs.items())


PATH_PREFIX = Kind("path that begins with /", _read_path_prefix)
FILE = Kind("path of a file", _read_file)
PATH = Kind("path", lambda text, name: Path(text))
NEEDS = Kind("METHOD /route=always, if_any or never; comma-separated", _read_needs, _show_needs, many=True)
HOST = Kind("address or host name", _read_host)
PII = Kind("off | reject | redact", _read_pii)
OWN_KEY = Kind("text of 16 characters or more", _read_own_key, lambda key: f"(not shown, {key.name})")
NAME = Kind("name", _read_name)
SWITCH = switch()
