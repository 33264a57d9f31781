"""Client address and IP rules, as data: each row is one request."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.access import (
    CACHED_LINES,
    CACHED_VALUE_BYTES,
    CHAINS_CACHED,
    LOOPBACK,
    MAX_HEADER_BYTES,
    MAX_ITEMS,
    PEERS_CACHED,
    PRIVATE,
    AccessConfig,
    AccessRules,
    Client,
    Decision,
    ForwardedHeader,
    Network,
    Reason,
    client_address,
    parse_address,
    parse_networks,
    verdict,
)

Lines = list[tuple[bytes, bytes]]

TEN = AccessConfig(trusted_proxies=(ip_network("10.0.0.0/8"),))  # the table of the specification
NGINX = AccessConfig()  # nginx on the same machine, all defaults
REAL_IP = AccessConfig(forwarded_header=ForwardedHeader.X_REAL_IP)
RFC7239 = AccessConfig(forwarded_header=ForwardedHeader.FORWARDED)
BOTH = AccessConfig(trusted_proxies=(*LOOPBACK, ip_network("10.0.0.0/8")))

C = "198.51.100.7"  # an honest client
V6 = "2001:db8::1"


def xff(*values: str) -> Lines:
    """X-Forwarded-For lines among headers that must not matter."""
    lines = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    return [(b"host", b"llm.example"), *lines, (b"x-request-id", b"127.0.0.1")]


def real(value: str) -> Lines:
    """An X-Real-IP line."""
    return [(b"x-real-ip", value.encode("latin-1"))]


def rfc(*values: str) -> Lines:
    """Forwarded lines."""
    return [(b"forwarded", value.encode("latin-1")) for value in values]


def nginx_002(client: str, sent: str | None = None) -> Lines:
    """What seed 002's nginx file passes on: X-Real-IP set, X-Forwarded-For appended to."""
    return [*real(client), *xff(client if sent is None else f"{sent}, {client}")]


def nginx_003(client: str, sent: Lines | None = None) -> Lines:
    """What seed 003's nginx file passes on: X-Real-IP set, the client's X-Forwarded-For untouched."""
    return [*real(client), *(sent or [])]


def nginx_ours(client: str) -> Lines:
    """What our nginx file passes on: both headers overwritten."""
    return [*real(client), *xff(client), (b"x-forwarded-proto", b"https")]


SPECIFIED: list[tuple[str | None, Lines, str | None]] = [
    ("203.0.113.9", xff("1.2.3.4"), "203.0.113.9"),
    ("10.0.0.2", xff(f"6.6.6.6, {C}"), C),
    ("10.0.0.2", xff(f"6.6.6.6, {C}, 10.0.0.3"), C),
    ("10.0.0.2", xff("6.6.6.6", C), C),
    ("10.0.0.2", xff(f"{C}:4711"), C),
    ("10.0.0.2", xff(f"[{V6}]:80"), V6),
    ("::ffff:10.0.0.2", xff(f"::ffff:{C}"), C),
    ("10.0.0.2", xff("10.0.0.9, 10.0.0.3"), "10.0.0.9"),
    ("10.0.0.2", xff(f"{C}, unknown"), None),
    ("10.0.0.2", xff("010.0.0.1"), None),
    ("10.0.0.2", xff(""), None),
    ("10.0.0.2", xff(f"{C}, ,"), None),
]

