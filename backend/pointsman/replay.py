"""Gives answers again, without an engine: kept ones, and those of equal calls that are under way.

On the routes whose operator wants it every whole answer is; elsewhere only where the request asks for it by
its header, and only where the engine would answer the same again.
"""

from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec

from pointsman.apis import GENERATIONS, repeatable
from pointsman.cache import ResponseCache
from pointsman.call import Call
from pointsman.errors import BAD_REQUEST, RouterError
from pointsman.kept import Form, Kept, form_of
from pointsman.run import Run
from pointsman.single_flight import SingleFlight
from pointsman.store.base import Unavailable

ASKS_KEPT = b"x-pointsman-cache"  # the header, in lower case, as ASGI delivers them
_USE = b"use"
_SHOWN = 40  # characters of a value that is wrong
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Kept)


class Server(Protocol):
    """What serves a call: the forwarder, or what stands before it."""

    async def serve(self, run: Run) -> None:
        """Get an answer for the call and send it to the sink."""


class Replay:
    """Stands before a server.

    Args:
        flights: of all that stand before one server.
        everyone: calls that may be repeated are, without their asking.
        on_request: so are others, where they ask.
    """

    def __init__(
        self,
        server: Server,
        cache: ResponseCache,
        flights: SingleFlight[Kept | None],
        *,
        everyone: bool = False,
        on_request: bool = True,
    ) -> None:
        self._server = server
        self._cache = cache
        self._everyone = everyone
        self._on_request = on_request
        self._flights = flights

    async def serve(self, run: Run) -> None:
        """Get an answer, from an engine or from before, and send it to the sink.

        Raises:
            RouterError: nothing was sent.
            ClientGone: the client left.
        """
        # The call is let go while the answer comes, so that nobody who waits for its end may hold it.
        if not (self._everyone and run.call.repeats and not run.call.stream):
            reason = self._against(run.call) if run.takes_kept else None
            if reason:
                run.exchange.cache = f"bypass;{reason}"
            if reason != "":
                await self._server.serve(run)
                return
        await self._answer(run, form_of(run, self._cache.config.entry_bytes))

    def _against(self, call: Call) -> str:
        """Why the answer to a call that asks for it is not given again; empty: it is."""
        if not self._on_request:
            return "off"
        if call.operation not in GENERATIONS:
            return "operation"
        return "" if repeatable(call) else "sampled"

    async def _answer(self, run: Run, form: Form) -> None:
        """Answer from the cache, with another's equal call, or as ever."""
        exchange = run.exchange
        exchange.cache = "miss"
        kept = await self._find(run, form)
        if kept is not None and await self._give(run, form, kept, "hit"):
            return

        async def keep(told: Kept) -> None:
            if run.wanted is None:  # what another model answered is not this one's
                await self._cache.put(run.tenant, form.key, _encode(told), "stop")

        async def ask() -> Kept | None:
            heard = form.listen(keep)
            await self._server.serve(run)
            return heard() if run.wanted is None else None

        if not repeatable(run.call):
            await ask()
            return
        told, anothers = await self._flights.run(form.key, ask, run.watch, run.deadline)
        if anothers and (told is None or not await self._give(run, form, told, "shared")):
            await ask()

    async def _give(self, run: Run, form: Form, kept: Kept, how: str) -> bool:
        """Send a kept answer; False: nothing was sent."""
        before, run.exchange.cache = run.exchange.cache, how
        given = await form.give(kept)
        if not given:
            run.exchange.cache = before
        return given

    async def _find(self, run: Run, form: Form) -> Kept | None:
        """The kept answer; None: there is none, or another release wrote it in another form."""
        try:
            with run.watch:  # the store has a limit of time itself
                found = await self._cache.get(run.tenant, form.key)
            return None if found is None else _decoder.decode(found)
        except Unavailable:
            run.exchange.cache = "bypass;unavailable"
            return None
        except msgspec.MsgspecError:
            return None


class Asked:
    """Has calls served by another one where they ask for an answer that was given before."""

    def __init__(self, server: Server, replay: Replay) -> None:
        self._server = server
        self._replay = replay

    def serve(self, run: Run) -> Coroutine[Any, Any, None]:
        """As the server does: no step of its own, for who does not ask."""
        return (self._replay if run.takes_kept else self._server).serve(run)


def asks_kept(asked: bytes) -> bool:
    """Whether a request takes an answer that was given before, by what its header says.

    Raises:
        RouterError: BAD_REQUEST, naming the header and what it may say.
    """
    if asked == _USE:
        return True
    shown = asked[:_SHOWN].decode("ascii", "replace")
    told = repr(shown) if shown.isprintable() else "(unprintable)"
    raise RouterError(BAD_REQUEST, f"The header X-Pointsman-Cache must be `use`, not {told}.")
