"""Where a replica that somebody adds while the router runs may be: no way to what is not an engine.

Pure. The same rule is asked when a replica is added and for each connection, since a name may lead elsewhere
by then. What the operator writes into the settings is not judged.
Sources: RFC 3927, RFC 4291 (2.5.5, 2.5.6), RFC 3056 (6to4), RFC 6052 (NAT64), RFC 4380 (Teredo); the clouds'
documents on their metadata services.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from pointsman.access import PRIVATE, Address
from pointsman.replica import Endpoint, Networks

_NAME = re.compile(r"(?=.{1,253}\.?$)([A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9_-]{1,63}\.?")
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")
_NEVER = tuple(
    ip_network(text)
    for text in (
        *("169.254.0.0/16", "fe80::/10"),  # link-local: metadata of AWS, Azure, Google and others
        *("fd00:ec2::254/128", "fd20:ce::254/128"),  # metadata of AWS and of Google by IPv6
        *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),  # of Alibaba, Azure, Oracle
        *("0.0.0.0/8", "::/128", "224.0.0.0/4", "240.0.0.0/4", "ff00::/8"),  # nobody, or everybody
    )
)
_LAST_32_BITS = tuple(IPv6Network(text) for text in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48"))


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """What operators may do while the router runs."""

    replica_networks: Networks = PRIVATE


def read_endpoint(url: str) -> Endpoint:
    """Read the address of a replica that somebody wants to add.

    Raises:
        ValueError: with the end of a sentence that says what is wrong.
    """
    endpoint = Endpoint.parse(url)
    host = endpoint.host
    try:
        if ":" in host:
            if "%" in host:
                raise ValueError
            IPv6Address(host)
        elif re.fullmatch(r"[0-9]+|0[xX][0-9A-Fa-f]*", host.rstrip(".").rpartition(".")[2]):
            IPv4Address(host)  # no other way to write one, such as 0x7f.1
        elif not _NAME.fullmatch(host):
            raise ValueError
    except ValueError:
        raise ValueError(f"endpoint {url!r} has a bad host") from None
    if not _PATH.fullmatch(endpoint.base_path):
        raise ValueError(f"endpoint {url!r} has a path that is more than plain names")
    return endpoint


def refusal(text: str, allowed: Networks) -> str | None:
    """Why no connection may be opened to an address, which may have a zone; None: it may."""
    address = ip_address(text.partition("%")[0])
    inner = _within(address)
    if any(one in network for one in (address, *inner) for network in _NEVER):
        return "is link-local, a metadata service or no single machine's, which is never allowed"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not any(address in network for network in allowed):
        return "is not in ADMIN__REPLICA_NETWORKS"
    return None


def _within(address: Address) -> list[IPv4Address]:
    """The addresses of IPv4 to which an address of IPv6 may lead."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _LAST_32_BITS) and int(address) > 1:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]
