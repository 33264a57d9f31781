"""deploy/Dockerfile: linted, its files looked up, its installation and its health check run."""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from containers import ROOT, tool
from processes import Router

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"
Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, as (name, rest); what stands before the first FROM is left out."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: list[list[Instruction]] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, " ".join(rest.split())))
    return found


def rest_of(stage: list[Instruction], name: str) -> list[str]:
    """What the instructions of one name say."""
    return [rest for instruction, rest in stage if instruction == name]


def copied() -> list[str]:
    """The paths that come from the repository."""
    lines = [rest for stage in stages() for rest in rest_of(stage, "COPY") if "--from" not in rest]
    return [word for line in lines for word in line.split()[:-1]]


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a path in: the last pattern that it or a parent of it matches decides."""
    allowed = True
    parts = path.split("/")
    parents = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!")
            names = parts if pattern.startswith("**/") else parents
            if any(fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
                allowed = line.startswith("!")
    return allowed


def test_the_linter_is_content(tmp_path: Path) -> None:
    """hadolint finds nothing, and would."""
    done = subprocess.run(
        [tool("hadolint"), "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python:latest\nRUN cd /tmp && sudo pip install x\n")
    assert (
        subprocess.run([tool("hadolint"), wrong], capture_output=True, timeout=60, check=False).returncode
        == 1
    )


def test_what_is_copied_is_there() -> None:
    """Each path that is copied exists, and .dockerignore lets it in."""
    assert {"requirements.lock", "pyproject.toml", "backend/pointsman"} <= set(copied())
    assert [path for path in copied() if not (ROOT / path).exists() or not let_in(path)] == []
    assert let_in("backend/pointsman/engines/base.py")


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "config.yml",
        "deploy/Dockerfile",
        "tests/wire.py",
        "backend/emulator/tgi.py",
        "backend/pointsman/__pycache__/app.cpython-311.pyc",
    ],
)
def test_nothing_else_gets_into_the_build(path: str) -> None:
    """Secrets, history, tests, emulator and leftovers stay out."""
    assert not let_in(path)


def test_the_image_is_locked_down() -> None:
    """It runs as a user with a number, not root, from an image with a version, without a shell in between."""
    build, final = stages()
    assert rest_of(build, "FROM") == ["python:${PYTHON}-slim-bookworm AS build"]
    assert rest_of(final, "FROM") == ["python:${PYTHON}-slim-bookworm"]
    assert re.search(r"^ARG PYTHON=3\.\d+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    user, group = rest_of(final, "USER")[-1].split(":")
    assert int(user) > 0 < int(group)
    after = [name for name, _ in final[[name for name, _ in final].index("USER") :]]
    assert {"RUN", "COPY", "ADD", "USER"} & set(after) == {"USER"}
    assert not any(name == "ADD" for stage in (build, final) for name, _ in stage)


def test_the_image_serves() -> None:
    """Its command is `pointsman serve` on 8082, ended by SIGTERM; its settings suit a read-only root."""
    final = stages()[-1]
    assert json.loads(rest_of(final, "ENTRYPOINT")[0]) + json.loads(rest_of(final, "CMD")[0]) == [
        "pointsman",
        "serve",
    ]
    assert rest_of(final, "EXPOSE") == ["8082"]
    assert rest_of(final, "STOPSIGNAL") == ["SIGTERM"]
    settings = dict(word.split("=") for word in rest_of(final, "ENV")[0].split())
    assert settings["PORT"] == "8082"
    assert settings["PYTHONUNBUFFERED"] == settings["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_health_check_is_in_the_image() -> None:
    """What HEALTHCHECK runs is copied there, and ends before Docker's patience does."""
    final = stages()[-1]
    (check,) = rest_of(final, "HEALTHCHECK")
    program, *_, script = json.loads(check.partition("CMD ")[2])
    assert program == "python"
    assert f"deploy/healthcheck.py {script}" in rest_of(final, "COPY")
    patience = re.search(r"--timeout=(\d+)s", check)
    limit = re.search(r"^TIMEOUT_S = ([\d.]+)", HEALTHCHECK.read_text(), flags=re.MULTILINE)
    assert patience is not None
    assert limit is not None
    assert float(limit[1]) < float(patience[1])


