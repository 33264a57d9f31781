"""How many clients may be connected at once."""

import logging

import pytest

from pointsman.door import Door, is_health_check


@pytest.mark.parametrize(
    ("most", "told", "closed"), [(1, 2, 10), (100, 101, 113), (4096, 4097, 4609)], ids=str
)
def test_whom_the_door_takes(most: int, told: int, closed: int) -> None:
    """So many as it may; an eighth more, and no fewer than eight, are told; others are closed."""
    door = Door(most)
    assert [door.crowded(told - 1), door.crowded(told), door.crowded(closed)] == [False, True, True]
    assert [door.shut(told), door.shut(closed - 1), door.shut(closed)] == [False, False, True]


def test_who_is_turned_away_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """503 that may be tried again; a line in the log at most each 10 s, with the number."""
    door = Door(2)
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0, 2.0, 9.9, 10.0):
            refused = door.refuse(now)
    assert (refused.kind.status, refused.kind.retryable, refused.retry_after_s) == (503, True, 1)
    assert door.refused == 5
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "turned away 1, 1 so far",
        "turned away 4, 5 so far",
    ]
    assert "MAX_CONNECTIONS" in caplog.text


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"GET /live HTTP/1.1\r\n", True),
        (b"HEAD /ready HTTP/1.1\r\n", True),
        (b"GET /health?x=1 HTTP/1.1\r\n", True),
        (b"GET /healthy HTTP/1.1\r\n", False),
        (b"POST /live HTTP/1.1\r\n", False),
        (b"GET /v1/models HTTP/1.1\r\n", False),
        (b"G", False),
    ],
)
def test_what_is_a_health_check(data: bytes, found: bool) -> None:
    """The three paths that supervisors ask, and nothing else."""
    assert is_health_check(data) is found
