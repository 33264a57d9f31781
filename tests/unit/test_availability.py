"""The share of the time in which somebody could answer."""

from pointsman.availability import Availability


def test_share_of_the_time_since_the_first_check() -> None:
    """Up for 90 of 100 seconds is 90 %, whenever it is asked."""
    availability = Availability()
    assert availability.percent(5.0) == 0.0
    availability.note(True, 10.0)
    assert availability.percent(10.0) == 100.0
    availability.note(True, 20.0)
    availability.note(False, 60.0)
    assert availability.percent(60.0) == 100.0
    availability.note(True, 70.0)
    assert availability.percent(110.0) == 90.0


def test_down_from_the_start() -> None:
    """What never came up is 0 %."""
    availability = Availability()
    availability.note(False, 1.0)
    assert (availability.percent(1.0), availability.percent(9.0)) == (0.0, 0.0)
