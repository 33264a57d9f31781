"""`X-Request-Timeout`: what counts as seconds, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import patience
from pointsman.errors import RouterError


def read(*values: bytes) -> float | None:
    return patience.read([(b"host", b"x"), *((patience.HEADER, value) for value in values)])


def test_who_does_not_say_is_not_hurried() -> None:
    """Without the header our own limits hold."""
    assert read() is None


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"30", 30.0),
        (b"2.5", 2.5),
        (b"0.05", 0.05),
        (b"0000.000000001", 1e-9),
        (b"86400", 86400.0),
        (b"30 \t", 30.0),
    ],
)
def test_seconds_may_have_decimals(sent: bytes, seconds: float) -> None:
    """Up to a day."""
    assert read(sent) == seconds


@pytest.mark.parametrize(
    "sent",
    [
        *(b"", b" ", b"0", b"0.0", b"-1", b"+1", b"86400.1", b"86401", b"9999999", b"1e3", b"nan", b"NaN"),
        *(b"inf", b"Infinity", b"1_0", b"1,5", b"1, 2", b".5", b"5.", b"0x10", b"10s", b"ten", b"1 0"),
        *("\u0663".encode(), b"\xff", b"1\x00", b"9" * 400),
    ],
)
def test_what_is_no_time_is_refused_by_name(sent: bytes) -> None:
    """With 400 wherever it is sent, and the header's name."""
    with pytest.raises(RouterError) as caught:
        read(sent)
    assert (caught.value.status, caught.value.kind.code) == (400, "bad_request")
    assert caught.value.param == "X-Request-Timeout"
    assert "`X-Request-Timeout` must be seconds" in caught.value.message


def test_a_header_that_comes_twice_is_no_time() -> None:
    """Nobody could say which counts."""
    with pytest.raises(RouterError):
        read(b"10", b"10")


@given(st.binary(max_size=20))
def test_nothing_else_happens_to_any_bytes(sent: bytes) -> None:
    """Each value is a time within the bounds, or refused."""
    try:
        seconds = read(sent)
    except RouterError:
        return
    assert seconds is not None
    assert 0 < seconds <= patience.LONGEST_S
