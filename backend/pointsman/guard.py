"""Lets in whom the rules allow: the address first, then the origin. Before any body is read."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.access import AccessConfig, AccessRules, Decision
from pointsman.errors import ADDRESS_FORBIDDEN, ORIGIN_FORBIDDEN, RouterError
from pointsman.origin import CorsConfig, cors_headers, origin_allowed

Headers = Sequence[tuple[bytes, bytes]]
_log = logging.getLogger("pointsman.guard")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the address for the log, and whether it may see what operators see."""

    address: str
    is_ops: bool


class Guard:
    """The rules of one configuration."""

    def __init__(self, access: AccessConfig, cors: CorsConfig) -> None:
        self._rules = AccessRules(access)
        self._cors = cors
        self._callers: dict[tuple[str, bool], Caller] = {}

    def caller(self, peer: str | None, headers: Headers) -> Caller:
        """Who calls, whether or not they are let in."""
        ruling = self._rules.decide(peer, headers)
        return self._caller(ruling.client.text, ruling.is_ops)

    def admit(self, peer: str | None, headers: Headers) -> Caller:
        """Check the address.

        Raises:
            RouterError: ADDRESS_FORBIDDEN; the log says which address and why.
        """
        ruling = self._rules.decide(peer, headers)
        if not ruling.admitted:
            self._refuse(ruling.client.text, ruling.decision, ruling.client.reason.value)
        return self._caller(ruling.client.text, ruling.is_ops)

    def admit_ops(self, peer: str | None, headers: Headers) -> Caller:
        """Check the address against OPS_NETWORKS.

        Raises:
            RouterError: ADDRESS_FORBIDDEN.
        """
        ruling = self._rules.decide(peer, headers)
        if not ruling.is_ops:
            self._refuse(ruling.client.text, ruling.ops, ruling.client.reason.value)
        return self._caller(ruling.client.text, is_ops=True)

    def check_origin(self, origin: bytes | None, host: bytes | None) -> None:
        """Check the Origin of a POST.

        Raises:
            RouterError: ORIGIN_FORBIDDEN.
        """
        if origin is not None and not origin_allowed(origin, host, self._cors):
            raise RouterError(ORIGIN_FORBIDDEN)

    def cors(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """CORS headers for an answer; none for callers without Origin and for strangers."""
        return [] if origin is None else cors_headers(origin, self._cors)

    def _caller(self, address: str, is_ops: bool) -> Caller:
        caller = self._callers.get((address, is_ops))
        if caller is None:
            if len(self._callers) >= 4096:
                self._callers.clear()
            caller = self._callers[(address, is_ops)] = Caller(address, is_ops)
        return caller

    def _refuse(self, address: str, decision: Decision, reason: str) -> None:
        _log.warning("refused address %s: %s (%s)", address, decision.value, reason)
        raise RouterError(ADDRESS_FORBIDDEN)
