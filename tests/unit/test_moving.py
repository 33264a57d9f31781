"""The page on moving names no setting that is not there, and says truly which are read."""

import re
from pathlib import Path

import pytest

from pointsman import naming, sources
from pointsman.knobs import KNOBS, UNREAD
from pointsman.services.title import FALLBACK
from pointsman.settings import load

PAGE = (Path(__file__).parent.parent.parent / "docs" / "moving.md").read_text(encoding="utf-8")
READ = {*sources._OF_ENGINES, *(name for knob in KNOBS.values() for name in (knob.name, *knob.also))}
FOREIGN = {"MAX_LENGTH_DEFAULT", "HUGGINGFACE_TOKEN", "HUGGING_FACE_HUB_TOKEN"}  # theirs, and never ours
_NAME = re.compile(r"`([A-Z][A-Z0-9]*(?:_+[A-Z0-9]+)+|HOST|PORT)(?:=[^`]*)?`")


def is_read(name: str) -> bool:
    return name in READ or naming._ENDPOINT.fullmatch(name) is not None


def rows() -> list[list[str]]:
    """The cells of all tables of settings."""
    tables = PAGE.split("| setting there | here |\n")[1:]
    lines = [line for table in tables for line in table.split("\n\n", 1)[0].splitlines()[1:]]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def test_no_setting_is_made_up() -> None:
    """Each name is read, or told to be unread, or one that the page itself says is not read."""
    named = set(_NAME.findall(PAGE))
    assert len(named) > 50
    assert {name for name in named if not is_read(name)} <= {*UNREAD, *FOREIGN}


def test_what_is_the_same_is_read_and_what_is_not_is_not() -> None:
    """The right cell of each row is true of every setting in the left one."""
    for there, here in rows():
        names = _NAME.findall(there)
        if here.startswith("the same"):
            assert names
            assert all(is_read(name) for name in names), there
        else:
            assert here.startswith("not read"), here
            assert not any(is_read(name) for name in names), there
        assert all(is_read(name) for name in _NAME.findall(here)), here


def test_every_setting_of_the_earlier_systems_is_there() -> None:
    """All that the router knows by an earlier system's name, or knows not to read, has its row."""
    told = {name for there, _ in rows() for name in _NAME.findall(there)}
    also = {name for knob in KNOBS.values() for name in knob.also if name.startswith(("LLM_API_", "APP__"))}
    assert {*UNREAD, *sources._OF_ENGINES, *also} <= told


def test_routes_are_the_routers() -> None:
    """Each route that the page names is one of the router's, as the README has them."""
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")
    assert "docs/moving.md" in readme
    routes = re.findall(r"`(?:GET |POST |PUT )?(/[a-z][^`{ ]*)", PAGE)
    assert routes
    assert {route for route in routes if route.rstrip("/") not in readme} == set()


def usual(name: str) -> object:
    """What holds where a setting is not set."""
    return next(knob.default for knob in KNOBS.values() if name in (knob.name, *knob.also))


# What the code of the earlier systems has where nothing is set (`contracts/seeds.md` 2.3, 3.4 and 5.6).
THEIRS: dict[str, object] = {
    "MODEL__MAX_TOKENS": 512,
    "MODEL__TEMPERATURE": 0.7,
    "MODEL__TOP_P": 0.9,
    "MODEL__TOP_K": 50,
    "SECURITY__MAX_PROMPT_CHARS": 4000,
    "RATE_LIMIT__ENABLED": True,
    "RATE_LIMIT__REQUESTS_PER_MINUTE": 10,
    "RATE_LIMIT__BURST_SIZE": 15,
    "CACHE__SIZE": 100,
    "CACHE__TTL_SECONDS": 3600,
    "CHAT_HISTORY__TTL_SECONDS": 7200,
    "METRICS__ENABLED": True,
    "LLM_API_MAX_TOKENS": 2048,
    "LLM_API_TEMPERATURE": 0.7,
    "LLM_API_TOP_P": 0.9,
    "LLM_API_RESPONSE_RESERVE_TOKENS": 2048,
    "DISABLE_IP_RESTRICTION": False,
}


@pytest.mark.parametrize("name", THEIRS)
def test_what_is_the_same_has_the_same_default(name: str) -> None:
    """Else the page would have to say so."""
    assert usual(name) == THEIRS[name]


@pytest.mark.parametrize("name", ["CACHE__ENABLED", "CHAT_HISTORY__ENABLED"])
def test_defaults_that_differ_are_told_plainly(name: str) -> None:
    """Seed 002 has these on; who moves must hear that they are off."""
    assert usual(name) is False
    (row,) = [here for there, here in rows() if f"`{name}`" in there]
    assert "false where it is not set" in row
    assert "are **false** where they are not set; there both were true" in PAGE


def test_figures_are_the_codes() -> None:
    """Ports, times and stand-ins that the page names."""
    assert PAGE.count("8000 here where it is not set") == 2
    assert usual("PORT") == 8000
    assert f"{load({}, None, None).timeouts.queue_s:g} s in a bounded queue" in PAGE
    assert all(f'"{title}"' in PAGE for title in FALLBACK.values())
