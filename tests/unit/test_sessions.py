"""Sessions of the last half hour."""

from pointsman.sessions import WINDOW_S, Sessions


def test_a_session_counts_once_and_for_half_an_hour() -> None:
    """Each word in it begins the half hour anew."""
    sessions = Sessions()
    for name, at in (("a", 0.0), ("b", 5.0), ("a", 6.0), ("a", WINDOW_S - 1)):
        sessions.note(name, at)
    assert sessions.active(WINDOW_S - 1) == 2
    assert sessions.active(WINDOW_S + 5) == 1
    assert sessions.active(2 * WINDOW_S - 1) == 0


def test_the_table_is_bounded() -> None:
    """Ten thousand names leave as many as there is room for, the latest ones; any text is a name."""
    sessions = Sessions(most=100)
    for number in range(10_000):
        sessions.note(f"session {number}\n\ud800", float(number) / 1000)
    assert sessions.active(10.0) == 100


def test_no_name_is_kept() -> None:
    """What a client calls its session may be a person's name."""
    sessions = Sessions()
    sessions.note("dana@example.com", 0.0)
    assert "dana" not in repr(vars(sessions))
