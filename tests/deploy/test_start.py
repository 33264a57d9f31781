"""`scripts/start`, with stand-ins for the GPU's tool and for vLLM where there are none."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ports import free_port
from processes import BACKEND, Emulator, wait_for

ROOT = BACKEND.parent
LOCKS = ("requirements.lock", "tests/requirements.lock")
_LIMIT_S = 120.0


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the project, set up already: its Python is the one these tests run in."""
    top = tmp_path / "clone"
    for name in ("scripts", "vllm", "backend"):
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (top / "tests").mkdir()
    for name in ("pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, top / name)
    python = top / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{top}/backend" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    recipe = "".join((top / name).read_text() for name in ("pyproject.toml", *LOCKS))
    (top / ".venv" / "installed-dev").write_text(f"{top}\n{recipe}")
    return top


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder that comes first in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def put(tools: Path, name: str, script: str) -> None:
    (tools / name).write_text(f"#!/bin/bash\n{script}\n")
    (tools / name).chmod(0o755)


class Started:
    """A running `scripts/start`; its output is in a file, for its children may outlive it."""

    def __init__(self, clone: Path, kind: str, tools: Path | None, **settings: str) -> None:
        kept = {
            k: v for k, v in os.environ.items() if not re.match("TGI_|VLLM_|POINTSMAN_|LLM_API_|PORT$", k)
        }
        path = f"{tools}:{kept['PATH']}" if tools else kept["PATH"]
        self._path = clone / "output"
        with self._path.open("wb") as output:
            self.process = subprocess.Popen(
                [clone / "scripts" / "start", *kind.split()],
                cwd="/",
                env={**kept, "PATH": path, "HOST": "127.0.0.1", "GRACE_S": "0", "DRAIN_S": "5", **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def output(self) -> str:
        return self._path.read_text(encoding="utf-8")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(_LIMIT_S)

    def get(self, port: str, path: str) -> Any:
        """What the router answers, None while it does not."""
        assert self.process.poll() is None, self.output()
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).json()
        except httpx.TransportError:
            return None


@contextmanager
def started(clone: Path, kind: str, tools: Path | None = None, **settings: str) -> Iterator[Started]:
    running = Started(clone, kind, tools, **settings)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def listening(port: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(port)), 1).close()
    except OSError:
        return False
    return True


FAKE_VLLM = """
echo "$CUDA_VISIBLE_DEVICES $NCCL_P2P_DISABLE $VLLM_API_KEY: $*" >"{folder}/called"
while [ $# -gt 0 ]; do [ "$1" != --port ] || port=$2; shift; done
cd "{backend}" && exec "{python}" -m emulator --engine vllm --port "$port" --shutdown-timeout 0 \\
    ${{VLLM_API_KEY:+--api-key $VLLM_API_KEY}}
"""


@pytest.mark.parametrize("key", ["", "key"])
def test_prod_starts_a_vllm_where_there_is_a_gpu(clone: Path, tools: Path, key: str) -> None:
    """Over two of three GPUs, with vllm/run's flags on loopback; the router finds it; a signal ends both."""
    put(tools, "nvidia-smi", "echo 'GPU 0: one'; echo 'GPU 1: two'; echo 'GPU 2: three'")
    put(tools, "vllm", FAKE_VLLM.format(folder=tools, backend=BACKEND, python=sys.executable))
    port, engine = str(free_port()), str(free_port())
    settings = {"PORT": port, "ENGINE_PORT": engine}
    if key:  # a key needs its endpoint, which is the one that is started
        settings |= {"VLLM_GEMMA3_KEY": key, "VLLM_GEMMA3_ENDPOINT": f"http://localhost:{engine}"}
    with started(clone, "prod", tools, **settings) as running:
        wait_for(lambda: (running.get(port, "/ready") or {}).get("status") == "ready", "ready", _LIMIT_S)
        assert running.end(signal.SIGTERM if key else signal.SIGINT) == 0, running.output()
    assert not listening(port)
    assert not listening(engine)
    given, _, flags = (tools / "called").read_text().partition(": ")
    assert given == f"0,1 1 {key}"
    assert flags.startswith("serve gaunernst/gemma-3-12b-it-qat-autoawq --served-model-name gemma-3-12b-it ")
    assert "--tensor-parallel-size 2 --max-model-len 32768" in flags
    assert '--limit-mm-per-prompt {"image":0}' in flags
    assert flags.rstrip().endswith(f"--host 127.0.0.1 --port {engine}")
    assert f"start: vLLM on 127.0.0.1:{engine}, GPUs 0,1: vllm serve " in running.output()
    assert f"start: the router on port {port};" in running.output()


def test_prod_tells_when_vllm_ends(clone: Path, tools: Path) -> None:
    """A vLLM that ends by itself is told of, and the router goes on."""
    put(tools, "nvidia-smi", "echo 'GPU 0: one'")
    put(tools, "vllm", "echo out of memory; exit 3")
    port = str(free_port())
    with started(clone, "prod", tools, PORT=port, ENGINE_PORT=str(free_port())) as running:
        wait_for(lambda: "start: vLLM ended with 3" in running.output(), "it is told", _LIMIT_S)
        wait_for(lambda: running.get(port, "/live") is not None, "the router goes on", _LIMIT_S)
        assert running.end() == 0


def test_prod_uses_the_engines_that_are_configured(clone: Path, tools: Path) -> None:
    """With engines of one's own no vLLM is started, GPU or not."""
    put(tools, "nvidia-smi", "echo 'GPU 0: one'")
    put(tools, "vllm", f"touch {tools}/called")
    port = str(free_port())
    with (
        Emulator("vllm") as engine,
        started(clone, "prod", tools, PORT=port, VLLM_MINE_ENDPOINT=engine.url) as running,
    ):
        wait_for(lambda: (running.get(port, "/ready") or {}).get("status") == "ready", "ready", _LIMIT_S)
        assert engine.url in running.output()
        assert running.end() == 0
    assert not (tools / "called").exists()


NOTHING = {
    "no tool": (None, None, "there is no GPU here"),
    "no driver": ("echo 'no devices were found'; exit 9", None, "there is no GPU here"),
    "no vLLM": ("echo 'GPU 0: one'", None, "vLLM is not installed"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_prod_says_what_is_missing(clone: Path, tools: Path, case: str) -> None:
    """Without engine and without a way to start one it ends with 1, and says what to do."""
    smi, _, why = NOTHING[case]
    if shutil.which("vllm") or (smi is None and shutil.which("nvidia-smi")):
        pytest.skip("this machine has what the test does without")
    if smi is not None:
        put(tools, "nvidia-smi", smi)
    with started(clone, "prod", tools, ENGINE_PORT=str(free_port())) as running:
        assert running.process.wait(_LIMIT_S) == 1
    first, second, third = running.output().splitlines()
    assert first.startswith(f"start: no engine is configured, and none can be started: {why}")
    assert "VLLM_GEMMA3_ENDPOINT=" in second
    assert third.endswith("scripts/run")


def test_dev_reloads(clone: Path) -> None:
    """A change of code or of `.env` is served a moment later; a signal ends it all, with 0."""
    port = str(free_port())
    (clone / ".env").write_text(f"PORT={port}\nVLLM_ONE_ENDPOINT=http://127.0.0.1:9\n")
    with started(clone, "dev") as running:

        def models() -> list[str]:
            return [model["id"] for model in running.get(port, "/models") or []]

        wait_for(lambda: models() == ["one"], "it serves", _LIMIT_S)
        code = clone / "backend" / "pointsman" / "__init__.py"
        code.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0"', code.read_text()))
        wait_for(lambda: (running.get(port, "/health") or {}).get("version") == "99.0", "new code", _LIMIT_S)
        (clone / ".env").write_text(f"PORT={port}\nVLLM_TWO_ENDPOINT=http://127.0.0.1:9\n")
        wait_for(lambda: models() == ["two"], "new settings", _LIMIT_S)
        assert running.end(signal.SIGINT) == 0, running.output()
    assert not listening(port)
    assert f"start: the router on port {port}; it starts anew when something changes in" in running.output()


def test_the_port_is_8090_unless_it_is_set(clone: Path) -> None:
    """Seed 004's port is the default here; LISTEN is told as it is."""
    taken = None
    try:
        taken = socket.create_server(("127.0.0.1", 8090))  # so that nothing is left listening
    except OSError:
        pytest.skip("port 8090 is in use")
    with taken, started(clone, "prod", VLLM_MINE_ENDPOINT="http://127.0.0.1:9") as running:
        assert running.process.wait(_LIMIT_S) == 1
    assert "pointsman: cannot listen on 127.0.0.1:8090" in running.output()


@pytest.mark.parametrize("kind", ["", "test", "prod dev"])
def test_usage(clone: Path, kind: str) -> None:
    """Anything but prod and dev is answered with the usage."""
    with started(clone, kind) as running:
        assert running.process.wait(_LIMIT_S) == 2
    assert running.output() == "usage: scripts/start prod|dev\n"
