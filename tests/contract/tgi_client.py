"""Calls by TGI's own Python client, made in its environment by `text_generation_driver.py`."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("text_generation_driver.py")
PROMPT = "The pointsman sets"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the client read, and the name and words of the exception it raised; "" for none."""

    pieces: list[dict[str, Any]]
    raised: str
    message: str


Call = tuple[str, str, dict[str, Any]]  # the client's class, its method, what it is given
Ask = Callable[..., list[Outcome]]


def call(method: str, client: str = "Client", **arguments: Any) -> Call:
    """One call; a prompt is given where none is."""
    return client, method, arguments if "messages" in arguments else {"prompt": PROMPT} | arguments


def asker(python: str) -> Ask:
    """What lets the client of an environment make calls to a URL, one after another."""

    def made(url: str, *calls: Call) -> list[Outcome]:
        names = ("client", "method", "arguments")
        asked = {"url": url, "calls": [dict(zip(names, one, strict=True)) for one in calls]}
        done = subprocess.run(
            [python, "-I", DRIVER],  # -I: with nothing of ours on its path
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"NO_PROXY": "*", "HF_ENDPOINT": "http://127.0.0.1:9"},  # no hub is asked
        )
        assert done.returncode == 0, done.stderr
        return [
            Outcome(
                one["pieces"], (one["error"] or {}).get("class", ""), (one["error"] or {}).get("message", "")
            )
            for one in json.loads(done.stdout)
        ]

    return made


def whole(outcome: Outcome) -> dict[str, Any]:
    """The one answer of a call that went well."""
    assert outcome.raised == "", outcome.message
    (answer,) = outcome.pieces
    return answer
