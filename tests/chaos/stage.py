"""Engines and a router before them, as most scenes need them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from processes import Emulator, Router

MODEL = "gemma-3-12b"


@contextmanager
def engines(count: int, *flags: str, **settings: str) -> Iterator[tuple[Router, list[Emulator]]]:
    """A router before so many emulated vLLMs that serve one model, all up."""
    with ExitStack() as stack:
        made = [stack.enter_context(Emulator("vllm", *flags)) for _ in range(count)]
        urls = ",".join(engine.url for engine in made)
        router = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=urls, **settings))
        router.wait_until_up(MODEL)
        yield router, made
