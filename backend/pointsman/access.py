"""Who the client is, and whether the IP rules let it in.

Pure: plain values in, plain values out. `guard` passes the socket's peer and the raw headers.
Header names are lower case, as ASGI delivers them; names with underscores are other names and never count
(nginx and CGI would fold `X_Forwarded_For` into the real one). Chunked trailers must not reach us.
Sources: RFC 7239 (Forwarded), RFC 4291 2.5.5.2 (IPv4-mapped), RFC 1918 and RFC 4193 (private space).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Headers = Sequence[tuple[bytes, bytes]]

MAX_HEADER_BYTES = 4096  # of one forwarding header, all its lines joined
MAX_ITEMS = 32  # in one forwarding header; nobody stands behind more proxies
PEERS_CACHED = 4096  # per worker process, about 2 MB
CHAINS_CACHED = 1024  # per worker process; with the next two limits at most about 3 MB
CACHED_LINES = 8  # a request with more forwarding lines is judged anew each time
CACHED_VALUE_BYTES = 256  # and one with a longer value too

LOOPBACK: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
# Link-local (169.254/16, fe80::/10) stays out: whatever is plugged into the wire has such an
# address without anybody handing it out. Who wants it can list it.
PRIVATE: tuple[Network, ...] = (
    *LOOPBACK,
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("fc00::/7"),
)
# Every unicast address of IPv4, and all of IPv6 that is handed out to the public (RFC 4291 2.4).
_WORLD_V4 = tuple(IPv4Network(part) for part in ("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"))
_WORLD_V6 = IPv6Network("2000::/3")


class ForwardedHeader(StrEnum):
    """The one header in which trusted proxies tell us the client."""

    X_FORWARDED_FOR = "x-forwarded-for"
    X_REAL_IP = "x-real-ip"
    FORWARDED = "forwarded"


class Reason(StrEnum):
    """Why a client has the address it has, for the log; a closed set."""

    PEER = "peer"  # not a trusted proxy: it is the client
    FORWARDED = "forwarded"  # named by a trusted proxy
    ALL_TRUSTED = "all_trusted"  # every address is trusted: the left-most is the client
    LOCAL_CALL = "local_call"  # loopback, and nothing hints at a proxy
    PEER_UNREADABLE = "peer_unreadable"
    HEADER_MISSING = "header_missing"  # from here on: unknown in spite of a trusted peer
    HEADER_TOO_LONG = "header_too_long"
    ITEM_UNREADABLE = "item_unreadable"
    HEADERS_DISAGREE = "headers_disagree"  # X-Real-IP against X-Forwarded-For


class Decision(StrEnum):
    """What the IP rules say; the value is a stable code for log and error body."""

    ALLOWED = "address_allowed"
    UNRESTRICTED = "ip_restriction_disabled"
    DENIED = "address_denied"  # on the deny-list
    NOT_ALLOWED = "address_not_allowed"  # on no list
    UNKNOWN = "address_unknown"

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self is Decision.ALLOWED or self is Decision.UNRESTRICTED


@dataclass(frozen=True, slots=True)
class Client:
    """The calling machine as far as we know it."""

    address: Address | None  # None: unknown; IPv4-mapped addresses are IPv4 here
    reason: Reason
    text: str = field(init=False, compare=False)  # canonical address or "unknown"

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", "unknown" if self.address is None else str(self.address))


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Knobs of the IP rules.

    Raises:
        ValueError: a list that should name a few covers the whole internet.
    """

    allowed: tuple[Network, ...] = PRIVATE
    denied: tuple[Network, ...] = ()  # wins over every other rule
    # A trusted machine may name any client, loopback included: list the proxies, not their subnet.
    # The unix socket is always trusted: its file mode says who may connect.
    trusted_proxies: tuple[Network, ...] = LOOPBACK
    ops: tuple[Network, ...] = LOOPBACK  # admin and engine addresses; `allowed` plays no part there
    forwarded_header: ForwardedHeader = ForwardedHeader.X_FORWARDED_FOR
    disabled: bool = False  # DISABLE_IP_RESTRICTION: `denied` and `ops` hold all the same

    def __post_init__(self) -> None:
        if not self.disabled:
            remedy = "set DISABLE_IP_RESTRICTION=true if everybody is meant, else list your own networks"
            refuse_world(self.allowed, "ALLOWED_NETWORKS", remedy)
        remedy = "list only the addresses of your proxies, since a trusted one can claim to be anybody"
        refuse_world(self.trusted_proxies, "TRUSTED_PROXIES", remedy)
        refuse_world(self.ops, "OPS_NETWORKS", "list the operators' networks, or give operators an ops key")


@dataclass(frozen=True, slots=True)
class Ruling:
    """Client and verdicts of one request; `ops` is the verdict for admin routes."""

    client: Client
    decision: Decision
    ops: Decision
    admitted: bool = field(init=False, compare=False)
    is_ops: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "admitted", self.decision.allowed)
        object.__setattr__(self, "is_ops", self.ops.allowed)


