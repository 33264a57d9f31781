"""The scripts, as a newcomer uses them: what they start, what they say, and what they leave behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from ports import free_port

ROOT = Path(__file__).parent.parent
SCRIPTS = ("run", "start", "smoke", "setup", "test", "chaos", "check", "fix", "bench", "lock")
LOCKS = ("requirements.lock", "tests/requirements.lock")
WAIT_S = 60.0  # generous: other tests run at the same time


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the project whose environment is set up already: it borrows the one these tests run in."""
    top = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", top / "scripts")
    (top / "tests").mkdir()
    for name in ("pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, top / name)
    (top / "backend").symlink_to(ROOT / "backend")
    python = top / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT / "backend"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    recipe = "".join((top / name).read_text() for name in ("pyproject.toml", *LOCKS))
    (top / ".venv" / "installed-run").write_text(f"{top}\n{recipe}")
    return top


@contextmanager
def started(clone: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Run `scripts/run` from another folder, in a process group of its own, until the block ends."""
    process = subprocess.Popen(
        [clone / "scripts" / "run"],
        cwd="/",
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without what configures a router."""
    kept = {name: text for name, text in os.environ.items() if not re.match("TGI_|VLLM_|POINTSMAN_", name)}
    return {**kept, "HOST": "127.0.0.1", "GRACE_S": "0", "DRAIN_S": "1", **settings}


def models(process: subprocess.Popen[str], port: str) -> list[dict[str, object]]:
    """`GET /models` of a router that is about to start."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/models", trust_env=False)
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > end:
                process.terminate()
                pytest.fail(f"the router did not start: {process.communicate(timeout=WAIT_S)[0]}")
            time.sleep(0.05)
        else:
            found: list[dict[str, object]] = answer.raise_for_status().json()
            return found


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def engine_ports(found: list[dict[str, object]]) -> list[int]:
    """Where the replicas of these models listen."""
    replicas = str([model["replicas"] for model in found])
    return [int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)'", replicas)]


def run(command: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    return subprocess.run([command], capture_output=True, text=True, timeout=WAIT_S, check=False, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_starts_emulated_engines_and_ends_them(clone: Path, number: signal.Signals) -> None:
    """Without engines it says that they are emulated; a signal ends all processes, with exit code 0."""
    port = str(free_port())
    with started(clone, PORT=port) as process:
        found = models(process, port)
        engines = engine_ports(found)
        assert [model["id"] for model in found] == ["distilgpt2", "gemma-3-12b"]
        assert len(engines) == 2
        assert all(map(listening, engines))
        both = {"models": ["distilgpt2", "gemma-3-12b"], "prompt": "Hi", "max_tokens": 2}
        url = f"http://127.0.0.1:{port}/models/compare"
        assert httpx.post(url, json=both, trust_env=False).status_code == 200, "the README's example"
        process.send_signal(number)
        output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, output
    assert "EMULATED ENGINES" in output
    assert output.count("    curl ") == 3
    assert re.search(r"-H 'X-API-Key: pm-[\w-]{32}'", output)  # of this run alone; the other calls need none
    assert not any(map(listening, [int(port), *engines]))


def test_run_leaves_configured_engines_alone(clone: Path) -> None:
    """With an engine in `.env` none is emulated, and the example calls name its model."""
    port = str(free_port())
    (clone / ".env").write_text(f"VLLM_MINE_ENDPOINT=http://127.0.0.1:9\nPORT={port}\n")
    with started(clone) as process:
        assert [model["id"] for model in models(process, port)] == ["mine"]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, output
    assert "EMULATED" not in output
    assert '"model": "mine"' in output


def test_run_says_that_the_port_is_in_use(clone: Path) -> None:
    """A taken port ends it with a sentence that says what to do, before any engine is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started(clone, PORT=port) as process:
            output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert output.splitlines() == [
        f"run: cannot listen on 127.0.0.1 port {port}: Address already in use",
        "run: choose another port, for example: PORT=8001 scripts/run",
    ]


def test_run_ends_engines_when_the_router_fails(clone: Path) -> None:
    """When the router does not start, its exit code is passed on and no engine is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # LISTEN is not tried out beforehand
        with started(clone, LISTEN=address) as process:
            output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1, output
    assert "cannot listen on" in output.splitlines()[-1]


def test_run_stops_at_a_bad_setting(clone: Path) -> None:
    """A bad value is told in one line and nothing is started."""
    with started(clone, PORT="http") as process:
        output, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert output.startswith("pointsman: PORT")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("name", ["python3", "python3.13"])
def test_setup_asks_for_a_python_that_fits(clone: Path, tmp_path: Path, name: str) -> None:
    """Where the Python it is to take is too old or a broken shim, it says which one to install."""
    shutil.rmtree(clone / ".venv")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "cat", "cmp", "dirname", "rm"):
        found = shutil.which(tool)
        assert found is not None, tool
        (tools / tool).symlink_to(found)
    (tools / name).write_text("#!/bin/sh\nexit 1\n")
    (tools / name).chmod(0o755)
    done = run(clone / "scripts" / "setup", env={"PATH": str(tools), "PYTHON": name})
    assert done.returncode == 1
    needed = f"setup: Python 3.11 or later is needed and not found as {name}; install it"
    assert done.stderr.startswith(needed)
    assert not (clone / ".venv").exists()


def test_setup_is_silent_when_nothing_changed(clone: Path) -> None:
    """A second start costs nothing: neither pip nor a network is asked."""
    done = run(clone / "scripts" / "setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("path", [*(f"scripts/{name}" for name in SCRIPTS), ".ci/run"])
def test_scripts_can_be_run(path: str) -> None:
    """Each is executable and parses."""
    assert os.access(ROOT / path, os.X_OK)
    subprocess.run(["bash", "-n", ROOT / path], check=True, timeout=WAIT_S)


@pytest.mark.parametrize("path", LOCKS)
def test_locks_pin_everything_with_hashes(path: str) -> None:
    """Each package has one version and hashes; no address, path or option stands in the file."""
    text = (ROOT / path).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    pin, digest = r"[a-z0-9.-]+==[^ ;]+( ; [^@/]+)? \\", r"    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [line for line in lines if not re.fullmatch(f"{pin}|{digest}", line)] == []
    bare = [a for a, b in pairwise(lines) if re.fullmatch(pin, a) and not re.fullmatch(digest, b)]
    assert bare == []


def pins(path: str) -> dict[str, str]:
    """Versions in a lock file by package."""
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / path).read_text(), flags=re.MULTILINE))


def test_locks_cover_what_the_project_asks_for() -> None:
    """Every dependency of pyproject.toml is locked, and tests run with the versions that serve."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]

    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[^A-Za-z0-9-_.]", line)[0].lower().replace("_", "-") for line in lines}

    serving, testing = (pins(path) for path in LOCKS)
    assert names(project["dependencies"]) - set(serving) == set()
    assert names(project["optional-dependencies"]["dev"]) - set(testing) == set()
    assert serving.items() - testing.items() == set()
