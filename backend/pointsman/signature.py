"""Signed requests: proof of a signing key that never travels. Pure.

The client sends `X-Key`, `X-Timestamp` (seconds since 1970), `X-Nonce`, `X-Content-SHA256` (hex) and
`X-Signature`: hex of HMAC-SHA256 over the lines method, path, query, timestamp, nonce and digest.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW_S = 300  # by which the client's clock may be off either way
_NONCE = re.compile(rb"[A-Za-z0-9_-]{16,64}")
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_KEY = re.compile(rb"[0-9a-f]{8}")
_TIME = re.compile(rb"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signed request says of itself."""

    key: str
    timestamp: int
    nonce: str
    content_sha256: bytes  # of the body, 32 bytes
    signature: bytes


def read(headers: Mapping[bytes, bytes]) -> Signed | None:
    """The signature's parts; None where the request has none.

    Raises:
        ValueError: it has some, and one of them is missing or badly formed.
    """
    if b"x-signature" not in headers:
        return None
    parts = [
        (b"x-key", _KEY),
        (b"x-timestamp", _TIME),
        (b"x-nonce", _NONCE),
        (b"x-content-sha256", _DIGEST),
        (b"x-signature", _DIGEST),
    ]
    told = []
    for name, form in parts:
        value = headers.get(name, b"")
        if not form.fullmatch(value):
            raise ValueError(f"{name.decode()} is missing or badly formed")
        told.append(value.decode("ascii"))
    key, timestamp, nonce, digest, signature = told
    return Signed(key, int(timestamp), nonce, bytes.fromhex(digest), bytes.fromhex(signature))


def sign(secret: bytes, method: str, path: str, query: str, signed: Signed) -> bytes:
    """The signature that such a request must have; `path` is decoded, `query` as it was sent, without `?`."""
    digest = signed.content_sha256.hex()
    lines = "\n".join((method, path, query, str(signed.timestamp), signed.nonce, digest))
    return hmac.new(secret, lines.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


def valid(secret: bytes, method: str, path: str, query: str, signed: Signed, now: float) -> bool:
    """Whether the signature fits and is neither late nor early. The nonce and the body are the caller's."""
    fits = hmac.compare_digest(sign(secret, method, path, query, signed), signed.signature)
    return fits and abs(now - signed.timestamp) <= WINDOW_S