def test_the_installation_installs(tmp_path: Path) -> None:
    """The steps of the first stage give a `pointsman` that starts, without emulator, test tools or gaps."""
    source, target = tmp_path / "src", tmp_path / "opt"
    for path in copied():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, source / path)
    python = f"{sys.executable} -m venv"
    for step in rest_of(stages()[0], "RUN"):
        command = step.replace("/opt/pointsman", str(target)).replace("python -m venv", python)
        assert command != step
        done = subprocess.run(
            ["sh", "-ec", command], cwd=source, capture_output=True, text=True, timeout=300, check=False
        )
        if "--require-hashes" in step and done.returncode != 0 and not os.environ.get("CI"):
            pytest.skip(f"pip could not install the lock file, which takes a network: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stdout + done.stderr
    assert run(target / "bin" / "pointsman", "version").startswith("pointsman ")
    run(target / "bin" / "python", "-m", "pip", "check")
    run(target / "bin" / "python", "-c", "import pointsman.app, pointsman.server")
    missing = (
        "from importlib.util import find_spec; print([n for n in ('emulator', 'pytest') if find_spec(n)])"
    )
    assert run(target / "bin" / "python", "-c", missing) == "[]\n"


def run(*command: str | Path) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(**settings: str) -> tuple[int, str]:
    """Run the health check in a container's environment; its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-I", HEALTHCHECK],
        env=settings,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_health_check_passes_without_engines(tmp_path: Path) -> None:
    """A router whose engines are all down lives: asked by TCP, by unix socket, by the setting that wins."""
    path = tmp_path / "router.sock"
    dead = {"TGI_DISTILGPT2_ENDPOINT": "http://127.0.0.1:9"}
    with Router(LISTEN=f"127.0.0.1:0,unix:{path}", **dead) as router:
        assert router.http.get("/ready").status_code == 503
        here = f"127.0.0.1:{router.port}"
        for settings in (
            {"PORT": str(router.port)},
            {"PORT": str(router.port), "HOST": "127.0.0.1"},
            {"LISTEN": f"0.0.0.0:{router.port},unix:/nowhere"},
            {"LISTEN": f"unix:{path}", "PORT": "1"},
            {"POINTSMAN_LISTEN": here, "LISTEN": "unix:/nowhere", "POINTSMAN_PORT": "1"},
        ):
            assert check(**settings) == (0, "alive\n"), settings


def test_the_health_check_fails_when_nobody_listens() -> None:
    """A dead router, a missing socket and a port that is none give exit code 1 and say why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, said = check(PORT=str(taken.getsockname()[1]))
    assert (code, said.partition(":")[0]) == (1, "not alive")
    assert "refused" in said
    assert check(LISTEN="unix:/nowhere/router.sock")[0] == 1
    assert check(PORT="http")[0] == 1


class Other(http.server.BaseHTTPRequestHandler):
    """Answers 200 over IPv6 and 500 over IPv4."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_error(200 if isinstance(self.server, OverIpv6) else 500)

    def log_message(self, *_: object) -> None:
        pass


class OverIpv6(http.server.HTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def other(kind: type[http.server.HTTPServer], host: str) -> Iterator[int]:
    """A server that is no router; its port."""
    server = kind((host, 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_health_check_fails_on_other_answers() -> None:
    """Anything but 200 is exit code 1, and so is no answer at all, within the limit."""
    with other(http.server.HTTPServer, "127.0.0.1") as port:
        assert check(PORT=str(port)) == (1, "not alive: another answer than 200\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, said = check(PORT=str(silent.getsockname()[1]))
    assert (code, "timed out" in said) == (1, True)


def test_the_health_check_follows_an_ipv6_address() -> None:
    """Brackets are understood, and all of IPv6 is asked by its loopback."""
    with other(OverIpv6, "::1") as port:
        assert check(LISTEN=f"[::1]:{port}") == (0, "alive\n")
        assert check(LISTEN=f"[::]:{port}") == (0, "alive\n")
        assert check(HOST="::", PORT=str(port)) == (0, "alive\n")
        assert check(LISTEN=f"127.0.0.1:{port}")[0] == 1
