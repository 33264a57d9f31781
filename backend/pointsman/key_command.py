"""`pointsman keys create|list|revoke`: the key file from the command line."""

import argparse
import os
import re
import secrets
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pointsman import guard_classes
from pointsman.keyring import Entry, File, read_file
from pointsman.keys import DEFAULT_TENANT, PREFIX, Scope, digest_of
from pointsman.waiting import Priority

_SPAN = re.compile(r"([1-9][0-9]{0,4})([dh])")
_FAILED = 1


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `keys` to the command line."""
    keys = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = keys.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and show it, once")
    create.add_argument("--scope", action="append", choices=list(Scope), type=Scope, dest="scopes")
    create.add_argument("--model", action="append", dest="models", type=_model, metavar="ID", default=[])
    create.add_argument(
        "--route", action="append", dest="routes", type=_route, metavar="'POST /path'", default=[]
    )
    create.add_argument("--requests-per-minute", type=_limit, metavar="N")
    create.add_argument("--tokens-per-minute", type=_limit, metavar="N")
    create.add_argument("--concurrency", type=int, metavar="N")
    create.add_argument("--expires", type=_expiry, metavar="30d", help="days or hours from now: 30d, 12h")
    create.add_argument("--tenant", default=DEFAULT_TENANT)
    create.add_argument(
        "--priority", choices=list(Priority), type=Priority, default=Priority.NORMAL, help="where calls wait"
    )
    create.add_argument("--note", default="")
    create.add_argument("--sign", action="store_true", help="a key that signs requests and never travels")
    actions.add_parser("list", help="show the keys, not their secrets")
    revoke = actions.add_parser("revoke", help="take a key away")
    revoke.add_argument("name", help="the eight digits that `list` shows")
    for action in actions.choices.values():
        action.add_argument("--file", type=Path, default=None, help="the key file; default: KEYS_FILE")


def run(asked: argparse.Namespace, path: Path) -> int:
    """Do what was asked; the exit code."""
    try:
        held = read_file(path.read_bytes()) if path.exists() else File()
        if asked.action == "create":
            lines = _create(asked, held)
        elif asked.action == "revoke":
            lines = _revoke(asked.name, held)
        else:
            lines = [_line(entry) for entry in held.keys] or ["no keys"]
        if asked.action != "list":
            _write(path, held)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"pointsman keys: {path}: {error}\n")
        return _FAILED
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _create(asked: argparse.Namespace, held: File) -> list[str]:
    secret = PREFIX + secrets.token_urlsafe(32)
    signing = secrets.token_hex(32) if asked.sign else None
    entry = Entry(
        sha256=digest_of(signing or secret).hex(),
        scopes=tuple(asked.scopes or (Scope.GENERATE,)),
        models=asked.models,
        routes=asked.routes,
        requests_per_minute=asked.requests_per_minute,
        tokens_per_minute=asked.tokens_per_minute,
        concurrency=asked.concurrency,
        expires=asked.expires,
        tenant=asked.tenant,
        priority=asked.priority,
        note=asked.note,
        secret=signing,
    )
    held.keys.append(entry)
    read_file(msgspec.json.encode(held))  # nothing is written that could not be read
    return [
        signing or secret,
        f"# {_line(entry)}",
        "# It is shown this once. The router takes it within two seconds.",
    ]


def _revoke(name: str, held: File) -> list[str]:
    found = [entry for entry in held.keys if entry.sha256.startswith(name)]
    if len(name) < 8 or len(found) != 1:
        raise ValueError(f"no key is called {name!r}; `pointsman keys list` shows their names")
    held.keys.remove(found[0])
    return [f"revoked {_line(found[0])}"]


def _line(entry: Entry) -> str:
    limits = {
        "requests/min": entry.requests_per_minute,
        "tokens/min": entry.tokens_per_minute,
        "at once": entry.concurrency,
    }
    parts = [
        entry.sha256[:8],
        "signs" if entry.secret else "bearer",
        ",".join(entry.scopes),
        f"tenant {entry.tenant}",
        *([f"priority {entry.priority}"] if entry.priority is not Priority.NORMAL else []),
        *([f"models {','.join(entry.models)}"] if entry.models else []),
        *([f"routes {', '.join(entry.routes)}"] if entry.routes else []),
        *[f"{limit:g} {what}" for what, limit in limits.items() if limit is not None],
        *([f"until {entry.expires.isoformat()}"] if entry.expires else []),
        *([entry.note] if entry.note else []),
    ]
    return "; ".join(parts)


def _write(path: Path, held: File) -> None:
    """Replace the file in one step, readable by its owner only."""
    content = msgspec.json.format(msgspec.json.encode(held), indent=2) + b"\n"
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _model(text: str) -> str:
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no model's id; write it without control characters")
    return text


def _route(text: str) -> str:
    try:
        guard_classes.check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _limit(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e12:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _expiry(text: str) -> datetime:
    span = _SPAN.fullmatch(text)
    if span is None:
        raise argparse.ArgumentTypeError("write days or hours: 30d, 12h")
    unit = {"d": timedelta(days=1), "h": timedelta(hours=1)}[span[2]]
    return datetime.now(UTC).replace(microsecond=0) + int(span[1]) * unit
