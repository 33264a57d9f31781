"""The control plane's way to engines: httpx that opens no connection to where an added replica may not be.

A request whose extension `networks` is set goes to an address of its host that was looked up and judged here;
so nobody can have a name lead elsewhere between the judgement and the connection.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from pointsman.egress import refusal
from pointsman.replica import Networks, Replica

Lookup = Callable[[str, int], Awaitable[list[str]]]  # addresses of a name; OSError or UnicodeError: none


class NotAllowed(httpx.ConnectError):
    """The name leads nowhere where a replica may be."""


def restricted(replica: Replica) -> dict[str, Any]:
    """The extensions of a request to a replica."""
    return {} if replica.networks is None else {"networks": replica.networks}


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a name, in the resolver's order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Guarded(httpx.AsyncHTTPTransport):
    """httpx's own transport behind the judgement. Connections are not kept."""

    def __init__(self, verify: ssl.SSLContext, lookup: Lookup = look_up) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        super().__init__(verify=verify, trust_env=False, limits=limits)
        self._lookup = lookup

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        networks: Networks | None = request.extensions.get("networks")
        if networks is None:
            return await super().handle_async_request(request)
        failure: httpx.ConnectError | None = None
        for address in await self._allowed(request, networks):
            try:
                return await super().handle_async_request(_to(request, address))
            except httpx.ConnectError as error:
                failure = error
        raise failure or NotAllowed("no address of the name is allowed", request=request)

    async def _allowed(self, request: httpx.Request, networks: Networks) -> list[str]:
        url = request.url
        try:
            found = await self._lookup(url.host, url.port or (443 if url.scheme == "https" else 80))
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError("the name does not resolve", request=request) from error
        return [address for address in found if refusal(address, networks) is None]


def _to(request: httpx.Request, address: str) -> httpx.Request:
    """The same request to that address; Host and the name for TLS stay the endpoint's own."""
    extensions = {**request.extensions, "sni_hostname": request.url.host}
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )
