"""Figures of the last hour and day."""

import pytest

from pointsman import attempt
from pointsman.attempt import End
from pointsman.exchange import Exchange
from pointsman.recent import DAY_S, Figures, Recent


def exchange(ended_at: float, took_s: float = 1.0, status: int = 200, end: End = attempt.OK) -> Exchange:
    return Exchange("id", "/r", "POST", ended_at - took_s, status=status, end=end, ended_at=ended_at)


def test_requests_of_a_day_and_of_an_hour() -> None:
    """What is older than the window does not count."""
    recent = Recent()
    for ended_at in (10.0, 100_000.0 - 3700, 100_000.0 - 60, 100_000.0):
        recent.observe(exchange(ended_at))
    assert recent.figures(100_000.0).requests == 3
    assert recent.figures(100_000.0, 3600).requests == 2
    assert recent.figures(100_000.0 + DAY_S + 60) == Figures()


@pytest.mark.parametrize(
    ("status", "end", "errors"),
    [
        (200, attempt.OK, 0),
        (200, attempt.TRUNCATED, 1),
        (502, attempt.MISFIT, 1),
        (503, attempt.NO_ENDPOINT, 1),
        (400, attempt.REJECTED, 0),
        (499, attempt.CLIENT_ABORT, 0),
    ],
)
def test_what_the_client_is_not_to_blame_for_is_an_error(status: int, end: End, errors: int) -> None:
    """A stream that broke off is one too, whatever its status was."""
    recent = Recent()
    recent.observe(exchange(50.0, status=status, end=end))
    assert recent.figures(50.0).errors == errors


def test_rates_and_means() -> None:
    """Errors do not count for the mean time, and nothing at all is 0."""
    recent = Recent()
    for took_s, status in ((1.0, 200), (3.0, 200), (90.0, 503), (0.0, 502)):
        recent.observe(exchange(120.0, took_s, status))
    figures = recent.figures(120.0)
    assert (figures.error_rate, figures.mean_s) == (0.5, 2.0)
    assert (Figures().error_rate, Figures().mean_s) == (0.0, 0.0)


def test_memory_is_bounded() -> None:
    """Ten thousand requests over a week leave the ring as it was, with the last day in it."""
    recent = Recent()
    size = len(recent._ring)
    for number in range(10_000):
        recent.observe(exchange(number * 60.0))
    assert len(recent._ring) == size
    assert recent.figures(9_999 * 60.0).requests == DAY_S // 60
