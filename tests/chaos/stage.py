"""Engines and a router before them, as most scenes need them."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from processes import Emulator, Router

MODEL = "gemma-3-12b"


@contextmanager
def engines(
    count: int,
    *flags: str,
    settings: Mapping[str, str] = MappingProxyType({}),
    max_in_flight: int | None = None,
) -> Iterator[tuple[Router, list[Emulator]]]:
    """A router before so many emulated vLLMs that serve one model, all up.

    Args:
        settings: the router's, as environment variables.
        max_in_flight: slots of each replica; None: the usual ones.
    """
    with ExitStack() as stack:
        made = [stack.enter_context(Emulator("vllm", *flags)) for _ in range(count)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        replicas = [
            {"url": engine.url} | ({} if max_in_flight is None else {"max_in_flight": max_in_flight})
            for engine in made
        ]
        config = folder / "config.yml"  # JSON is YAML
        config.write_text(json.dumps({"models": [{"id": MODEL, "engine": "vllm", "replicas": replicas}]}))
        router = stack.enter_context(Router(CONFIG_FILE=str(config), **settings))
        router.wait_until_up(MODEL)
        yield router, made
