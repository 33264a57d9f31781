"""How much a caller may ask for: requests and tokens per time, and so many at once.

One step at the store for each request: what it costs is reserved by an estimate before the engine is asked,
and settled by what the engine counted. A key has its own limits; without one the address has the common ones.
"""

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import count
from types import MappingProxyType
from typing import Protocol

import msgspec
from msgspec import structs

from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import KEY_WRONG, RATE_LIMITED, STORE_AWAY, RouterError
from pointsman.exchange import Exchange
from pointsman.gcra import Rate
from pointsman.keys import Key
from pointsman.store.base import Ask, Granted, Hold, Once, Take, Unavailable, digest

_BYTES_PER_TOKEN = 4  # of a prompt, for the estimate; what the engine counts is what is paid in the end
_TOKENS_UNSAID = 256  # the estimate of an answer whose length the caller leaves open
_KEPT = 4096  # callers whose rules are kept made
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')


class _Parameters(msgspec.Struct):
    """Of a body of TGI's own."""

    max_new_tokens: msgspec.Raw = msgspec.Raw()


_parameters = msgspec.json.Decoder(_Parameters)


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """Common limits: of each key that has none of its own, and of each address without a key. None: no limit.

    `burst` is how many requests may come at once; None: as many as in a minute. `shadow`: nobody is refused,
    the log and the metrics tell who would have been. Addresses in `exempt` have no limits without a key.
    """

    requests_per_minute: float | None = None
    burst: int | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    exempt: tuple[IPv4Network | IPv6Network, ...] = ()
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class SurfaceLimits:
    """What one surface limits besides; seed 002's token bucket."""

    enabled: bool = True
    requests_per_minute: float = 10
    burst_size: int = 15


class Rules(msgspec.Struct, frozen=True):
    """What holds for one caller; `FREE`, and no other, where nothing is limited."""

    requests: Take | None = None
    tokens: Take | None = None
    at_once: int | None = None
    hold_key: str = ""


FREE = Rules()  # of whom nothing is limited
_UNREAD = Call(Api.PLAIN, Operation.INFO, None)  # for which no engine is asked


class Grant(msgspec.Struct, frozen=True):
    """What a request was allowed, to be settled once it has ended.

    `lines` are headers for its answer. `refusal`: it was not, and this is why.
    """

    granted: Granted
    reserved: Take | None
    holds: tuple[Hold, ...]
    lines: bytes
    refusal: RouterError | None = None


class Counter(Protocol):
    """What counts: a store, or this worker's share."""

    def at_once(self, ask: Ask) -> Granted | None:
        """Take all that is asked, or nothing; None: it has to be waited for, with `settle`."""

    async def settle(self, ask: Ask) -> Granted:
        """Take all that is asked, or nothing."""

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        """Settle estimates and free leases."""


