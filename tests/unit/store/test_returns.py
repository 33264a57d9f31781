"""What is given back arrives, once, and the leases whatever happens."""

import asyncio

import pytest

from clockwork import Clockwork
from pointsman.gcra import Rate
from pointsman.store.base import Hold, Take, Unavailable
from pointsman.store.returns import BATCH, MOST, Returns

RATE = Rate(60, 10)


class Server:
    """Takes deliveries, or fails the first few."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.takes: list[str] = []
        self.holds: list[str] = []
        self.steps = 0

    async def deliver(self, takes: list[Take], holds: list[Hold]) -> None:
        self.steps += 1
        await asyncio.sleep(0.001)
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.takes += [take.key for take in takes]
        self.holds += [hold.key for hold in holds]

    async def ready(self) -> None:
        """It always is."""


def take(number: int) -> Take:
    return Take(f"take {number}", RATE)


def hold(number: int) -> Hold:
    return Hold(f"hold {number}", 1, "id", 60.0)


@pytest.fixture
def runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=Clockwork)


def test_many_returns_are_few_steps(runner: asyncio.Runner) -> None:
    """Returns that come together are delivered together, in their order, each once."""
    server = Server()

    async def run() -> None:
        returns = Returns(server.deliver, server.ready)
        for number in range(3 * BATCH):
            returns.add((take(number),), (hold(number),))
        await returns.close(60.0)

    with runner:
        runner.run(run())
    assert server.takes == [take(number).key for number in range(3 * BATCH)]
    assert server.holds == [hold(number).key for number in range(3 * BATCH)]
    assert server.steps == 3


def test_a_lease_is_sent_until_it_is_free_and_a_difference_once(runner: asyncio.Runner) -> None:
    """After failures the leases go again; a difference may have arrived and is counted as lost."""
    server = Server(failures=3)

    async def run() -> Returns:
        returns = Returns(server.deliver, server.ready)
        returns.add((take(1),), (hold(1),))
        await returns.close(60.0)
        return returns

    with runner:
        returns = runner.run(run())
    assert (server.takes, server.holds, returns.lost, len(returns)) == ([], ["hold 1"], 1, 0)


def test_a_doubtful_lease_is_freed_after_a_while(runner: asyncio.Runner) -> None:
    """A command that nobody waits for any more may come late; its lease is freed after it could have."""
    server = Server()

    async def run() -> float:
        returns = Returns(server.deliver, server.ready)
        begin = asyncio.get_running_loop().time()
        returns.doubt((hold(1),))
        await returns.close(60.0)
        return asyncio.get_running_loop().time() - begin

    with runner:
        assert runner.run(run()) >= 1.0
    assert server.holds == ["hold 1"]


def test_what_waits_is_bounded(runner: asyncio.Runner) -> None:
    """While nothing can be delivered, the oldest returns are lost, and counted."""
    server = Server()

    async def run() -> Returns:
        returns = Returns(server.deliver, server.ready)
        returns.add((), tuple(hold(number) for number in range(MOST + 5)))
        assert len(returns) == MOST
        await returns.close(0.0)
        return returns

    with runner:
        assert runner.run(run()).lost == 5


def test_closing_waits_no_longer_than_told(runner: asyncio.Runner) -> None:
    """A store that never answers does not hold up the end."""
    server = Server(failures=10_000)

    async def run() -> float:
        returns = Returns(server.deliver, server.ready)
        returns.add((), (hold(1),))
        begin = asyncio.get_running_loop().time()
        await returns.close(5.0)
        return asyncio.get_running_loop().time() - begin

    with runner:
        assert runner.run(run()) == pytest.approx(5.0, abs=0.1)
