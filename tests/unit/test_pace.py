"""How long a client may take, by a clock of the test's own."""

from collections.abc import Callable
from typing import Any

import pytest

from pointsman.front import FrontConfig
from pointsman.pace import LEAST_BYTES_PER_S, Pace, Phase

CONFIG = FrontConfig(head_s=10.0, body_s=30.0, send_s=20.0, keep_alive_s=95.0)


class Handle:
    """A timer."""

    def __init__(self, due: float, ring: Callable[[], None]) -> None:
        self.due = due
        self.ring = ring
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, due: float, ring: Callable[[], None]) -> Any:
        self.timers.append(Handle(due, ring))
        return self.timers[-1]

    @property
    def set(self) -> list[Handle]:
        return [timer for timer in self.timers if not timer.cancelled]

    def run(self, seconds: float) -> None:
        """Let time pass; timers ring when they are due."""
        end = self.now + seconds
        while due := [timer for timer in self.set if timer.due <= end]:
            timer = min(due, key=lambda one: one.due)
            self.timers.remove(timer)
            self.now = timer.due
            timer.ring()
        self.now = end


class Connection:
    """Remembers what was overdue, and when."""

    def __init__(self, loop: Loop) -> None:
        self.taken_bytes = 0
        self.holds_back = False
        self.unsent_bytes = 0
        self.late: list[tuple[Phase, float]] = []
        self._loop = loop

    def overdue(self, phase: Phase) -> None:
        self.late.append((phase, self._loop.now - 1000.0))


class Watched:
    """A pace with its fakes."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.connection = Connection(self.loop)
        loop: Any = self.loop
        self.pace = Pace(loop, CONFIG, self.connection)

    @property
    def late(self) -> list[tuple[Phase, float]]:
        return self.connection.late


@pytest.mark.parametrize(
    ("phase", "seconds"),
    [(Phase.NEW, 10), (Phase.HEAD, 10), (Phase.BODY, 30), (Phase.READER, 20), (Phase.IDLE, 95)],
)
def test_each_phase_has_its_time(phase: Phase, seconds: float) -> None:
    """Who does nothing is overdue after it, not before, and once only."""
    watched = Watched()
    watched.pace.expect(phase)
    watched.loop.run(seconds - 0.1)
    assert watched.late == []
    watched.loop.run(1000)
    assert watched.late == [(phase, seconds)]


def test_a_request_on_its_way_is_not_hurried() -> None:
    """While the client has nothing to do no time passes for it, and no timer stays set."""
    watched = Watched()
    watched.pace.expect(Phase.NEW)
    watched.pace.phase = Phase.BUSY
    watched.loop.run(10_000)
    assert (watched.late, watched.loop.set) == ([], [])


def test_many_requests_share_one_timer() -> None:
    """A thousand answers in 90 s set no timer but the first; idleness counts from the last."""
    watched = Watched()
    watched.pace.idle()
    for _ in range(1000):
        watched.pace.phase = Phase.BUSY
        watched.loop.run(0.09)
        watched.pace.idle()
        assert len(watched.loop.set) == 1
    assert watched.loop.set[0].due == 1095
    watched.loop.run(94.9)
    assert watched.late == []
    watched.loop.run(0.2)
    ((phase, after_s),) = watched.late
    assert (phase, round(after_s, 6)) == (Phase.IDLE, 185)


def test_a_shorter_time_is_not_hidden_by_a_longer_one() -> None:
    """A head that begins on an idle connection has its 10 s, though the timer was set to later."""
    watched = Watched()
    watched.pace.idle()
    watched.loop.run(50)
    watched.pace.expect(Phase.HEAD)
    watched.loop.run(100)
    assert watched.late == [(Phase.HEAD, 60)]
    assert watched.loop.set == []


def test_a_large_body_may_take_long_while_it_keeps_coming() -> None:
    """Each stretch needs its bytes, however many came before: a burst buys no time."""
    watched = Watched()
    watched.connection.taken_bytes = 1000
    watched.pace.expect(Phase.BODY)
    for _ in range(5):
        watched.connection.taken_bytes += 30 * LEAST_BYTES_PER_S
        watched.loop.run(30)
    assert watched.late == []
    watched.connection.taken_bytes += 30 * LEAST_BYTES_PER_S - 1
    watched.loop.run(30)
    assert watched.late == [(Phase.BODY, 180)]


def test_a_body_that_we_do_not_take_is_not_late() -> None:
    """Time during which we read nothing is not the client's."""
    watched = Watched()
    watched.pace.expect(Phase.BODY)
    watched.connection.holds_back = True
    watched.loop.run(100)
    watched.connection.holds_back = False
    assert watched.late == []
    watched.loop.run(50)
    assert watched.late == [(Phase.BODY, 120)]


def test_a_slow_reader_may_take_long_while_it_reads() -> None:
    """As with bodies, the other way about."""
    watched = Watched()
    watched.connection.unsent_bytes = 1 << 20
    watched.pace.expect(Phase.READER)
    for _ in range(3):
        watched.connection.unsent_bytes -= 20 * LEAST_BYTES_PER_S
        watched.loop.run(20)
    assert watched.late == []
    watched.loop.run(20)
    assert watched.late == [(Phase.READER, 80)]


def test_nothing_rings_once_the_connection_is_gone() -> None:
    """The timer goes with it."""
    watched = Watched()
    watched.pace.expect(Phase.HEAD)
    watched.pace.stop()
    watched.pace.stop()
    assert watched.loop.set == []
