"""The line for a model's slots: whose turn it is, who has to go, and what those are told."""

import math
from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.waiting import WEIGHTS, Line, Priority, Waiter, retry_after_s

HIGH, NORMAL, LOW = Priority
PATIENCE_S = 5.0


class One(Waiter):
    """A waiter with a name."""

    def __init__(self, name: str, priority: Priority = NORMAL, since: float = 0.0) -> None:
        super().__init__(name[0], priority, since)
        self.name = name

    def __repr__(self) -> str:
        return self.name


def line_of(*names: str, priority: Priority = NORMAL) -> Line[One]:
    """A line in which these wait: `a1` is the party a's. They came at one a second."""
    line: Line[One] = Line(PATIENCE_S)
    for number, name in enumerate(names):
        line.join(One(name, priority, float(number)))
    return line


def names(waiters: Iterable[One]) -> list[str]:
    return [one.name for one in waiters]


def served(line: Line[One], count: int, now: float = 0.0) -> list[str]:
    """Hand out so many slots, one after the other."""
    found = []
    for _ in range(count):
        one = next(line.order(now))
        line.serve(one)
        found.append(one.name)
    return found


# --- whose turn it is


def test_one_party_is_served_first_come_first_served() -> None:
    """With nobody else there is nothing to share."""
    assert served(line_of("a1", "a2", "a3"), 3) == ["a1", "a2", "a3"]


def test_parties_take_turns_whatever_each_has_waiting() -> None:
    """Who has many waiting holds up nobody; a party's own keep their order."""
    line = line_of("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert served(line, 7) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_who_comes_again_at_once_waits_for_the_others() -> None:
    """A party whose only call was served does not come before those who had no turn since."""
    line = line_of("a1", "b1", "c1")
    assert served(line, 1) == ["a1"]
    line.join(One("a2"))
    assert served(line, 3) == ["b1", "c1", "a2"]


def test_who_comes_again_does_not_gain_by_it_when_the_newest_go_first() -> None:
    """Its turn is remembered while it has nobody waiting."""
    line = line_of("a1", "b1", "c1")
    late = 100.0
    assert served(line, 1, late) == ["c1"]
    line.join(One("c2", since=late))
    assert served(line, 3, late) == ["b1", "a1", "c2"]


def test_a_party_that_was_away_has_saved_up_no_turns() -> None:
    """It begins with the round that is being served."""
    line = line_of(*[f"a{number}" for number in range(10)], "b1")
    assert served(line, 6)[:3] == ["a0", "b1", "a1"]
    for number in range(5):
        line.join(One(f"b{number + 2}"))
    assert Counter(name[0] for name in served(line, 6)) == {"a": 3, "b": 3}


def test_the_newest_go_first_while_the_oldest_waits_too_long() -> None:
    """It is the age of the oldest that counts, and the order turns back when it is gone."""
    line = line_of("a1", "a2", "a3")  # since 0, 1 and 2
    assert names(line.order(4.9)) == ["a1", "a2", "a3"]
    assert names(line.order(5.0)) == ["a3", "a2", "a1"]
    line.leave(next(line.order(0.0)))
    assert names(line.order(5.0)) == ["a2", "a3"]


def test_parties_take_turns_with_the_newest_first_too() -> None:
    """Of each the newest; the parties' order is that of their newest."""
    line = line_of("a1", "b1", "a2", "a3")
    assert names(line.order(100.0)) == ["a3", "b1", "a2", "a1"]


def test_one_class_waiting_long_does_not_turn_the_others_around() -> None:
    """Low calls wait longer by right."""
    line = line_of("a1", "a2", priority=LOW)
    line.join(One("n1", NORMAL, 99.0))
    line.join(One("n2", NORMAL, 99.5))
    assert names(line.order(100.0)) == ["n1", "a2", "n2", "a1"]


def test_classes_share_by_weight() -> None:
    """Where all wait, and none starves; within a class it is as ever."""
    line: Line[One] = Line(PATIENCE_S)
    for priority in Priority:
        for number in range(100):
            line.join(One(f"{priority.value[0]}{number}", priority))
    got = Counter(name[0] for name in served(line, 2 * sum(WEIGHTS.values())))
    assert got == {"h": 32, "n": 8, "l": 2}


def test_a_class_that_was_away_has_saved_up_no_turns() -> None:
    """High calls that come late do not take all slots for what they missed."""
    line = line_of(*[f"l{number}" for number in range(100)], priority=LOW)
    served(line, 50)
    for number in range(60):
        line.join(One(f"h{number}", HIGH))
    got = Counter(name[0] for name in served(line, 51))
    assert got["l"] in (2, 3)


def test_calls_that_come_one_at_a_time_have_saved_up_no_turns() -> None:
    """A class that is away between its calls has its share as one that waits."""
    line = line_of(*[f"l{number}" for number in range(100)], priority=LOW)
    served(line, 50)
    got: Counter[str] = Counter()
    for number in range(51):
        high = One(f"h{number}", HIGH)
        line.join(high)
        (name,) = served(line, 1)
        got[name[0]] += 1
        if high in line:
            line.leave(high)
    assert got["l"] in (2, 3)


def test_who_leaves_unserved_has_had_no_turn() -> None:
    """Whose call ends while it waits is not passed over for it."""
    line = line_of("a1", "a2", "b1", "b2")
    line.leave(next(line.order(0.0)))
    assert served(line, 3) == ["a2", "b1", "b2"]


def test_who_cannot_use_a_slot_is_passed_over() -> None:
    """And keeps its place for the next."""
    line = line_of("a1", "b1", "b2", "c1")
    second = next(islice(line.order(0.0), 1, None))
    line.serve(second)
    assert served(line, 3) == ["a1", "c1", "b2"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Priority)), min_size=1, max_size=60))
