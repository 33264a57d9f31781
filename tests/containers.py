"""How the containers are described: docker-compose.gpu.yml, and the commands of tgi/run and vllm/run."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.gpu.yml"
KEYS = {"TGI_DISTILGPT2_KEY": "tgi-secret", "VLLM_GEMMA3_KEY": "vllm-secret"}
ENGINES = ("tgi", "vllm")
WAIT_S = 60.0


def compose() -> dict[str, Any]:
    """The compose file, its variables as they stand."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


def service(name: str) -> dict[str, Any]:
    """One service of the compose file."""
    found: dict[str, Any] = compose()["services"][name]
    return found


def seconds(text: str) -> float:
    """A duration of the compose file that has one unit, in seconds."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def tool(name: str) -> str:
    """A program that the development dependencies bring; without it the test is skipped, or fails on CI."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        reason = f"{name} is not installed: run scripts/setup dev"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return str(found)


def run_engine(engine: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call tgi/run or vllm/run, with nothing in the environment but this and PATH."""
    given = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        [ROOT / engine / "run", *options],
        env=given,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def docker_command(engine: str, *options: str, **environment: str) -> list[str]:
    """The words of the command that tgi/run or vllm/run would start."""
    done = run_engine(engine, "--dry-run", *options, **environment)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def split(command: list[str]) -> tuple[list[str], str, list[str]]:
    """`docker run …` as its options, the image, and what the image is given."""
    place = next(n for n, word in enumerate(command) if "/" in word and ":" in word and is_image(word))
    return command[:place], command[place], command[place + 1 :]


def is_image(word: str) -> bool:
    """Whether a word names an engine's image."""
    return word.startswith(("vllm/vllm-openai", "ghcr.io/huggingface/text-generation-inference"))


def flags(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value` by name; "" for one without a value."""
    found: dict[str, str] = {}
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            following = words[number + 1] if number + 1 < len(words) else "--"
            found[name] = value if equals else "" if following.startswith("--") else following
    return found
