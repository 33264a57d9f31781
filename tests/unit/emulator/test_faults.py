"""The fault table and who meets which fault."""

import pytest

from emulator.faults import FAULTS, FaultBox, FaultError, Kind, Scope, parse_fault


def _sample(name: str, kind: Kind) -> str:
    if not kind.argument or kind.default is not None:
        return name
    return f"{name}=3"


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_of_the_table_can_be_armed_and_is_described(name: str) -> None:
    """Each line has a sentence and parses with its argument."""
    kind = FAULTS[name]
    assert kind.summary
    fault = parse_fault(_sample(name, kind))
    assert fault.name == name
    assert bool(fault.arg) == bool(kind.argument)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "no fault 'nonsense'"),
        ("status", "needs an argument"),
        ("status=x", "needs a number"),
        ("crlf=1", "takes no argument"),
        ("error_first=odd", "knows the types"),
        ("cut_bytes=3:odd", "ends with one of"),
        ("delay=-1", "at least 0"),
    ],
)
def test_a_bad_fault_is_refused_with_a_sentence(text: str, words: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(FaultError, match=words):
        parse_fault(text)


def test_counted_faults_strike_so_often() -> None:
    """Twice armed, two requests meet it."""
    box = FaultBox()
    box.arm(parse_fault("status=503", times=2))
    met = ["status" in box.take("/generate", Scope.GENERATE, b"", reused=False) for _ in range(4)]
    assert met == [True, True, False, False]
    assert box.struck == {"status": 2}


def test_a_marker_picks_the_request_even_when_escaped() -> None:
    """The marker is found as it is or as JSON escapes."""
    box = FaultBox()
    box.arm(parse_fault("html", marker="שלום"))
    for body, met in ((b"other", False), ("שלום".encode(), True), (rb'"\u05e9\u05dc\u05d5\u05dd"', True)):
        assert ("html" in box.take("/generate", Scope.GENERATE, body, reused=False)) is met


def test_faults_keep_to_their_routes() -> None:
    """A generation fault spares /health unless the route says so."""
    box = FaultBox()
    box.arm(parse_fault("status=500"))
    assert not box.take("/health", Scope.HEALTH, b"", reused=False)
    box.arm(parse_fault("status=500", route="/health"))
    assert box.take("/health", Scope.HEALTH, b"", reused=False)


def test_reused_connections_only() -> None:
    """`reset_if_reused` waits for a reused connection."""
    box = FaultBox()
    box.arm(parse_fault("reset_if_reused", times=1))
    assert not box.take("/generate", Scope.GENERATE, b"", reused=False)
    assert box.take("/generate", Scope.GENERATE, b"", reused=True)


def test_clear_spares_the_permanent_ones() -> None:
    """Those given by flag stay."""
    box = FaultBox((parse_fault("crlf"),))
    box.arm(parse_fault("html"))
    box.clear()
    assert [fault["fault"] for fault in box.armed()] == ["crlf"]
