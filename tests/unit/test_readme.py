"""The README says what the code does: its tables are compared with the code's."""

import re
from pathlib import Path

import pytest
from msgspec import Raw

from pointsman.apis import openai, tgi
from pointsman.apis.fields import Fate, Field, Table
from pointsman.app import build
from pointsman.call import Fields
from pointsman.control.forms import plain
from pointsman.engines import tgi_fields
from pointsman.errors import ALL_KINDS
from pointsman.families import FAMILIES
from pointsman.knobs import KNOBS
from pointsman.policy import POLICIES
from pointsman.routes import Routes
from pointsman.services import summary, tasks, title
from pointsman.settings import load
from pointsman.surfaces import NAMES, backend_api, comparison, distilgpt2, llm_service, plg

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(first_heading: str) -> list[list[str]]:
    """The cells of the table whose first heading is given, without its head."""
    table = README.split(f"| {first_heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table]


def test_error_table_is_the_codes() -> None:
    """Each error kind stands in the README with status, owner, whether a retry may help, and message."""
    told = {tuple(row) for row in rows("code")}
    assert told == {
        (f"`{k.code}`", str(k.status), k.owner.value, "yes" if k.retryable else "no", k.message)
        for k in ALL_KINDS
    }


def test_metrics_table_is_the_codes() -> None:
    """Each metric family stands in the README with its kind and help."""
    told = {tuple(row) for row in rows("metric")}
    assert told == {(f"`{f.name}`", f.kind.value, f.help) for f in FAMILIES}


def fate(row: Field | None) -> str:
    """What a cell of the tables of fields says; a field without a row is ignored, and told."""
    if row is None:
        return "ignored"
    harmless = f" unless {' or '.join(f'`{raw.decode()}`' for raw in row.harmless)}" if row.harmless else ""
    return f"{row.fate.value}{harmless}{': ' if row.note else ''}{row.note}"


@pytest.mark.parametrize(
    ("heading", "tables"),
    [
        ("parameter of `/generate`", [tgi.FIELDS]),
        ("field of OpenAI's", [openai.FIELDS, *tgi_fields.TABLES.values()]),
        ("field beside `model_id`", [backend_api.FIELDS]),
        ("field beside `prompt` alone", [distilgpt2.FIELDS]),
        ("field of `/v1/generate` and `/v1/chat`", [llm_service.FIELDS]),
        ("field of `/api/chat/stream`", [plg.FIELDS]),
        ("field of PLG's services", [tasks.FIELDS, summary.FIELDS, title.FIELDS]),
        ("field of `/models/compare`", [comparison.FIELDS]),
    ],
)
def test_what_becomes_of_each_field_is_told(heading: str, tables: list[Table]) -> None:
    """Each row of each table stands in the README with its fate and note, in the order of names."""
    names = sorted({name for table in tables for name in table})
    expected = [[f"`{name}`", *[fate(table.get(name)) for table in tables]] for name in names]
    assert rows(heading) == expected
    assert {row.fate for table in tables for row in table.values()} <= set(Fate)


def test_every_route_is_told() -> None:
    """Each route but the per-model copies is named in the README, and none that is not there."""
    app = build(load({}, None, None))
    served = {
        (method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods
    }
    told = {(method, path) for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`\s]*)`", README)}
    told -= {("GET", path) for path in ("/docs", "/redoc", "/openapi.json")}
    assert told <= served
    copies = {(m, p) for m, p in served if p.startswith("/models/{model_id}") and m == "POST"}
    assert served - copies - {("GET", "/models/{model_id}/info")} <= told


def test_every_surface_is_told() -> None:
    """Each surface stands in the README with its routes and its setting."""
    bodies: tuple[Fields, ...] = ({"inputs": Raw()}, {"prompt": Raw()}, {"prompt": Raw(), "model_id": Raw()})
    served = {(r.surface_of(body).name, r.path) for r in Routes().table for body in bodies}
    told = rows("surface")
    assert {
        (name.strip("`"), path) for name, paths, _ in told for path in re.findall(r"`(/.*?)`", paths)
    } == served
    assert [(name, setting) for name, _, setting in told] == [
        (f"`{name}`", f"`SURFACES__{name.upper()}__MODEL`") for name in NAMES
    ]


def test_the_parameters_of_a_text_are_told() -> None:
    """Bounds and default of each stand in the README as `/docs` has them."""
    taken = dict(plain.PROMPT.takes)
    del taken["prompt"]
    for names, values, usual in rows("parameter"):
        for name in re.findall(r"`(\w+)`", names):
            schema = taken.pop(name)
            bounds = [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
            assert [float(number) for number in re.findall(r"[\d.]+", values)][:2] == bounds
            assert usual.lower().startswith(str(schema.get("default", 100)).lower())
    assert taken == {}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_told(name: str) -> None:
    """Each policy is named in the README."""
    assert f"`{name}`" in README


def test_what_needs_a_new_start_is_told() -> None:
    """Each setting that a reload leaves alone is named, or its whole section is, and no other."""
    told = README.split("Read at the start only", 1)[1].split("\n\n", 1)[0]
    named = re.findall(r"`([A-Z_]+?)(__…)?`", told)
    held = {name for name, knob in KNOBS.items() if knob.restart}
    assert held == {
        name for name in KNOBS for one, rest in named if name == one or (rest and name.startswith(f"{one}__"))
    }


def test_no_setting_is_made_up() -> None:
    """Each name in capitals that looks like a setting is in `.env.example`."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[a-z]+)?`", README)) - {"VLLM_MY_MODEL_ENDPOINT"}
    assert named
    assert {name for name in named if name not in example} == set()
