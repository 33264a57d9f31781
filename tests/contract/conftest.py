"""What is tested: emulators, one real vLLM for the whole run where it is installed, and TGI's own client."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from .process import KEY, ROOT, Engine, emulated_vllm, emulator, real_vllm, vllm_installed
from .tgi_client import Ask, asker

REAL = [pytest.mark.real, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="session", params=["emulator", pytest.param("vllm", marks=REAL)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """vLLM's protocol, by the emulator and by vLLM itself."""
    if request.param == "vllm":
        yield request.getfixturevalue("vllm_itself")
        return
    with emulated_vllm(tmp_path_factory.mktemp("engine") / "emulator.log") as started:
        yield started


@pytest.fixture(scope="session")
def vllm_itself(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The one real vLLM of a run; whoever asks for it is marked with REAL."""
    if not vllm_installed():
        reason = "vLLM is not installed: run scripts/vllm-cpu install"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    logs = tmp_path_factory.mktemp("engine")
    # Workers of one run take turns, should xdist have given the real tests to more than one of them.
    with (logs.parent.parent / "vllm.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with real_vllm(logs / "vllm.log") as started:
            yield started


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    """A client with the key. Its pool keeps nothing, so no test meets a connection that went idle."""
    with httpx.Client(
        base_url=engine.url,
        headers={"authorization": f"Bearer {KEY}"},
        timeout=60,
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
def tgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """TGI's protocol by the emulator; there is no real one to install."""
    log = tmp_path_factory.mktemp("tgi") / "tgi.log"
    with emulator("tgi", log, "--ttft-ms", "5", "--tokens-per-s", "1000", "--chat-template") as started:
        yield started


@pytest.fixture(scope="session")
def python() -> str:
    """The Python that has TGI's own client."""
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "tgi-client"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if made.returncode != 0:
        said = (made.stderr.strip().splitlines() or ["it said nothing"])[-1]
        reason = f"TGI's Python client is not installed; with a network, run scripts/tgi-client. {said}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return made.stdout.strip()


@pytest.fixture
def ask(python: str) -> Ask:
    """Let TGI's own client make calls, one after another."""
    return asker(python)
