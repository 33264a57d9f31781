"""What operators want: one value, whose later version holds all that is wanted."""

from collections.abc import Callable

import msgspec

from pointsman.orders import ENTRIES_MAX, Addition, Orders, Seat

ONE = Seat("m", "http://10.0.0.1:8000", "vllm")
TWO = Seat("m", "http://10.0.0.2:8000", "vllm", "served")


def test_each_order_is_a_later_version() -> None:
    """Whatever is ordered, even twice the same, the version grows by one."""
    orders = Orders()
    steps: list[Callable[[Orders], Orders]] = [
        lambda o: o.draining(ONE),
        lambda o: o.draining(ONE),
        lambda o: o.resuming(ONE),
        lambda o: o.naming("m"),
        lambda o: o.adding(Addition(TWO), configured=False),
        lambda o: o.removing(TWO, configured=False),
    ]
    for number, step in enumerate(steps, 1):
        orders = step(orders)
        assert orders.version == number


def test_a_drain_is_held_once_and_taken_back() -> None:
    """Draining twice is draining; resuming ends it; others stay."""
    orders = Orders().draining(ONE).draining(TWO).draining(ONE)
    assert orders.drained == (TWO, ONE)
    assert orders.resuming(TWO).drained == (ONE,)


def test_an_added_replica_that_is_removed_leaves_nothing_behind() -> None:
    """Neither its entry nor its drain."""
    orders = Orders().adding(Addition(ONE, weight=3), configured=False).draining(ONE)
    assert orders.added == (Addition(ONE, weight=3),)
    gone = orders.removing(ONE, configured=False)
    assert (gone.added, gone.removed, gone.drained) == ((), (), ())


def test_a_configured_replica_that_is_removed_is_remembered_until_it_is_added_again() -> None:
    """The settings would bring it back otherwise; adding it again is no addition."""
    orders = Orders().draining(ONE).removing(ONE, configured=True)
    assert (orders.removed, orders.drained) == ((ONE,), ())
    back = orders.adding(Addition(ONE), configured=True)
    assert (back.added, back.removed) == ((), ())


def test_adding_again_replaces() -> None:
    """The latest weight counts."""
    orders = (
        Orders().adding(Addition(ONE), configured=False).adding(Addition(ONE, weight=9), configured=False)
    )
    assert orders.added == (Addition(ONE, weight=9),)


def test_it_has_a_bound() -> None:
    """Beyond it no more is taken."""
    seats = tuple(Seat("m", f"http://10.0.0.1:{port}", "tgi") for port in range(1, ENTRIES_MAX + 1))
    assert not msgspec.structs.replace(Orders(), drained=seats[1:]).full
    assert msgspec.structs.replace(Orders(), drained=seats).full


def test_it_travels_as_json_and_shows_no_key() -> None:
    """What another worker reads is equal, key and all; what is printed has no key."""
    orders = Orders().adding(Addition(TWO, key="secret-of-engine"), configured=False).naming("m")
    assert msgspec.json.decode(msgspec.json.encode(orders), type=Orders) == orders
    assert "secret-of-engine" not in repr(orders)
