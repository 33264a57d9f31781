"""The engines under test: one emulator and, when it is installed, one real vLLM for the whole run."""

import fcntl
import os
from collections.abc import Iterator

import httpx
import pytest

from .process import KEY, Engine, emulated_vllm, emulator, real_vllm, vllm_installed

REAL = [pytest.mark.real, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="session", params=["emulator", pytest.param("vllm", marks=REAL)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """vLLM's protocol, by the emulator and by vLLM itself."""
    logs = tmp_path_factory.mktemp("engine")
    if request.param == "emulator":
        with emulated_vllm(logs / "emulator.log") as started:
            yield started
        return
    if not vllm_installed():
        reason = "vLLM is not installed: run scripts/vllm-cpu install"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
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
