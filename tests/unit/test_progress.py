"""When an engine that has calls does nothing with them."""

import pytest

from pointsman.progress import Progress, ProgressConfig, is_stuck, observe, quiet_s
from pointsman.replica import Endpoint, Engine, Replica

CONFIG = ProgressConfig(wedged_after_s=30.0)


def made(*, in_flight: int = 1, heard_at: float = 0.0, busy_since: float = 1000.0) -> Replica:
    replica = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80))
    replica.in_flight, replica.heard_at, replica.busy_since = in_flight, heard_at, busy_since
    return replica


def test_a_figure_is_kept_with_when_it_was_seen_first() -> None:
    """It counts anew when it changes, as after a restart; an engine that does not tell has none."""
    first = observe(Progress(), 7.0, 1000.0)
    assert first == Progress(7.0, 1000.0)
    assert observe(first, 7.0, 1005.0) is first
    assert observe(first, 8.0, 1005.0) == Progress(8.0, 1005.0)
    assert observe(first, 0.0, 1005.0) == Progress(0.0, 1005.0)
    assert observe(first, None, 1005.0) == Progress()


@pytest.mark.parametrize(
    ("replica", "quiet"),
    [
        (made(in_flight=0), 0.0),
        (made(), 40.0),
        (made(heard_at=1030.0), 10.0),
        (made(heard_at=500.0, busy_since=1035.0), 5.0),
        (made(heard_at=1041.0), 0.0),
    ],
)
def test_quiet_is_a_time_with_calls_and_without_bytes(replica: Replica, quiet: float) -> None:
    """It begins with the last byte, or with the first call where nothing ran before."""
    assert quiet_s(replica, 1040.0) == quiet


@pytest.mark.parametrize(
    ("replica", "progress", "now", "stuck"),
    [
        (made(), Progress(7.0, 1000.0), 1029.9, False),
        (made(), Progress(7.0, 1000.0), 1030.0, True),
        (made(), Progress(7.0, 1005.0), 1030.0, False),
        (made(), Progress(7.0, 1005.0), 1035.0, True),
        (made(heard_at=1010.0), Progress(7.0, 1005.0), 1039.0, False),
        (made(heard_at=1010.0), Progress(7.0, 1005.0), 1040.0, True),
        (made(in_flight=0), Progress(7.0, 1000.0), 1999.0, False),
        (made(), Progress(), 1999.0, False),
    ],
)
def test_stuck_is_who_neither_answers_nor_counts(
    replica: Replica, progress: Progress, now: float, *, stuck: bool
) -> None:
    """Both for the whole time; idle engines and those without counters are never stuck."""
    assert is_stuck(replica, progress, now, CONFIG) == stuck


def test_nobody_looks_where_nobody_wants_it() -> None:
    """0 turns it off."""
    assert not is_stuck(made(), Progress(7.0, 0.0), 9999.0, ProgressConfig(wedged_after_s=0.0))


@pytest.mark.parametrize("knob", ["wedged_after_s", "deep_probe_s"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_bad_knob_is_named(knob: str, value: float) -> None:
    """A value that cannot work is refused with a sentence that names the knob."""
    with pytest.raises(ValueError, match=knob):
        ProgressConfig(**{knob: value})
