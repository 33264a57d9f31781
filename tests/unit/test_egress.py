"""Where an added replica may be: a table of ways to somewhere else, and that none of them is one."""

from ipaddress import ip_network

import pytest

from pointsman.access import PRIVATE
from pointsman.egress import read_endpoint, refusal

EVERYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))
NEVER = [
    ("169.254.169.254", "AWS, Azure, Google, OpenStack, DigitalOcean"),
    ("169.254.170.2", "tasks of AWS ECS"),
    ("169.254.0.1", "link-local"),
    ("::ffff:169.254.169.254", "mapped into IPv6"),
    ("::ffff:a9fe:a9fe", "the same in hex"),
    ("::169.254.169.254", "IPv4-compatible, which is long deprecated"),
    ("64:ff9b::169.254.169.254", "through NAT64"),
    ("64:ff9b::a9fe:a9fe", "the same in hex"),
    ("64:ff9b:1::a9fe:a9fe", "through NAT64 with a local prefix"),
    ("2002:a9fe:a9fe::1", "through 6to4"),
    ("2001:0:a9fe:a9fe::1", "a Teredo server there"),
    ("2001:0:4136:e378:8000:63bf:5601:5601", "a Teredo client there"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local with its zone"),
    ("febf:ffff::1", "the end of link-local"),
    ("fd00:ec2::254", "AWS by IPv6"),
    ("fd20:ce::254", "Google by IPv6"),
    ("100.100.100.200", "Alibaba"),
    ("168.63.129.16", "Azure's wire server"),
    ("192.0.0.192", "Oracle"),
    ("0.0.0.0", "this host by another name"),
    ("0.1.2.3", "this network"),
    ("::", "this host by another name"),
    ("::2", "this network, by an old form of IPv6"),
    ("::ffff:0.0.0.0", "the same, mapped"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "SSDP"),
    ("255.255.255.255", "broadcast"),
    ("240.0.0.1", "reserved"),
    ("ff02::1", "multicast"),
]


@pytest.mark.parametrize(("address", "what"), NEVER)
def test_some_addresses_are_never_allowed(address: str, what: str) -> None:
    """Whatever networks are allowed."""
    told = refusal(address, EVERYWHERE)
    assert told is not None, what
    assert "never" in told


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.10", "::1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.9"),
        *("fc00::1", "fdff::9", "::ffff:10.0.0.1", "::ffff:127.0.0.1"),
    ],
)
def test_private_addresses_are_allowed_by_default(address: str) -> None:
    """An engine in the cluster, in the house or on the machine."""
    assert refusal(address, PRIVATE) is None


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "172.32.0.1", "192.169.0.1", "11.0.0.1", "100.64.0.1", "2606:4700::1111"),
        *("::ffff:8.8.8.8", "64:ff9b::808:808", "2002:0a00:0001::1", "fec0::1"),
    ],
)
def test_others_are_for_who_allows_them(address: str) -> None:
    """Not by default; with the network in ADMIN__REPLICA_NETWORKS they are."""
    told = refusal(address, PRIVATE)
    assert told is not None
    assert "ADMIN__REPLICA_NETWORKS" in told
    assert refusal(address, EVERYWHERE) is None


URLS = [
    "file:///etc/passwd",
    "gopher://10.0.0.1/_GET",
    "ftp://10.0.0.1",
    "//10.0.0.1",
    "10.0.0.1:80",
    "javascript:alert(1)",
    "http://",
    "http:///path",
    "http://user@10.0.0.1",
    "http://user:pass@10.0.0.1",
    "http://10.0.0.1@169.254.169.254",
    "http://10.0.0.1#@169.254.169.254",
    "http://10.0.0.1\\@169.254.169.254",
    "http://10.0.0.1\\.evil.example",
    "http://10.0.0.1?x=1",
    "http://10.0.0.1/#x",
    "http://10.0.0.1/a b",
    "http://10.0.0.1\r\nhost: evil",
    "http://10.0.0.1/%2e%2e/admin",
    "http://10.0.0.1/..",
    "http://10.0.0.1/../admin",
    "http://10.0.0.1/a/../b",
    "http://10.0.0.1/a/.",
    "http://10.0.0.1//b",
    "http://10.0.0.1/a;b",
    "http://10.0.0.1/%00",
    "http://2852039166",
    "http://0xa9fea9fe",
    "http://0xa9.0xfe.0xa9.0xfe",
    "http://0251.0376.0251.0376",
    "http://169.16689662",
    "http://127.1",
    "http://0",
    "http://10.0.0.256",
    "http://10.0.0.1.",
    "http://010.0.0.1",
    "http://[fe80::1%25eth0]",
    "http://[::1%eth0]",
    "http://[::ffff:1.2.3]",
    "http://[::1",
    "http://10.0.0.1:0",
    "http://10.0.0.1:99999",
    "http://10.0.0.1:http",
    "http://ex ample",
    "http://exa\u212ample",
    "http://-bad.example",
    "http://bad-.example",
    "http://a..b",
    "http://" + "a" * 64 + ".example",
    "http://" + "a." * 130 + "example",
    "http://host$name",
]


@pytest.mark.parametrize("url", URLS)
def test_only_plain_base_urls_are_read(url: str) -> None:
    """No other scheme, no user, no path tricks, and an address of IPv4 only in its four numbers."""
    with pytest.raises(ValueError, match="endpoint"):
        read_endpoint(url)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
        ("https://engine-3.gpu.internal", "https://engine-3.gpu.internal"),
        ("http://engine/base/v2.1/", "http://engine/base/v2.1"),
        ("http://[fd00::7]:8080", "http://[fd00::7]:8080"),
        ("HTTP://Engine:80/~x", "http://engine/~x"),
        ("http://my_engine.default.svc.cluster.local.:81", "http://my_engine.default.svc.cluster.local.:81"),
        ("http://1engine:8000", "http://1engine:8000"),
    ],
)
def test_plain_urls_are_read(url: str, read: str) -> None:
    """Names, addresses, ports and a base path."""
    assert read_endpoint(url).url == read
