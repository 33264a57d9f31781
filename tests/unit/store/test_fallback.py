"""Limits where nothing is shared: each worker's part of them, and that it is said."""

import pytest

from pointsman.gcra import Rate
from pointsman.store.base import Ask, Granted, Hold, Once, Take, Unavailable
from pointsman.store.fallback import Local, Share
from pointsman.store.memory import MemoryStore

pytestmark = pytest.mark.anyio


class Shared(MemoryStore):
    """A shared store that is away while `down` is set."""

    async def settle(self, ask: Ask) -> Granted:
        if self.down is not None:
            raise Unavailable(self.down)
        return await super().settle(ask)


def clock() -> float:
    return 1000.0


def share(workers: int) -> Share:
    return Share(MemoryStore(clock=clock), workers)


async def allowed(limits: Share | Local, take: Take | None = None, hold: Hold | None = None) -> int:
    """How many of a hundred equal asks are allowed; each lease has an id of its own."""
    found = 0
    for number in range(100):
        holds = () if hold is None else (Hold(hold.key, hold.limit, f"{hold.id}{number}", hold.ttl_s),)
        found += (await limits.settle(Ask(() if take is None else (take,), holds))).allowed
    return found


@pytest.mark.parametrize(("workers", "requests", "leases"), [(1, 15, 10), (4, 3, 2), (100, 1, 1)])
async def test_each_worker_has_its_part(workers: int, requests: int, leases: int) -> None:
    """Burst and leases are divided by the workers, rounded down, and never nothing."""
    assert await allowed(share(workers), take=Take("key", Rate(10, 15))) == requests
    assert await allowed(share(workers), hold=Hold("key", 10, "id", 60.0)) == leases


async def test_the_rate_is_divided_too() -> None:
    """Four workers refill a fourth as fast each."""
    part = share(4)
    await allowed(part, take=Take("key", Rate(60, 4)))
    assert (await part.settle(Ask((Take("key", Rate(60, 4)),)))).retry_after_s == 4.0


async def test_differences_are_settled_at_the_part() -> None:
    """What is given back to a share goes into the divided bucket."""
    part, rate = share(2), Rate(60, 20)
    granted = await part.settle(Ask((Take("key", rate, 10.0),)))
    part.give_back(granted, (Take("key", rate, -5.0),))
    assert (await part.settle(Ask((Take("key", rate, 0.0),)))).levels[0].remaining == 5


async def test_no_workers_are_a_mistake() -> None:
    """The number of workers is at least 1."""
    with pytest.raises(ValueError, match="workers"):
        share(0)


async def test_the_share_answers_while_the_store_is_away_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each change is one line and a flag; what a share granted is given back to the share."""
    caplog.set_level("INFO", "pointsman.store")
    shared = Shared(clock=clock)
    local, hold = Local(shared, share(2)), Hold("key", 2, "id", 60.0)
    before = await local.settle(Ask(holds=(hold,)))
    assert (before.local, local.local) == (False, False)
    shared.down = "it is away"
    during = await local.settle(Ask(holds=(hold,)))
    assert (during.local, during.allowed, local.local) == (True, True, True)
    assert not (await local.settle(Ask(holds=(Hold("key", 2, "other", 60.0),)))).allowed
    local.give_back(during, holds=(hold,))
    assert (await local.settle(Ask(holds=(Hold("key", 2, "other", 60.0),)))).allowed
    shared.down = None
    assert shared.sizes()["leases"] == 1
    local.give_back(before, holds=(hold,))
    assert shared.sizes()["leases"] == 0
    assert not (await local.settle(Ask())).local
    assert local.local_answers == 3
    assert [record.message for record in caplog.records] == [
        "store: limits are this worker's share, 1 of 2, until the store answers: it is away",
        "store: limits are shared again",
    ]


async def test_the_flag_follows_the_store_and_not_the_asks() -> None:
    """That limits are local is known without a limited request, and so is that they are no more."""
    shared = Shared(clock=clock)
    local = Local(shared, share(2))
    shared.down = "it is away"
    assert (local.local, local.local_answers) == (True, 0)
    assert (await local.settle(Ask())).local
    shared.down = None
    assert (local.local, local.local_answers) == (False, 1)


async def test_a_nonce_is_never_judged_by_a_share() -> None:
    """Another worker may have seen it: without the store, an ask with a nonce is unavailable."""
    shared = Shared(clock=clock)
    shared.down = "it is away"
    local = Local(shared, share(2))
    with pytest.raises(Unavailable):
        await local.settle(Ask(once=Once("nonce", 60.0)))


async def test_closed_limits_refuse_while_the_store_is_away() -> None:
    """An operator may rather have no answers than unlimited ones."""
    shared = Shared(clock=clock)
    local = Local(shared, share(1), closed=True)
    assert (await local.settle(Ask())).allowed
    shared.down = "it is away"
    with pytest.raises(Unavailable):
        await local.settle(Ask())
    assert local.local