FURTHER: list[tuple[str | None, Lines, str | None]] = [
    # several lines, in order
    ("10.0.0.2", xff(C, "10.0.0.3"), C),
    ("10.0.0.2", xff("6.6.6.6, 7.7.7.7", f"8.8.8.8, {C}", "10.0.0.3"), C),
    ("10.0.0.2", xff(C, ""), None),
    ("10.0.0.2", xff("", C), C),
    # white space, brackets, ports
    ("10.0.0.2", xff(f" \t{C}\t "), C),
    ("10.0.0.2", xff(f"6.6.6.6,{C}"), C),
    ("10.0.0.2", xff(f"\x0b{C}"), None),
    ("10.0.0.2", xff(f"\xa0{C}"), None),
    ("10.0.0.2", xff(V6), V6),
    ("10.0.0.2", xff("2001:0DB8:0:0::1"), V6),
    ("10.0.0.2", xff(f"[{V6}]"), V6),
    ("10.0.0.2", xff(f"[{V6}"), None),
    ("10.0.0.2", xff(f"[{V6}]x"), None),
    ("10.0.0.2", xff(f"[{V6}]:"), None),
    ("10.0.0.2", xff(f"[{C}]"), None),
    ("10.0.0.2", xff(f"{C}:"), None),
    ("10.0.0.2", xff(f"{C}:65535"), C),
    ("10.0.0.2", xff(f"{C}:65536"), None),
    ("10.0.0.2", xff(f"{C}:-1"), None),
    ("10.0.0.2", xff(f"{C}:http"), None),
    ("10.0.0.2", xff(f"{C}:\xb2"), None),
    ("10.0.0.2", xff(f'"{C}"'), None),
    # IPv4-mapped and its neighbours
    ("10.0.0.2", xff(f"[::ffff:{C}]:443"), C),
    ("10.0.0.2", xff(f"{C}, ::ffff:10.0.0.3"), C),
    ("10.0.0.2", xff("::ffff:0a00:0001"), "10.0.0.1"),
    ("10.0.0.2", xff("::10.0.0.1"), "::a00:1"),
    # what only looks like an address
    ("10.0.0.2", xff("fe80::1%eth0"), None),
    ("10.0.0.2", xff("[fe80::1%25eth0]:80"), None),
    ("10.0.0.2", xff("::ffff:010.0.0.1"), None),
    ("10.0.0.2", xff("198.51.100.07"), None),
    ("10.0.0.2", xff("0x7f.0.0.1"), None),
    ("10.0.0.2", xff("0xc6336407"), None),
    ("10.0.0.2", xff("2130706433"), None),
    ("10.0.0.2", xff("127.1"), None),
    ("10.0.0.2", xff("198.51.100.256"), None),
    ("10.0.0.2", xff("198.51.100.7.1"), None),
    ("10.0.0.2", xff("198.51.100.7/32"), None),
    ("10.0.0.2", xff("localhost"), None),
    ("10.0.0.2", xff("unix:"), None),
    ("10.0.0.2", xff("_hidden"), None),
    ("10.0.0.2", xff(f"X{C}"), None),
    ("10.0.0.2", xff("\xb9\xb2\xb3.0.0.1"), None),
    # junk right of the client spoils it, junk left of it does not
    ("10.0.0.2", xff(f"{C}, unknown, 10.0.0.3"), None),
    ("10.0.0.2", xff(f"unknown, _x, , {C}, 10.0.0.3"), C),
    ("10.0.0.2", xff("unknown, 10.0.0.3"), None),
    # other peers
    ("10.0.0.2", [(b"host", b"x")], None),
    ("10.0.0.2", [(b"x_forwarded_for", b"198.51.100.7")], None),
    ("127.0.0.1", xff("1.2.3.4"), "127.0.0.1"),
    ("fe80::1%eth0", xff("1.2.3.4"), "fe80::1"),
    ("::ffff:203.0.113.9", xff("1.2.3.4"), "203.0.113.9"),
    ("testclient", xff("1.2.3.4"), None),
    ("", xff("1.2.3.4"), None),
    (None, xff(C), C),
    (None, [], None),
    (None, real(C), C),
    # X-Real-IP beside X-Forwarded-For
    ("10.0.0.2", [*real(C), *xff(f"6.6.6.6, {C}")], C),
    ("10.0.0.2", [*real(f"::ffff:{C}"), *xff(f"{C}:99")], C),
    ("10.0.0.2", [*real("6.6.6.6"), *xff(C)], None),
    ("10.0.0.2", [*real(C), *xff(f"{C}, 6.6.6.6")], None),
    ("10.0.0.2", [*real(C), *xff(C, "6.6.6.6")], None),
    ("10.0.0.2", [*real("unknown"), *xff("unknown")], None),
    ("10.0.0.2", [*real(""), *xff(C)], None),
    ("10.0.0.2", [*real("6.6.6.6"), *real(C), *xff(C)], None),
    ("10.0.0.2", [*real("6.6.6.6"), *real(C)], C),
    ("10.0.0.2", real("unknown"), None),
]


