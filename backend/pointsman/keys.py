"""API keys: who has one, and what it allows."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pointsman.waiting import Priority

PREFIX = "pm-"
# Keys that the documents and examples of earlier services have published.
PUBLISHED = frozenset(
    {"change-me", "changeit", "change-me-in-env", "your-secure-api-key-here", "your-api-key-here"}
)
DEFAULT_TENANT = "default"  # none: each key of it is a tenant of its own
SECRET_MIN = 16  # characters of a secret that somebody chose


class Scope(StrEnum):
    """What a key may be used for."""

    GENERATE = "generate"
    OPS = "ops"  # sees what OPS_NETWORKS see
    ADMIN = "admin"  # changes things
    TRUSTED = "trusted"  # may send fields that steer the engine


@dataclass(frozen=True, slots=True)
class Key:
    """One key. Empty `models` and `routes` allow all; a limit of None is none.

    `routes` are guard classes, written `POST /v1/chat/completions`. `expires` is in seconds since 1970.
    """

    digest: bytes = field(repr=False)
    scopes: frozenset[Scope] = frozenset({Scope.GENERATE})
    models: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    expires: float | None = None
    tenant: str = DEFAULT_TENANT
    note: str = ""
    signs_with: bytes | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL
    name: str = field(init=False)  # what logs and lists call it; it tells nobody the key
    party: str = field(init=False)  # with whom it shares turns where calls wait: its tenant's keys, if any
    owner: str = field(init=False)  # of history and cached answers: its tenant, if any, or nobody else

    def __post_init__(self) -> None:
        name = self.digest.hex()[:8]
        alone = self.tenant == DEFAULT_TENANT
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "party", f"key {name}" if alone else f"tenant {self.tenant}")
        object.__setattr__(self, "owner", f"key {self.digest.hex()}" if alone else self.tenant)

    def live(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires

    def refusal(self, scope: Scope | None, guard_class: str) -> str | None:
        """Why this key may not be used so; None: it may.

        Args:
            scope: what it must be good for; None: to look, for which any key will do.
            guard_class: a method and a route's template.
        """
        if scope is None:
            return None
        if scope not in self.scopes:
            return f"Your API key lacks the scope {scope}."
        if self.routes and guard_class not in self.routes:
            return f"Your API key is not for {guard_class}."
        return None


def digest_of(secret: str) -> bytes:
    """SHA-256 of a secret; a header may hold any sign."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


class KeyTable:
    """All keys of one moment."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        self._by_digest = {key.digest: key for key in self.keys if key.signs_with is None}
        self._signing = {key.name: key for key in self.keys if key.signs_with is not None}
        self._met: dict[str, Key] = {}  # by secrets that were right: no digest for each call

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, secret: str, now: float) -> Key | None:
        """The live key of this secret; wrong ones take the same work, whichever they are."""
        key = self._met.get(secret)
        if key is None:
            digest = digest_of(secret)
            key = self._by_digest.get(digest)
            if key is None or not hmac.compare_digest(digest, key.digest):
                return None
            self._met[secret] = key  # at most one entry for each key
        return key if key.live(now) else None

    def signing(self, name: str, now: float) -> Key | None:
        """The live signing key of this name."""
        key = self._signing.get(name)
        return key if key is not None and key.live(now) else None


class Need(StrEnum):
    """Whether a route needs a key."""

    ALWAYS = "always"
    IF_ANY = "if_any"  # as soon as any key exists
    NEVER = "never"  # its clients cannot send one; a good key counts all the same


_NEED = re.compile(r"((?:GET|POST|PUT|DELETE) /\S*?|if_any)\s*=\s*(always|if_any|never)")


def parse_needs(texts: Iterable[str]) -> dict[str, Need]:
    """Read `POST /v1/completions=always` and the like: what guard classes need.

    `if_any=never` is for all that need a key as soon as there is any.

    Raises:
        ValueError: the end of a sentence that begins with the setting's name.
    """
    needs = {}
    for text in texts:
        told = _NEED.fullmatch(text)
        if told is None:
            raise ValueError(
                f"{text!r} is no rule; write it like POST /v1/completions=always (or if_any, never)"
            )
        needs[told[1]] = Need(told[2])
    return needs


def need_of(guard_class: str, usual: Need, needs: Mapping[str, Need]) -> Need:
    """What a guard class needs by the rules, else what it usually does."""
    found = needs.get(guard_class)
    if found is None and usual is Need.IF_ANY:
        found = needs.get(Need.IF_ANY)
    return usual if found is None else found


def secret_in(headers: Mapping[bytes, bytes]) -> str | None:
    """The secret that a request brings, in `Authorization: Bearer` or `X-API-Key`; None: none."""
    told = headers.get(b"authorization", b"")
    if told[:7].lower() == b"bearer ":
        return told[7:].strip().decode("utf-8", "surrogateescape")
    plain = headers.get(b"x-api-key")
    return None if plain is None else plain.strip().decode("utf-8", "surrogateescape")


def own_key(secret: str) -> Key:
    """A key that a setting gives in plain text (`SECURITY__API_KEY`); it may generate.

    Raises:
        ValueError: the end of a sentence that begins with the setting's name.
    """
    if secret in PUBLISHED:
        raise ValueError("is a key that everybody knows from a document; choose one of your own")
    if len(secret) < SECRET_MIN:
        raise ValueError(f"is too short for a key; take {SECRET_MIN} characters or more")
    return Key(digest_of(secret), note="from the settings")
