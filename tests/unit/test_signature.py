"""Signed requests: what is signed, and when it counts."""

import hashlib

import pytest

from pointsman.signature import WINDOW_S, Signed, read, sign, valid

SECRET = bytes(range(32))
SIGNED = Signed("0123abcd", 1_800_000_000, "nonce-of-16-signs", hashlib.sha256(b"{}").digest(), bytes(32))
ASKED = ("POST", "/v1/completions", "a=b")


def headers() -> dict[bytes, bytes]:
    return {
        b"x-key": SIGNED.key.encode(),
        b"x-timestamp": b"1800000000",
        b"x-nonce": SIGNED.nonce.encode(),
        b"x-content-sha256": SIGNED.content_sha256.hex().encode(),
        b"x-signature": SIGNED.signature.hex().encode(),
    }


def good() -> Signed:
    made = sign(SECRET, *ASKED, SIGNED)
    return Signed(SIGNED.key, SIGNED.timestamp, SIGNED.nonce, SIGNED.content_sha256, made)


def test_the_parts_are_read() -> None:
    """All of them, and none where there is no signature."""
    assert read(headers()) == SIGNED
    assert read({b"x-nonce": b"x"}) is None


@pytest.mark.parametrize("name", [b"x-key", b"x-timestamp", b"x-nonce", b"x-content-sha256", b"x-signature"])
@pytest.mark.parametrize("value", [None, b"", b"zz", b"-1", b"0123abcd\n", b"0" * 65])
def test_a_part_that_is_missing_or_odd_is_named(name: bytes, value: bytes | None) -> None:
    """A signed request with half its parts is an error, not an unsigned one."""
    told = headers()
    if value is None:
        del told[name]
    else:
        told[name] = value
    if name == b"x-signature" and value is None:
        assert read(told) is None
        return
    with pytest.raises(ValueError, match=name.decode()):
        read(told)


def test_other_programs_can_make_it() -> None:
    """The six lines as the README has them; this one is by `openssl dgst -mac HMAC`."""
    made = sign(SECRET, *ASKED, SIGNED).hex()
    assert made == "15d78693601770c203afa72158436d5678e75227fd3782fe326c1cfcd18a8652"


def test_a_path_that_is_no_utf8_can_be_signed() -> None:
    """Servers hand its odd bytes on as surrogates; they are signed as the bytes that they were."""
    assert sign(SECRET, "GET", "/\udcff", "", SIGNED) != sign(SECRET, "GET", "/\udcfe", "", SIGNED)


def test_a_signature_is_for_one_request() -> None:
    """Another method, path, query, time, nonce, body or key has another."""
    assert valid(SECRET, *ASKED, good(), 1_800_000_000)
    assert not valid(bytes(32), *ASKED, good(), 1_800_000_000)
    for asked in (("GET", *ASKED[1:]), ("POST", "/v1/chat/completions", "a=b"), ("POST", ASKED[1], "")):
        assert not valid(SECRET, *asked, good(), 1_800_000_000)
    made = good()
    others = (
        Signed(made.key, made.timestamp + 1, made.nonce, made.content_sha256, made.signature),
        Signed(made.key, made.timestamp, made.nonce + "x", made.content_sha256, made.signature),
        Signed(made.key, made.timestamp, made.nonce, bytes(32), made.signature),
    )
    assert not any(valid(SECRET, *ASKED, other, 1_800_000_000) for other in others)


@pytest.mark.parametrize(
    ("off_s", "counts"), [(0, True), (WINDOW_S, True), (-WINDOW_S, True), (301, False), (-301, False)]
)
def test_a_signature_is_late_or_early_at_some_time(off_s: int, counts: bool) -> None:
    """Clocks may differ by the window, either way."""
    assert valid(SECRET, *ASKED, good(), 1_800_000_000 + off_s) is counts
