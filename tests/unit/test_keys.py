"""API keys: who has one, what it allows, and what a request brings."""

import pytest

from pointsman.keys import (
    PUBLISHED,
    Key,
    KeyTable,
    Need,
    Scope,
    digest_of,
    need_of,
    own_key,
    parse_needs,
    secret_in,
)

SECRET = "pm-0123456789abcdef"
KEY = Key(digest_of(SECRET), expires=1000.0)


def test_a_key_is_found_by_its_secret_while_it_lives() -> None:
    """An unknown, an expired and an empty one are all alike: no key."""
    table = KeyTable([KEY])
    assert table.find(SECRET, 999.9) is KEY
    assert table.find(SECRET, 1000.0) is None
    for other in ("", SECRET + "x", SECRET[:-1], SECRET.upper(), "\udcff"):
        assert table.find(other, 0) is None
    assert not KeyTable()


def test_a_signing_key_is_no_bearer_key() -> None:
    """What signs never travels, so that its name or digest opens nothing."""
    signing = Key(digest_of("aa" * 32), signs_with=bytes(32), expires=10.0)
    table = KeyTable([signing])
    assert table
    assert table.find("aa" * 32, 0) is None
    assert table.signing(signing.name, 9) is signing
    assert table.signing(signing.name, 10) is None
    assert table.signing("00000000", 0) is None


def test_what_a_key_is_not_for() -> None:
    """A missing scope or another route is said; without a list of routes all are allowed."""
    assert KEY.refusal(Scope.GENERATE, "POST /x") is None
    assert KEY.refusal(Scope.ADMIN, "POST /x") == "Your API key lacks the scope admin."
    narrow = Key(digest_of(SECRET), routes=frozenset({"POST /complete"}))
    assert narrow.refusal(Scope.GENERATE, "POST /complete") is None
    assert narrow.refusal(Scope.GENERATE, "POST /generate") == "Your API key is not for POST /generate."


def test_neither_secret_nor_digest_shows() -> None:
    """A key in a traceback or a log line tells its name at most."""
    shown = repr(Key(digest_of(SECRET), signs_with=b"hidden-bytes-here"))
    assert SECRET not in shown
    assert "hidden" not in shown
    assert "digest" not in shown
    assert KEY.name == digest_of(SECRET).hex()[:8]


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, None),
        ({b"authorization": b"Bearer abc"}, "abc"),
        ({b"authorization": b"bearer  abc "}, "abc"),
        ({b"authorization": b"Basic abc"}, None),
        ({b"authorization": b"Basic abc", b"x-api-key": b" k "}, "k"),
        ({b"authorization": b"Bearer a", b"x-api-key": b"b"}, "a"),
        ({b"x-api-key": b""}, ""),
        ({b"x-api-key": b"\xff"}, "\udcff"),
        ({b"authorization": b"Bearer \xff"}, "\udcff"),
    ],
)
def test_where_a_request_brings_its_key(headers: dict[bytes, bytes], secret: str | None) -> None:
    """Bearer first, then X-API-Key; other schemes are somebody else's."""
    assert secret_in(headers) == secret


def test_keys_from_documents_are_refused() -> None:
    """A service must not start with a key that everybody knows, nor with one that is guessed."""
    for secret in PUBLISHED:
        with pytest.raises(ValueError, match="everybody knows"):
            own_key(secret)
    with pytest.raises(ValueError, match="too short"):
        own_key("x" * 15)
    assert own_key("x" * 16).note == "from the settings"
    assert KeyTable([own_key(SECRET)]).find(SECRET, 0) is not None


def test_rules_of_what_needs_a_key() -> None:
    """Method, route and word; anything else is said to be no rule."""
    told = parse_needs(["POST /v1/completions=always", "GET /models/{model_id} = never"])
    assert told == {"POST /v1/completions": Need.ALWAYS, "GET /models/{model_id}": Need.NEVER}
    loose = parse_needs(["if_any=never", "POST /a=always"])
    assert need_of("POST /b", Need.IF_ANY, loose) is Need.NEVER
    assert need_of("POST /a", Need.IF_ANY, loose) is Need.ALWAYS
    assert need_of("POST /b", Need.ALWAYS, loose) is Need.ALWAYS
    assert need_of("POST /b", Need.NEVER, parse_needs(["if_any=always"])) is Need.NEVER
    for bad in ("POST /x", "/x=always", "POST /x=sometimes", "post /x=always", "POST x=always"):
        with pytest.raises(ValueError, match="no rule"):
            parse_needs([bad])
