"""The rules of the house, executed: who may import whom, what a floor may know, how large things may be.

The floors and how to work with them stand in CONTRIBUTING.md. Each test names its offenders as `file:line`.
"""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "backend" / "pointsman"
EMULATOR = ROOT / "backend" / "emulator"

# Root 5, inbound 4, outbound 3, memory 2, decisions 1, words 0. A package stands for all its modules.
FLOORS = {
    **dict.fromkeys(("main", "__main__", "app", "cli", "master", "settings", "log", "line_writer"), 5),
    **dict.fromkeys(("admin_knobs", "edition", "parts", "reload", "sections", "source", "upstream_knobs"), 5),
    **dict.fromkeys(
        (
            "admission_knobs",
            "ejection_knobs",
            "config_file",
            "front_knobs",
            "key_command",
            "limit_knobs",
            "knob",
            "knobs",
            "model_list",
            "naming",
            "recall_knobs",
            "sources",
            "surface_knobs",
            "values",
        ),
        5,
    ),
    **dict.fromkeys(
        (
            "addressee",
            "answer",
            "body",
            "client",
            "control",
            "cycle",
            "descriptors",
            "door",
            "front",
            "guard",
            "guard_classes",
            "intake",
            "inventory",
            "key_review",
            "pace",
            "plane",
            "protocol",
            "refusal",
            "routes",
            "running",
            "server",
            "services",
            "sockets",
            "surfaces",
            "upgrade",
            "worker",
        ),
        4,
    ),
    **dict.fromkeys(
        (
            *("admission", "candidates", "connection", "conversation", "forward", "lengths", "limits"),
            *("kept", "load", "probe", "pulse", "recall", "relay", "replay", "run", "sink", "stall"),
            *("upstream", "watch"),
        ),
        3,
    ),
    **dict.fromkeys(("audit", "availability", "keyring", "metrics", "recent", "registry", "sessions"), 2),
    **dict.fromkeys(("channel", "crew", "diagnosis", "following", "guarded", "resolver"), 3),
    **dict.fromkeys(("mark",), 2),
    **dict.fromkeys(("census", "events", "membership"), 2),
    **dict.fromkeys(("egress", "joined_page"), 1),
    **dict.fromkeys(("cache", "families", "history", "outliers", "single_flight", "store", "usage"), 2),
    **dict.fromkeys(("turns",), 2),
    **dict.fromkeys(
        (
            "access",
            "apis",
            "breaker",
            "condition",
            "bridge",
            "browser",
            "engines",
            "gauges",
            "gcra",
            "health",
            "keys",
            "language",
            "origin",
            "patience",
            "pii",
            "poison",
            "policy",
            "progress",
            "retry",
            "screening",
            "signature",
            "sse",
            "stops",
            "transcript",
            "waiting",
        ),
        1,
    ),
    **dict.fromkeys(("conduct", "orders"), 0),
    **dict.fromkeys(("attempt", "call", "errors", "exchange", "generation", "model", "replica"), 0),
}
ROOM = 5  # what is on the root floor
PURE = 1  # floors up to this one decide, and act on nothing

IMPURE = {
    *("asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random"),
    *("secrets", "selectors", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("fastapi", "httpx", "prometheus_client", "starlette", "tenacity", "uvicorn", "uvloop"),
}
IO_CALLS = {"open", "print", "input", "Random"}
PURE_NAMES = {("random", "Random")}  # a type; the dice themselves are handed in

VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "manager", "service", "handler", "misc"}
NAMED_BY_OTHERS = {
    **dict.fromkeys(("surfaces/llm_service.py", "control/forms/llm_service.py"), "seed 002's own name"),
}
ENGINES = {"TGI", "VLLM"}
NEUTRAL = {"engines.base"}  # what all dialects have in common
# Who may say an engine's name: the dialects, the APIs named after an engine, and what reads settings.
NAME_ENGINES = {
    *("apis", "config_file", "engines", "knobs", "model_list", "naming", "replica", "settings", "surfaces"),
}

MODULE_LINES = 250  # lines of code: neither blank, comment nor docstring
FUNCTION_LINES = 50
LARGE_MODULES: dict[str, str] = {}  # path: reason
LARGE_FUNCTIONS: dict[str, str] = {}  # path:name: reason
BROAD_EXCEPT = {"plane.py": 1}  # the outermost catch-all, which answers our JSON 500
LATE_IMPORTS = {
    "cli.py": "`check` and `version` load neither FastAPI nor the server",
    "store/__init__.py": "Redis is an extra",
    "emulator/__main__.py": "only the dialect that is asked for is loaded",
}


@dataclass(frozen=True)
class Module:
    """A source file; `name` is dotted and begins inside the package: `engines.tgi`; empty: the package."""

    path: Path
    name: str
    tree: ast.Module
    text: str

    @property
    def label(self) -> str:
        """How offenders and exceptions name it: `plane.py`, `control/front.py`, `emulator/tgi.py`."""
        return self.path.relative_to(EMULATOR.parent if EMULATOR in self.path.parents else HOUSE).as_posix()

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def floor(self) -> int:
        return FLOORS.get(self.top, ROOM) if self.top else 0  # the package itself holds the version

    def at(self, node: ast.AST) -> str:
        return f"{self.label}:{getattr(node, 'lineno', 1)}"


