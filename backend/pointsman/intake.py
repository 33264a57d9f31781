"""Lets a request in and reads it: the caller, the body, the call, the model that is to answer it."""

import re
from typing import Any

from pointsman import attempt, patience
from pointsman.addressee import chain_of, check_size, model_of
from pointsman.answer import Answer
from pointsman.body import Body, check_media_type
from pointsman.call import Call, Fields
from pointsman.errors import KEY_FORBIDDEN, RouterError
from pointsman.exchange import Exchange
from pointsman.guard import PRIORITY_HEADER, Caller, Guard, check_body, check_call
from pointsman.limits import Limiter, Rules
from pointsman.pii import PiiMode
from pointsman.registry import Model, Registry
from pointsman.replay import ASKS_KEPT, asks_kept
from pointsman.routes import Match
from pointsman.run import Run
from pointsman.screening import screened
from pointsman.signature import Signed
from pointsman.store.base import Once
from pointsman.surfaces.base import read_fields, read_in_turns
from pointsman.turns import LARGE_BYTES
from pointsman.watch import Watch

Scope = dict[str, Any]

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")  # W3C Trace Context 3.2
_PRIORITY = PRIORITY_HEADER.lower().encode()
_SMALL_BODY_BYTES = 64 * 1024  # below every engine's own limit


class Intake:
    """The rules of one configuration by which requests are taken.

    Args:
        most_bytes: of a body.
    """

    def __init__(
        self, registry: Registry, guard: Guard, limiter: Limiter, most_bytes: int, pii: PiiMode
    ) -> None:
        self._registry = registry
        self._guard = guard
        self._limiter = limiter
        self._most_bytes = most_bytes
        self._pii = pii

    async def take(
        self,
        match: Match,
        scope: Scope,
        headers: dict[bytes, bytes],
        exchange: Exchange,
        answer: Answer,
        watch: Watch,
        body: Body,
        caller: Caller | None,
    ) -> tuple[Run, Rules, Once | None]:
        """Let a caller in, and read what is asked of which model.

        Args:
            caller: who was let in already; None: that is to be seen.

        Returns:
            The exchange on its way, the limits that hold for it, and the nonce of one that is signed.

        Raises:
            RouterError: it is refused, for the first reason there is.
            ClientGone: the client left before the end of its body.
        """
        caller, signed = self._let_in(match, scope, headers, exchange, caller)
        patience_s = patience.read(scope["headers"]) if patience.HEADER in headers else None
        content = body.at_once(self._most_bytes) or await self._read(body, exchange, watch, patience_s)
        exchange.body_bytes = len(content)
        once = None if signed is None else check_body(signed, content)
        fields: Fields = {}
        try:
            if match.route.method == "POST":
                fields = read_fields(content) if len(content) <= LARGE_BYTES else await read_in_turns(content)
            surface = answer.shape = match.route.surface_of(fields)
            call = surface.decode(match.route.operation, fields, content, stream=match.route.stream)
            model, call = model_of(self._registry, match.model_id, surface, call)
            check_call(caller, call, model.id)
            if self._pii is not PiiMode.OFF:
                call = screened(call, self._pii)
            exchange.model_id, exchange.stream = model.config.id, call.stream
            if len(content) >= _SMALL_BODY_BYTES or model.config.max_body_bytes is not None:
                check_size(model, len(content), self._most_bytes)
            answer.expect(surface, call, model.config.timeouts.open_after_s)
            run = _run_of(call, model, exchange, watch, answer, caller, headers, patience_s)
            run.on_let_go = body.free
            if model.config.fallbacks:
                run.chain = chain_of(self._registry, model, surface, call, caller.key, len(content))
            return run, self._limiter.rules(caller.address, caller.key, surface.name), once
        except RouterError as error:
            await self._spend(error, match, fields, caller, once, answer)
            raise

    async def _spend(
        self,
        error: RouterError,
        match: Match,
        fields: Fields,
        caller: Caller,
        once: Once | None,
        answer: Answer,
    ) -> None:
        """Count a body that is refused, where seed 002 counts it.

        Raises:
            RouterError: RATE_LIMITED, which is told instead: it is one too many; STORE_AWAY.
        """
        if error.status >= 500 or error.kind is KEY_FORBIDDEN:
            return
        try:
            surface = match.route.surface_of(fields).name
        except RouterError:  # only its body could have told, and does not
            return
        grant = await self._limiter.spend(caller.address, caller.key, surface, once)
        if grant is None:
            return
        answer.add(grant.lines)
        if grant.refusal is not None:
            raise grant.refusal from None

    async def _read(self, body: Body, exchange: Exchange, watch: Watch, patience_s: float | None) -> bytes:
        if patience_s is not None:
            watch.set(exchange.started_at + patience_s, attempt.patience_over)
        with watch:
            return await body.read(self._most_bytes)

    def _let_in(
        self,
        match: Match,
        scope: Scope,
        headers: dict[bytes, bytes],
        exchange: Exchange,
        caller: Caller | None,
    ) -> tuple[Caller, Signed | None]:
        """Who calls, and may; a signature is good so far, but for the body and the nonce."""
        signed = None
        if caller is None:
            peer, route = scope["client"], match.route
            caller = self._guard.admit(peer[0] if peer else None, scope["headers"])
            exchange.client = caller.address
            if b"x-signature" in headers:
                query = scope["query_string"].decode("latin-1")
                caller, signed = self._guard.verify(caller, headers, scope["method"], scope["path"], query)
            caller = self._guard.authenticate(caller, headers, route.need, route.guard_class)
        exchange.client = caller.address
        exchange.key = "" if caller.key is None else caller.key.name
        if match.route.method == "POST":
            self._guard.check_origin(headers.get(b"origin"), headers.get(b"host"))
            check_media_type(headers)
        if b"traceparent" in headers:
            exchange.traceparent = trace_of(headers[b"traceparent"])
        return caller, signed


def _run_of(
    call: Call,
    model: Model,
    exchange: Exchange,
    watch: Watch,
    answer: Answer,
    caller: Caller,
    headers: dict[bytes, bytes],
    patience_s: float | None,
) -> Run:
    timeouts = model.config.timeouts
    deadline = exchange.started_at + (timeouts.total_stream_s if call.stream else timeouts.total_s)
    run = Run(call, model, exchange, watch, answer, deadline, timeouts, caller.tenant)
    run.party = caller.party
    if caller.key is not None or _PRIORITY in headers:
        run.priority = caller.priority(headers.get(_PRIORITY))
    if patience_s is not None:
        run.shorten(patience_s)
    if ASKS_KEPT in headers:
        run.takes_kept = asks_kept(headers[ASKS_KEPT])
    return run


def trace_of(sent: bytes) -> str:
    """The W3C trace context that a client sent, where it is well formed; else empty."""
    return sent.decode("ascii") if _TRACEPARENT.fullmatch(sent) else ""
