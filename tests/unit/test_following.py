"""Orders among several workers: all follow, who comes later too, and who does not is told."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from pointsman import following as following_module
from pointsman.channel import Channel
from pointsman.crew import Crew
from pointsman.errors import CHANGE_UNDER_WAY, NOT_ALL_FOLLOW, SEVERAL_WORKERS, RouterError
from pointsman.events import Events, Kind
from pointsman.following import Following
from pointsman.membership import seat_of
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.orders import Addition, Orders, Seat
from pointsman.registry import Registry
from pointsman.replica import Endpoint, Engine, Networks
from pointsman.retry import RetryConfig
from pointsman.upstream import Pools, UpstreamConfig

pytestmark = pytest.mark.anyio

NETWORKS: Networks = (ip_network("10.0.0.0/8"),)
WHO = "address 127.0.0.1"
NEW = Addition(Seat("m", "http://10.0.0.9:81", "vllm"), key="engine-key")


class Worker:
    """One worker's part of a router, without the rest."""

    def __init__(self, folder: Path | None, ports: tuple[int, ...] = (1, 2), workers: int | None = 3) -> None:
        self.registry = Registry([self.model(*ports)], RetryConfig())
        self.registry.networks = NETWORKS
        self.events, self.channel, self.changed = Events(), Channel(folder), list[str]()
        self.crew = Crew(self.registry, Pools(UpstreamConfig()), self.events, self.changed.append)
        self.following = Following(self.registry, self.crew, self.channel, self.events, lambda: workers)

    @staticmethod
    def model(*ports: int) -> ModelConfig:
        pool = tuple(ReplicaConfig(Endpoint("http", "10.0.0.1", port), Engine.VLLM) for port in ports)
        return ModelConfig("m", pool, "m")

    def seat(self, place: int = 0) -> Seat:
        return seat_of(self.registry.models["m"].pool[place])

    def pool(self) -> dict[str, tuple[str, bool]]:
        """Id to address and whether it drains."""
        return {
            one.id: (one.endpoint.url, one.draining)
            for model in self.registry.models.values()
            for one in model.pool
        }


@contextlib.asynccontextmanager
async def begun(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, ports: tuple[int, ...] = (1, 2)
) -> AsyncIterator[Worker]:
    worker = Worker(folder, ports)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: number)
        await worker.channel.open()
    await worker.following.join()
    try:
        yield worker
    finally:
        worker.crew.close()
        await worker.channel.close()


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Worker]]:
    async with begun(tmp_path, 101, monkeypatch) as one, begun(tmp_path, 102, monkeypatch) as two:
        yield [one, two]


async def test_every_worker_follows(both: list[Worker]) -> None:
    """An order at either reaches the other, whole: drain, addition with its key, removal, default model."""
    one, two = both
    (await one.following.order(lambda orders: orders.draining(one.seat()), WHO)).check()
    (await two.following.order(lambda orders: orders.adding(NEW, configured=False), WHO)).check()
    followed = await one.following.order(lambda orders: orders.naming("m"), WHO)
    assert (followed.workers, followed.silent) == (2, {})
    expected = {
        "m-0": ("http://10.0.0.1:1", True),
        "m-1": ("http://10.0.0.1:2", False),
        "m-2": ("http://10.0.0.9:81", False),
    }
    assert one.pool() == two.pool() == expected
    assert [worker.registry.wanted() for worker in both] == ["m", "m"]
    added = two.registry.models["m"].pool[2]
    assert (added.key, added.networks) == ("engine-key", NETWORKS)
    (await two.following.order(lambda orders: orders.removing(NEW.seat, configured=False), WHO)).check()
    assert set(one.pool()) == set(two.pool()) == {"m-0", "m-1"}
    assert both[0].changed == both[1].changed == ["m", "m", "m"]


async def test_both_tell_whose_doing_it_was(both: list[Worker]) -> None:
    """In the events of each."""
    one, two = both
    await one.following.order(lambda orders: orders.draining(one.seat()), WHO)
    await two.following.order(lambda orders: orders.resuming(one.seat()), WHO)
    for worker in both:
        told = [(event.kind, event.what, event.who) for event in worker.events.latest(9)]
        assert told == [
            (Kind.DRAIN, "replica m-0 takes work again", WHO),
            (Kind.DRAIN, "replica m-0 takes no new work", WHO),
        ]


