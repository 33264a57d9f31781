"""The channel between workers: real sockets in a folder, several ends in one process."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pointsman import channel as channel_module
from pointsman.channel import Busy, Channel, Reply

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def opened(folder: Path | None, number: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Channel]:
    """An end as another process would have it."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: number)
        end = Channel(folder)
        await end.open()
    try:
        yield end
    finally:
        await end.close()


@pytest.fixture
async def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Channel]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(tmp_path, n, monkeypatch)) for n in (101, 102, 103)]


async def test_all_others_are_asked_at_once(three: list[Channel]) -> None:
    """Each tells what it has, by a function or a coroutine; who asks is not asked itself."""

    async def later(content: Any) -> Any:
        await asyncio.sleep(0)
        return {"later": content}

    three[0].on("what", lambda content: "never asked")
    three[1].on("what", lambda content: {"now": content})
    three[2].on("what", later)
    assert await three[0].ask("what", [1, "א"]) == [
        Reply(102, {"now": [1, "א"]}),
        Reply(103, {"later": [1, "א"]}),
    ]


async def test_alone_nobody_is_asked() -> None:
    """Without a folder there are no others, and locking is no matter of files."""
    end = Channel()
    await end.open()
    assert not end.connects
    assert await end.ask("what") == []
    async with end.alone():
        pass
    await end.close()


async def test_an_unknown_command_is_told(three: list[Channel]) -> None:
    """As an error of the worker that does not know it."""
    for reply in await three[0].ask("nonsense"):
        assert reply.answer is None
        assert reply.error is not None
        assert "nonsense" in reply.error


async def test_who_does_not_answer_is_told_in_time(three: list[Channel]) -> None:
    """The others' answers are there all the same."""
    never = asyncio.Event()
    three[1].on("what", lambda content: never.wait())
    three[2].on("what", lambda content: 7)
    replies = await three[0].ask("what", wait_s=0.2)
    assert replies == [Reply(102, error="no answer within 0.2 s"), Reply(103, 7)]
    never.set()


async def test_the_dead_are_not_missed(three: list[Channel], tmp_path: Path) -> None:
    """A socket that nobody listens on is a dead worker's: it is taken away, and has no entry."""
    dead = tmp_path / "99.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(dead))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "x.sock").touch()
    three[1].on("what", lambda content: 1)
    three[2].on("what", lambda content: 2)
    assert [reply.worker for reply in await three[0].ask("what")] == [102, 103]
    assert not dead.exists()


async def test_a_number_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process that has a dead one's number listens in its place."""
    path = tmp_path / "102.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    async with opened(tmp_path, 101, monkeypatch) as first, opened(tmp_path, 102, monkeypatch) as second:
        second.on("what", lambda content: "here")
        assert await first.ask("what") == [Reply(102, "here")]
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


@pytest.mark.parametrize(
    "said", [b"", b"\0\0\0\5{", b"\0\0\0\2[]", b"\xff\xff\xff\xff", b'\0\0\0\x10{"command":true }']
)
async def test_nonsense_is_survived(
    three: list[Channel], tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question cut short, too long or of another form is dropped; the next one is answered."""
    monkeypatch.setattr(channel_module, "WAIT_S", 0.2)
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "102.sock"))
    writer.write(said)
    writer.write_eof()
    await asyncio.sleep(0)
    three[1].on("what", lambda content: 1)
    assert Reply(102, 1) in await three[0].ask("what")
    writer.close()


async def test_an_answer_that_is_nonsense_is_an_error(three: list[Channel], tmp_path: Path) -> None:
    """So is one that is cut short."""
    said = [b"\0\0\0\2[]", b"\0\0\0\xff{", b""]

    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(said.pop())
        writer.close()

    server = await asyncio.start_unix_server(mumble, str(tmp_path / "104.sock"))
    for _ in range(3):
        last = (await three[0].ask("what"))[-1]
        assert last == Reply(104, error="it ended, or spoke nonsense")
    server.close()


async def test_one_at_a_time_changes_things(three: list[Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Among workers and within one; who comes too late is told so."""
    monkeypatch.setattr(channel_module, "LOCK_S", 0.1)
    order: list[str] = []
    async with three[0].alone():
        for other in (three[1], three[0]):
            with pytest.raises(Busy):
                async with other.alone():
                    order.append("never")
    monkeypatch.setattr(channel_module, "LOCK_S", 30.0)

    async def take(end: Channel, name: str) -> None:
        async with end.alone():
            order.append(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(*[take(end, str(end.worker)) for end in (*three, *three)])
    assert order[::2] == order[1::2]
    assert len(order) == 12


async def test_a_cancelled_wait_for_the_lock_leaves_nothing_behind(three: list[Channel]) -> None:
    """The next one gets it."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    async with three[0].alone():
        waiting = asyncio.create_task(three[1].alone().__aenter__())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with three[1].alone():
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_a_long_answer_comes_whole(three: list[Channel]) -> None:
    """As a page of metrics is."""
    page = "x" * 3_000_000
    three[1].on("metrics", lambda content: page)
    three[2].on("metrics", lambda content: "")
    assert await three[0].ask("metrics", wait_s=30) == [Reply(102, page), Reply(103, "")]