@pytest.mark.parametrize(("peer", "headers", "expected"), SPECIFIED + FURTHER)
def test_client_behind_trusted_network(peer: str | None, headers: Lines, expected: str | None) -> None:
    """With 10.0.0.0/8 trusted, each request has the client its row names; None is unknown."""
    assert client_address(peer, headers, TEN).address == (None if expected is None else ip_address(expected))


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", None])
@pytest.mark.parametrize("config", [NGINX, REAL_IP])
@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (nginx_002(C), C),
        (nginx_002(V6), V6),
        (nginx_003(C), C),
        (nginx_ours(C), C),
        # a liar's own headers do not move it off its address, or make it unknown
        (nginx_002(C, "127.0.0.1"), C),
        (nginx_002(C, "10.0.0.1, 127.0.0.1"), C),
        (nginx_002(C, "unknown"), C),
        (nginx_002(C, ""), C),
        (nginx_003(C, xff("127.0.0.1")), None),
        (nginx_003(C, xff(f"{C}, 127.0.0.1")), None),
        (nginx_003(C, xff(f"127.0.0.1, {C}")), C),
        (nginx_003(C, xff(C, "10.0.0.1")), None),
        (nginx_003(C, xff("")), None),
        (nginx_003(C, rfc("for=127.0.0.1")), C),
        (nginx_003(C, [(b"x_real_ip", b"127.0.0.1"), (b"x_forwarded_for", b"10.0.0.1")]), C),
        # a call from the proxy's own machine
        (nginx_002("127.0.0.1"), "127.0.0.1"),
        (nginx_003("127.0.0.1"), "127.0.0.1"),
    ],
)
def test_nginx_files(peer: str | None, config: AccessConfig, headers: Lines, expected: str | None) -> None:
    """Behind each nginx file, over TCP or unix socket, a client is itself or unknown, never another."""
    assert client_address(peer, headers, config).address == (
        None if expected is None else ip_address(expected)
    )


def test_appending_gateway_and_injected_real_ip() -> None:
    """Where nginx only appends X-Forwarded-For, a client that sends X-Real-IP makes itself unknown."""
    assert client_address("127.0.0.1", xff(C), NGINX).text == C
    assert client_address("127.0.0.1", xff(f"10.0.0.1, {C}"), NGINX).text == C
    assert client_address("127.0.0.1", [*real("10.0.0.1"), *xff(C)], NGINX).reason is Reason.HEADERS_DISAGREE


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("config", [NGINX, REAL_IP, RFC7239])
def test_local_call(peer: str, config: AccessConfig) -> None:
    """A loopback peer is the client itself while no header hints at a proxy, and unknown otherwise."""
    plain = [(b"host", b"localhost"), (b"x-request-id", b"1"), (b"x_forwarded_for", b"1.2.3.4"), (b"", b"")]
    assert client_address(peer, plain, config).reason is Reason.LOCAL_CALL
    assert client_address(peer, plain, config).address == parse_address(peer.encode())
    for name in (b"via", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-x", b"X-Forwarded-For"):
        client = client_address(peer, [*plain, (name, b"")], config)
        assert (client.address, client.reason) == (None, Reason.HEADER_MISSING)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (real(C), Reason.HEADER_MISSING),
        (xff(C), Reason.HEADER_MISSING),
        (rfc("by=203.0.113.43"), Reason.ITEM_UNREADABLE),
        ([*rfc("for=1.2.3.4"), *real("1.2.3.4"), *xff(C)], Reason.HEADERS_DISAGREE),
    ],
)
def test_forwarded_is_not_replaced(headers: Lines, reason: Reason) -> None:
    """With Forwarded configured no other header is read in its place."""
    assert client_address("127.0.0.1", headers, RFC7239) == Client(None, reason)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([f"for={C}"], C),
        ([f"For={C};proto=https;by=203.0.113.43"], C),
        ([f"proto=https; FOR={C} ;"], C),
        ([f'for="{C}:4711"'], C),
        ([f'for="[{V6}]:4711"'], V6),
        ([f'for="[::ffff:{C}]"'], C),
        ([f"for=6.6.6.6, for={C}"], C),
        (["for=6.6.6.6", f"for={C}, for=127.0.0.1"], C),
        ([f'for="x, for={C}'], C),
        ([f"for={C}, for=unknown"], None),
        ([f"for={C}, for=_hidden"], None),
        ([f'for="{C}:_port"'], None),
        ([f"for={C};for=10.0.0.1"], None),
        ([f'for="{C}'], None),
        ([f'for="{C}\\"'], None),
        ([f'for={C};host="a\\b"'], None),
        ([C], None),
        ([""], None),
        (["for="], None),
        ([f"Xfor={C}"], None),
        ([f"\x0bfor={C}"], None),
        # an outsider's text inside a quoted string of the proxy
        ([f'for={C};host="a, for=10.0.0.1;b=c"'], None),
        ([f'for={C};host="a, for=10.0.0.1;b=\\"c"'], None),
        ([f'for={C};host="a;for=10.0.0.1;b"'], None),
        (['by=127.0.0.1;host="a;for=10.0.0.1;b"'], None),
    ],
)
def test_forwarded_elements(values: list[str], expected: str | None) -> None:
    """Forwarded gives the right-most untrusted `for`; odd quoting, two `for` or none give unknown."""
    client = client_address("127.0.0.1", rfc(*values), RFC7239)
    assert client.address == (None if expected is None else ip_address(expected))


