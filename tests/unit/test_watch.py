"""A watch ends one task's waits with our own causes, and leaves everybody else's cancellations alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from pointsman.watch import TICK_S, Clock, Watch

pytestmark = pytest.mark.anyio
FOREVER_S = 5.0  # a wait that a working watch always cuts short


class Late(Exception):
    """The deadline's error."""


class Gone(Exception):
    """The client's leaving."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: they differ in when a timer may fire."""
    return "asyncio", {"use_uvloop": request.param}


def here() -> tuple[Watch, asyncio.AbstractEventLoop, "asyncio.Task[object]"]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    return Watch(Clock(loop), task), loop, task


def _itself(error: BaseException) -> BaseException:
    return error


async def wait(watch: Watch, *deadlines: tuple[float, BaseException]) -> None:
    """Wait under the watch, with these deadlines set one after the other."""
    with watch:
        for due, error in deadlines:
            watch.set(due, partial(_itself, error))
        await asyncio.sleep(FOREVER_S)


@asynccontextmanager
async def clean(task: "asyncio.Task[object]") -> AsyncIterator[None]:
    """Afterwards no cancellation stands, and none comes at the next waits."""
    before = task.cancelling()
    yield
    assert task.cancelling() == before
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.sleep(0.002)


async def test_a_deadline_raises_its_error() -> None:
    """When the time is up, the wait ends with the error that was set."""
    watch, loop, task = here()
    async with clean(task):
        error = Late()
        with pytest.raises(Late) as caught:
            await wait(watch, (loop.time() + 0.005, error))
        assert caught.value is error


async def test_work_in_time_is_left_alone() -> None:
    """A block that ends before its deadline hears nothing of it, then or later."""
    watch, loop, task = here()
    async with clean(task):
        with watch:
            watch.set(loop.time() + 0.005, Late)
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        with watch:
            await asyncio.sleep(0)


async def test_a_deadline_moved_later_does_not_ring_early() -> None:
    """Only the last due time counts, though the old timer still fires."""
    watch, loop, task = here()
    async with clean(task):
        began = loop.time()
        with pytest.raises(Late):
            await wait(watch, *((began + 0.005 * step, Late()) for step in range(1, 4)))
        assert loop.time() - began >= 0.014


async def test_a_deadline_moved_earlier_rings_then() -> None:
    """A nearer due time replaces a farther one."""
    watch, loop, task = here()
    async with clean(task):
        with pytest.raises(Late):
            await wait(watch, (loop.time() + 60, Gone()), (loop.time() + 0.005, Late()))


async def test_a_cleared_deadline_does_not_ring() -> None:
    """`clear` takes the deadline back."""
    watch, loop, task = here()
    async with clean(task):
        with watch:
            watch.set(loop.time() + 0.002, Late)
            watch.clear()
            await asyncio.sleep(0.01)


async def test_an_interruption_ends_the_wait() -> None:
    """A client that leaves ends the wait at once, from any callback."""
    watch, loop, task = here()
    async with clean(task):
        loop.call_soon(watch.interrupt, Gone())
        with pytest.raises(Gone), watch:
            await asyncio.sleep(FOREVER_S)


async def test_an_interruption_before_the_block_raises_on_entering() -> None:
    """Nothing is begun for a client that has left, however often one tries."""
    watch, _, task = here()
    async with clean(task):
        watch.interrupt(Gone())
        for _ in range(2):
            with pytest.raises(Gone), watch:
                pytest.fail("the block ran")


async def test_the_first_cause_counts() -> None:
    """Of two interruptions in one turn of the loop the first is told."""
    watch, loop, task = here()
    async with clean(task):
        first = Gone("first")
        loop.call_soon(watch.interrupt, first)
        loop.call_soon(watch.interrupt, Gone("second"))
        with pytest.raises(Gone) as caught, watch:
            await asyncio.sleep(FOREVER_S)
        assert caught.value is first


async def test_a_foreign_cancellation_passes_untouched() -> None:
    """Who cancels the task gets a cancelled task, and the count is theirs to take back."""
    watch, loop, task = here()
    before = task.cancelling()
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await wait(watch, (loop.time() + 60, Late()))
    assert task.cancelling() == before + 1
    task.uncancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("ours_first", [True, False])
async def test_a_foreign_cancellation_outweighs_a_cause(ours_first: bool) -> None:
    """Cancelled by others and by us in one turn, the task ends as cancelled, and only ours is taken back."""
    watch, loop, task = here()
    before = task.cancelling()
    if not ours_first:
        loop.call_soon(task.cancel)
    loop.call_soon(watch.interrupt, Gone())
    if ours_first:
        loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError), watch:
        await asyncio.sleep(FOREVER_S)
    assert task.cancelling() == before + 1
    task.uncancel()
    await asyncio.sleep(0)


async def test_an_interruption_from_within_the_block_reaches_its_next_wait() -> None:
    """The watched task may learn by its own call that the client left; its next wait then ends."""
    watch, _, task = here()

    async def leave_and_wait() -> None:
        with watch:
            watch.interrupt(Gone())
            await asyncio.sleep(FOREVER_S)

    async with clean(task):
        with pytest.raises(Gone):
            await leave_and_wait()