async def test_who_begins_later_takes_over_what_is_known(
    both: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drained, added and removed replicas, the default, and the ids by which the others call them."""
    one = both[0]
    one.registry.renew([Worker.model(2, 3)], RetryConfig())  # its ids differ from a fresh start's by now
    assert set(one.pool()) == {"m-1", "m-2"}
    await one.following.order(lambda orders: orders.adding(NEW, configured=False), WHO)
    await one.following.order(lambda orders: orders.draining(one.seat(0)), WHO)
    await one.following.order(lambda orders: orders.removing(one.seat(1), configured=True), WHO)
    async with begun(tmp_path, 103, monkeypatch, (2, 3)) as late:
        assert late.pool() == one.pool()
        assert late.registry.orders == one.registry.orders
        ids = {seat_of(replica): replica.id for replica in one.registry.replicas}
        late.registry.renew([Worker.model(2, 3, 4)], RetryConfig())
        new = [name for name in late.pool() if name not in ids.values()]
        assert new == ["m-4"], "no id is given twice"


async def test_who_begins_when_all_others_are_gone_knows_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a SIGHUP to the master, which ends the old workers before the new ones serve."""
    async with begun(tmp_path, 101, monkeypatch) as one:
        await one.following.order(lambda orders: orders.adding(NEW, configured=False), WHO)
        await one.following.order(lambda orders: orders.draining(one.seat()), WHO)
        pool = one.pool()
    assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("kept*")] == [0o600]
    async with begun(tmp_path, 102, monkeypatch) as two:
        assert two.pool() == pool
        assert two.registry.models["m"].pool[2].key == "engine-key"


async def test_other_settings_than_the_others_are_told(
    both: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They took a file that was bad when this one began."""
    for worker in both:
        worker.following.edition = "other"
    async with begun(tmp_path, 103, monkeypatch) as late:
        (event,) = late.events.latest(9)
        assert event.kind is Kind.WORKER
        assert "other settings" in event.what


async def test_who_does_not_follow_is_named(both: list[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """The change holds for the others, the answer says how many follow, the next order brings it along."""
    one, two = both
    monkeypatch.setattr(following_module, "_ASK_S", 0.1)
    never = asyncio.Event()
    two.channel.on("order", lambda content: never.wait())
    followed = await one.following.order(lambda orders: orders.draining(one.seat()), WHO)
    assert list(followed.silent) == [102]
    with pytest.raises(RouterError, match="1 of 2 worker processes follow") as told:
        followed.check()
    assert told.value.kind is NOT_ALL_FOLLOW
    assert one.pool()["m-0"][1]
    assert not two.pool()["m-0"][1]
    never.set()
    monkeypatch.setattr(following_module, "_ASK_S", 30.0)
    two.following = Following(two.registry, two.crew, two.channel, two.events, lambda: 2)
    (await one.following.order(lambda orders: orders.naming("m"), WHO)).check()
    assert two.pool() == one.pool()


async def test_orders_at_once_are_all_followed(both: list[Worker]) -> None:
    """One after the other, each on top of the one before."""
    one, two = both
    seats = [one.seat(0), one.seat(1)]
    await asyncio.gather(
        one.following.order(lambda orders: orders.draining(seats[0]), WHO),
        two.following.order(lambda orders: orders.draining(seats[1]), WHO),
        one.following.order(lambda orders: orders.naming("m"), WHO),
        two.following.order(lambda orders: orders.adding(NEW, configured=False), WHO),
    )
    assert one.registry.orders == two.registry.orders
    assert one.registry.orders.version == 4
    assert set(one.registry.orders.drained) == set(seats)


async def test_what_is_refused_is_no_order(both: list[Worker]) -> None:
    """An exception while it is written leaves all as it was, and the next one gets through."""
    one, two = both

    def refuse(orders: Orders) -> Orders:
        raise RouterError(NOT_ALL_FOLLOW)

    with pytest.raises(RouterError):
        await one.following.order(refuse, WHO)
    (await two.following.order(lambda orders: orders.naming("m"), WHO)).check()
    assert one.registry.orders.version == 1


async def test_a_change_under_way_is_waited_for_and_then_told(
    both: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever."""
    monkeypatch.setattr("pointsman.channel.LOCK_S", 0.1)
    async with both[1].channel.alone():
        with pytest.raises(RouterError) as told:
            await both[0].following.order(lambda orders: orders.naming("m"), WHO)
    assert told.value.kind is CHANGE_UNDER_WAY


@pytest.mark.parametrize(("workers", "goes"), [(1, True), (2, False), (None, False)])
async def test_without_a_channel_only_one_worker_can_be_told(workers: int | None, goes: bool) -> None:
    """Several would not hear of it."""
    worker = Worker(None, workers=workers)
    if goes:
        (await worker.following.order(lambda orders: orders.naming("m"), WHO)).check()
        assert worker.registry.wanted() == "m"
        return
    with pytest.raises(RouterError) as told:
        await worker.following.order(lambda orders: orders.naming("m"), WHO)
    assert told.value.kind is SEVERAL_WORKERS


async def test_who_goes_is_held_until_its_calls_have_ended(both: list[Worker]) -> None:
    """Then its connections close, and nothing knows it any more."""
    one = both[0]
    gone = one.registry.models["m"].pool[0]
    seat = seat_of(gone)
    gone.in_flight = 1
    pool = one.crew._pools.of(gone)
    await one.following.order(lambda orders: orders.removing(seat, configured=True), WHO)
    await asyncio.sleep(0.25)
    assert gone in one.registry.replicas
    assert not pool._closed
    gone.in_flight = 0
    while gone in one.registry.replicas:
        await asyncio.sleep(0.01)
    assert pool._closed
    assert one.events.latest(1)[0].what == "replica m-0 has finished and is gone"
