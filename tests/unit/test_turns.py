"""Work on large bodies leaves others their turns."""

import asyncio

import pytest

from pointsman.turns import Steps, at_once, in_turns

pytestmark = pytest.mark.anyio


def counting(told: list[str], steps: int) -> Steps[int]:
    """So many steps, each noted."""
    for number in range(steps - 1):
        told.append(f"step {number}")
        yield
    told.append("last step")
    return steps


async def test_others_are_served_after_each_step() -> None:
    """What comes in during a step is taken and answered before the next one begins."""
    loop, told = asyncio.get_running_loop(), list[str]()

    def steps() -> Steps[int]:
        for number in range(3):
            told.append(f"step {number}")
            loop.call_soon(lambda: loop.call_soon(told.append, "answered"))
            if number < 2:
                yield
        return 3

    assert await in_turns(steps()) == 3
    assert told == ["step 0", "answered", "step 1", "answered", "step 2", "answered"]


@pytest.mark.parametrize("steps", [1, 2, 5])
async def test_steps_come_to_the_same_in_either_way(steps: int) -> None:
    """All of them are done, in their order, and what they return is returned."""
    some, others = list[str](), list[str]()
    assert at_once(counting(some, steps)) == await in_turns(counting(others, steps)) == steps
    assert some == others
    assert len(some) == steps


async def test_a_step_that_fails_ends_the_work() -> None:
    """The error comes out as it is."""

    def failing() -> Steps[None]:
        yield
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await in_turns(failing())
    with pytest.raises(ValueError, match="wrong"):
        at_once(failing())
