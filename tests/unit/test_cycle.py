"""One answer on a connection of ours: its framing, when it leaves, and what ends the connection."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from pointsman.cycle import Cycle

pytestmark = pytest.mark.anyio

JSON = b"content-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


class Wire(asyncio.Transport):
    """A transport that only remembers, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.did: list[str] = []

    @property
    def sent(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return "close" in self.did or "abort" in self.did

    def close(self) -> None:
        self.did.append("close")

    def abort(self) -> None:
        self.did.append("abort")

    def resume_reading(self) -> None:
        self.did.append("resume")


def cycle_on(
    wire: Wire,
    method: str = "GET",
    *,
    version: str = "1.1",
    keep_alive: bool = True,
    waits_for_100: bool = False,
    on_response: Callable[[], None] = lambda: None,
) -> Cycle:
    """A request whose headers have come."""
    cycle = Cycle(
        scope={"type": "http", "method": method, "http_version": version},  # type: ignore[typeddict-item] # all that is read
        transport=wire,
        flow=FlowControl(wire),
        logger=logging.getLogger("uvicorn.error"),
        access_logger=logging.getLogger("unused"),
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=waits_for_100,
        keep_alive=keep_alive,
        on_response=on_response,
    )
    cycle.loop = asyncio.get_running_loop()
    return cycle


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


# --- what is written


async def test_the_head_leaves_with_the_first_bytes() -> None:
    """One write holds both, exactly; the next part goes alone."""
    wire = Wire()
    cycle = cycle_on(wire)
    cycle.begin(200, JSON, 6)
    assert wire.writes == []
    await cycle.put(b"abc", last=False)
    await cycle.put(b"def", last=True)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ndate: now\r\ncontent-length: 6\r\n\r\n"
    assert wire.writes == [head + b"abc", b"def"]


@pytest.mark.parametrize(
    ("method", "status", "length", "framing", "body", "sent"),
    [
        ("POST", 200, 2, b"content-length: 2\r\n", b"{}", b"{}"),
        ("GET", 200, 0, b"content-length: 0\r\n", b"", b""),
        ("POST", 200, None, CHUNKED, b"{}", b"2\r\n{}\r\n0\r\n\r\n"),
        (
            "POST",
            200,
            None,
            b"transfer-encoding: chunked\r\n",
            b"x" * 17,
            b"11\r\n%b\r\n0\r\n\r\n" % (b"x" * 17),
        ),
        ("POST", 500, None, CHUNKED, b"", b"0\r\n\r\n"),
        ("HEAD", 200, 2, b"content-length: 2\r\n", b"{}", b""),
        ("HEAD", 200, None, b"", b"{}", b""),
        ("GET", 204, None, b"", b"", b""),
        ("GET", 304, None, b"", b"", b""),
    ],
)
async def test_framing_fits_method_and_status(
    method: str, status: int, length: int | None, framing: bytes, body: bytes, sent: bytes
) -> None:
    """Length or chunks, never both; neither where no body may follow; and the answer ends there."""
    wire = Wire()
    cycle = cycle_on(wire, method)
    cycle.begin(status, b"", length)
    await cycle.put(body, last=True)
    head, _, rest = wire.sent.partition(b"\r\n\r\n")
    assert head.partition(b"\r\n")[2] + b"\r\n" == b"date: now\r\n" + framing
    assert rest == sent
    assert cycle.response_complete


async def test_an_answer_in_http_1_0_ends_with_its_connection() -> None:
    """That version knows no chunks: a body whose length is not known stands as it is."""
    wire = Wire()
    cycle = cycle_on(wire, version="1.0", keep_alive=False)
    cycle.begin(200, b"", None)
    for part in (b"one ", b"", b"two"):
        await cycle.put(part, last=False)
    assert wire.did == []
    await cycle.put(b"", last=True)
    assert wire.sent == b"HTTP/1.1 200 OK\r\ndate: now\r\nconnection: close\r\n\r\none two"
    assert wire.did == ["close"]


async def test_an_empty_part_does_not_end_a_chunked_answer() -> None:
    """A chunk of no bytes is the end; only the last part may write it, and only once."""
    wire = Wire()
    cycle = cycle_on(wire)
    cycle.begin(200, b"", None)
    await cycle.put(b"", last=False)
    await cycle.put(b"a", last=False)
    await cycle.put(b"", last=False)
    assert wire.sent.endswith(b"\r\n\r\n1\r\na\r\n")
    assert not cycle.response_complete
    await cycle.put(b"", last=True)
    assert wire.sent.endswith(b"\r\n\r\n1\r\na\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("parts", "written"),
    [([b"abcd"], b""), ([b"ab"], b""), ([b"ab", b"cd"], b"ab"), ([b"a", b"b"], b"a"), ([b""], b"")],
    ids=["longer", "shorter", "longer in parts", "shorter in parts", "empty"],
)
@pytest.mark.parametrize("by", ["put", "send"])
async def test_a_body_of_another_length_than_told_is_not_ended(
    parts: list[bytes], written: bytes, by: str
) -> None:
    """Bytes too many would be the next answer: the part that does not fit is not written, nor an end."""
    wire, ended = Wire(), list[str]()
    cycle = cycle_on(wire, on_response=lambda: ended.append("response"))

    async def put(block: bytes, *, last: bool) -> None:
        if by == "put":
            await cycle.put(block, last=last)
        else:
            await cycle.send(part(block, more=not last))

    cycle.begin(200, b"", 3)
    for block in parts[:-1]:
        await put(block, last=False)
    with pytest.raises(RuntimeError, match="Content-Length"):
        await put(parts[-1], last=True)
    assert wire.sent.partition(b"\r\n\r\n")[2] == written
    assert not cycle.response_complete
    assert not ended


async def test_bytes_beyond_the_length_are_not_written_though_more_may_come() -> None:
    """They are refused as they come, not when the answer ends."""
    wire = Wire()
    cycle = cycle_on(wire)
    cycle.begin(200, b"", 3)
    with pytest.raises(RuntimeError, match="Content-Length"):
        await cycle.put(b"abcd", last=False)
    assert wire.writes == []


# --- the end of the answer and of the connection


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("by", ["begin", "send"])
async def test_a_connection_ends_after_the_answer_if_either_side_says_so(
    *, keep_alive: bool, close: bool, by: str
) -> None:
    """It is announced once, not done before the last byte, and the protocol is told last, once."""
    wire, seen = Wire(), list[tuple[bool, bool]]()
    cycle = cycle_on(
        wire,
        keep_alive=keep_alive,
        on_response=lambda: seen.append((cycle.response_complete, wire.is_closing())),
    )
    if by == "begin":
        cycle.begin(200, b"", None, close=close)
    else:
        await cycle.send(start(200, *([(b"Connection", b"Close")] if close else [])))
    await cycle.put(b"a", last=False)
    assert not wire.is_closing()
    assert not seen
    await cycle.put(b"b", last=True)
    ends = close or not keep_alive
    assert wire.sent.count(b"connection: close\r\n") == ends
    assert seen == [(True, ends)]


@pytest.mark.parametrize("more", [True, False])
async def test_a_client_that_is_still_sending_is_let_read(*, more: bool) -> None:
    """While the body is still coming the protocol closes in its own time, else the cycle at once."""
    wire, lingers = Wire(), list[bool]()
    cycle = cycle_on(wire)
    cycle.more_body = more
    cycle.linger = lambda: lingers.append(wire.is_closing())
    cycle.begin(403, b"", 0, close=True)
    await cycle.put(b"", last=True)
    assert wire.is_closing() != more
    assert lingers == ([False] if more else [])


async def test_the_end_of_the_answer_wakes_who_waits_for_the_client() -> None:
    """`receive` then tells a disconnect: there is nothing more to wait for."""
    cycle = cycle_on(Wire())
    waiting = asyncio.ensure_future(cycle.receive())
    await asyncio.sleep(0)
    cycle.begin(204, b"", None)
    await cycle.put(b"", last=True)
    assert (await waiting)["type"] == "http.disconnect"


async def test_nothing_is_written_to_a_client_that_left() -> None:
    """Neither by the data plane nor through ASGI, in whichever state the answer was; nothing is raised."""
    for begun in (False, True):
        wire = Wire()
        cycle = cycle_on(wire)
        if begun:
            cycle.begin(200, b"", 5)
        cycle.gone()
        if not begun:
            await cycle.send(start())
            cycle.begin(200, b"", 5)
        await cycle.put(b"hello", last=True)
        await cycle.send(part(b"hello"))
        assert wire.writes == []
        assert not cycle.response_complete


@pytest.mark.parametrize("by", ["put", "send"])
@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_does_not_read_is_waited_for(by: str, *, leaves: bool) -> None:
    """Nothing is written until it reads; if it leaves instead, nothing at all."""
    wire = Wire()
    cycle = cycle_on(wire)
    cycle.begin(200, b"", None)
    cycle.flow.pause_writing()
    writing = asyncio.ensure_future(cycle.put(b"a", last=True) if by == "put" else cycle.send(part(b"a")))
    await asyncio.sleep(0)
    assert wire.writes == []
    assert not writing.done()
    if leaves:
        cycle.gone()
    cycle.flow.resume_writing()
    await writing
    assert bool(wire.writes) is not leaves


async def test_a_client_that_has_left_is_not_waited_for() -> None:
    """A connection that was lost while it did not read is never drained."""
    cycle = cycle_on(Wire())
    cycle.flow.pause_writing()
    cycle.gone()
    await asyncio.wait_for(cycle.put(b"a", last=True), 5)
    await asyncio.wait_for(cycle.send(start()), 5)


async def test_who_waits_for_the_client_hears_that_it_left() -> None:
    """The hook is called when the cycle knows already, and `receive` returns; without a hook it does too."""
    for hooked in (True, False):
        cycle, heard = cycle_on(Wire()), list[bool]()
        if hooked:
            cycle.on_disconnect = lambda cycle=cycle, heard=heard: heard.append(cycle.disconnected)
        waiting = asyncio.ensure_future(cycle.receive())
        await asyncio.sleep(0)
        cycle.gone()
        assert heard == [True] * hooked
        assert (await waiting)["type"] == "http.disconnect"


async def test_an_abort_ends_the_connection_without_an_end_of_the_answer() -> None:
    """What was sent stays unfinished, and nothing comes after it."""
    wire = Wire()
    cycle = cycle_on(wire)
    cycle.begin(200, b"", None)
    await cycle.put(b"a", last=False)
    cycle.abort()
    await cycle.put(b"b", last=True)
    assert wire.did == ["abort"]
    assert wire.sent.endswith(b"1\r\na\r\n")
    assert not cycle.response_complete


# --- the request's body


async def test_a_body_that_has_come_is_handed_over_once() -> None:
    """As bytes of its own, and the cycle keeps none of them."""
    cycle = cycle_on(Wire())
    cycle.body += b"{}"
    cycle.more_body = False
    taken = cycle.take()
    assert taken == b"{}"
    assert type(taken) is bytes
    assert cycle.body == b""


@pytest.mark.parametrize("why", ["more comes", "client waits for 100", "client left"])
async def test_a_body_that_is_not_there_is_not_handed_over(why: str) -> None:
    """It must be received then; what came of it stays for that."""
    wire = Wire()
    cycle = cycle_on(wire, waits_for_100=why == "client waits for 100")
    cycle.body += b"{"
    cycle.more_body = why == "more comes"
    if why == "client left":
        cycle.gone()
    assert cycle.take() is None
    assert cycle.body == b"{"
    assert wire.writes == []


async def test_who_is_answered_is_not_told_to_go_on() -> None:
    """A client that waits for 100 Continue and gets its answer does not get the 100 within it."""
    wire = Wire()
    cycle = cycle_on(wire, waits_for_100=True)
    cycle.begin(413, b"", None)
    await cycle.put(b"a", last=True)
    assert (await cycle.receive())["type"] == "http.disconnect"
    assert b"100 Continue" not in wire.sent


# --- ASGI


async def test_an_asgi_answer_gets_the_same_head() -> None:
    """Names in lower case, the length once, and nothing before the body begins."""
    wire = Wire()
    cycle = cycle_on(wire)
    await cycle.send(start(200, (b"Content-Type", b"text"), (b"Content-Length", b"3"), (b"X-Empty", b"")))
    assert wire.writes == []
    await cycle.send({"type": "http.response.body", "body": b"abc"})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text\r\nx-empty: \r\ndate: now\r\ncontent-length: 3\r\n\r\n"
    assert wire.writes == [head + b"abc"]
    assert cycle.response_complete


@pytest.mark.parametrize("header", [(b"connection", b"keep-alive"), (b"x-mode", b"close")])
async def test_only_connection_close_ends_the_connection(header: tuple[bytes, bytes]) -> None:
    """Other headers, and other values of this one, are the client's to read."""
    wire = Wire()
    cycle = cycle_on(wire)
    await cycle.send(start(200, header))
    await cycle.send(part(b"a"))
    assert b": ".join(header) + b"\r\n" in wire.sent
    assert wire.did == []


@pytest.mark.parametrize("where", ["name", "value"])
@pytest.mark.parametrize("sign", [b"\r\n", b"\n", b"\r", b"\0", b"\r\nset-cookie: a\r\n"])
async def test_a_header_with_a_line_end_is_refused(where: str, sign: bytes) -> None:
    """It could forge a header or an answer; nothing is begun, so that the error can still be answered."""
    wire = Wire()
    cycle = cycle_on(wire)
    name, value = (b"x" + sign + b"y", b"v") if where == "name" else (b"x", b"v" + sign + b"w")
    with pytest.raises(RuntimeError, match="line end"):
        await cycle.send(start(200, (b"a", b"b"), (name, value)))
    assert not cycle.response_started
    assert wire.writes == []


async def test_an_app_that_sends_such_a_header_is_answered_500() -> None:
    """uvicorn's own last answer passes through our cycle too, and ends the connection."""
    wire = Wire()
    cycle = cycle_on(wire)

    async def app(scope: object, receive: object, send: Callable[[dict[str, Any]], Any]) -> None:
        await send(start(200, (b"x", b"y\r\nz")))

    await cycle.run_asgi(app)  # type: ignore[arg-type]
    assert wire.sent.startswith(b"HTTP/1.1 500 ")
    assert wire.sent.endswith(b"connection: close\r\ncontent-length: 21\r\n\r\nInternal Server Error")
    assert wire.did == ["close"]


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ([], part(b"a")),
        ([start()], start()),
        ([start(), part(b"a")], part(b"b")),
        ([start(), part(b"a")], start()),
        ([], {"type": "http.response.trailers"}),
        ([start()], {"type": "websocket.send"}),
    ],
    ids=["body first", "two starts", "body after the end", "start after the end", "trailers", "no answer"],
)
async def test_a_message_out_of_turn_is_refused(
    before: list[dict[str, Any]], message: dict[str, Any]
) -> None:
    """It writes nothing more: one request has one answer."""
    wire = Wire()
    cycle = cycle_on(wire)
    for one in before:
        await cycle.send(one)
    sent = wire.sent
    with pytest.raises(RuntimeError, match="out of turn"):
        await cycle.send(message)
    assert wire.sent == sent
