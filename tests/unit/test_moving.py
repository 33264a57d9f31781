"""The page on moving names no setting that is not there, and says truly which are read."""

import re
from pathlib import Path

from pointsman import naming, sources
from pointsman.knobs import KNOBS, UNREAD

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
