"""What an engine's answer to a check says of it, or that there was none."""

import ssl
from collections.abc import Iterator
from socket import gaierror

import httpx

from pointsman.guarded import NotAllowed
from pointsman.health import ProbeResult, absent, failed, gone, misconfigured
from pointsman.replica import Replica


def of_status(path: str, status: int, replica: Replica) -> ProbeResult | None:
    """What a status says of the replica; None: nothing bad."""
    said = f"GET {path} answered {status}"
    match status:
        case _ if 200 <= status < 300:
            return None
        case 503:
            return gone(said)
        case 401 if replica.key is None:
            return misconfigured(f"{said}: the engine wants a key; set it in …_KEY")
        case 401:
            return misconfigured(f"{said}: the engine refuses the key set in …_KEY")
        case 403:
            return misconfigured(f"{said}: the engine, or a proxy before it, does not let the router in")
        case 404 | 405:
            return misconfigured(f"{said}: is this a {replica.engine} engine, and its base path right?")
        case 301 | 302 | 303 | 307 | 308:
            return misconfigured(f"{said}: redirects are not followed; set the address that it leads to")
        case _:
            return failed(said)


def of_silence(error: Exception, timeout_s: float) -> ProbeResult:
    """Name the class of failure; the error's own text may hold an address."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return failed(f"timed out after {timeout_s:g} s")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return misconfigured("address or key hold signs that HTTP does not allow")
    if isinstance(error, NotAllowed):
        return misconfigured("its name leads to no address where an added replica may be")
    causes = tuple(_causes(error))
    if any(isinstance(cause, gaierror | UnicodeError) for cause in causes):
        return failed("name does not resolve")
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return misconfigured("TLS handshake failed: the certificate is not trusted or is for another name")
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return failed("TLS handshake failed")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return absent("connection refused")
    if isinstance(error, httpx.ConnectError):
        return failed("no connection")
    return failed("connection cut, or the answer is not HTTP")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error with all that led to it; one address of several may have its own."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        if isinstance(cause, BaseExceptionGroup):
            waiting += cause.exceptions
