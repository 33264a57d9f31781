"""Stands between an answer and the client's side of it, for who must see what is sent."""

from pointsman.attempt import AttemptFailed
from pointsman.run import Sink


class Passing:
    """A sink that passes all on to another one; made to be derived from."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @property
    def committed(self) -> bool:
        return self._sink.committed

    async def whole(self, body: bytes, lines: bytes) -> None:
        await self._sink.whole(body, lines)

    async def pass_on(self, first: bytes, length: int | None) -> None:
        await self._sink.pass_on(first, length)

    async def begin(self) -> None:
        await self._sink.begin()

    async def write(self, block: bytes, *, last: bool = False) -> None:
        await self._sink.write(block, last=last)

    async def break_off(self, failure: AttemptFailed, *, mid_event: bool) -> None:
        await self._sink.break_off(failure, mid_event=mid_event)
