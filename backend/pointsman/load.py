"""Asks engines how busy they are, when somebody wants to know. On connections of its own, with its own time.

Answers are kept for a moment, so that nobody can make us ask more often.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any

import httpx

from pointsman.engines import DIALECTS
from pointsman.gauges import Load
from pointsman.guarded import Guarded, restricted
from pointsman.replica import Replica
from pointsman.resolver import Resolver

TIMEOUT_S = 1.0
_FRESH_S = 0.5
_KEPT = 256  # pages; beyond, the one read longest ago goes
_PAGE_MAX_BYTES = 4 << 20


class LoadReader:
    """Reads metrics pages.

    Args:
        tls: how to verify what is reached by https; called before the first page is asked for.
        resolver: whom to ask for names; None: one of its own.
    """

    def __init__(
        self,
        tls: Callable[[], ssl.SSLContext | None],
        clock: Callable[[], float] = monotonic,
        timeout_s: float = TIMEOUT_S,
        resolver: Resolver | None = None,
    ) -> None:
        self._resolver = resolver or Resolver()
        self._tls = tls
        self._clock = clock
        self._timeout_s = timeout_s
        self._verify: ssl.SSLContext | None = None
        self._pages: dict[str, tuple[float, bytes | None]] = {}  # the latest last
        self._asking: dict[str, asyncio.Task[bytes | None]] = {}

    def __len__(self) -> int:
        return len(self._pages)

    async def read(self, replicas: Iterable[Replica]) -> Load:
        """The load of all these together, as far as they tell it."""
        asked = list(replicas)
        pages = await asyncio.gather(*[self._page_of(replica) for replica in asked])
        loads = [
            DIALECTS[replica.engine].read_load(page)
            for replica, page in zip(asked, pages, strict=True)
            if page is not None
        ]
        return Load(_sum([load.running for load in loads]), _sum([load.waiting for load in loads]))

    async def page(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] = MappingProxyType({}),
    ) -> bytes | None:
        """A page of metrics; None where it cannot be had in time."""
        at, page = self._pages.get(url, (-_FRESH_S, None))
        if self._clock() - at < _FRESH_S:
            return page
        task = self._asking.get(url)
        if task is None or task.done():
            task = self._asking[url] = asyncio.create_task(
                self._ask(url, headers or {}, extensions), name=f"load of {url}"
            )
        return await asyncio.shield(task)  # others may wait for it too

    async def _page_of(self, replica: Replica) -> bytes | None:
        headers = {"authorization": f"Bearer {replica.key}"} if replica.key else {}
        url = replica.endpoint.url + DIALECTS[replica.engine].load_path
        return await self.page(url, headers, restricted(replica))

    async def _ask(self, url: str, headers: Mapping[str, str], extensions: Mapping[str, Any]) -> bytes | None:
        page = None
        try:
            async with asyncio.timeout(self._timeout_s), self._client() as client:
                page = await _fetch(client, url, headers, extensions)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):  # TimeoutError is an OSError
            pass
        self._asking.pop(url, None)
        self._pages.pop(url, None)
        self._pages[url] = (self._clock(), page)
        if len(self._pages) > _KEPT:  # engines come and go while we run
            del self._pages[next(iter(self._pages))]
        return page

    def _client(self) -> httpx.AsyncClient:
        if self._verify is None:
            self._verify = self._tls() or ssl.create_default_context()
        guarded = Guarded(self._verify, self._resolver)
        return httpx.AsyncClient(transport=guarded, trust_env=False, timeout=self._timeout_s)


async def _fetch(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], extensions: Mapping[str, Any]
) -> bytes | None:
    told = {"user-agent": "pointsman", "accept-encoding": "identity", **headers}
    async with client.stream("GET", url, headers=told, extensions=dict(extensions)) as answer:
        page = bytearray()
        async for piece in answer.aiter_raw():
            page += piece
            if len(page) > _PAGE_MAX_BYTES:
                return None
        return bytes(page) if answer.status_code == 200 else None


def _sum(counts: list[int | None]) -> int | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
