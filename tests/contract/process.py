"""Engines as child processes: started, waited for, ended by id."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from ports import free_port

ROOT = Path(__file__).resolve().parents[2]
VLLM_CPU = ROOT / "scripts" / "vllm-cpu"

NAME, ALIAS, KEY = "gemma-3-tiny", "tiny/gemma-3-it", "contract-key"
CONTEXT = 2048  # tokens
# The two of them are told the same, as far as they know the same flags.
FLAGS = ("--api-key", KEY, "--max-num-seqs", "2", "--sse-keep-alive-interval", "1")


@dataclass(frozen=True, slots=True)
class Engine:
    """A running server. `real`: vLLM itself, not the emulator. `pid`: the process that listens."""

    url: str
    real: bool
    pid: int

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(command: list[str], url: str | None, log: Path, *, within_s: float) -> Iterator[tuple[str, int]]:
    """Run `command` until the block ends; enter it, with URL and process id, when GET /health answers 200.

    `url` None: the command prints it. Raises AssertionError with the end of its output when it dies or is not
    ready in time.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT / "backend")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield wait_ready(process, url, log, within_s), process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # vLLM's engine is a child of its server
            process.wait()


def wait_ready(process: "subprocess.Popen[bytes]", url: str | None, log: Path, within_s: float) -> str:
    """Poll /health of a process that may die instead; its URL."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        printed = re.search(r"on (http://[\d.]+:\d+)", log.read_text()) if url is None else None
        url = printed[1] if printed else url
        if url is not None and healthy(url):
            return url
        dead = process.poll()
        assert dead is None, f"ended with status {dead}: {log.read_text()[-2000:]}"
        time.sleep(0.05)
    raise AssertionError(f"not ready within {within_s} s: {log.read_text()[-2000:]}")


def healthy(url: str) -> bool:
    """Whether GET /health answers 200 now."""
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def emulator(engine: str, log: Path, *flags: str) -> Iterator[Engine]:
    """The emulator, as engine `tgi` or `vllm`, on a port of its choice."""
    command = [sys.executable, "-m", "emulator", "--engine", engine, "--port", "0", *flags]
    with running(command, None, log, within_s=20) as (url, pid):
        yield Engine(url, real=False, pid=pid)


@contextmanager
def emulated_vllm(log: Path, *flags: str) -> Iterator[Engine]:
    """The emulator in the shoes of the real one: same names, same limits, about the same pace."""
    names = ("--served-model-name", NAME, ALIAS, "--max-model-len", str(CONTEXT))
    pace = ("--ttft-ms", "10", "--tokens-per-s", "300", "--eos-after", "0", "--enable-request-id-headers")
    with emulator("vllm", log, *names, *pace, *FLAGS, *flags) as started:
        yield started


def vllm_installed() -> bool:
    """Whether `scripts/vllm-cpu install` has been run."""
    return subprocess.run([VLLM_CPU, "path"], check=False, capture_output=True).returncode == 0


@contextmanager
def real_vllm(log: Path) -> Iterator[Engine]:
    """vLLM itself on CPU; takes about a minute."""
    port = free_port()
    command = [str(VLLM_CPU), "serve", "--port", str(port), *FLAGS]
    with running(command, f"http://127.0.0.1:{port}", log, within_s=300) as (url, pid):
        yield Engine(url, real=True, pid=pid)
