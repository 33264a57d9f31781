"""Work on a large body in steps, between which everybody else has a turn of the event loop.

msgspec and the operations of `bytes` hold the interpreter, so that a thread would help nobody.
"""

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]  # it stops between two steps, and returns what came of them

LARGE_BYTES = 1 << 20  # the work on less is short
_TURNS = 2  # of the loop: in one a small request of others is taken, in the next answered


async def give_way() -> None:
    """Let others do what they have to do now."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def in_turns(steps: Steps[T]) -> T:
    """Do all steps, and let others have their turn after each."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            break
        await give_way()
    await give_way()
    return found


def at_once(steps: Steps[T]) -> T:
    """Do all steps without a break."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