def test_limits_of_the_header() -> None:
    """32 items and 4 KiB are read, one more of either is unknown, however many lines they came in."""
    full = ["6.6.6.6"] * (MAX_ITEMS - 1)
    assert client_address(None, xff(", ".join([*full, C])), TEN).text == C
    assert client_address(None, xff(*full, C), TEN).text == C
    too_many = Client(None, Reason.HEADER_TOO_LONG)
    assert client_address(None, xff(*full, "6.6.6.6", C), TEN) == too_many
    padding = " " * (MAX_HEADER_BYTES - len(C))
    assert client_address(None, xff(padding + C), TEN).text == C
    assert client_address(None, xff(padding + " " + C), TEN) == too_many
    assert client_address(None, xff(padding, C), TEN) == too_many


@pytest.mark.parametrize(
    ("peer", "headers", "reason"),
    [
        ("203.0.113.9", xff(C), Reason.PEER),
        ("127.0.0.1", xff(C), Reason.FORWARDED),
        ("127.0.0.1", xff("127.0.0.1"), Reason.ALL_TRUSTED),
        ("127.0.0.1", [], Reason.LOCAL_CALL),
        ("testclient", [], Reason.PEER_UNREADABLE),
        (None, [], Reason.HEADER_MISSING),
        ("127.0.0.1", rfc("for=1.2.3.4"), Reason.HEADER_MISSING),
        (None, xff("x" * 5000), Reason.HEADER_TOO_LONG),
        (None, xff("x"), Reason.ITEM_UNREADABLE),
        (None, [*xff(C), *real(V6)], Reason.HEADERS_DISAGREE),
        (None, [*xff("unknown"), *real("unknown")], Reason.HEADERS_DISAGREE),
    ],
)
def test_reason_says_how_the_client_was_found(peer: str | None, headers: Lines, reason: Reason) -> None:
    """Each way to find or miss the client has its own reason, and unknown has no address."""
    client = client_address(peer, headers, NGINX)
    assert client.reason is reason
    assert (client.address is None) == (client.text == "unknown")


def at(text: str | None) -> Client:
    """A client at an address; None is unknown."""
    return Client(None, Reason.HEADER_MISSING) if text is None else Client(ip_address(text), Reason.PEER)


LISTED = AccessConfig(denied=parse_networks("10.6.6.0/24, 203.0.113.66", "DENIED_NETWORKS"))
OFF = AccessConfig(disabled=True)
OFF_LISTED = AccessConfig(disabled=True, denied=LISTED.denied)
OPS = AccessConfig(ops=parse_networks("203.0.113.0/24", "OPS_NETWORKS"), denied=LISTED.denied)


