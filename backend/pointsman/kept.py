"""An answer as it is kept, and how it is given again. Two forms.

Of a call in the words of no engine the text is kept: it serves each call that wishes the same, whole or as a
stream, in that call's own words. Of all other calls the bytes are kept: they serve equal bodies alone.
"""

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

import msgspec
from msgspec import structs

from pointsman import attempt
from pointsman.apis.plain import PlainWriter
from pointsman.bridge import lines_of
from pointsman.cache import exact_key, request_key
from pointsman.conversation import reply_to
from pointsman.errors import ClientGone
from pointsman.generation import Delta, Finish, Misfit, Said, Shape, Tokens, Wish
from pointsman.run import Run, Sink
from pointsman.sink import Passing


class Kept(msgspec.Struct, frozen=True):
    """An answer of either form: the text with why it ended, or the bytes with the lines of their head.

    `ignored` and `trimmed` are what the exchange told of it.
    """

    text: str = ""
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    body: bytes = b""
    lines: bytes = b""
    ignored: tuple[str, ...] = ()
    trimmed: int = 0


Keep = Callable[[Kept], Awaitable[None]]
Told = Callable[[bytes, bytes], Kept | None]


class Form(Protocol):
    """How the answer to one call is kept."""

    key: str  # under which the cache has it

    def listen(self, keep: Keep) -> Callable[[], Kept | None]:
        """Hear what is answered from now on. What is to be kept is, before its last byte leaves.

        Returns:
            To be asked at the end: what was kept; None: the answer is not to be given again.
        """

    async def give(self, kept: Kept) -> bool:
        """Send a kept answer; False: nothing was sent, for it does not fit this call."""


def form_of(run: Run, most_bytes: int) -> Form:
    """The form for a call; of larger answers nothing is kept."""
    call = run.call
    if call.shape is not None and call.wish is not None:
        return _Text(run, call.shape, call.wish)
    return _Bytes(run, most_bytes)


class _Text:
    """The text of an answer."""

    def __init__(self, run: Run, shape: Shape, wish: Wish) -> None:
        self._run = run
        self._shape = shape
        told = msgspec.to_builtins(structs.replace(wish, ignored=(), grammar=None))
        told["operation"] = run.call.operation.value
        if wish.grammar is not None:  # JSON as it came, which to_builtins does not take
            told["grammar"] = bytes(wish.grammar).decode("latin-1")
        self.key = request_key(run.tenant, run.model.id, told)

    def listen(self, keep: Keep) -> Callable[[], Kept | None]:
        run, heard = self._run, list[Said]()

        def hear(said: Said) -> object:
            heard.append(said)
            return self._shape(said)

        def told(body: bytes, lines: bytes) -> Kept | None:
            if not heard or not heard[-1].text:
                return None
            said, tokens, exchange = heard[-1], heard[-1].tokens, run.exchange
            return Kept(
                said.text,
                said.finish.name,
                tokens.prompt,
                tokens.completion,
                ignored=exchange.ignored,
                trimmed=exchange.trimmed,
            )

        run.call = structs.replace(run.call, shape=hear)
        return _listen(run, keep, told, most=0)

    async def give(self, kept: Kept) -> bool:
        run, reply = self._run, reply_to(self._run)
        tokens = Tokens(kept.prompt_tokens, kept.completion_tokens)
        try:
            finish = Finish[kept.finish]
            writer = PlainWriter(self._told, reply)
            delta = Delta(kept.text, finish=finish)
            if run.call.stream:
                body = writer.write(delta) + writer.end(tokens)
            else:
                body = writer.whole(delta, tokens)
        except (KeyError, Misfit):
            return False
        await _send(run, kept, body, lines_of(tokens))
        return True

    def _told(self, said: Said) -> object:
        told = self._shape(said)
        return {**told, "cached": True} if isinstance(told, dict) and "cached" in told else told


class _Bytes:
    """The bytes of an answer."""

    def __init__(self, run: Run, most: int) -> None:
        self._run = run
        self._most = most
        call = run.call
        redacts = call.wish is not None and call.wish.redacts
        marks = f"{call.api} {call.operation} {call.stream} {call.hides_usage} {redacts}"
        fields = [part for name in sorted(call.fields) for part in (name, bytes(call.fields[name]))]
        self.key = exact_key(run.tenant, run.model.id, marks, call.model or "", *fields)

    def listen(self, keep: Keep) -> Callable[[], Kept | None]:
        exchange = self._run.exchange

        def told(body: bytes, lines: bytes) -> Kept | None:
            if not body:
                return None
            return Kept(body=body, lines=lines, ignored=exchange.ignored, trimmed=exchange.trimmed)

        return _listen(self._run, keep, told, self._most)

    async def give(self, kept: Kept) -> bool:
        if not kept.body:
            return False
        await _send(self._run, kept, kept.body, kept.lines)
        return True


def _listen(run: Run, keep: Keep, told: Told, most: int) -> Callable[[], Kept | None]:
    listener = _Listener(run.sink, keep, told, most)
    run.sink = listener
    return lambda: listener.kept if run.exchange.end is attempt.OK else None


class _Listener(Passing):
    """Passes an answer on and has it kept before its last byte leaves: who asks next, anywhere, finds it.

    Args:
        told: what is to be kept, of the whole answer's bytes and lines.
        most: bytes; of a larger answer `told` gets none.
    """

    def __init__(self, sink: Sink, keep: Keep, told: Told, most: int) -> None:
        super().__init__(sink)
        self.kept: Kept | None = None
        self._keep = keep
        self._told = told
        self._most = most
        self._size = 0
        self._parts: list[bytes] = []

    async def whole(self, body: bytes, lines: bytes) -> None:
        self._note(body)
        await self._end(lines)
        await super().whole(body, lines)

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self._size = self._most + 1  # nobody has checked it
        await super().pass_on(first, length)

    async def write(self, block: bytes, *, last: bool = False) -> None:
        self._note(block)
        if last:
            await self._end(b"")
        await super().write(block, last=last)

    def _note(self, block: bytes) -> None:
        self._size += len(block)
        if self._size <= self._most:
            self._parts.append(block)
        else:
            self._parts.clear()

    async def _end(self, lines: bytes) -> None:
        kept = self._told(b"".join(self._parts), lines)
        if kept is not None:
            await self._keep(kept)
            self.kept = kept


async def _send(run: Run, kept: Kept, body: bytes, lines: bytes) -> None:
    exchange, now = run.exchange, monotonic()
    exchange.ignored, exchange.trimmed = kept.ignored, kept.trimmed
    exchange.answer_bytes, exchange.first_event_at = len(body), now
    with run.watch:
        run.watch.set(now + run.timeouts.send_s, ClientGone)
        if run.call.stream:
            await run.sink.begin()
            await run.sink.write(body, last=True)
        else:
            await run.sink.whole(body, lines)
