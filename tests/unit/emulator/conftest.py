"""Emulators as processes of their own, on free loopback ports."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Start = Callable[..., str]
_BACKEND = Path(__file__).parents[3] / "backend"


def _spawn(arguments: tuple[str, ...]) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "emulator", "--port", "0", "--engine", *arguments]
    process = subprocess.Popen(command, cwd=_BACKEND, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if " on http" not in line:
        process.kill()
        process.wait(30)
        raise AssertionError(f"no start: {line!r}")
    return process, line.split(" on ")[1].split(" ")[0]


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(30)
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an emulator with flags (the engine first); returns its base URL."""
    running: list[subprocess.Popen[str]] = []

    def launch(*arguments: str) -> str:
        process, url = _spawn(arguments)
        running.append(process)
        return url

    yield launch
    for process in running:
        _end(process)


@pytest.fixture
def start_process() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """As `start`, with the process, for signals."""
    running: list[subprocess.Popen[str]] = []

    def launch(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process, url = _spawn(arguments)
        running.append(process)
        return process, url

    yield launch
    for process in running:
        _end(process)


@pytest.fixture(scope="module")
def tgi() -> Iterator[str]:
    """A fast TGI with a chat template, shared by a module; tests on it must not disturb each other."""
    process, url = _spawn(("tgi", "--ttft-ms", "1", "--tokens-per-s", "0", "--chat-template"))
    yield url
    _end(process)


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    """A fast vLLM, shared by a module; tests on it must not disturb each other."""
    flags = ("--ttft-ms", "1", "--tokens-per-s", "0", "--served-model-name", "gemma", "g3")
    process, url = _spawn(("vllm", *flags))
    yield url
    _end(process)