@pytest.mark.parametrize(
    ("client", "config", "expected", "expected_ops"),
    [
        ("127.0.0.1", LISTED, Decision.ALLOWED, Decision.ALLOWED),
        ("::1", LISTED, Decision.ALLOWED, Decision.ALLOWED),
        ("10.1.2.3", LISTED, Decision.ALLOWED, Decision.NOT_ALLOWED),
        ("172.21.0.5", LISTED, Decision.ALLOWED, Decision.NOT_ALLOWED),
        ("192.168.1.1", LISTED, Decision.ALLOWED, Decision.NOT_ALLOWED),
        ("fd00::1", LISTED, Decision.ALLOWED, Decision.NOT_ALLOWED),
        ("172.65.0.1", LISTED, Decision.NOT_ALLOWED, Decision.NOT_ALLOWED),
        ("169.254.169.254", LISTED, Decision.NOT_ALLOWED, Decision.NOT_ALLOWED),
        ("fe80::1", LISTED, Decision.NOT_ALLOWED, Decision.NOT_ALLOWED),
        ("2001:db8::1", LISTED, Decision.NOT_ALLOWED, Decision.NOT_ALLOWED),
        ("0.0.0.0", LISTED, Decision.NOT_ALLOWED, Decision.NOT_ALLOWED),
        ("10.6.6.7", LISTED, Decision.DENIED, Decision.DENIED),
        (None, LISTED, Decision.UNKNOWN, Decision.UNKNOWN),
        ("8.8.8.8", OFF, Decision.UNRESTRICTED, Decision.NOT_ALLOWED),
        ("127.0.0.1", OFF, Decision.UNRESTRICTED, Decision.ALLOWED),
        (None, OFF, Decision.UNRESTRICTED, Decision.UNKNOWN),
        ("203.0.113.66", OFF_LISTED, Decision.DENIED, Decision.DENIED),
        ("203.0.113.67", OFF_LISTED, Decision.UNRESTRICTED, Decision.NOT_ALLOWED),
        (None, OFF_LISTED, Decision.UNKNOWN, Decision.UNKNOWN),
        ("203.0.113.67", OPS, Decision.NOT_ALLOWED, Decision.ALLOWED),
        ("203.0.113.66", OPS, Decision.DENIED, Decision.DENIED),
        ("127.0.0.1", OPS, Decision.ALLOWED, Decision.NOT_ALLOWED),
    ],
)
def test_verdict(
    client: str | None, config: AccessConfig, expected: Decision, expected_ops: Decision
) -> None:
    """Denied wins, unknown is on no list, switched-off rules keep the deny and ops lists."""
    assert verdict(at(client), config) is expected
    assert verdict(at(client), config, ops=True) is expected_ops


def test_only_two_decisions_let_in() -> None:
    """Nothing but an explicit yes lets a request go on."""
    assert {each for each in Decision if each.allowed} == {Decision.ALLOWED, Decision.UNRESTRICTED}


def test_unknown_is_refused_whatever_is_allowed() -> None:
    """A chain nobody can read is refused although proxy and forged address are both allowed."""
    for headers in (xff("127.0.0.1, unknown"), [(b"via", b"1.1 x")], [*real("127.0.0.1"), *xff("10.0.0.1")]):
        ruling = AccessRules(NGINX).decide("127.0.0.1", headers)
        assert (ruling.decision, ruling.ops) == (Decision.UNKNOWN, Decision.UNKNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        (
            "10.0.0.0/8,192.168.1.7 ::1\tfd00::/8\n10.0.0.0/8",
            ["10.0.0.0/8", "192.168.1.7", "::1", "fd00::/8"],
        ),
        ("::ffff:10.0.0.0/104", ["10.0.0.0/8"]),
        ("::ffff:192.0.2.1", ["192.0.2.1"]),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
    ],
)
def test_networks_are_read(text: str, expected: list[str]) -> None:
    """Commas and white space separate, doubles vanish, IPv4-mapped networks become IPv4."""
    assert parse_networks(text, "X") == tuple(ip_network(each) for each in expected)


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8 for all of it or 10.0.0.1 for one address"),
        ("fd00::1/8", "write fd00::/8 "),
        ("::ffff:10.0.0.1/104", "write ::ffff:a00:0/104 "),
        ("10.0.0.0/33", "10.0.0.0/8"),
        ("10/8", "10.0.0.0/8"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "without netmask"),
        ("0.0.0.0/0.0.0.255", "without netmask"),
        ("10.0.0.0/", "10.0.0.0/8"),
        ("10.0.0.0/-8", "10.0.0.0/8"),
        ("fe80::1%eth0", "zone"),
        ("localhost", "192.168.1.7"),
        ("*", "192.168.1.7"),
    ],
)
def test_bad_network_is_explained(bad: str, hint: str) -> None:
    """A bad item stops the start with one sentence: the setting, the item, what to write."""
    with pytest.raises(ValueError) as caught:
        parse_networks(f"192.0.2.0/24, {bad}", "ALLOWED_NETWORKS")
    message = str(caught.value)
    assert message.startswith(f"ALLOWED_NETWORKS: {bad!r} ")
    assert hint in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/8 ::/0",
        "0.0.0.0/1,128.0.0.0/1",
        "::/1 8000::/1",
        "::ffff:0:0/96",
        "0.0.0.0/1 128.0.0.0/2 192.0.0.0/3",
        "2000::/3",
        "2000::/4,3000::/4",
        "0.0.0.0/2,64.0.0.0/2,128.0.0.0/2,192.0.0.0/2",
    ],
)
def test_world_is_refused(text: str) -> None:
    """No list covers the whole internet by accident, in pieces neither; each has its own remedy."""
    world = parse_networks(text, "X")
    with pytest.raises(ValueError, match=r"^ALLOWED_NETWORKS covers .*; set DISABLE_IP_RESTRICTION=true "):
        AccessConfig(allowed=world)
    with pytest.raises(
        ValueError, match=r"^TRUSTED_PROXIES covers .*; list only the addresses of your proxies"
    ):
        AccessConfig(trusted_proxies=world, disabled=True)
    with pytest.raises(ValueError, match=r"^OPS_NETWORKS covers .*; list the operators' networks"):
        AccessConfig(ops=world, disabled=True)
    assert AccessConfig(allowed=world, denied=world, disabled=True).allowed == world


