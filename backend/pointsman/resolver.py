"""Names of engines to addresses, for both planes of a worker process.

A name server that is gone does not refuse, it is silent, for 10 s and more by the system's defaults; and the
loop's own lookups share few threads (two of libuv's), so that two such names would hold up all others. Here
each name is asked for by one thread at a time, and those who want it share that.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Thread

Addresses = list[tuple[int, str]]  # family and address, in the system's order
LookUp = Callable[[str, int], Awaitable[Addresses]]  # of a host and a port
_Name = tuple[str, int]

KEPT_S = 300.0  # how long the last good answer serves while resolving fails
_NAMES = 1024  # kept; beyond, the one that was resolved longest ago goes


class Unresolved(OSError):
    """The name has no address, and had none lately."""


async def look_up(host: str, port: int) -> Addresses:
    """Ask the system, in a thread of its own, which nobody waits for at the end of the process.

    Raises:
        OSError: there is no answer.
        UnicodeError: it is no name at all, such as one with an empty label.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Addresses] = loop.create_future()

    def ask() -> None:
        try:
            listed = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found: Addresses | Exception = [(int(one[0]), str(one[4][0])) for one in listed]
        except (OSError, UnicodeError) as fault:
            found = fault
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_settle, answer, found)

    Thread(target=ask, name="lookup", daemon=True).start()
    return await answer


def _settle(answer: asyncio.Future[Addresses], found: Addresses | Exception) -> None:
    if answer.done():
        return
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)


@dataclass
class _Known:
    addresses: Addresses
    since: float  # loop's time
    doubted: bool = False  # the latest lookup failed or is late


class Resolver:
    """Asks anew for each connection; the last good answer helps out for 5 minutes.

    Once a lookup has failed or was late, the last good answer serves at once, and lookups go on beside it.
    """

    def __init__(self, ask: LookUp = look_up) -> None:
        self._ask = ask
        self._known: dict[_Name, _Known] = {}  # the latest last
        self._asking: dict[_Name, asyncio.Task[Addresses]] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def resolve(self, host: str, port: int, patience_s: float) -> Addresses:
        """The addresses of a name, in the system's order; an address is its own.

        Args:
            patience_s: how long a new answer is waited for where there is a last good one.

        Raises:
            Unresolved: the name does not resolve and did not lately.
        """
        with suppress(ValueError):
            address = ip_address(host)
            return [(socket.AF_INET if address.version == 4 else socket.AF_INET6, host)]
        name = (host, port)
        known = self._known.get(name)
        if known is not None and asyncio.get_running_loop().time() - known.since >= KEPT_S:
            known = None
        asking = self._asking.get(name) or self._begin(name)
        if known is None:
            return await asyncio.shield(asking)  # others may wait for it too
        if not known.doubted:
            await asyncio.wait([asking], timeout=patience_s)
            known.doubted |= not asking.done()
        if not asking.done() or asking.cancelled() or asking.exception() is not None:
            return known.addresses
        return asking.result()

    def _begin(self, name: _Name) -> asyncio.Task[Addresses]:
        task = self._asking[name] = asyncio.create_task(self._look(name), name="lookup of an engine's name")
        task.add_done_callback(lambda one: one.cancelled() or one.exception())  # nobody may wait any more
        return task

    async def _look(self, name: _Name) -> Addresses:
        try:
            found = await self._ask(*name)
        except (OSError, UnicodeError) as fault:
            if name in self._known:
                self._known[name].doubted = True
            raise Unresolved("the name does not resolve") from fault
        finally:
            del self._asking[name]
        self._known.pop(name, None)
        self._known[name] = _Known(found, asyncio.get_running_loop().time())
        if len(self._known) > _NAMES:  # engines come and go while we run
            del self._known[next(iter(self._known))]
        return found
