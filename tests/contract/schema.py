"""The published schemas of the engines' answers, as data/*-schemas.json keeps them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

DATA = Path(__file__).parent / "data"


@cache
def _validator(engine: str, name: str) -> Draft202012Validator:
    definitions = json.loads((DATA / f"{engine}-schemas.json").read_text())["$defs"]
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})


def check(engine: str, name: str, answer: Any) -> None:
    """Raise AssertionError naming every place where `answer` is not a `name` of `engine` (tgi or vllm)."""
    errors = _validator(engine, name).iter_errors(answer)
    faults = [f"{error.json_path}: {error.message[:200]}" for error in errors]
    assert not faults, f"no {name} of {engine}: " + "; ".join(faults)