@pytest.mark.parametrize("text", ["", "0.0.0.0/1", "128.0.0.0/1", "4000::/2", "2000::/4", "::ffff:0:0/97"])
def test_less_than_the_world_is_accepted(text: str) -> None:
    """A wide list that leaves a part of the internet out is the operator's business."""
    networks: tuple[Network, ...] = parse_networks(text, "X")
    assert AccessConfig(allowed=networks).allowed == networks


def test_rules_agree_with_the_plain_functions() -> None:
    """Asked twice, the remembering rules answer what the plain functions answer."""
    requests = SPECIFIED + FURTHER
    for config in (TEN, NGINX, REAL_IP, RFC7239, OFF_LISTED):
        rules = AccessRules(config)
        for peer, headers, _ in requests + requests:
            ruling = rules.decide(peer, headers)
            assert ruling.client == client_address(peer, headers, config)
            assert ruling.decision is verdict(ruling.client, config)
            assert ruling.ops is verdict(ruling.client, config, ops=True)
            assert ruling.admitted is ruling.decision.allowed
            assert ruling.is_ops is ruling.ops.allowed


def test_repeated_caller_is_remembered_and_big_headers_are_not() -> None:
    """The same caller gets the same object; long or many lines are judged but not kept."""
    rules = AccessRules(NGINX)
    for peer, headers in (("127.0.0.1", nginx_002(C)), (None, nginx_003(C)), (C, []), ("::1", [])):
        other_request = [*headers, (b"user-agent", b"another")]
        assert rules.decide(peer, headers) is rules.decide(peer, other_request)
    for big in (xff(" " * CACHED_VALUE_BYTES + C), xff(*["6.6.6.6"] * CACHED_LINES, C)):
        assert rules.decide(None, big).client.text == C
        assert rules.decide(None, big) is not rules.decide(None, big)
    at_most = " " * (CACHED_VALUE_BYTES - len(C)) + C
    for largest in (xff(at_most), xff(*["6.6.6.6"] * (CACHED_LINES - 1), C)):
        assert rules.decide(None, largest) is rules.decide(None, largest)


def test_what_is_remembered_of_callers_has_a_bound() -> None:
    """However many come, each memory keeps so many and lets the oldest go."""
    rules = AccessRules(NGINX)
    assert rules.sizes() == {"peers": 0, "chains": 0}
    for number in range(PEERS_CACHED + 2):
        rules.decide(str(ip_address("203.0.113.0") + number), [])
    assert rules.sizes() == {"peers": PEERS_CACHED, "chains": 0}
    for number in range(CHAINS_CACHED + 2):
        rules.decide(None, xff(str(ip_address("203.0.113.0") + number)))
    assert rules.sizes() == {"peers": PEERS_CACHED, "chains": CHAINS_CACHED}