def parse_networks(text: str, setting_name: str) -> tuple[Network, ...]:
    """Read CIDRs and single addresses, separated by commas or white space.

    IPv4-mapped IPv6 networks become IPv4 ones, as client addresses do. An empty text gives ().

    Raises:
        ValueError: one sentence that names the setting, the bad item and what to write instead.
    """
    items = text.replace(",", " ").split()
    return tuple(dict.fromkeys(_network(item, setting_name) for item in items))


def _network(item: str, setting_name: str) -> Network:
    shown = f"{setting_name}: {item[:64]!r}"
    base, slash, prefix = item.partition("/")
    # A netmask is refused because a host mask such as 0.0.0.255 would pass for one.
    if "%" in base or (slash and not (prefix.isascii() and prefix.isdigit())):
        raise ValueError(f"{shown} is not a network; write it like 10.0.0.0/8, without netmask or zone")
    try:
        loose = ip_network(item, strict=False)
    except ValueError:
        hint = "write a network such as 10.0.0.0/8 or an address such as 192.168.1.7"
        raise ValueError(f"{shown} is neither a network nor an address; {hint}") from None
    if slash and ip_address(base) != loose.network_address:
        raise ValueError(f"{shown} has host bits set; write {loose} for all of it or {base} for one address")
    mapped = _unmapped(loose.network_address)
    if loose.version == 6 and mapped.version == 4 and loose.prefixlen >= 96:
        return ip_network(f"{mapped}/{loose.prefixlen - 96}")
    return loose


def refuse_world(networks: Iterable[Network], setting_name: str, remedy: str) -> None:
    """Refuse a list whose parts together cover all public addresses of IPv4 or of IPv6.

    Raises:
        ValueError: one sentence with the setting's name, ending in `remedy`.
    """
    every = tuple(networks)
    v4 = tuple(collapse_addresses(net for net in every if isinstance(net, IPv4Network)))
    v6 = tuple(collapse_addresses(net for net in every if isinstance(net, IPv6Network)))
    if all(any(part.subnet_of(net) for net in v4) for part in _WORLD_V4):
        raise ValueError(f"{setting_name} covers every IPv4 address; {remedy}")
    if any(_WORLD_V6.subnet_of(net) for net in v6):
        raise ValueError(f"{setting_name} covers every public IPv6 address; {remedy}")


def client_address(peer: str | None, headers: Headers, config: AccessConfig) -> Client:
    """Find the client behind the socket's peer.

    Args:
        peer: the peer's address without port. None means a unix socket and nothing else: it is
            trusted, so a TCP peer whose address could not be read must come as "".
        headers: raw request headers; looked at only if the peer is trusted.
    """
    direct = _untrusted_peer(peer, config)
    return direct if direct is not None else _behind_proxy(peer, _proxy_lines(headers), config)


def verdict(client: Client, config: AccessConfig, ops: bool = False) -> Decision:
    """Apply the lists: deny-list, then (unless disabled) the allow-list, or on ops routes the ops list.

    Unknown matches no list. With the rules disabled it passes only while there is no deny-list:
    otherwise a denied client could hide behind a header that nobody can read.
    """
    address = client.address
    if address is not None and _within(address, config.denied):
        return Decision.DENIED
    if config.disabled and not ops and (address is not None or not config.denied):
        return Decision.UNRESTRICTED
    if address is None:
        return Decision.UNKNOWN
    listed = _within(address, config.ops if ops else config.allowed)
    return Decision.ALLOWED if listed else Decision.NOT_ALLOWED


class AccessRules:
    """The rules of one configuration with a memory of recent callers.

    Answers depend on nothing but the arguments, so the two bounded memories never go stale. A
    repeated caller costs about a microsecond, and one that is no proxy has no header read at all.
    """

    def __init__(self, config: AccessConfig) -> None:
        self.config = config
        self._direct = lru_cache(PEERS_CACHED)(self._rule_on_peer)
        self._chained = lru_cache(CHAINS_CACHED)(self._rule_on_lines)

    def sizes(self) -> dict[str, int]:
        """Entries of the two memories, by name."""
        return {"peers": self._direct.cache_info().currsize, "chains": self._chained.cache_info().currsize}

    def decide(self, peer: str | None, headers: Headers) -> Ruling:
        """Rule on one request; arguments as for `client_address`."""
        ruling = self._direct(peer)
        if ruling is not None:
            return ruling
        lines = _proxy_lines(headers)
        if len(lines) > CACHED_LINES:
            return self._rule_on_lines(peer, lines)
        for _, value in lines:
            if len(value) > CACHED_VALUE_BYTES:
                return self._rule_on_lines(peer, lines)
        return self._chained(peer, lines)

    def _rule_on_peer(self, peer: str | None) -> Ruling | None:
        client = _untrusted_peer(peer, self.config)
        return None if client is None else self._rule_on(client)

    def _rule_on_lines(self, peer: str | None, lines: tuple[tuple[bytes, bytes], ...]) -> Ruling:
        return self._rule_on(_behind_proxy(peer, lines, self.config))

    def _rule_on(self, client: Client) -> Ruling:
        return Ruling(client, verdict(client, self.config), verdict(client, self.config, ops=True))


