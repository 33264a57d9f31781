"""The log of events: bounded, counted, the youngest first."""

from pointsman.events import ENTRIES_MAX, Events, Kind


def test_the_youngest_come_first() -> None:
    """With when, what and who."""
    now = iter([1_700_000_000.5, 1_700_000_001.0])
    events = Events(lambda: next(now))
    events.note(Kind.RELOAD, "reloaded")
    events.note(Kind.ADMIN, "default model: ok", "address 10.0.0.1")
    assert [event.view() for event in events.latest(5)] == [
        {
            "time": "2023-11-14T22:13:21.000Z",
            "kind": "admin",
            "what": "default model: ok",
            "who": "address 10.0.0.1",
        },
        {"time": "2023-11-14T22:13:20.500Z", "kind": "reload", "what": "reloaded", "who": "router"},
    ]


def test_it_has_a_bound() -> None:
    """The oldest go; the counts know of all."""
    events = Events()
    for number in range(ENTRIES_MAX + 7):
        events.note(Kind.REPLICA, str(number))
    assert len(events) == ENTRIES_MAX
    assert events.counts[Kind.REPLICA] == ENTRIES_MAX + 7
    assert [event.what for event in events.latest(2)] == [str(ENTRIES_MAX + 6), str(ENTRIES_MAX + 5)]
    assert len(events.latest(10**6)) == ENTRIES_MAX
    assert events.latest(0) == []
