"""The corpus of bad input, sent to a router before two engines."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from corpus import CASES, GONE, HIDDEN, MARK, Case
from processes import Emulator, Router
from wire import Client, Incoming, call, check_refusal, request

_SMALL_BYTES = 400  # of what is sent byte by byte


@pytest.fixture(scope="module")
def hurried(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """A router that does not wait for long, and whose log must stay clean."""
    settings = {"REQUEST_HEAD_S": "5", "REQUEST_BODY_S": "5"}
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running
        assert '"level":"ERROR"' not in running.output()


def ask(port: int, case: Case, piece: int = 1 << 20) -> Incoming:
    """Send a case in pieces; the first answer to it."""
    with Client(port) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before the last byte
            for start in range(0, len(case.data), piece):
                client.send(case.data[start : start + piece])
            if case.leaves:
                client.sock.shutdown(socket.SHUT_WR)
        return client.read()


def check(answer: Incoming, case: Case) -> None:
    assert answer.status in case.statuses, f"{answer.status}: {answer.body[:300]!r}"
    if case.code is not None:
        check_refusal(answer, case.statuses[0], case.code)
    elif answer.status != GONE:
        assert answer.ended
        assert answer.header("x-request-id")


def check_nothing_slipped_through(*engines: Emulator) -> None:
    for engine in engines:
        assert MARK.decode() not in str(engine.sent())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_is_answered_as_it_should_be(hurried: Router, tgi: Emulator, vllm: Emulator, case: Case) -> None:
    """Never 5xx, never for ever; and no second request that hides in the first reaches an engine."""
    check(ask(hurried.port, case), case)
    check_nothing_slipped_through(tgi, vllm)
    assert call(hurried.port, request("GET", "/live")).status == 200


# Of those that are refused: where the first request is good and answered soon, the second is one of its own.
BY_BYTES = [case for case in CASES if case.code and len(case.data.removesuffix(HIDDEN)) < _SMALL_BYTES]


@pytest.mark.parametrize("case", BY_BYTES[::3], ids=str)
def test_segments_make_no_difference(hurried: Router, tgi: Emulator, vllm: Emulator, case: Case) -> None:
    """Sent byte by byte it is answered just so."""
    check(ask(hurried.port, case, 1), case)
    check_nothing_slipped_through(tgi, vllm)


@pytest.mark.parametrize(
    "name", ["length and transfer coding", "two Hosts", "a header folded", "a chunk that ends in LF"]
)
def test_no_single_cut_makes_a_difference(hurried: Router, tgi: Emulator, vllm: Emulator, name: str) -> None:
    """In two segments, cut at every byte."""
    (case,) = [case for case in CASES if case.name == name]
    for cut in range(1, len(case.data)):
        with Client(hurried.port) as client:
            client.send(case.data[:cut])
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.send(case.data[cut:])
            check(client.read(), case)
    check_nothing_slipped_through(tgi, vllm)


def test_the_corpus_is_large() -> None:
    """Each case has a name of its own, and all four families are there."""
    assert len({str(case) for case in CASES}) == len(CASES) >= 300
    assert {case.family for case in CASES} == {"front", "headers", "json", "parameters"}
