"""How the workers of one router talk: each listens on a unix socket in a folder that their master made.

One question for each connection: four bytes of length, then JSON, and the same back. Only who may enter the
folder can ask; that is the user whom the workers run as. A worker whose socket refuses connections is dead.
"""

import asyncio
import contextlib
import fcntl
import inspect
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

WAIT_S = 2.0  # for the answers of all
LOCK_S = 2.0  # for another worker's change to be done
_LENGTH_BYTES = 4
_MAX_BYTES = 64 << 20
_SOCKET = ".sock"
_LOCK = "lock"
_KEPT = "kept"
_TRY_AGAIN_S = 0.02
_log = logging.getLogger("pointsman.channel")

Answer = Callable[[Any], Any]  # of a question's content; may be awaitable


class Reply(msgspec.Struct, frozen=True):
    """What one other worker says. `error`: why it said nothing."""

    worker: int
    answer: Any = None
    error: str | None = None


class Busy(Exception):
    """Another worker is changing things, and did not end in time."""


class _Question(msgspec.Struct):
    command: str
    content: Any = None


class _Told(msgspec.Struct, omit_defaults=True):
    answer: Any = None
    error: str | None = None


class Channel:
    """This worker's end.

    Args:
        folder: where the sockets are; None: there are no other workers.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._answers: dict[str, Answer] = {}
        self._server: asyncio.Server | None = None
        self._within = asyncio.Lock()
        self.worker = os.getpid()

    @property
    def connects(self) -> bool:
        """Whether there may be other workers that it reaches."""
        return self._folder is not None

    def on(self, command: str, answer: Answer) -> None:
        """Have a command of other workers answered, in what can be written as JSON."""
        self._answers[command] = answer

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the folder is gone, or its path is too long for a socket.
        """
        if self._folder is None:
            return
        self.worker = os.getpid()
        own = self._socket(self.worker)
        own.unlink(missing_ok=True)  # of a dead one that had our number
        self._server = await asyncio.start_unix_server(self._serve, str(own))
        own.chmod(0o600)

    async def close(self) -> None:
        """Listen no longer."""
        if self._server is None:
            return
        self._server.close()
        self._socket(self.worker).unlink(missing_ok=True)
        self._server = None

    async def ask(self, command: str, content: Any = None, wait_s: float = WAIT_S) -> list[Reply]:
        """Ask all other workers at once; each that lives has its entry: an answer, or why there is none."""
        workers = self._others()
        asked = [self._ask_one(worker, command, content, wait_s) for worker in workers]
        return [reply for reply in await asyncio.gather(*asked) if reply is not None]

    def keep(self, content: Any) -> None:
        """Leave something for workers that begin when all others are gone; it goes with the folder."""
        if self._folder is None:
            return
        fresh = self._folder / f"{_KEPT}.{self.worker}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(content))
        fresh.replace(self._folder / _KEPT)

    def kept(self) -> Any:
        """What was left there last, as it came from JSON; None: nothing."""
        try:
            return msgspec.json.decode((self._folder / _KEPT).read_bytes()) if self._folder else None
        except FileNotFoundError:
            return None

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let only one worker change what all follow.

        Raises:
            Busy: another one did not end in time.
        """
        try:
            async with asyncio.timeout(LOCK_S):
                await self._within.acquire()
        except TimeoutError:
            raise Busy from None
        try:
            held = await self._lock()
            try:
                yield
            finally:
                if held is not None:
                    os.close(held)
        finally:
            self._within.release()

    async def _lock(self) -> int | None:
        if self._folder is None:
            return None
        held = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = asyncio.get_running_loop().time() + LOCK_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() >= end:
                    os.close(held)
                    raise Busy from None
            else:
                return held
            try:
                await asyncio.sleep(_TRY_AGAIN_S)
            except asyncio.CancelledError:
                os.close(held)
                raise

    def _others(self) -> list[int]:
        if self._folder is None or self._server is None:
            return []
        found = [path.stem for path in self._folder.glob(f"*{_SOCKET}")]
        return sorted(int(name) for name in found if name.isdigit() and int(name) != self.worker)

    def _socket(self, worker: int) -> Path:
        return (self._folder or Path()) / f"{worker}{_SOCKET}"

    async def _ask_one(self, worker: int, command: str, content: Any, wait_s: float) -> Reply | None:
        """What a worker says; None: it is dead."""
        path = self._socket(worker)
        try:
            async with asyncio.timeout(wait_s):
                try:
                    reader, writer = await asyncio.open_unix_connection(str(path))
                except (ConnectionRefusedError, FileNotFoundError):
                    path.unlink(missing_ok=True)
                    return None
                try:
                    writer.write(_framed(_Question(command, content)))
                    told = msgspec.json.decode(await _frame(reader), type=_Told)
                finally:
                    writer.close()
        except TimeoutError:
            return Reply(worker, error=f"no answer within {wait_s:g} s")
        except (OSError, EOFError, ValueError):  # a message that cannot be read is a ValueError
            return Reply(worker, error="it ended, or spoke nonsense")
        return Reply(worker, told.answer, told.error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                question = msgspec.json.decode(await _frame(reader), type=_Question)
            answer = self._answers.get(question.command)
            if answer is None:
                told = _Told(error=f"{question.command!r} is no command")
            else:
                found = answer(question.content)
                told = _Told(await found if inspect.isawaitable(found) else found)
            async with asyncio.timeout(WAIT_S):
                writer.write(_framed(told))
                await writer.drain()
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError; who asked has left
            _log.warning("a question of another worker was not answered: %s", type(error).__name__)
        finally:
            writer.close()


def _framed(message: _Question | _Told) -> bytes:
    content = msgspec.json.encode(message)
    return len(content).to_bytes(_LENGTH_BYTES, "big") + content


async def _frame(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > _MAX_BYTES:
        raise ValueError("longer than any message")
    return await reader.readexactly(length)
