"""Who is in a pool after a change: who stays is the same object, who goes is let finish."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pointsman.membership import Change, arrange, entry_seat, seat_of, wanted
from pointsman.model import ReplicaConfig
from pointsman.orders import Addition, Orders, Seat
from pointsman.replica import Endpoint, Engine, Networks, Replica

NETWORKS: Networks = (ip_network("10.0.0.0/8"),)


def entry(port: int, **more: Any) -> ReplicaConfig:
    plain = ReplicaConfig(Endpoint("http", "10.0.0.1", port), Engine.VLLM)
    return replace(plain, **more)


class Pool:
    """A pool with what is about to leave it."""

    def __init__(self, *ports: int) -> None:
        self.replicas: list[Replica] = []
        self.retiring: list[Replica] = []
        self.named = 0
        self.become(*[entry(port) for port in ports])

    def become(self, *entries: ReplicaConfig) -> Change:
        return arrange("m", self.replicas, entries, self.retiring, self.name)

    def name(self, seat: Seat) -> str:
        self.named += 1
        return f"m-{self.named - 1}"

    @property
    def ports(self) -> list[int]:
        return [replica.endpoint.port for replica in self.replicas]


def test_who_stays_is_the_same_object_with_its_counters() -> None:
    """Whatever else changes around it, in whatever order they are listed."""
    pool = Pool(1, 2, 3)
    kept = pool.replicas[1]
    kept.in_flight = 7
    change = pool.become(entry(4), entry(2))
    assert pool.replicas[1] is kept
    assert (kept.in_flight, kept.draining) == (7, False)
    assert pool.ports == [4, 2]
    assert [one.endpoint.port for one in change.added] == [4]
    assert [one.endpoint.port for one in change.removed] == [1, 3]


def test_the_list_itself_stays() -> None:
    """A call that runs looks at the pool that it began with."""
    pool = Pool(1)
    held = pool.replicas
    pool.become(entry(2))
    assert held is pool.replicas
    assert pool.ports == [2]


def test_who_goes_takes_no_new_work() -> None:
    """It is draining, and held until its calls have ended."""
    pool = Pool(1)
    gone = pool.replicas[0]
    pool.become()
    assert gone.draining
    assert not gone.usable
    assert pool.retiring == [gone]


def test_who_comes_back_meanwhile_is_the_one_that_was_about_to_go() -> None:
    """With its counters; nobody waits for its end any more."""
    pool = Pool(1)
    gone = pool.replicas[0]
    gone.in_flight = 2
    pool.become()
    change = pool.become(entry(1))
    assert pool.replicas == [gone]
    assert pool.retiring == []
    assert change.added == [gone]


def test_weight_slots_and_key_change_in_place() -> None:
    """Another key means other connections; another weight does not."""
    pool = Pool(1, 2)
    first, second = pool.replicas
    change = pool.become(entry(1, weight=5, max_in_flight=3), entry(2, key="k"))
    assert pool.replicas == [first, second]
    assert (first.weight, first.max_in_flight, first.slots) == (5, 3, 3)
    assert second.key == "k"
    assert (change.added, change.removed, change.rekeyed) == ([], [], [second])


def test_another_engine_or_served_name_is_another_replica() -> None:
    """Even at the same address."""
    pool = Pool(1)
    old = pool.replicas[0]
    for other in (entry(1, engine=Engine.TGI), entry(1, served_name="n")):
        pool.become(other)
        assert pool.replicas[0] is not old
        assert old.draining
        pool.become(entry(1))
        assert pool.replicas[0] is old


def test_operators_orders_count_beside_the_settings() -> None:
    """Who was removed is not wanted, who was added is, and only in its own model."""
    configured = [entry(1), entry(2)]
    added = Addition(Seat("m", "http://10.0.0.9:1", "tgi"), weight=4, key="k")
    other = Addition(Seat("n", "http://10.0.0.9:2", "tgi"))
    orders = Orders().removing(entry_seat("m", configured[0]), configured=True)
    orders = orders.adding(added, configured=False).adding(other, configured=False)
    found = wanted("m", configured, orders, NETWORKS)
    assert [one.endpoint.url for one in found] == ["http://10.0.0.1:2", "http://10.0.0.9:1"]
    assert (found[1].engine, found[1].weight, found[1].key, found[1].networks) == (
        Engine.TGI,
        4,
        "k",
        NETWORKS,
    )


def test_an_added_replica_that_the_settings_hold_by_now_is_there_once() -> None:
    """As the settings have it, with no restriction of where it may be."""
    orders = Orders().adding(Addition(entry_seat("m", entry(1))), configured=False)
    found = wanted("m", [entry(1)], orders, NETWORKS)
    assert [one.networks for one in found] == [None]


@given(st.lists(st.lists(st.integers(1, 9), unique=True), max_size=6))
def test_after_any_changes_the_pool_is_what_is_wanted(steps: list[list[int]]) -> None:
    """In that order; nobody is lost, twice there, or both in the pool and about to go."""
    pool = Pool()
    for ports in steps:
        pool.become(*[entry(port) for port in ports])
        assert pool.ports == ports
        seats = [seat_of(one) for one in (*pool.replicas, *pool.retiring)]
        assert len(set(seats)) == len(seats)
        assert all(one.draining for one in pool.retiring)
