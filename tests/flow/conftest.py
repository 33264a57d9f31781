"""One router before one emulated TGI and one emulated vLLM, shared by the flow tests that do no harm."""

from collections.abc import Iterator

import pytest

from processes import Emulator, Router


@pytest.fixture(scope="session")
def tgi() -> Iterator[Emulator]:
    with Emulator("tgi") as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm") as engine:
        yield engine


@pytest.fixture(scope="session")
def router(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    settings = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": vllm.url}
    with Router(**settings) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running