def test_the_order_is_that_of_the_rules(calls: list[tuple[str, Priority]]) -> None:
    """As a plainer reading gives it, while nobody comes or goes."""
    line: Line[One] = Line(PATIENCE_S)
    for number, (party, priority) in enumerate(calls):
        line.join(One(f"{party}{number}", priority))
    assert served(line, len(calls)) == names_in(calls)
    assert len(line) == 0


def test_the_order_that_is_told_counts_the_turns_that_were_had() -> None:
    """Who is a turn ahead has its next one after the others' next, and all take turns from there on."""
    line = line_of("a1", "a2", "a3", "b1", "b2", "b3")
    assert names(line.order(0.0)) == ["a1", "b1", "a2", "b2", "a3", "b3"]
    line.serve(next(islice(line.order(0.0), 1, None)))
    assert names(line.order(0.0)) == ["a1", "a2", "b2", "a3", "b3"]
    line.serve(next(islice(line.order(0.0), 2, None)))
    assert names(line.order(0.0)) == ["a1", "a2", "a3", "b3"]


STEPS = st.tuples(st.sampled_from("abcd"), st.sampled_from(Priority), st.none() | st.integers(0, 3))


@given(st.lists(STEPS, min_size=1, max_size=60), st.sampled_from([0.0, 1000.0]))
def test_the_order_that_is_told_is_the_order_that_comes(
    steps: list[tuple[str, Priority, int | None]], now: float
) -> None:
    """Whoever was served or passed over before: so the place that a client is told is true."""
    line: Line[One] = Line(PATIENCE_S)
    for number, (party, priority, passed_over) in enumerate(steps):
        line.join(One(f"{party}{number}", priority, float(number)))
        if passed_over is not None:
            able = [*islice(line.order(now), passed_over + 1)]
            line.serve(able[-1])
    told = [*line.order(now)]
    assert [line.position(one, now) for one in told] == [*range(1, len(told) + 1)]
    assert served(line, len(told), now) == names(told)
    assert len(line) == 0