class Limiter:
    """The limits of one configuration.

    Args:
        surfaces: what single surfaces limit besides, by name.
        note: told of each refusal, shadow ones included: what refused.
    """

    def __init__(
        self,
        config: LimitsConfig,
        store: Counter,
        surfaces: Mapping[str, SurfaceLimits] = MappingProxyType({}),
        note: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._config = config
        self._store = store
        self._surfaces = {name: one for name, one in surfaces.items() if one.enabled}
        self._note = note
        self._free = config == LimitsConfig(exempt=config.exempt, shadow=config.shadow, burst=config.burst)
        self._rules: OrderedDict[tuple[str | bytes, str], tuple[Key | None, Rules]] = OrderedDict()
        own = secrets.token_hex(8)  # once: to ask for more is a system call
        self._ids = (f"{own}{number:x}" for number in count())

    def __len__(self) -> int:
        return len(self._rules)

    def rules(self, address: str, key: Key | None, surface: str) -> Rules:
        """What holds for a caller on a surface."""
        if key is None and self._free and surface not in self._surfaces:
            return FREE
        wanted = (address if key is None else key.digest, surface if surface in self._surfaces else "")
        made_for, found = self._rules.get(wanted, (None, None))
        if found is None or made_for is not key:  # a key that was written anew may have other limits
            found = self._make(address, key, wanted[1])
            self._rules[wanted] = key, found
            if len(self._rules) > _KEPT:
                self._rules.popitem(last=False)
        return found

    async def admit(
        self, rules: Rules, call: Call, size: int, lasts_s: float, once: Once | None = None
    ) -> Grant:
        """Take what a call costs.

        Args:
            size: bytes of its body.
            lasts_s: how long it may take at most.
            once: a nonce that must be new.

        Raises:
            RouterError: STORE_AWAY, where the store does not answer and nothing can stand in for it.
        """
        reserved: Take | None = None
        holds: tuple[Hold, ...] = ()
        takes: tuple[Take, ...] = () if rules.requests is None else (rules.requests,)
        if rules.tokens is not None:
            reserved = Take(rules.tokens.key, rules.tokens.rate, _estimate(call, size))
            takes += (reserved,)
        if rules.at_once is not None:
            holds = (Hold(rules.hold_key, rules.at_once, next(self._ids), lasts_s + 60.0),)
        ask = Ask(takes, holds, once)
        granted = self._store.at_once(ask) or await self._settle(ask)
        lines = _lines(rules, granted)
        if granted.allowed:
            return Grant(granted, reserved, holds, lines)
        return Grant(granted, None, (), lines, self._refusal(rules, granted))

    async def spend(
        self, address: str, key: Key | None, surface: str, once: Once | None = None
    ) -> Grant | None:
        """Take one request for a body that is refused, where the surface has a limit of its own; else None.

        Raises:
            RouterError: STORE_AWAY, as when it is let in.
        """
        if surface not in self._surfaces:
            return None
        rules = self.rules(address, key, surface)
        if rules.requests is None:
            return None
        return await self.admit(Rules(rules.requests), _UNREAD, 0, 0.0, once)

    def apart(self, address: str, key: Key | None) -> dict[str, Rules]:
        """What single surfaces limit a caller to besides, by name; none where its key has a limit for all."""
        common = self.rules(address, key, "").requests
        found = {name: Rules(self.rules(address, key, name).requests) for name in self._surfaces}
        return {name: rules for name, rules in found.items() if rules.requests not in (None, common)}

    async def levels(self, rules: Rules) -> dict[str, int | None]:
        """What is left of a caller's rates now, whole; None: not limited.

        Raises:
            RouterError: STORE_AWAY.
        """
        named = {"requests": rules.requests, "tokens": rules.tokens}
        takes = [structs.replace(take, cost=0.0) for take in named.values() if take is not None]
        told = iter((await self._settle(Ask(tuple(takes)))).levels if takes else ())
        return {name: None if take is None else next(told).remaining for name, take in named.items()}

    async def _settle(self, ask: Ask) -> Granted:
        try:
            return await self._store.settle(ask)
        except Unavailable:
            raise RouterError(STORE_AWAY, retry_after_s=1) from None

    def settle(self, grant: Grant, tokens: float) -> None:
        """Pay what was used, and let go of what was held."""
        if grant.reserved is None and not grant.holds:
            return
        takes: tuple[Take, ...] = ()
        if grant.reserved is not None:
            reserved = grant.reserved
            takes = (Take(reserved.key, reserved.rate, tokens - reserved.cost),)
        self._store.give_back(grant.granted, takes, grant.holds)

    def _refusal(self, rules: Rules, granted: Granted) -> RouterError | None:
        if granted.replayed:
            return RouterError(KEY_WRONG, "This signed request was sent before.")
        if granted.refused == rules.hold_key and rules.at_once is not None:
            what, told = "concurrency", "Too many requests at once"
        elif rules.requests is not None and granted.refused == rules.requests.key:
            what, told = "requests", "Too many requests in too short a time"
        else:
            what, told = "tokens", "Too many tokens in too short a time"
        self._note(what)
        if self._config.shadow:
            return None
        wait = max(1, math.ceil(granted.retry_after_s))
        return RouterError(RATE_LIMITED, f"{told}; try again in {wait} s.", retry_after_s=wait)

    def _make(self, address: str, key: Key | None, surface: str) -> Rules:
        config = self._config
        who = f"address {address}" if key is None else f"key {key.digest.hex()}"
        if key is None and _within(address, config):
            return FREE
        of_surface = self._surfaces.get(surface)
        requests = Rate(of_surface.requests_per_minute, of_surface.burst_size) if of_surface else None
        own = key.requests_per_minute if key is not None else None
        if own is not None:
            requests, surface = Rate(own, max(1, math.ceil(own))), ""
        elif requests is None and config.requests_per_minute is not None:
            per_minute = config.requests_per_minute
            requests = Rate(per_minute, config.burst or max(1, math.ceil(per_minute)))
        own_tokens = key.tokens_per_minute if key is not None else None
        tokens = own_tokens if own_tokens is not None else config.tokens_per_minute
        at_once = key.concurrency if key is not None else None
        at_once = config.concurrency if at_once is None else at_once
        if requests is None and tokens is None and at_once is None:
            return FREE
        return Rules(
            None if requests is None else Take(digest("requests", who, surface), requests),
            None if tokens is None else Take(digest("tokens", who), Rate(tokens, max(1, math.ceil(tokens)))),
            at_once,
            digest("at once", who),
        )


def counted(call: Call, rules: Rules) -> Call:
    """The call so that the engine counts its tokens; a client that did not ask is not shown the count."""
    if rules.tokens is None or not call.stream or call.api is not Api.OPENAI:
        return call
    if b'"include_usage":true' in bytes(call.fields.get("stream_options", b"")).replace(b" ", b""):
        return call
    fields = {**call.fields, "stream_options": _WITH_USAGE}
    return structs.replace(call, body=None, fields=fields, hides_usage=True)


def used(exchange: Exchange) -> float:
    """Tokens that a request has used: as the engine counted, else, of an answer that began, as we saw.

    Streams of TGI's own tell nothing of the prompt. An answer for which no engine was asked has used none.
    """
    if not exchange.sent_at:
        return 0.0
    prompt, completion = exchange.prompt_tokens, exchange.completion_tokens
    if prompt or not (completion or exchange.first_event_at):
        return prompt + completion
    return exchange.body_bytes / _BYTES_PER_TOKEN + (completion or exchange.events)


def _within(address: str, config: LimitsConfig) -> bool:
    if not config.exempt:
        return False
    try:
        found = ip_address(address)
    except ValueError:  # a unix socket, or an address nobody could tell
        return False
    return any(found in network for network in config.exempt)


def _estimate(call: Call, size: int) -> float:
    """Tokens that a call will use, by what it says of itself."""
    if call.operation in (Operation.TOKENIZE, Operation.CHAT_TOKENIZE, Operation.INFO):
        return 0.0
    if call.operation is Operation.EMBEDDING:
        most: int | None = 0
    elif call.wish is not None:
        most = call.wish.max_new
    else:
        fields = call.fields
        if call.api is Api.TGI:
            raw = _among_parameters(fields)
        else:
            raw = fields.get("max_completion_tokens") or fields.get("max_tokens")
        told = b"" if raw is None else bytes(raw)
        most = int(told) if told.isdigit() and len(told) < 9 else None
    return size / _BYTES_PER_TOKEN + (_TOKENS_UNSAID if most is None else most)


def _among_parameters(fields: Fields) -> msgspec.Raw | None:
    """What a body of TGI's own says of the length of its answer."""
    try:
        return _parameters.decode(fields.get("parameters", b"{}")).max_new_tokens
    except msgspec.DecodeError:  # no object: the engine says so better
        return None


def _lines(rules: Rules, granted: Granted) -> bytes:
    """`X-RateLimit-…`, of the requests where they are limited, else of the tokens."""
    take = rules.requests or rules.tokens
    if take is None or not granted.levels:
        return b""
    level = granted.levels[0]
    return b"x-ratelimit-limit: %d\r\nx-ratelimit-remaining: %d\r\nx-ratelimit-reset: %d\r\n" % (
        take.rate.burst,
        level.remaining,
        math.ceil(level.full_in_s),
    )