def test_defaults() -> None:
    """Out of the box: private callers, proxies and operators on this machine, X-Forwarded-For."""
    config = AccessConfig()
    assert (config.allowed, config.denied, config.trusted_proxies) == (PRIVATE, (), LOOPBACK)
    assert (config.ops, config.forwarded_header, config.disabled) == (LOOPBACK, "x-forwarded-for", False)


NAMES = [b"x-forwarded-for", b"x-real-ip", b"forwarded", b"via", b"x-forwarded-proto", b"host", b"x-api-key"]
PIECES = [
    b"10.0.0.1",
    b"127.0.0.1",
    b"198.51.100.7",
    b"[2001:db8::1]:80",
    b"for=",
    b",",
    b";",
    b'"',
    b":",
    b"%",
]
VALUES = st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
HEADERS = st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), st.binary(max_size=20)), VALUES), max_size=12)
PEERS = st.one_of(
    st.none(), st.text(max_size=40), st.sampled_from(["127.0.0.1", "::1", "10.0.0.2", "8.8.8.8"])
)
CONFIGS = st.sampled_from([NGINX, REAL_IP, RFC7239, TEN, BOTH])
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(peer=PEERS, headers=HEADERS, config=CONFIGS)
def test_nothing_raises(peer: str | None, headers: Lines, config: AccessConfig) -> None:
    """Whatever bytes arrive, there is a ruling, and it is the same with and without memory."""
    ruling = AccessRules(config).decide(peer, headers)
    assert ruling.client == client_address(peer, headers, config)
    assert ruling.client.address is not None or not ruling.decision.allowed


@given(peer=ADDRESSES, headers=HEADERS, config=CONFIGS)
def test_untrusted_peer_cannot_speak_for_others(peer: str, headers: Lines, config: AccessConfig) -> None:
    """No header of an untrusted peer changes the result."""
    alone = client_address(peer, [], config)
    if alone.reason is Reason.PEER:
        assert client_address(peer, headers, config) == alone


@given(
    client=ADDRESSES,
    lies=st.lists(st.binary(max_size=40).filter(lambda lie: b"," not in lie), max_size=MAX_ITEMS - 1),
    own_line=st.booleans(),
    with_real_ip=st.booleans(),
    config=st.sampled_from([NGINX, BOTH]),
)
@settings(max_examples=200)
def test_items_on_the_left_change_nothing(
    client: str, lies: list[bytes], own_line: bool, with_real_ip: bool, config: AccessConfig
) -> None:
    """Whatever a client sends ahead of the entry an honest proxy appends, it stays that client."""
    name = b"x-forwarded-for"
    extra = real(client) if with_real_ip else []
    honest = client_address("127.0.0.1", [(name, client.encode()), *extra], config)
    if honest.reason is not Reason.FORWARDED:
        return
    if own_line:
        lines = [*((name, lie) for lie in lies), (name, client.encode())]
    else:
        lines = [(name, b", ".join([*lies, client.encode()]))]
    assert client_address("127.0.0.1", [*lines, *extra], config) == honest


@given(
    client=st.ip_addresses(v=4).map(str),
    lies=st.lists(
        st.one_of(st.binary(max_size=40), st.sampled_from([b'for="', b"for=127.0.0.1"])), max_size=5
    ),
)
def test_elements_on_the_left_change_nothing(client: str, lies: list[bytes]) -> None:
    """The same holds for Forwarded, unbalanced quotes included, short of the item limit."""
    element = b"for=" + client.encode()
    honest = client_address("127.0.0.1", [(b"forwarded", element)], RFC7239)
    value = b",".join([*lies, element])
    if honest.reason is Reason.FORWARDED and value.count(b",") < MAX_ITEMS:
        assert client_address("127.0.0.1", [(b"forwarded", value)], RFC7239) == honest


@given(address=ADDRESSES, port=st.integers(0, 65535))
def test_every_form_of_an_address_reads_alike(address: str, port: int) -> None:
    """Bare, bracketed, with port, mapped: an address is the same object in each of its forms."""
    expected = parse_address(address.encode())
    assert expected is not None
    v6 = ":" in address
    forms = [f"[{address}]", f"[{address}]:{port}"] if v6 else [f"{address}:{port}", f"::ffff:{address}"]
    assert {parse_address(form.encode()) for form in forms} == {expected}
