"""A request's body: read whole once its guard has let it in, or drained when it is refused."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from pointsman.errors import BODY_TOO_LARGE, BUFFER_FULL, UNSUPPORTED_MEDIA_TYPE, ClientGone, RouterError
from pointsman.turns import LARGE_BYTES, give_way

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_DRAINED_MAX_BYTES = 64 * 1024  # of a refused request's body that is read so that the client sees the answer
_DRAIN_S = 2.0
_RETRY_AFTER_S = 2  # by then a good part of what is held has been answered


class Buffer:
    """How many bytes of bodies are held, of all requests together, and may be at most. Per worker process."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def check(self, more: int = 0) -> None:
        """Check that there is room for so many more.

        Raises:
            RouterError: BUFFER_FULL.
        """
        if self.held + more > self.most:
            raise RouterError(BUFFER_FULL, retry_after_s=_RETRY_AFTER_S)


class Body:
    """The request's body; remembers whether it was read to its end, and counts it as held until it is freed.

    `take` gives all of it where that has come already. `buffer`: where it is counted.
    """

    def __init__(
        self,
        receive: Receive,
        headers: dict[bytes, bytes],
        take: Callable[[], bytes | None] = lambda: None,
        buffer: Buffer | None = None,
    ) -> None:
        self._buffer = buffer or Buffer(sys.maxsize)
        self._held = 0
        self._receive = receive
        self._take = take
        self._headers = headers
        declared = headers.get(b"content-length", b"")
        self._declared = int(declared) if declared.isdigit() else 0
        self._begun = False
        self.whole = False

    def at_once(self, most: int) -> bytes | None:
        """All of it, if it has come already; None: it must be waited for, with `read`.

        Raises:
            RouterError: BODY_TOO_LARGE, with the limit; BUFFER_FULL, where other requests hold too much.
        """
        if self._declared > most:
            raise too_large(most)
        self._buffer.check(self._declared)
        taken = self._take()
        if taken is None:
            return None
        self._begun = self.whole = True
        if len(taken) > most:
            raise too_large(most)
        self._hold(len(taken))
        return taken

    async def read(self, most: int) -> bytes:
        """Read it all.

        Raises:
            RouterError: BODY_TOO_LARGE, with the limit; BUFFER_FULL, where other requests hold too much.
            ClientGone: the client left before its end.
        """
        taken = self.at_once(most)
        if taken is not None:
            return taken
        message = await self._next()
        self._hold(len(message))
        if self.whole and len(message) <= most:
            return bytes(message)
        parts, size = [message], len(message)
        while size <= most and not self.whole:
            message = await self._next()
            self._hold(len(message))
            parts.append(message)
            size += len(message)
        if size > most:
            raise too_large(most)
        content = b"".join(parts)
        if size > LARGE_BYTES:  # joining took its time, and so will reading
            await give_way()
        return content

    async def drain(self) -> bool:
        """Read away what is left, at most 64 KiB and 2 s; whether the end was reached."""
        if not self._begun and (b"expect" in self._headers or self._declared > _DRAINED_MAX_BYTES):
            return False  # to read is to say 100 Continue, or to wait for what is not read to its end anyway
        size = 0
        try:
            async with asyncio.timeout(_DRAIN_S):
                while not self.whole and size <= _DRAINED_MAX_BYTES:
                    size += len(await self._next())
        except (TimeoutError, ClientGone):
            return False
        return self.whole

    def free(self) -> None:
        """It is held no longer."""
        self._buffer.held -= self._held
        self._held = 0

    async def gone(self) -> None:
        """Wait until the client leaves; for servers without our hook."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    @asynccontextmanager
    async def heeding(self, leave: Callable[[], None]) -> AsyncIterator[None]:
        """Call `leave` when the client leaves while the block runs; what comes of the body is thrown away."""

        async def wait() -> None:
            await self.gone()
            leave()

        waiting = asyncio.create_task(wait())
        try:
            yield
        finally:
            waiting.cancel()

    def _hold(self, size: int) -> None:
        self._held += size
        self._buffer.held += size
        self._buffer.check()

    async def _next(self) -> bytes:
        self._begun = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.whole = not message.get("more_body", False)
        block: bytes = message.get("body", b"")
        return block


def too_large(most: int) -> RouterError:
    """The error that names the limit, in bytes."""
    return RouterError(BODY_TOO_LARGE, f"The body is larger than the {most:,} bytes this route takes.")


def check_media_type(headers: dict[bytes, bytes]) -> None:
    """Take JSON only, unencoded: so that a foreign web page needs a preflight, and what is read is what came.

    Raises:
        RouterError: UNSUPPORTED_MEDIA_TYPE.
    """
    if headers.get(b"content-type") == b"application/json" and b"content-encoding" not in headers:
        return  # as nearly all clients say it
    sent = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if sent != b"application/json" or coding != b"identity":
        raise RouterError(UNSUPPORTED_MEDIA_TYPE)
