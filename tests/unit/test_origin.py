"""CORS and the Origin rule, as data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.origin import (
    CorsConfig,
    cors_headers,
    origin_allowed,
    parse_hosts,
    parse_origins,
    preflight,
)

CLOSED = CorsConfig()
UI = CorsConfig(allowed_origins=("https://ui.example", "http://localhost:3000"))
ANY = CorsConfig(allowed_origins=("*",))
PUBLIC = CorsConfig(allowed_origins=("https://ui.example",), public_hosts=("llm.example",))

ASK = [(b"origin", b"https://ui.example"), (b"access-control-request-method", b"POST")]


def test_closed_by_default() -> None:
    """Without configured origins no answer carries a CORS header, whoever asks."""
    for origin in (None, b"", b"null", b"https://ui.example"):
        assert cors_headers(origin, CLOSED) == []


def test_listed_origin_is_granted_by_name() -> None:
    """A listed origin is named back, with credentials, our own headers exposed, and Vary."""
    headers = dict(cors_headers(b"http://localhost:3000", UI))
    assert headers.pop(b"access-control-expose-headers").split(b", ") == [
        b"X-Request-ID",
        b"X-Process-Time",
        b"X-Session-ID",
        b"X-Pointsman-Model",
        b"X-Pointsman-Replica",
        b"X-Pointsman-Attempts",
        b"X-Pointsman-Ignored",
        b"X-Pointsman-Trimmed",
        b"X-Pointsman-Cache",
        b"X-Pointsman-Explain",
    ]
    assert headers == {
        b"access-control-allow-origin": b"http://localhost:3000",
        b"access-control-allow-credentials": b"true",
        b"vary": b"Origin",
    }


@pytest.mark.parametrize(
    "origin",
    [
        None,
        b"",
        b"*",
        b"null",
        b"https://ui.example:443",
        b"https://ui.example/",
        b"HTTPS://UI.EXAMPLE",
        b"http://ui.example",
        b"https://ui.example.evil.example",
        b"https://ui.example, https://evil.example",
        b"https://evil.example",
        b"\xff\r\n",
    ],
)
def test_unlisted_origin_gets_vary_alone(origin: bytes | None) -> None:
    """Any other origin is told nothing but that the answer depends on it."""
    assert cors_headers(origin, UI) == [(b"vary", b"Origin")]


@pytest.mark.parametrize("origin", [None, b"null", b"https://evil.example"])
def test_star_never_comes_with_credentials(origin: bytes | None) -> None:
    """With "*" every page may read answers, none with credentials, and nothing is echoed."""
    headers = dict(cors_headers(origin, ANY))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert set(headers) == {b"access-control-allow-origin", b"access-control-expose-headers"}


def test_granted_preflight() -> None:
    """An allowed page learns methods, headers and how long to remember them."""
    answer = preflight([*ASK, (b"access-control-request-headers", b"x-client-id")], UI)
    assert answer is not None
    assert answer.status == 204
    assert dict(answer.headers) == {
        b"access-control-allow-origin": b"https://ui.example",
        b"access-control-allow-credentials": b"true",
        b"access-control-allow-methods": b"GET, POST, DELETE, PUT, OPTIONS",
        b"access-control-allow-headers": (
            b"Content-Type, Authorization, X-API-Key, X-Request-ID, "
            b"X-Request-Timeout, X-Pointsman-Priority, X-Pointsman-Cache, X-Client-ID, X-Session-ID"
        ),
        b"access-control-max-age": b"600",
        b"vary": b"Origin",
    }


def test_preflight_with_star() -> None:
    """With "*" the preflight of any page is granted, without credentials."""
    answer = preflight([(b"origin", b"null"), ASK[1]], ANY)
    assert answer is not None
    assert answer.status == 204
    assert dict(answer.headers)[b"access-control-allow-origin"] == b"*"
    assert b"access-control-allow-credentials" not in dict(answer.headers)


@pytest.mark.parametrize(
    ("headers", "config"),
    [
        (ASK, CLOSED),
        ([(b"origin", b"https://evil.example"), ASK[1]], UI),
        ([(b"origin", b"null"), ASK[1]], UI),
        ([*ASK, (b"origin", b"https://evil.example")], UI),
        ([*ASK, ASK[0]], UI),
    ],
)
def test_refused_preflight(headers: list[tuple[bytes, bytes]], config: CorsConfig) -> None:
    """Any other page, or two Origin lines, gets 403 and no permission."""
    answer = preflight(headers, config)
    assert answer is not None
    assert (answer.status, answer.headers) == (403, [(b"vary", b"Origin")])


@pytest.mark.parametrize("headers", [[], [ASK[0]], [ASK[1]], [(b"host", b"x")]])
def test_other_options_requests_are_no_preflight(headers: list[tuple[bytes, bytes]]) -> None:
    """OPTIONS without Origin or without the requested method is left to the routes."""
    assert preflight(headers, UI) is None


@pytest.mark.parametrize(
    ("origin", "host", "config", "allowed"),
    [
        # no browser
        (None, b"evil.example", CLOSED, True),
        (None, None, CLOSED, True),
        # listed pages, under whatever name they reach us
        (b"https://ui.example", b"anything.example", UI, True),
        (b"https://ui.example", None, UI, True),
        (b"https://evil.example", b"evil.example", ANY, True),
        # rebinding: the page's own name resolves to our address
        (b"http://evil.example:8000", b"evil.example:8000", CLOSED, False),
        (b"http://evil.example:8000", b"evil.example:8000", UI, False),
        (b"http://127.0.0.1.evil.example", b"127.0.0.1.evil.example", CLOSED, False),
        (b"http://localhost.evil.example", b"localhost.evil.example", CLOSED, False),
        (b"http://xlocalhost", b"xlocalhost", CLOSED, False),
        # pages we serve ourselves, under a host that cannot be rebound
        (b"http://127.0.0.1:8000", b"127.0.0.1:8000", CLOSED, True),
        (b"http://192.168.1.7", b"192.168.1.7", CLOSED, True),
        (b"http://[::1]:8000", b"[::1]:8000", CLOSED, True),
        (b"http://[2001:db8::1]", b"[2001:db8::1]", CLOSED, True),
        (b"http://localhost:8000", b"localhost:8000", CLOSED, True),
        (b"http://localhost:8000", b"LocalHost.:8000", CLOSED, True),
        (b"https://llm.example", b"llm.example", PUBLIC, True),
        (b"https://llm.example", b"LLM.example.:443", PUBLIC, True),
        (b"https://llm.example", b"a.llm.example", PUBLIC, False),
        (b"https://llm.example", b"llm.example", UI, False),
        # an opaque or empty origin is an origin
        (b"null", b"evil.example", CLOSED, False),
        (b"", b"evil.example", CLOSED, False),
        (b"null", b"127.0.0.1", CLOSED, True),
        # hosts that are no literal
        (b"http://evil.example", None, CLOSED, False),
        (b"http://evil.example", b"", CLOSED, False),
        (b"http://evil.example", b":8000", CLOSED, False),
        (b"http://evil.example", b"2130706433", CLOSED, False),
        (b"http://evil.example", b"0x7f.0.0.1", CLOSED, False),
        (b"http://evil.example", b"127.1", CLOSED, False),
        (b"http://evil.example", b"127.0.0.01", CLOSED, False),
        (b"http://evil.example", b"::1", CLOSED, False),
        (b"http://evil.example", b"[::1", CLOSED, False),
        (b"http://evil.example", b"[127.0.0.1]", CLOSED, False),
        (b"http://evil.example", b"[fe80::1%25eth0]", CLOSED, False),
        (b"http://evil.example", b"127.0.0.1:80:80", CLOSED, False),
        (b"http://evil.example", b"evil.example@127.0.0.1", CLOSED, False),
        (b"http://evil.example", b"127.0.0.1, evil.example", CLOSED, False),
        (b"http://evil.example", b"127.0.0.1\n", CLOSED, False),
    ],
)
def test_origin_of_a_post(
    origin: bytes | None, host: bytes | None, config: CorsConfig, allowed: bool
) -> None:
    """An unlisted page may post only under a host that no foreign DNS can hold."""
    assert origin_allowed(origin, host, config) is allowed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("*", ("*",)),
        ("* , *", ("*",)),
        (
            "https://ui.example, http://localhost:3000\nhttps://ui.example",
            ("https://ui.example", "http://localhost:3000"),
        ),
        ("HTTPS://UI.Example:443 http://a:80", ("https://ui.example", "http://a")),
        ("http://a:443 https://a:0080", ("http://a:443", "https://a:80")),
        ("http://[2001:DB8:0::1]:3000", ("http://[2001:db8::1]:3000",)),
        ("http://192.168.1.7:3000", ("http://192.168.1.7:3000",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
    ],
)
def test_origins_are_read(text: str, expected: tuple[str, ...]) -> None:
    """Origins come out once each and as browsers spell them."""
    assert parse_origins(text, "ALLOWED_ORIGINS") == expected


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("https://ui.example/", "write https://ui.example ("),
        ("https://ui.example:8443/app?x", "write https://ui.example:8443 ("),
        ("ui.example", "write https://name"),
        ("null", "write https://name"),
        ("https://*.ui.example", "no wildcard"),
        ("https://me@ui.example", "write https://name"),
        ("https://exämple.com", "write https://name"),
        ("http://ui.example:0", "bad address or port"),
        ("http://ui.example:65536", "bad address or port"),
        ("http://[:::]", "bad address or port"),
    ],
)
def test_bad_origin_is_explained(bad: str, hint: str) -> None:
    """A bad origin stops the start with one sentence: the setting, the item, what to write."""
    with pytest.raises(ValueError) as caught:
        parse_origins(f"https://fine.example {bad}", "ALLOWED_ORIGINS")
    message = str(caught.value)
    assert message.startswith(f"ALLOWED_ORIGINS: {bad!r} ")
    assert hint in message


def test_star_stands_alone() -> None:
    """ "*" beside other origins is refused, in the text and in the object."""
    with pytest.raises(ValueError, match=r"^ALLOWED_ORIGINS: '\*' must stand alone"):
        parse_origins("*,https://ui.example", "ALLOWED_ORIGINS")
    with pytest.raises(ValueError, match=r"^ALLOWED_ORIGINS: '\*' must stand alone"):
        CorsConfig(allowed_origins=("https://ui.example", "*"))


def test_hosts_are_read() -> None:
    """Host names come out once each, lower case, without final dot."""
    assert parse_hosts("LLM.example., llm.example gw", "PUBLIC_HOSTS") == ("llm.example", "gw")
    for bad in ("llm.example:443", "https://llm.example", "*.example", "a..b", "[::1]", "exämple.com"):
        with pytest.raises(ValueError, match=r"^PUBLIC_HOSTS: .* is not a host name; write the bare name"):
            parse_hosts(bad, "PUBLIC_HOSTS")


@given(
    origin=st.one_of(st.none(), st.binary(max_size=60)),
    host=st.one_of(st.none(), st.binary(max_size=60)),
    config=st.sampled_from([CLOSED, UI, ANY, PUBLIC]),
)
def test_nothing_raises_and_nothing_foreign_is_echoed(
    origin: bytes | None, host: bytes | None, config: CorsConfig
) -> None:
    """Any bytes get an answer, and no value leaves us that was not configured."""
    origin_allowed(origin, host, config)
    headers = dict(cors_headers(origin, config))
    named = headers.get(b"access-control-allow-origin", b"").decode()
    assert named in ("", *config.allowed_origins)
    assert named != "*" or b"access-control-allow-credentials" not in headers