def read(package: Path) -> dict[str, Module]:
    """All modules of a package by name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found[name] = Module(path, name, ast.parse(text), text)
    return found


MODULES = read(HOUSE)
BOTH = [*MODULES.values(), *read(EMULATOR).values()]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def imports(module: Module) -> Iterator[tuple[ast.stmt, str]]:
    """Our own modules that a module imports, wherever in it, by name."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == HOUSE.name:
                    yield node, alias.name.partition(".")[2]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == HOUSE.name:
            source = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{source}.{alias.name}".strip(".")
                yield node, inner if inner in MODULES else source


def late(tree: ast.Module) -> Iterator[ast.stmt]:
    """Imports that run when a function is called."""
    functions = (node for node in ast.walk(tree) if isinstance(node, Function))
    return (n for f in functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom))


def docstring(node: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    match getattr(node, "body", None):
        case [ast.Expr(value=ast.Constant(value=str())) as first, *_]:
            return first
    return None


def code_lines(module: Module) -> int:
    """Lines that are neither blank, comment nor docstring."""
    docs = {
        line
        for node in ast.walk(module.tree)
        if (found := docstring(node)) is not None
        for line in range(found.lineno, (found.end_lineno or found.lineno) + 1)
    }
    lines = enumerate(module.text.splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and not line.lstrip().startswith("#") and n not in docs)


def test_every_module_has_a_floor() -> None:
    """A new module is given its floor in the table above, and no row of the table is left over."""
    tops = {module.top for module in MODULES.values() if module.top}
    assert tops - set(FLOORS) == set(), "give these a floor in FLOORS"
    assert set(FLOORS) - tops - {"main"} == set(), "these are gone: take them out of FLOORS"


def test_imports_go_down_or_sideways() -> None:
    """No module imports from a floor above its own, or what is not there."""
    upward = [
        f"{module.at(node)}: floor {module.floor} imports {name}"
        for module in MODULES.values()
        for node, name in imports(module)
        if name not in MODULES or MODULES[name].floor > module.floor
    ]
    assert upward == []


def test_imports_run_in_no_circle() -> None:
    """The imports of the package make a graph without cycles."""
    graph = {name: {other for _, other in imports(module)} for name, module in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_words_and_decisions_are_pure() -> None:
    """Floors 0 and 1 await nothing and import neither I/O, clock, dice, log nor frameworks."""
    found = []
    for module in MODULES.values():
        if module.floor > PURE:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                found.append(f"{module.at(node)}: async")
            elif isinstance(node, ast.Import):
                wrong = [alias.name for alias in node.names if alias.name.split(".")[0] in IMPURE]
                found += [f"{module.at(node)}: imports {name}" for name in wrong]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPURE:
                wrong = [a.name for a in node.names if (node.module, a.name) not in PURE_NAMES]
                found += [f"{module.at(node)}: imports {name} from {node.module}" for name in wrong]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IO_CALLS:
                found.append(f"{module.at(node)}: calls {node.func.id}")
    assert found == []


def test_modules_are_small() -> None:
    """A module holds at most 250 lines of code; beyond, it wants a second noun."""
    large = {m.label: lines for m in BOTH if (lines := code_lines(m)) > MODULE_LINES}
    assert {label: lines for label, lines in large.items() if label not in LARGE_MODULES} == {}
    assert set(LARGE_MODULES) <= set(large), "small by now: take them out of the list"


def test_functions_are_small() -> None:
    """A function has at most 50 lines, its docstring not counted; beyond, it wants a second verb."""
    large = {}
    for module in BOTH:
        for node in ast.walk(module.tree):
            if isinstance(node, Function) and (lines := function_lines(node)) > FUNCTION_LINES:
                large[f"{module.label}:{node.name}"] = f"{module.at(node)}: {node.name} has {lines} lines"
    assert [text for name, text in large.items() if name not in LARGE_FUNCTIONS] == []
    assert set(LARGE_FUNCTIONS) <= set(large), "small by now: take them out of the list"


def function_lines(node: Function) -> int:
    """Lines from `def` to the end, less the docstring."""
    doc = docstring(node)
    words = 0 if doc is None else (doc.end_lineno or doc.lineno) - doc.lineno + 1
    return (node.end_lineno or node.lineno) - node.lineno + 1 - words


def test_no_module_is_named_for_nothing() -> None:
    """A module is named after its noun; a drawer for anything is none."""
    vague = {module.label for module in BOTH if VAGUE & set(re.split(r"[._]", module.name.lower()))}
    assert vague == set(NAMED_BY_OTHERS)


def test_nothing_is_caught_broadly() -> None:
    """No bare except, and `except Exception` once only: where our own 500 is answered."""
    found: dict[str, list[str]] = {}
    for module in BOTH:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and is_broad(node):
                found.setdefault(module.label, []).append(module.at(node))
    extra = [place for label, places in found.items() for place in places[BROAD_EXCEPT.get(label, 0) :]]
    assert extra == []


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything for good; one that clears up and raises again does not."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
    last = handler.body[-1]
    again = isinstance(last, ast.Raise) and last.exc is None
    return handler.type is None or "Exception" in names or ("BaseException" in names and not again)


def test_state_has_an_owner() -> None:
    """No function assigns to a variable of its module."""
    assert [m.at(n) for m in BOTH for n in ast.walk(m.tree) if isinstance(n, ast.Global)] == []


def test_imports_stand_at_the_top() -> None:
    """Imports inside a function are listed above, each with its reason."""
    assert [m.at(node) for m in BOTH if m.label not in LATE_IMPORTS for node in late(m.tree)] == []


def public(module: Module) -> list[ast.ClassDef | Function]:
    """Classes and functions; methods are left out, for many are documented by the protocol they fill."""
    found = [node for node in module.tree.body if isinstance(node, ast.ClassDef | Function)]
    return [node for node in found if not node.name.startswith("_")]


def test_what_is_public_is_documented() -> None:
    """Modules, public classes and public functions say what their signature cannot."""
    bare = [m.label for m in BOTH if m.text.strip() and docstring(m.tree) is None]
    bare += [f"{m.at(node)}: {node.name}" for m in BOTH for node in public(m) if docstring(node) is None]
    assert bare == []


def test_only_the_root_reads_the_environment() -> None:
    """Settings are parsed once, at the edge: `os.environ` and `os.getenv` are for the root floor."""
    readers = [
        module.at(node)
        for module in MODULES.values()
        if module.floor < ROOM
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"})
        or (isinstance(node, ast.alias) and node.name in {"environ", "getenv"})
    ]
    assert readers == []


def test_engines_are_named_by_their_dialects_alone() -> None:
    """Elsewhere no member of `Engine` is singled out, no dialect imported, no text compared with a name."""
    named = []
    for module in MODULES.values():
        if module.top in NAME_ENGINES:
            continue
        dialects = [(node, name) for node, name in imports(module) if name.startswith("engines.")]
        named += [f"{module.at(node)}: imports {name}" for node, name in dialects if name not in NEUTRAL]
        named += [f"{module.at(node)}: names an engine" for node in ast.walk(module.tree) if singles(node)]
    assert named == []


def singles(node: ast.AST) -> bool:
    """Whether an expression picks one engine: `Engine.TGI`, `kind == "tgi"`, `case "tgi"`."""
    if isinstance(node, ast.Attribute):
        return node.attr in ENGINES and isinstance(node.value, ast.Name) and node.value.id == "Engine"
    parts: list[ast.AST] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        parts = [node.value]
    return any(isinstance(p, ast.Constant) and str(p.value).upper() in ENGINES for p in parts)


def project() -> dict[str, list[str]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, list[str]] = tomllib.load(file)["project"]
    return found


def test_dependencies_are_few_and_have_reasons() -> None:
    """At most sixteen direct dependencies, each with its line in CONTRIBUTING.md."""
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in project()["dependencies"]]
    chapter = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Dependencies\n")[2]
    rows = re.findall(r"^\| `([^`]+)` \| \S", chapter.partition("\n## ")[0], flags=re.MULTILINE)
    assert len(names) <= 16
    assert sorted(names, key=str.lower) == sorted(rows, key=str.lower)


UNREAD = {".git", ".venv", "__pycache__", "build", "dist", "data"}  # no text of ours
SKIPPED = {Path(__file__).name}  # this file holds the patterns themselves
HERE = f"|{re.escape(str(ROOT))}/" if len(ROOT.parts) > 2 else ""  # a root like /app may well be meant
FORBIDDEN = {
    "a mark of unfinished work": re.compile(r"\b(TODO|FIXME|XXX)\b"),
    "a machine's own path": re.compile(r"(?<![\w.}/-])/(home|Users)/\w+/" + HERE),
    "a package registry": re.compile(r"--(extra-)?index-url|--find-links|pypi\.org/simple|pythonhosted\.org"),
}


def ours(path: Path) -> bool:
    """Whether a file belongs to the project: not made by a tool, not a user's own."""
    parts = path.relative_to(ROOT).parts
    hidden = [part for part in parts if part.startswith(".") and part not in {".ci", ".env.example"}]
    return not (hidden or UNREAD & set(parts) or any(part.endswith(".egg-info") for part in parts))


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the project."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if ours(Path(folder, name))]
        for path in (Path(folder, name) for name in files if name not in SKIPPED):
            if ours(path) and b"\0" not in (content := path.read_bytes()):
                yield path, content.decode("utf-8")


def test_the_tree_holds_nothing_foreign() -> None:
    """No unfinished marks, no paths of one machine, no package registries."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {what}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if pattern.search(line)
    ]
    assert found == []
