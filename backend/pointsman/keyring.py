"""The keys as they are now: read from a file, and again whenever it has changed.

The file holds digests, so that who reads it cannot call. A signing key is the exception: what it signs with
must be known to check it, so its file is for the router alone. A file that cannot be used leaves the keys as
they were, and the log says what is wrong with it.
"""

import asyncio
import logging
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

from pointsman import audit
from pointsman.keys import DEFAULT_TENANT, PUBLISHED, Key, KeyTable, Scope, digest_of
from pointsman.mark import Mark, mark_of
from pointsman.waiting import Priority

_log = logging.getLogger("pointsman.keyring")
LOOK_EVERY_S = 1.0
_UNREAD: Mark = (0, 0, 0, 0)  # of a file that was there, and is to be read; no file has this one


class Entry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A key as the file has it; `expires` in ISO 8601 with a zone, `secret` in hex, of signing keys only."""

    sha256: str
    scopes: tuple[Scope, ...] = (Scope.GENERATE,)
    models: list[str] = []
    routes: list[str] = []
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    expires: datetime | None = None
    tenant: str = DEFAULT_TENANT
    priority: Priority = Priority.NORMAL
    note: str = ""
    secret: str | None = None


class File(msgspec.Struct, forbid_unknown_fields=True):
    """What a key file holds."""

    keys: list[Entry] = []


def read_file(content: bytes) -> File:
    """Read a key file.

    Raises:
        ValueError: one sentence that says what is wrong, without anything secret.
    """
    try:
        held = msgspec.json.decode(content, type=File)
    except msgspec.ValidationError as error:
        raise ValueError(f"it does not fit the form of a key file: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("it is not valid JSON") from None
    for number, entry in enumerate(held.keys):
        _check(entry, f"keys[{number}]")
    names = [entry.sha256 for entry in held.keys]
    if len(set(names)) < len(names):
        raise ValueError("it holds a key twice")
    return held


class Keyring:
    """The current table of keys.

    Args:
        path: the key file; None: there is none.
        own: keys beside it, that settings give.
        tell: told in a sentence of what a changed file has done to the keys.
    """

    def __init__(
        self, path: Path | None, own: tuple[Key, ...] = (), tell: Callable[[str], None] = lambda what: None
    ) -> None:
        self._tell = tell
        self._path = path
        self._own = own
        self._seen: Mark | None = None
        self.was_there = False  # the file, when it was last read well
        self.table = KeyTable(own)

    def load(self) -> None:
        """Read the file now.

        Raises:
            ValueError: it cannot be used; a sentence that names it.
        """
        if self._path is None:
            self.table = KeyTable(self._own)
            return
        try:
            self._seen = mark_of(self._path)
            if self._seen is None and self.was_there:
                raise ValueError("it is gone")  # by a slip: without keys everybody would be let in
            content = _content(self._path, there=self._seen is not None)
            fresh = KeyTable(map(_key, read_file(content).keys))
            if any(key.signs_with for key in fresh.keys) and stat.S_IMODE(self._path.stat().st_mode) & 0o077:
                raise ValueError("it holds a signing key, and others may read it: give it the mode 0600")
        except OSError as error:
            raise ValueError(f"key file {self._path}: {error.strerror or error}") from None
        except ValueError as sentence:
            raise ValueError(f"key file {self._path}: {sentence}") from None
        self.table, self.was_there = KeyTable((*self._own, *fresh.keys)), self._seen is not None

    def renew(self, path: Path | None, own: tuple[Key, ...]) -> None:
        """Take another file, and other keys beside it; one that is unusable leaves the keys as they were."""
        if (path, own) == (self._path, self._own):
            return
        self._path, self._own, self._seen = path, own, None
        try:
            self.load()
        except ValueError as sentence:
            _log.warning("%s; the keys stay as they were", sentence)
        audit.note("settings", "keys", f"ok: {len(self.table.keys)} keys")

    def follow(self, before: "Keyring") -> None:
        """Go on with the keys of another process until the file is read, for it may be unusable by now."""
        self.table, self.was_there = before.table, before.was_there
        self._seen = _UNREAD if self.was_there else None

    async def keep(self) -> None:
        """Look after the file until cancelled."""
        while self._path is not None:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def look(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None or mark_of(self._path) == self._seen:
            return
        first = not self.was_there or self._seen == _UNREAD
        before = KeyTable(self._own) if first else self.table
        try:
            self.load()
        except ValueError as sentence:
            _log.warning("%s; the keys stay as they were", sentence)
            audit.note("key file", "keys", "unusable; the keys stay as they were")
            self._tell("the key file is unusable; the keys stay as they were")
        else:
            _log.info("read %s: %d keys", self._path, len(self.table.keys))
            change = _change(before, self.table, first=first)
            audit.note("key file", "keys", change)
            self._tell(f"the key file was read: {change}")


def _content(path: Path, *, there: bool) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if there:
            raise
        return b"{}"  # no key needs to exist


def _change(before: KeyTable, after: KeyTable, *, first: bool) -> str:
    """What a changed file has done to the keys, by their names."""
    old, new = {key.digest: key for key in before.keys}, {key.digest: key for key in after.keys}
    kinds = {
        "there at the start" if first else "added": [new[one].name for one in new.keys() - old.keys()],
        "removed": [old[one].name for one in old.keys() - new.keys()],
        "changed": [new[one].name for one in new.keys() & old.keys() if new[one] != old[one]],
    }
    told = [f"{kind} {', '.join(sorted(names))}" for kind, names in kinds.items() if names]
    return f"ok: {'; '.join(told) or 'no key is other than before'}"


def _check(entry: Entry, where: str) -> None:
    try:
        well = len(bytes.fromhex(entry.sha256)) == 32
        secret = bytes.fromhex(entry.secret or "")
    except ValueError:
        well, secret = False, b""
    if not well or entry.sha256 != entry.sha256.lower():
        raise ValueError(f"{where}.sha256 must be a SHA-256 digest in 64 lower-case hex digits")
    if entry.secret is not None and len(secret) < 16:
        raise ValueError(f"{where}.secret must be 16 bytes or more in hex")
    if entry.sha256 in {digest_of(published).hex() for published in PUBLISHED}:
        raise ValueError(f"{where} is a key that everybody knows from a document; make one of your own")
    if entry.expires is not None and entry.expires.tzinfo is None:
        raise ValueError(f"{where}.expires must name its zone, as in 2027-01-31T00:00:00Z")
    if not entry.tenant:
        raise ValueError(f"{where}.tenant must not be empty: callers without a key are that tenant")
    for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        limit = getattr(entry, name)
        if limit is not None and not 0 < limit < 1e12:
            raise ValueError(f"{where}.{name} must be more than 0")


def _key(entry: Entry) -> Key:
    return Key(
        digest=bytes.fromhex(entry.sha256),
        scopes=frozenset(entry.scopes),
        models=frozenset(entry.models),
        routes=frozenset(entry.routes),
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        concurrency=entry.concurrency,
        expires=None if entry.expires is None else entry.expires.timestamp(),
        tenant=entry.tenant,
        priority=entry.priority,
        note=entry.note,
        signs_with=None if entry.secret is None else bytes.fromhex(entry.secret),
    )