_XFF = ForwardedHeader.X_FORWARDED_FOR.value.encode()
_REAL_IP = ForwardedHeader.X_REAL_IP.value.encode()
_READ_BY_VALUE = frozenset(header.value.encode() for header in ForwardedHeader)
_PASSED_A_PROXY = ((b"via", b""),)  # stands for Via and X-Forwarded-*: that they are there is all we ask
_FIRST_LETTERS = frozenset(b"xfvXFV")  # sorts out most headers cheaply
_PAIR = re.compile(rb'([A-Za-z0-9_-]+)=("?)([^"\\]*)\2')  # without escapes: no address has any


def _proxy_lines(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """The lines that name addresses, in order; without any, a sign of whether a proxy left other marks."""
    lines = tuple([line for line in headers if line[0] in _READ_BY_VALUE])
    if lines:
        return lines
    for name, _ in headers:
        if name and name[0] in _FIRST_LETTERS:
            lower = name.lower()
            if lower in _READ_BY_VALUE or lower == b"via" or lower.startswith(b"x-forwarded-"):
                return _PASSED_A_PROXY
    return ()


def _untrusted_peer(peer: str | None, config: AccessConfig) -> Client | None:
    """The client when the peer alone decides; None when the peer is trusted to name another."""
    if peer is None:
        return None
    address = _peer_address(peer)
    if address is None:
        return Client(None, Reason.PEER_UNREADABLE)
    return None if _within(address, config.trusted_proxies) else Client(address, Reason.PEER)


def _behind_proxy(peer: str | None, lines: Headers, config: AccessConfig) -> Client:
    values: dict[bytes, bytes] = {}
    for name, value in lines:
        values[name] = values[name] + b"," + value if name in values else value
    wanted = config.forwarded_header.value.encode()
    if wanted == _XFF and _XFF not in values:
        wanted = _REAL_IP  # nginx that sets X-Real-IP alone, as in seed 003
    if wanted not in values:
        local = None if peer is None or lines else _peer_address(peer)
        if local is not None and local.is_loopback:
            return Client(local, Reason.LOCAL_CALL)
        return Client(None, Reason.HEADER_MISSING)
    joined = values[wanted]
    if len(joined) > MAX_HEADER_BYTES or joined.count(b",") >= MAX_ITEMS:
        return Client(None, Reason.HEADER_TOO_LONG)
    # A proxy that sets one of the two passes the client's own version of the other through.
    if _XFF in values and _REAL_IP in values:
        last = parse_address(values[_XFF].rpartition(b",")[2])
        if last is None or last != parse_address(values[_REAL_IP]):
            return Client(None, Reason.HEADERS_DISAGREE)
    return _from_the_right(joined, wanted == ForwardedHeader.FORWARDED.value.encode(), config)


def _from_the_right(joined: bytes, is_forwarded: bool, config: AccessConfig) -> Client:
    address = None
    for item in reversed(joined.split(b",")):
        node = _forwarded_for(item) if is_forwarded else item
        address = parse_address(node)
        if address is None:
            return Client(None, Reason.ITEM_UNREADABLE)
        if not _within(address, config.trusted_proxies):
            return Client(address, Reason.FORWARDED)
    return Client(address, Reason.ALL_TRUSTED)


def _forwarded_for(element: bytes) -> bytes:
    """The node of an RFC 7239 element; b"" unless it is well-formed and has exactly one `for`.

    Commas and semicolons inside quotes were cut like bare ones. The halves have a quote too few and
    are refused, so what a client wrote into `host="..."` cannot pass for a `for` of its own.
    """
    stripped = [pair.strip(b" \t") for pair in element.split(b";")]
    pairs = [_PAIR.fullmatch(pair) for pair in stripped if pair]
    nodes = [pair[3] for pair in pairs if pair is not None and pair[1].lower() == b"for"]
    return nodes[0] if len(nodes) == 1 and None not in pairs else b""


def parse_address(item: bytes) -> Address | None:
    """Read `a.b.c.d`, `a.b.c.d:p`, `[v6]`, `[v6]:p` or bare v6; IPv4-mapped gives IPv4.

    None for anything else: names, zones, leading zeros, hex, plain integers, empty.
    """
    text = item.strip(b" \t").decode("latin-1")
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in host:
            return None
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
        port = colon + port
    if port and not _is_port(port):
        return None
    return _readable(host)


def _is_port(text: str) -> bool:
    return re.fullmatch(":[0-9]{1,5}", text) is not None and int(text[1:]) < 65536


def _peer_address(peer: str) -> Address | None:
    """A kernel's peer address may carry a zone, which says nothing about who it is."""
    return _readable(peer.partition("%")[0])


def _readable(host: str) -> Address | None:
    if "%" in host:
        return None
    try:
        return _unmapped(ip_address(host))
    except ValueError:
        return None


def _unmapped(address: Address) -> Address:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