async def test_an_interruption_from_within_does_not_leak_out_of_the_block() -> None:
    """If the block ends without another wait, no cancellation strikes what comes after it."""
    watch, _, task = here()
    async with clean(task):
        with watch:
            watch.interrupt(Gone())
    with pytest.raises(Gone), watch:
        pytest.fail("the block ran")


async def test_an_interruption_while_the_wait_is_already_over_does_not_leak() -> None:
    """A result and an interruption in the same turn: the block may end either way, the task stays clean."""
    watch, loop, task = here()
    async with clean(task):
        done = loop.create_future()
        loop.call_soon(done.set_result, None)
        loop.call_soon(watch.interrupt, Gone())
        with pytest.raises(Gone), watch:
            await done


async def test_another_failure_in_the_same_turn_keeps_its_face() -> None:
    """An error that the block raises on being cancelled is not covered up, and the count is right."""
    watch, loop, task = here()

    async def fail_otherwise() -> None:
        with watch:
            try:
                await asyncio.sleep(FOREVER_S)
            except asyncio.CancelledError:
                raise ValueError("own") from None

    async with clean(task):
        loop.call_soon(watch.interrupt, Gone())
        with pytest.raises(ValueError, match="own"):
            await fail_otherwise()
        with pytest.raises(Gone), watch:
            pytest.fail("the block ran")


async def test_a_swallowed_cancellation_is_taken_back() -> None:
    """A block that eats the cancellation and ends well leaves no count behind."""
    watch, loop, task = here()
    async with clean(task):
        loop.call_soon(watch.interrupt, Gone())
        with watch, suppress(asyncio.CancelledError):
            await asyncio.sleep(FOREVER_S)


async def test_an_inner_timeout_and_a_cause_do_not_mix_up() -> None:
    """`asyncio.timeout` within the block raises its own error for its own time, and ours for ours."""
    watch, loop, task = here()

    async def both(inner_s: float, outer_s: float) -> None:
        with watch:
            watch.set(loop.time() + outer_s, Late)
            async with asyncio.timeout(inner_s):
                await asyncio.sleep(FOREVER_S)

    async with clean(task):
        with pytest.raises(TimeoutError):
            await both(0.002, 60)
        with pytest.raises(Late):
            await both(60, 0.002)


async def test_forget_lets_the_next_attempt_run() -> None:
    """After a deadline has rung and was forgotten, the same watch guards again."""
    watch, loop, task = here()
    async with clean(task):
        for _ in range(3):
            with pytest.raises(Late):
                await wait(watch, (loop.time() + 0.002, Late()))
            watch.forget()
            with watch:
                await asyncio.sleep(0)


async def test_forget_does_not_forget_a_client_that_left() -> None:
    """An interruption stands for the rest of the exchange."""
    watch, loop, task = here()
    async with clean(task):
        loop.call_soon(watch.interrupt, Gone())
        with pytest.raises(Gone), watch:
            await asyncio.sleep(FOREVER_S)
        watch.forget()
        with pytest.raises(Gone), watch:
            pytest.fail("the block ran")


async def test_forget_remembers_a_client_that_left_after_the_deadline() -> None:
    """A client that leaves while the deadline's error is on its way is not served another attempt."""
    watch, loop, task = here()

    async def late_and_left() -> None:
        with watch:
            watch.set(loop.time() + 0.002, Late)
            try:
                await asyncio.sleep(FOREVER_S)
            finally:
                watch.interrupt(Gone())

    async with clean(task):
        with pytest.raises(Late):
            await late_and_left()
        watch.forget()
        with pytest.raises(Gone), watch:
            pytest.fail("the block ran")


async def test_forget_with_nothing_to_forget() -> None:
    """Calling it for good measure changes nothing."""
    watch, _, task = here()
    async with clean(task):
        watch.forget()
        with watch:
            await asyncio.sleep(0)


async def test_all_watches_of_a_loop_share_one_timer() -> None:
    """Deadlines are moved by assignments; while nothing is watched nothing ticks."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    clock, armed = Clock(loop), 0
    call_later = loop.call_later

    def counting(delay: float, callback: Callable[[], object], **more: Any) -> asyncio.TimerHandle:
        nonlocal armed
        armed += 1
        return call_later(delay, callback, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_later", counting)
        for _ in range(100):
            with Watch(clock, task) as watch:
                for step in range(100):
                    watch.set(loop.time() + 60 + step, Late)
    assert armed == 1
    await asyncio.sleep(TICK_S * 3)
    assert not clock.ticking


async def test_an_end_can_be_forgotten_and_a_leaving_cannot() -> None:
    """After the router ended a wait the client can still be told; after the client left there is nobody."""
    watch, loop, task = here()
    async with clean(task):
        loop.call_soon(watch.end, Late())
        with pytest.raises(Late):
            await wait(watch)
        watch.forget()
        with watch:
            await asyncio.sleep(0)
        watch.interrupt(Gone())
        watch.end(Late())
        watch.forget()
        with pytest.raises(Gone):
            await wait(watch)


async def test_an_end_before_the_block_raises_on_entering() -> None:
    """Who is not waiting when it comes hears of it at the next wait."""
    watch, _, task = here()
    async with clean(task):
        watch.end(Late())
        with pytest.raises(Late):
            await wait(watch)
