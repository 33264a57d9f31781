"""Lets in whom the rules allow: the address first, then the origin. Before any body is read."""

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import structs

from pointsman.access import AccessConfig, AccessRules, Decision
from pointsman.call import Call
from pointsman.errors import (
    ADDRESS_FORBIDDEN,
    BAD_REQUEST,
    CONTROL_FIELD,
    KEY_FORBIDDEN,
    KEY_MISSING,
    KEY_WRONG,
    ORIGIN_FORBIDDEN,
    RATE_LIMITED,
    RouterError,
)
from pointsman.gcra import Rate
from pointsman.keyring import Keyring
from pointsman.keys import Key, Need, Scope, secret_in
from pointsman.origin import CorsConfig, cors_headers, origin_allowed
from pointsman.signature import WINDOW_S, Signed, valid
from pointsman.signature import read as read_signature
from pointsman.store.base import Ask, Once, Take, digest
from pointsman.store.memory import MemoryConfig, MemoryStore
from pointsman.waiting import WEIGHTS, Priority

PRIORITY_HEADER = "X-Pointsman-Priority"

_NO_KEYS = "This route needs an API key, and there is none so far: make one with `pointsman keys create`."
_FAILURES = Rate(per_minute=10, burst=10)  # wrong keys from one address
_CALLERS = 4096  # kept made; full, all are made anew
Headers = Sequence[tuple[bytes, bytes]]
_log = logging.getLogger("pointsman.guard")


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who calls: the address for the log, whether it may see what operators see, and its key."""

    address: str
    is_ops: bool
    key: Key | None = None

    @property
    def tenant(self) -> str:
        """Whose history and cache it uses; callers without a key share one."""
        return "" if self.key is None else self.key.owner

    @property
    def party(self) -> str:
        """With whom it shares turns where calls wait for a slot; without a key its address stands alone."""
        return self.address if self.key is None else self.key.party

    def priority(self, wanted: bytes | None) -> Priority:
        """Of a call: that of its key, or what its header wants.

        Raises:
            RouterError: BAD_REQUEST, where it is no class; KEY_FORBIDDEN, where the key is not for it.
        """
        usual = Priority.NORMAL if self.key is None else self.key.priority
        if wanted is None:
            return usual
        try:
            asked = Priority(wanted.strip().decode("latin-1").lower())
        except ValueError:
            known = ", ".join(Priority)
            sentence = f"`{PRIORITY_HEADER}` must be one of {known}."
            raise RouterError(BAD_REQUEST, sentence, param=PRIORITY_HEADER) from None
        trusted = self.key is not None and Scope.TRUSTED in self.key.scopes
        if WEIGHTS[asked] > WEIGHTS[usual] and not trusted:
            sentence = f"`{PRIORITY_HEADER}: {asked}` needs a key that may have it, or the scope trusted."
            raise RouterError(KEY_FORBIDDEN, sentence, param=PRIORITY_HEADER)
        return asked


class Guard:
    """The rules of one configuration.

    Args:
        failures: counts wrong keys by address.
    """

    def __init__(
        self,
        access: AccessConfig,
        cors: CorsConfig,
        keyring: Keyring | None = None,
        failures: MemoryStore | None = None,
    ) -> None:
        self._rules = AccessRules(access)
        self._cors = cors
        self._keyring = keyring or Keyring(None)
        self._failures = failure_counter() if failures is None else failures
        self._callers: dict[tuple[str, bool], Caller] = {}

    def sizes(self) -> dict[str, int]:
        """Entries of its tables, by name. Each has a bound."""
        failed = self._failures.sizes()["rates"]
        return {"callers": len(self._callers), "wrong_keys": failed, **self._rules.sizes()}

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

    def authenticate(
        self,
        caller: Caller,
        headers: Mapping[bytes, bytes],
        need: Need,
        guard_class: str,
        scope: Scope | None = Scope.GENERATE,
    ) -> Caller:
        """Check the key that a request brings, if it is one that counts.

        Raises:
            RouterError: KEY_MISSING; KEY_WRONG, or RATE_LIMITED after many of those; KEY_FORBIDDEN where
                the key may not be used so.
        """
        if caller.key is not None:
            return _checked(caller, caller.key, scope, guard_class)
        keys = self._keyring.table
        if not keys.keys and need is not Need.ALWAYS:
            return caller
        secret = secret_in(headers)
        key = None if secret is None else keys.find(secret, time.time())
        if key is None:
            if need is Need.NEVER:
                return caller
            if not keys:
                raise RouterError(KEY_MISSING, _NO_KEYS)
            raise RouterError(KEY_MISSING) if secret is None else self._wrong(caller.address)
        caller = Caller(caller.address, caller.is_ops or Scope.OPS in key.scopes, key)
        return _checked(caller, key, scope, guard_class)

    def verify(
        self, caller: Caller, headers: Mapping[bytes, bytes], method: str, path: str, query: str
    ) -> tuple[Caller, Signed | None]:
        """Check the signature of a request that has one; its body and its nonce are still to be checked.

        Raises:
            RouterError: KEY_WRONG, or RATE_LIMITED after many of those.
        """
        try:
            signed = read_signature(headers)
        except ValueError as sentence:
            raise RouterError(KEY_WRONG, f"The signature cannot be read: {sentence}.") from None
        if signed is None:
            return caller, None
        now = time.time()
        key = self._keyring.table.signing(signed.key, now)
        secret = None if key is None else key.signs_with
        good = valid(secret or bytes(32), method, path, query, signed, now)  # the same work for unknown keys
        if key is None or secret is None or not good:
            raise self._wrong(caller.address)
        return structs.replace(caller, key=key, is_ops=caller.is_ops or Scope.OPS in key.scopes), signed

    def _wrong(self, address: str) -> RouterError:
        """A wrong key; who tries too many is told to wait. Good keys pass from the same address."""
        granted = self._failures.at_once(Ask((Take(digest("failures", address), _FAILURES),)))
        if granted.allowed:
            return RouterError(KEY_WRONG)
        wait = max(1, math.ceil(granted.retry_after_s))
        return RouterError(RATE_LIMITED, "Too many wrong API keys; try again later.", retry_after_s=wait)

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
            if len(self._callers) >= _CALLERS:
                self._callers.clear()
            caller = self._callers[(address, is_ops)] = Caller(address, is_ops)
        return caller

    def _refuse(self, address: str, decision: Decision, reason: str) -> None:
        _log.warning("refused address %s: %s (%s)", address, decision.value, reason)
        raise RouterError(ADDRESS_FORBIDDEN)


def failure_counter() -> MemoryStore:
    """Counts wrong keys by address; it outlasts a reload."""
    return MemoryStore(MemoryConfig(rates=10_000))


def _checked(caller: Caller, key: Key, scope: Scope | None, guard_class: str) -> Caller:
    refusal = key.refusal(scope, guard_class)
    if refusal is not None:
        raise RouterError(KEY_FORBIDDEN, refusal)
    return caller


def check_body(signed: Signed, body: bytes) -> Once:
    """Check the body of a signed request; the nonce that must be new.

    Raises:
        RouterError: KEY_WRONG.
    """
    if hashlib.sha256(body).digest() != signed.content_sha256:
        raise RouterError(KEY_WRONG, "The body is not the one that was signed.")
    return Once(digest("nonce", signed.key, signed.nonce), 2 * WINDOW_S)


def check_call(caller: Caller, call: Call, model_id: str) -> None:
    """Check what the caller asks for, and of which model.

    Raises:
        RouterError: KEY_FORBIDDEN, where its key is not for this model; CONTROL_FIELD, where not trusted.
    """
    key = caller.key
    if key is not None and key.models and model_id not in key.models:
        raise RouterError(KEY_FORBIDDEN, f"Your API key is not for the model {model_id!r}.", param="model")
    if call.steers is not None and (key is None or Scope.TRUSTED not in key.scopes):
        sentence = f"`{call.steers}` steers the engine and is not accepted."
        raise RouterError(CONTROL_FIELD, sentence, param=call.steers)
