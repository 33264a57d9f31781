"""The real vLLM's Python, for what only vLLM itself can say."""

import os
import subprocess

import pytest

from containers import ROOT


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of the environment that scripts/vllm-cpu makes."""
    asked = subprocess.run(
        [ROOT / "scripts" / "vllm-cpu", "path"], capture_output=True, text=True, timeout=60, check=False
    )
    if asked.returncode != 0:
        reason = "vLLM is not installed: run scripts/vllm-cpu install"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return asked.stdout.strip()
