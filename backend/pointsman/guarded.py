"""The control plane's way to engines: httpx that opens no connection to where an added replica may not be.

A request goes to an address of its host that was looked up here, and judged where its extension `networks` is
set; so nobody can have a name lead elsewhere between the judgement and the connection.
"""

import ssl
from typing import Any

import httpx

from pointsman.egress import refusal
from pointsman.replica import Replica
from pointsman.resolver import Resolver, Unresolved

_PATIENCE_S = 1.0  # for a new answer where there is a last good one


class NotAllowed(httpx.ConnectError):
    """The name leads nowhere where a replica may be."""


def restricted(replica: Replica) -> dict[str, Any]:
    """The extensions of a request to a replica."""
    return {} if replica.networks is None else {"networks": replica.networks}


class Guarded(httpx.AsyncHTTPTransport):
    """httpx's own transport behind the judgement. Connections are not kept."""

    def __init__(self, verify: ssl.SSLContext, resolver: Resolver) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        super().__init__(verify=verify, trust_env=False, limits=limits)
        self._resolver = resolver

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        failure: httpx.TransportError | None = None
        addresses = await self._addresses(request)
        for address in addresses:
            try:
                return await super().handle_async_request(_to(request, address, len(addresses)))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or NotAllowed("no address of the name is allowed", request=request)

    async def _addresses(self, request: httpx.Request) -> list[str]:
        url, networks = request.url, request.extensions.get("networks")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await self._resolver.resolve(url.host, port, _PATIENCE_S)
        except Unresolved as error:
            raise httpx.ConnectError("the name does not resolve", request=request) from error
        return [address for _, address in found if networks is None or refusal(address, networks) is None]


def _to(request: httpx.Request, address: str, addresses: int) -> httpx.Request:
    """The same request to one of so many addresses; Host and the name for TLS stay the endpoint's own."""
    extensions = {**request.extensions, "sni_hostname": request.url.host}
    limits = extensions.get("timeout")
    if limits and limits.get("connect") is not None:  # the next one is to have some of it, too
        extensions["timeout"] = {**limits, "connect": limits["connect"] / addresses}
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )
