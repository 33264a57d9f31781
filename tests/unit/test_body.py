"""A request's body: how much of it is asked for, when it is too large, and what is left of it in the end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from clockwork import Clockwork
from pointsman.body import Body, Buffer, check_media_type, too_large
from pointsman.errors import BODY_TOO_LARGE, BUFFER_FULL, UNSUPPORTED_MEDIA_TYPE, ClientGone, RouterError

pytestmark = pytest.mark.anyio

KIB = 1024
LEAVES: dict[str, Any] = {"type": "http.disconnect"}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


class Client:
    """Sends these blocks of a body, the last of them marked as such if it is `whole`, and then nothing."""

    def __init__(self, *blocks: bytes, whole: bool = True, leaves: bool = False) -> None:
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": block, "more_body": True} for block in blocks
        ]
        if whole:
            self._messages[-1]["more_body"] = False
        if leaves:
            self._messages.append(LEAVES)
        self.asked = 0

    async def __call__(self) -> dict[str, Any]:
        self.asked += 1
        if not self._messages:
            await asyncio.get_running_loop().create_future()
        return self._messages.pop(0)


def told(size: int | str) -> dict[bytes, bytes]:
    return {b"content-length": str(size).encode()}


@pytest.mark.parametrize("blocks", [(b"",), (b"{}",), (b'{"a"', b":", b"", b"1}")])
async def test_a_body_is_read_to_its_end_and_no_further(blocks: tuple[bytes, ...]) -> None:
    """Its blocks in their order, with one question for each: one more would wait for the client to leave."""
    client = Client(*blocks)
    body = Body(client, {})
    assert not body.whole
    assert await body.read(100) == b"".join(blocks)
    assert body.whole
    assert client.asked == len(blocks)


async def test_a_message_may_leave_out_what_asgi_lets_it() -> None:
    """`body` and `more_body` have defaults: nothing, and the end."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    assert await Body(receive, {}).read(10) == b""


async def test_a_body_that_has_come_is_taken_without_a_question() -> None:
    """Our own server hands it over; nothing is left of it to drain."""
    client = Client(b"other")
    body = Body(client, told(2), lambda: b"{}")
    assert await body.read(10) == b"{}"
    assert await body.drain()
    assert client.asked == 0


async def test_a_body_is_taken_only_when_it_is_wanted() -> None:
    """Neither making it nor refusing it by its declared length touches it."""

    def never() -> bytes:
        pytest.fail("taken")

    body = Body(Client(b"x" * 11), told(11), never)
    with pytest.raises(RouterError):
        await body.read(10)


@pytest.mark.parametrize("size", [9, 10, 11])
@pytest.mark.parametrize("how", ["declared", "taken", "in parts"])
async def test_the_limit_is_the_last_size_that_passes(how: str, size: int) -> None:
    """By whichever way the size is learned; the error names the limit."""
    content = b"x" * size
    client = Client(content[:5], content[5:])
    headers = told(size) if how == "declared" else {}
    body = Body(client, headers, lambda: content if how == "taken" else None)
    if size <= 10:
        assert await body.read(10) == content
        return
    with pytest.raises(RouterError) as caught:
        await body.read(10)
    assert caught.value.kind is BODY_TOO_LARGE
    assert " 10 bytes" in caught.value.message
    assert client.asked == (2 if how == "in parts" else 0)
    assert body.whole == (how != "declared")


async def test_a_body_is_not_read_beyond_its_limit() -> None:
    """It is refused with the block that passes the limit, however much is still to come."""
    client = Client(*[b"x" * 4] * 9)
    body = Body(client, {})
    with pytest.raises(RouterError):
        await body.read(10)
    assert client.asked == 3
    assert not body.whole


@pytest.mark.parametrize("sent", ["", "-1", "+99", "99 ", "0x99", "9,9"])
async def test_a_length_that_is_no_number_is_none(sent: str) -> None:
    """What another server may let through is neither believed nor a bug of ours."""
    assert await Body(Client(b"12345"), told(sent)).read(10) == b"12345"


async def test_a_client_that_leaves_amid_its_body_is_gone() -> None:
    """Half a body is no body."""
    body = Body(Client(b"{", whole=False, leaves=True), {})
    with pytest.raises(ClientGone):
        await body.read(10)
    assert not body.whole


@pytest.mark.parametrize(
    ("headers", "blocks", "whole", "asked"),
    [
        ({}, [b""], True, 1),
        ({}, [b"x" * 60 * KIB, b"x"], True, 2),
        (told(64 * KIB), [b"x" * 64 * KIB], True, 1),
        (told(64 * KIB + 1), [b"x" * (64 * KIB + 1)], False, 0),
        ({b"expect": b"100-continue"}, [b"x"], False, 0),
        ({}, [b"x" * 16 * KIB] * 20, False, 5),
    ],
    ids=["none", "small", "64 KiB", "more than 64 KiB declared", "client waits for 100", "endless"],
)
async def test_an_unread_body_is_drained_a_little(
    headers: dict[bytes, bytes], blocks: list[bytes], *, whole: bool, asked: int
) -> None:
    """Up to 64 KiB; nothing is read where that could not reach the end, or would ask for the body."""
    client = Client(*blocks)
    assert await Body(client, headers).drain() is whole
    assert client.asked == asked


async def test_what_was_begun_is_drained_whatever_was_declared() -> None:
    """After the 100 Continue the body is on its way: what is left of it may be little."""
    client = Client(b"x" * 6, b"x" * 6, b"x" * 6)
    body = Body(client, {b"expect": b"100-continue"})
    with pytest.raises(RouterError):
        await body.read(10)
    assert client.asked == 2
    assert await body.drain()
    assert client.asked == 3


async def test_a_client_that_leaves_while_its_body_is_drained_is_no_error() -> None:
    """The refusal goes on; there is only no connection left to keep."""
    assert await Body(Client(b"x", whole=False, leaves=True), {}).drain() is False


async def test_a_body_that_does_not_come_is_drained_for_two_seconds() -> None:
    """The refusal is sent then, and the connection ends after it."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await Body(Client(b"x", whole=False), {}).drain() is False
    assert loop.time() - began == pytest.approx(2.0)


async def test_who_waits_for_the_client_to_leave_waits_for_just_that() -> None:
    """A late block of the body is not the client leaving."""
    client = Client(b"x", b"y", whole=False, leaves=True)
    await Body(client, {}).gone()
    assert client.asked == 3


async def test_who_is_heeded_is_heard_of_when_he_leaves() -> None:
    """Once; and who stays is not waited for any more when the block has ended."""
    heard: list[str] = []
    before = asyncio.all_tasks()
    async with Body(Client(b"x", leaves=True), {}).heeding(lambda: heard.append("left")):
        await asyncio.sleep(1.0)
    assert heard == ["left"]
    async with Body(Client(b"x"), {}).heeding(lambda: heard.append("left")):
        await asyncio.sleep(1.0)
    await asyncio.sleep(1.0)
    assert heard == ["left"]
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("sent", "coding", "good"),
    [
        (b"application/json", None, True),
        (b"Application/JSON ; charset=utf-8", None, True),
        (b"application/json", b"Identity", True),
        (b"application/json", b"gzip", False),
        (b"application/json", b"", False),
        (b"application/jsonl", None, False),
        (b"text/plain; application/json", None, False),
        (b"application/json, text/plain", None, False),
        (b"", None, False),
        (None, None, False),
    ],
)
def test_only_plain_json_is_taken(sent: bytes | None, coding: bytes | None, *, good: bool) -> None:
    """Parameters do not matter, any other type or coding does: browsers send those without a preflight."""
    headers = {}
    if sent is not None:
        headers[b"content-type"] = sent
    if coding is not None:
        headers[b"content-encoding"] = coding
    if good:
        check_media_type(headers)
        return
    with pytest.raises(RouterError) as caught:
        check_media_type(headers)
    assert caught.value.kind is UNSUPPORTED_MEDIA_TYPE


def test_the_limit_is_told_readably() -> None:
    """In bytes, thousands apart."""
    assert "2,000,000 bytes" in too_large(2_000_000).message


async def test_one_message_has_the_same_limit() -> None:
    """A body that comes whole in one message, its length untold, is measured too."""
    with pytest.raises(RouterError):
        await Body(Client(b"x" * 11), {}).read(10)
    assert await Body(Client(b"x" * 10), {}).read(10) == b"x" * 10


# --- all bodies together


@pytest.mark.parametrize("blocks", [(b"x" * 60,), (b"x" * 20, b"y" * 40)])
async def test_what_is_read_counts_until_it_is_freed(blocks: tuple[bytes, ...]) -> None:
    """Whichever way it comes; freed twice it counts once."""
    buffer = Buffer(100)
    bodies = [Body(Client(*blocks), {}, buffer=buffer), Body(Client(b""), {}, lambda: b"z" * 40, buffer)]
    for body, held in zip(bodies, (60, 100), strict=True):
        await body.read(1000)
        assert buffer.held == held
    for body in (*bodies, *bodies):
        body.free()
    assert buffer.held == 0


async def test_a_body_that_has_no_room_is_refused_before_it_is_read() -> None:
    """By its declared length, and told when to come again."""
    buffer = Buffer(100)
    await Body(Client(b"x" * 60), {}, buffer=buffer).read(1000)
    client = Client(b"y" * 41)
    body = Body(client, told(41), buffer=buffer)
    with pytest.raises(RouterError) as caught:
        await body.read(1000)
    assert (caught.value.kind, caught.value.status, client.asked) == (BUFFER_FULL, 503, 0)
    assert caught.value.retry_after_s is not None
    assert buffer.held == 60
    assert len(await Body(Client(b"y" * 40), told(40), buffer=buffer).read(1000)) == 40


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_without_a_length_is_refused_while_it_is_read(whole: bool) -> None:
    """As soon as the sum is too large; what it held is freed with it."""
    buffer = Buffer(100)
    client = Client(b"x" * 60, b"y" * 41, b"z" * 1000, whole=whole)
    body = Body(client, {}, buffer=buffer)
    with pytest.raises(RouterError) as caught:
        await body.read(10_000)
    assert (caught.value.kind, client.asked) == (BUFFER_FULL, 2)
    body.free()
    assert buffer.held == 0


async def test_a_length_that_is_announced_takes_no_room() -> None:
    """Else who announces much and sends nothing would lock all others out."""
    buffer = Buffer(100)
    waits = asyncio.create_task(Body(Client(whole=False), told(100), buffer=buffer).read(1000))
    await asyncio.sleep(1)
    assert await Body(Client(b"x" * 100), told(100), buffer=buffer).read(1000) == b"x" * 100
    waits.cancel()
