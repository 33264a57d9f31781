"""Connections to Redis, one command each at a time, and a circuit breaker before them.

After a failure the breaker is open: commands fail at once, and no request pays for finding out whether Redis
is back. One task tries that, with growing pauses.

A connection whose command did not end with its answer is closed and never used again, for the answer might
yet come and be taken for another's (redis-py's CVE-2023-28858).
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from pointsman.store.base import Unavailable
from pointsman.store.config import StoreConfig
from pointsman.store.scripts import Script

# By OpenSSL's number (x509_vfy.h); its own sentence may hold the server's name.
_VERDICTS = {
    10: "it has expired",
    18: "it is signed by itself",
    19: "its authority is unknown",
    20: "its authority is unknown",
    62: "it is for another name",
    64: "it is for another address",
}
_UNSHOWN = "Redis ended the connection; if it asks for a certificate, set STORE__CLIENT_CERT"
_CHECKS = 3
_log = logging.getLogger("pointsman.store")
_FAULTS = (RedisError, OSError, ValueError)  # ValueError: what answers is no Redis


class Link:
    """Commands to one Redis server. Belongs to the event loop it is first used on.

    Args:
        tell: told in a sentence when it stops to answer, and when it answers again.
    """

    def __init__(self, config: StoreConfig, tell: Callable[[str], None] = lambda what: None) -> None:
        self._config = config
        self._tell = tell
        options: dict[str, Any] = {**parse_url(config.url)}
        self._kind: type[AbstractConnection] = options.pop("connection_class", Connection)
        # Times are ours: the library's would wrap each write in a task, and lose a cancel now and then.
        self._options = options | {"socket_timeout": None, "socket_connect_timeout": None}
        self._options |= {"protocol": 2, "driver_info": None}  # no greeting: one round trip less
        self._tls = config.tls()
        self._idle: list[AbstractConnection] = []
        self._free = asyncio.Semaphore(config.connections)
        self._up = asyncio.Event()
        self._up.set()
        self._trials: asyncio.Task[None] | None = None
        self._closed = False
        self.down: str | None = None  # why commands fail at once; None: they are sent
        self.open = 0  # connections, idle or not

    async def run(self, script: Script, keys: list[str], arguments: list[str | bytes | int]) -> Any:
        """Run a script.

        Raises:
            Unavailable: no answer, or an error; whether it ran is unknown.
        """
        if self.down is not None:
            raise Unavailable(self.down)
        words: list[str | bytes | int] = [len(keys), *keys, *arguments]
        try:
            return await self._exchange(("EVALSHA", script.sha, *words), ("EVAL", script.text, *words))
        except _FAULTS as fault:
            reason = self._reason(fault)
            self._fail(reason)
            raise Unavailable(reason) from fault

    async def try_writing(self) -> None:
        """Do what needs a Redis that works, writing included.

        Raises:
            Unavailable: why it does not.
        """
        try:
            await self._exchange(("SET", f"{self._config.prefix}trial", "1", "PX", 1000))
        except _FAULTS as fault:
            raise Unavailable(self._reason(fault)) from fault

    async def check(self) -> None:
        """Try it, a few times: just after a start an answer may come late for our sake.

        Raises:
            Unavailable: why none did; no command is sent until one does.
        """
        for _ in range(_CHECKS - 1):
            with suppress(Unavailable):
                return await self.try_writing()
            await asyncio.sleep(self._config.pause_s)
        try:
            await self.try_writing()
        except Unavailable as why:
            self._fail(str(why))
            raise

    async def wait_until_up(self) -> None:
        """Return once commands are sent again."""
        await self._up.wait()

    async def close(self) -> None:
        """Close the idle connections and end the trials; commands under way close theirs."""
        self._closed = True
        self.down = "the store is closed"
        if self._trials is not None:
            self._trials.cancel()
            await asyncio.wait([self._trials])
        while self._idle:
            await self._discard(self._idle.pop())

    async def _exchange(self, command: tuple[Any, ...], if_unknown: tuple[Any, ...] | None = None) -> Any:
        """One answer to a command, or to the other one where the script of the first is not known."""
        async with asyncio.timeout(self._config.timeout_s), self._free:
            connection = await self._connection()
            try:
                try:
                    answer = await self._ask(connection, command)
                except NoScriptError:
                    if if_unknown is None:
                        raise
                    answer = await self._ask(connection, if_unknown)
            except BaseException:
                await self._discard(connection)
                raise
            if self._closed:
                await self._discard(connection)
            else:
                self._idle.append(connection)
            return answer

    async def _ask(self, connection: AbstractConnection, command: tuple[Any, ...]) -> Any:
        await connection.send_command(*command, check_health=False)
        return await connection.read_response()

    async def _connection(self) -> AbstractConnection:
        """A connection that is open and has nothing left to read."""
        while self._idle:
            connection = self._idle.pop()
            try:
                stale = await connection.can_read()
            except RedisError:
                stale = True
            if not stale:
                return connection
            await self._discard(connection)
        connection = self._kind(**self._options)
        if isinstance(connection, SSLConnection):
            # Its own would read the system's certificates for each connection: longer than Redis may take.
            connection.ssl_context.context = self._tls
        self.open += 1
        try:
            await connection.connect()
        except BaseException:
            await self._discard(connection)
            raise
        return connection

    async def _discard(self, connection: AbstractConnection) -> None:
        self.open -= 1
        await connection.disconnect(nowait=True)  # waits for nothing, so that no cancel comes between

    def _fail(self, reason: str) -> None:
        """Open the breaker and begin to try."""
        if self.down is not None:
            return
        self.down = reason
        self._up.clear()
        _log.warning("store: %s", reason)
        self._tell(f"the store does not answer: {reason}")
        self._trials = asyncio.create_task(self._recover(), name="pointsman-redis-trials")

    async def _recover(self) -> None:
        config = self._config
        grows = wait_exponential(multiplier=config.pause_s, max=config.pause_max_s)

        def note(state: RetryCallState) -> None:
            fault = state.outcome.exception() if state.outcome is not None else None
            if isinstance(fault, Unavailable) and not self._closed:
                self.down = str(fault)

        await asyncio.sleep(config.pause_s)
        await AsyncRetrying(
            retry=retry_if_exception_type(),  # any: whatever a trial stumbles over, the next one is made
            wait=grows + wait_random(0, config.pause_s),
            before_sleep=note,
        )(self.try_writing)
        self.down = None
        self._up.set()
        _log.info("store: Redis answers again")
        self._tell("the store answers again")

    def _reason(self, fault: Exception) -> str:
        """A clause for people: no address, no key, no text of the server's but its code word."""
        tls_reason = _tls_reason(fault)
        if tls_reason is not None:
            return tls_reason
        if isinstance(fault, TimeoutError):
            return f"Redis did not answer within {self._config.timeout_s * 1000:g} ms"
        if isinstance(fault, AuthenticationError):
            return "Redis refuses the user or the password"
        if isinstance(fault, ResponseError):
            return f"Redis refuses commands ({type(fault).__name__.removesuffix('Error')})"
        if self._tls is not None and self._config.client_cert is None and _ended(fault):
            return _UNSHOWN  # asyncio may drop the alert by which a server says so
        return "Redis cannot be reached"


def _ended(fault: Exception) -> bool:
    """Whether a connection that was there was ended."""
    return isinstance(fault.__cause__ or fault.__context__, ConnectionResetError | BrokenPipeError)


def _tls_reason(fault: BaseException) -> str | None:
    """What TLS failed by, a clause without any name; None: by nothing."""
    cause: BaseException | None = fault
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = _VERDICTS.get(cause.verify_code, "it cannot be verified")
        return f"the certificate of Redis is not trusted: {why}; see STORE__CA_FILE and STORE__URL"
    if cause is not None and "CERTIFICATE_REQUIRED" in (cause.reason or ""):
        return _UNSHOWN
    return None if cause is None else "the TLS handshake with Redis failed"
