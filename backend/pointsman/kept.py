"""An answer as it is kept, and how it is given again. Two forms.

Of a call in the words of no engine the text is kept: it serves each call that wishes the same, whole or as a
stream, in that call's own words. Of all other calls the bytes are kept: they serve equal bodies alone.
"""

from collections.abc import Callable
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


class Form(Protocol):
    """How the answer to one call is kept."""

    key: str  # under which the cache has it

    def listen(self) -> Callable[[], Kept | None]:
        """Hear what is answered from now on; to be asked at the end. None: it is not to be kept."""

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
        told = msgspec.to_builtins(structs.replace(wish, ignored=()))
        operation = run.call.operation.value
        self.key = request_key(run.tenant, run.model.id, {**told, "operation": operation})

    def listen(self) -> Callable[[], Kept | None]:
        run, heard = self._run, list[Said]()

        def hear(said: Said) -> object:
            heard.append(said)
            return self._shape(said)

        def end() -> Kept | None:
            if not heard or run.exchange.end is not attempt.OK:
                return None
            said, exchange = heard[-1], run.exchange
            tokens = said.tokens
            return Kept(
                said.text,
                said.finish.name,
                tokens.prompt,
                tokens.completion,
                ignored=exchange.ignored,
                trimmed=exchange.trimmed,
            )

        run.call = structs.replace(run.call, shape=hear)
        return end

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

    def listen(self) -> Callable[[], Kept | None]:
        run = self._run
        recorder = _Recorder(run.sink, self._most)
        run.sink = recorder

        def end() -> Kept | None:
            exchange = run.exchange
            if not recorder.whole_body or exchange.end is not attempt.OK:
                return None
            return Kept(
                body=recorder.whole_body,
                lines=recorder.lines,
                ignored=exchange.ignored,
                trimmed=exchange.trimmed,
            )

        return end

    async def give(self, kept: Kept) -> bool:
        if not kept.body:
            return False
        await _send(self._run, kept, kept.body, kept.lines)
        return True


class _Recorder(Passing):
    """Keeps what passes, if it is not too much. `whole_body` is empty until the very end has passed."""

    def __init__(self, sink: Sink, most: int) -> None:
        super().__init__(sink)
        self.whole_body = b""
        self.lines = b""
        self._most = most
        self._size = 0
        self._parts: list[bytes] = []

    async def whole(self, body: bytes, lines: bytes) -> None:
        await super().whole(body, lines)
        self._note(body)
        self.lines = lines
        self._end()

    async def pass_on(self, first: bytes, length: int | None) -> None:
        self._size = self._most + 1  # nobody has checked it
        await super().pass_on(first, length)

    async def write(self, block: bytes, *, last: bool = False) -> None:
        await super().write(block, last=last)
        self._note(block)
        if last:
            self._end()

    def _note(self, block: bytes) -> None:
        self._size += len(block)
        if self._size <= self._most:
            self._parts.append(block)
        else:
            self._parts.clear()

    def _end(self) -> None:
        if self._size <= self._most:
            self.whole_body = b"".join(self._parts)


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