def names_in(calls: list[tuple[str, Priority]]) -> list[str]:
    """The order by a plainer reading of the rules."""
    waiting = [(f"{party}{number}", party, priority) for number, (party, priority) in enumerate(calls)]
    passed = dict.fromkeys(Priority, 0.0)
    turns: Counter[tuple[str, Priority]] = Counter()
    order = []
    while waiting:
        there = {priority for _, _, priority in waiting}
        best = min(there, key=lambda one: (passed[one], [*Priority].index(one)))
        mine = [one for one in waiting if one[2] is best]
        first = {party: next(one for one in mine if one[1] == party) for _, party, _ in mine}
        chosen = min(first.values(), key=lambda one: (turns[one[1], best], waiting.index(one)))
        passed[best] += 1 / WEIGHTS[best]
        turns[chosen[1], best] += 1
        order.append(chosen[0])
        waiting.remove(chosen)
    return order


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["join", "leave", "serve"]))))
def test_nobody_is_lost_or_served_twice(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of coming, leaving and being served; the length is that of who is there."""
    line: Line[One] = Line(PATIENCE_S)
    there: dict[str, One] = {}
    for number, (party, step) in enumerate(steps):
        if step == "join":
            one = there[f"{party}{number}"] = One(f"{party}{number}", since=float(number))
            line.join(one)
        elif there:
            one = next(line.order(float(number)))
            del there[one.name]
            (line.leave if step == "leave" else line.serve)(one)
            assert one not in line
            assert line.position(one, 0.0) == 0
        assert len(line) == len(there)
        assert all(one in line for one in there.values())
        assert set(names(line.order(0.0))) == set(there)


def test_what_is_remembered_of_parties_has_a_bound() -> None:
    """A line that is never empty forgets who was there long ago."""
    line = line_of("z1")
    for number in range(2000):
        one = One("a", since=1000.0)
        one.party = f"party {number}"
        line.join(one)
        line.serve(one)
    (kind,) = [kind for kind in line._classes.values() if kind.waiters]
    assert len(kind.served) <= 256


def test_parties_that_leave_unserved_push_nobody_out_of_memory() -> None:
    """What many gave up waiting for is nothing to remember them by."""
    line = line_of("a1", "b1")
    assert served(line, 1) == ["a1"]
    for number in range(2000):
        one = One("c")
        one.party = f"party {number}"
        line.join(one)
        line.leave(one)
    late = 100.0
    line.join(One("a2", since=late))
    assert served(line, 2, late) == ["b1", "a2"]


# --- a full line


def test_the_party_with_most_waiting_gives_way() -> None:
    """Its newest goes; who is as well off as the newcomer does not."""
    line = line_of("a1", "a2", "a3", "b1")
    out = line.displaced(One("c1"), 0.0)
    assert out is not None
    assert out.name == "a3"
    assert line.displaced(One("a4"), 0.0) is None
    assert line.crowds(One("a4"))
    even = line_of("a1", "b1")
    assert even.displaced(One("c1"), 0.0) is None
    assert not even.crowds(One("c1"))


def test_a_party_gives_way_to_one_that_will_have_fewer() -> None:
    """One more than the newcomer's party would have is enough, and as many is not."""
    line = line_of("a1", "a2")
    out = line.displaced(One("b1"), 0.0)
    assert out is not None
    assert out.name == "a2"
    assert line_of("a1", "a2", "b1").displaced(One("b2"), 0.0) is None
    out = line_of("a1", "a2", "a3", "b1").displaced(One("b2"), 0.0)
    assert out is not None
    assert out.name == "a3"


def test_more_than_an_equal_share_crowds() -> None:
    """The newcomer counted; exactly an equal share does not crowd."""
    assert line_of("a1", "b1").crowds(One("a2"))
    assert not line_of("a1", "b1", "b2").crowds(One("a2"))


def test_the_oldest_goes_where_the_newest_are_served_first() -> None:
    """It has the least hope."""
    line = line_of("a1", "a2", "a3", "b1")
    out = line.displaced(One("c1", since=100.0), 100.0)
    assert out is not None
    assert out.name == "a1"


def test_nobody_crowds_alone() -> None:
    """One party that fills the line is no unfair one: all of the model is full."""
    line = line_of("a1", "a2", "a3")
    assert line.displaced(One("a4"), 0.0) is None
    assert not line.crowds(One("a4"))


def test_a_newcomer_of_a_higher_class_takes_the_place_of_a_lower() -> None:
    """And of a lower class none takes that of a higher, as long as that has no more than its share."""
    line = line_of("a1", "a2", priority=LOW)
    out = line.displaced(One("a3", HIGH), 0.0)
    assert out is not None
    assert out.name == "a2"
    assert line_of("a1", "a2", priority=HIGH).displaced(One("a3", LOW), 0.0) is None


@pytest.mark.parametrize("flood", Priority)
def test_no_class_fills_the_line_for_good(flood: Priority) -> None:
    """A full line has room for a few of each class: the shares of room are those of slots."""
    line: Line[One] = Line(PATIENCE_S)
    most = 210
    for number in range(most):
        line.join(One(f"f{number}", flood))
    for number in range(most):
        for priority in Priority:
            newcomer = One(f"n{number}", priority)
            out = line.displaced(newcomer, 0.0)
            if out is not None:
                line.leave(out)
                line.join(newcomer)
            assert len(line) == most
    held = Counter(one.priority for one in line.order(0.0))
    for priority in Priority:
        fair = most * WEIGHTS[priority] / sum(WEIGHTS.values())
        assert math.floor(fair) - 1 <= held[priority] <= math.ceil(fair) + 1


def test_an_empty_line_without_room_takes_nobody() -> None:
    """Where the queue is off, the newcomer is refused, and crowds nobody."""
    line = line_of()
    assert line.displaced(One("a1"), 0.0) is None
    assert not line.crowds(One("a1"))


# --- Retry-After


@pytest.mark.parametrize(
    ("waiting", "slots", "service_s", "told_s"),
    [
        (20, 10, 4.0, 8),
        (21, 10, 4.0, 9),
        (1, 128, 0.01, 1),
        (256, 4, 60.0, 30),
        (20, 10, 0.0, 5),
        (20, 0, 4.0, 5),
    ],
)
def test_retry_after_is_when_the_line_will_be_empty(
    waiting: int, slots: int, service_s: float, told_s: int
) -> None:
    """By the slots there are and what a call takes of late; 1 to 30 s, and 5 where nothing is known."""
    assert retry_after_s(waiting, slots, service_s, 0.0) == told_s


@pytest.mark.parametrize(
    ("service_s", "jitter", "told_s"),
    [(4.0, 0.24, 8), (4.0, 0.25, 9), (4.0, 0.99, 11), (60.0, 0.99, 39)],
)
def test_retry_after_differs_between_clients(service_s: float, jitter: float, told_s: int) -> None:
    """Not all are to come back at once: the longer the wait, the wider they are spread."""
    assert retry_after_s(20, 10, service_s, jitter) == told_s


@given(st.integers(1, 256), st.floats(0.001, 100), st.floats(0, 1, exclude_max=True))
def test_retry_after_is_spread(waiting: int, service_s: float, jitter: float) -> None:
    """By a quarter and two seconds at most, and never less than it would be."""
    least = retry_after_s(waiting, 10, service_s, 0.0)
    told = retry_after_s(waiting, 10, service_s, jitter)
    assert 1 <= least <= told <= least * 1.25 + 2
