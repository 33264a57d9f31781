"""One connection to an engine, fed by hand: what is an answer, what is junk, and what may be used again."""

import asyncio
from collections.abc import Iterator

import pytest

from pointsman.connection import HEAD_MAX_BYTES, HIGH_WATER_BYTES, Broken, Connection

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Late: 1\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def asked(loop: asyncio.AbstractEventLoop) -> tuple[Connection, Wire]:
    """A connection that has sent a request."""
    connection, wire = Connection(loop), Wire()
    connection.connection_made(wire)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    return connection, wire


def read_all(loop: asyncio.AbstractEventLoop, connection: Connection) -> tuple[int, bytes]:
    async def read() -> tuple[int, bytes]:
        head = await connection.head()
        body = b""
        while block := await connection.read():
            body += block
        return head.status, body

    return loop.run_until_complete(asyncio.wait_for(read(), 5))


@pytest.mark.parametrize("answer", [_OK, _CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_is_read_however_it_is_cut(
    loop: asyncio.AbstractEventLoop, answer: bytes, size: int
) -> None:
    """Segments make no difference, and a whole answer leaves the connection good for another."""
    connection, _ = asked(loop)
    for start in range(0, len(answer), size):
        connection.data_received(answer[start : start + size])
    assert read_all(loop, connection) == (200, b"hello")
    assert connection.reusable
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    connection.data_received(_OK)
    assert read_all(loop, connection) == (200, b"hello")
    assert connection.served == 2


def test_interim_answers_are_skipped(loop: asyncio.AbstractEventLoop) -> None:
    """Any number of 1xx comes before the answer and is none."""
    connection, _ = asked(loop)
    connection.data_received(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + _OK
    )
    assert read_all(loop, connection) == (200, b"hello")


def test_trailers_are_no_headers(loop: asyncio.AbstractEventLoop) -> None:
    """What comes after a chunked body is not looked at."""
    connection, _ = asked(loop)
    connection.data_received(_CHUNKED)
    head = loop.run_until_complete(connection.head())
    assert b"x-late" not in head.headers


JUNK = {
    "no HTTP": b"SSH-2.0-x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    "length and coding": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * (3 * HEAD_MAX_BYTES),
    "headers too large": b"HTTP/1.1 200 OK\r\n" + b"x: yyyyyyy\r\n" * 4000 + b"\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
}


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("size", [700, 1 << 20])
def test_nonsense_closes_the_connection(loop: asyncio.AbstractEventLoop, name: str, size: int) -> None:
    """It is told apart from an end, and the connection is closed at once."""
    connection, wire = asked(loop)
    for start in range(0, len(JUNK[name]), size):
        connection.data_received(JUNK[name][start : start + size])
    with pytest.raises(Broken) as raised:
        loop.run_until_complete(asyncio.wait_for(connection.head(), 5))
    assert raised.value.junk
    assert wire.aborted


def test_a_second_answer_does_not_mix_with_the_first(loop: asyncio.AbstractEventLoop) -> None:
    """Bytes beyond the answer are dropped with the connection; the answer itself stands."""
    connection, wire = asked(loop)
    connection.data_received(_OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    assert read_all(loop, connection) == (200, b"hello")
    assert not connection.reusable
    assert wire.aborted


def test_bytes_on_an_idle_connection_close_it(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody asked, so it is no answer, least of all to the next request."""
    connection, wire = asked(loop)
    connection.data_received(_OK)
    read_all(loop, connection)
    connection.data_received(_OK)
    assert wire.aborted
    with pytest.raises(Broken):
        connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")


def test_an_end_tells_how_far_the_answer_had_come(loop: asyncio.AbstractEventLoop) -> None:
    """Silent or not, reused or not: the rules for another attempt ask it."""
    for before, received, silent, reused in (
        (b"", b"", True, False),
        (b"", _OK[:30], False, False),
        (_OK, b"", True, True),
        (_OK, _OK[:-1], False, True),
    ):
        connection, _ = asked(loop)
        if before:
            connection.data_received(before)
            read_all(loop, connection)
            connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
        if received:
            connection.data_received(received)
        connection.connection_lost(None)
        with pytest.raises(Broken) as raised:
            read_all(loop, connection)
        told = (raised.value.junk, raised.value.silent, raised.value.reused)
        assert told == (False, silent, reused)


def test_a_body_without_length_ends_with_the_connection(loop: asyncio.AbstractEventLoop) -> None:
    """A proper end makes it whole; a reset does not."""
    for error, whole in ((None, True), (ConnectionResetError(), False)):
        connection, _ = asked(loop)
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhel")
        connection.data_received(b"lo")
        connection.connection_lost(error)
        if whole:
            assert read_all(loop, connection) == (200, b"hello")
            assert not connection.reusable
        else:
            with pytest.raises(Broken):
                read_all(loop, connection)


def test_connection_close_is_believed(loop: asyncio.AbstractEventLoop) -> None:
    """An engine that will close is not asked again."""
    connection, _ = asked(loop)
    connection.data_received(_OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert read_all(loop, connection) == (200, b"hello")
    assert not connection.reusable


def test_an_answer_nobody_reads_stops_coming(loop: asyncio.AbstractEventLoop) -> None:
    """Above the high water mark reading pauses, and goes on once it is read."""
    connection, wire = asked(loop)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
    connection.data_received(b"x" * (HIGH_WATER_BYTES - 100))
    assert not wire.paused
    connection.data_received(b"x" * 101)
    assert wire.paused
    assert len(loop.run_until_complete(connection.read())) == HIGH_WATER_BYTES + 1
    assert not wire.paused


def test_an_unfinished_answer_is_not_followed_by_another(loop: asyncio.AbstractEventLoop) -> None:
    """Neither before its end came nor before it was read."""
    connection, _ = asked(loop)
    connection.data_received(_OK[:-1])
    assert not connection.reusable
    connection.data_received(_OK[-1:])
    assert not connection.reusable
    read_all(loop, connection)
    assert connection.reusable
