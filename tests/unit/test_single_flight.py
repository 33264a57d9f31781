"""Equal requests at the same time share one call, and no follower suffers from its leader."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from clockwork import Clockwork
from pointsman.single_flight import SingleFlight, SingleFlightConfig

Flight = SingleFlight[str]


class Engine:
    """Answers after a while, as often as it is called."""

    def __init__(self, takes_s: float = 1.0, fault: Exception | None = None) -> None:
        self.calls = 0
        self._takes_s = takes_s
        self._fault = fault

    async def __call__(self) -> str:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(self._takes_s)
        if self._fault is not None and number == 1:
            raise self._fault
        return f"answer {number}"


def play(test: Callable[[], Awaitable[None]]) -> None:
    """Run on a loop whose time costs nothing."""

    async def run() -> None:
        await test()

    with asyncio.Runner(loop_factory=Clockwork) as runner:
        runner.run(run())


def start(
    flight: Flight, engine: Engine, number: int, key: str = "key"
) -> list[asyncio.Task[tuple[str, bool]]]:
    return [asyncio.create_task(flight.run(key, engine)) for _ in range(number)]


def test_equal_requests_share_one_call() -> None:
    """A hundred at once are one call; a later one is a new call."""

    async def test() -> None:
        flight, engine = Flight(), Engine()
        answers = await asyncio.gather(*start(flight, engine, 100))
        assert answers == [("answer 1", False), *[("answer 1", True)] * 99]
        assert (engine.calls, flight.shared, len(flight)) == (1, 99, 0)
        assert await flight.run("key", engine) == ("answer 2", False)

    play(test)


def test_other_keys_share_nothing() -> None:
    """Each key has a call of its own."""

    async def test() -> None:
        flight, engine = Flight(), Engine()
        await asyncio.gather(*start(flight, engine, 2, "mine"), *start(flight, engine, 2, "yours"))
        assert engine.calls == 2

    play(test)


def test_when_the_leader_leaves_one_follower_takes_over() -> None:
    """The others follow it; the one who left is cancelled and nobody else."""

    async def test() -> None:
        flight, engine = Flight(), Engine()
        leader, *followers = start(flight, engine, 10)
        await asyncio.sleep(0.5)
        leader.cancel()
        answers = await asyncio.gather(*followers)
        assert sorted(answers) == [("answer 2", False), *[("answer 2", True)] * 8]
        assert leader.cancelled()
        assert (engine.calls, len(flight)) == (2, 0)

    play(test)


def test_leaders_may_leave_one_after_the_other() -> None:
    """As long as one is left, it gets its answer."""

    async def test() -> None:
        flight, engine = Flight(), Engine()
        tasks = start(flight, engine, 10)
        for task in tasks[:9]:
            await asyncio.sleep(0.5)
            task.cancel()
        assert (await tasks[9])[0].startswith("answer")
        assert len(flight) == 0

    play(test)


def test_a_follower_may_leave() -> None:
    """Neither the leader nor the other followers notice."""

    async def test() -> None:
        flight, engine = Flight(), Engine()
        tasks = start(flight, engine, 3)
        await asyncio.sleep(0.5)
        tasks[1].cancel()
        assert await tasks[0] == ("answer 1", False)
        assert await tasks[2] == ("answer 1", True)
        assert tasks[1].cancelled()

    play(test)


def test_a_leaders_fault_is_its_own() -> None:
    """When the leader's call fails, each follower makes its own and gets its own answer."""

    async def test() -> None:
        flight, engine = Flight(), Engine(fault=ValueError("mine"))
        leader, *followers = start(flight, engine, 3)
        with pytest.raises(ValueError, match="mine"):
            await leader
        assert await asyncio.gather(*followers) == [("answer 2", False), ("answer 3", False)]
        assert len(flight) == 0

    play(test)


def test_a_fault_that_nobody_follows_is_no_noise() -> None:
    """A failed call without followers raises to its caller and leaves nothing to complain about."""

    async def test() -> None:
        flight = Flight()
        with pytest.raises(ValueError, match="mine"):
            await flight.run("key", Engine(fault=ValueError("mine")))
        assert len(flight) == 0

    play(test)


def test_a_follower_waits_no_longer_than_told() -> None:
    """A slow leader is left, and the follower calls for itself."""

    async def test() -> None:
        flight, slow, quick = Flight(SingleFlightConfig(wait_s=5.0)), Engine(60.0), Engine()
        (leader,) = start(flight, slow, 1)
        await asyncio.sleep(0)
        begin = asyncio.get_running_loop().time()
        assert await flight.run("key", quick) == ("answer 1", False)
        assert asyncio.get_running_loop().time() - begin == pytest.approx(6.0)
        assert await leader == ("answer 1", False)

    play(test)


def test_flights_are_bounded() -> None:
    """Beyond the bound, requests go alone."""

    async def test() -> None:
        flight, engine = Flight(SingleFlightConfig(flights=2)), Engine()
        tasks = [task for key in "abcd" for task in start(flight, engine, 2, key)]
        await asyncio.sleep(0.5)
        assert len(flight) == 2
        await asyncio.gather(*tasks)
        assert engine.calls == 6

    play(test)


@pytest.mark.parametrize(("wait_s", "flights"), [(0.0, 1), (1.0, 0)])
def test_wrong_knobs_are_named(wait_s: float, flights: int) -> None:
    """A wait or a number of nothing is a mistake."""
    with pytest.raises(ValueError, match="of single-flight must be"):
        SingleFlightConfig(wait_s, flights)
