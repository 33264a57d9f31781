"""Kinds of values, and addresses to listen on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.front import TcpAddress, UnixAddress, parse_listen
from pointsman.values import (
    FILE,
    HOST,
    LISTEN,
    NAME,
    PATH_PREFIX,
    URL,
    Kind,
    SettingsError,
    choice,
    number,
    switch,
    whole,
)


def refused(kind: Kind, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        kind.read(text, "X")
    return str(caught.value)


@given(st.integers(-10, 300))
def test_whole_keeps_its_range(value: int) -> None:
    """A whole number is read if and only if it is in range."""
    kind = whole(0, 255)
    if 0 <= value <= 255:
        assert kind.read(str(value), "X") == value
    else:
        assert f"'{value}' is not a whole number from 0 to 255" in refused(kind, str(value))


@pytest.mark.parametrize("text", ["1.0", "1e2", "0x1", "1_0", "", "١", " 1", "+1", "9" * 40, "inf"])
def test_odd_whole_numbers_are_refused(text: str) -> None:
    """Only plain decimal digits make a whole number."""
    refused(whole(0, 10**9), text)


@pytest.mark.parametrize("text", ["nan", "inf", "1e3", "2s", ".", "1,5", "-0.1", "3600.1"])
def test_odd_numbers_are_refused(text: str) -> None:
    """Only plain decimals in range make a number."""
    refused(number(0, 3600), text)


@given(st.integers(0, 3_600_000))
def test_numbers_are_shown_as_they_are_read(thousandths: int) -> None:
    """What a number is shown as reads back as the same number."""
    kind = number(0, 3600)
    assert kind.read(kind.show(thousandths / 1000), "X") == thousandths / 1000


@pytest.mark.parametrize("text", ["true", "TRUE", "on", "Yes", "1"])
def test_words_for_yes(text: str) -> None:
    """The usual words for yes, in any case."""
    assert switch().read(text, "X") is True


def test_choice_takes_any_case() -> None:
    """A word of a choice may be written in any case and comes out in its own."""
    assert choice(("INFO", "ERROR")).read("info", "X") == "INFO"
    assert "not one of INFO, ERROR" in refused(choice(("INFO", "ERROR")), "warn")


def test_long_values_are_cut_in_messages() -> None:
    """A message shows at most the beginning of a long value."""
    assert len(refused(NAME, "a b" * 1000)) < 200


@pytest.mark.parametrize(
    "text",
    ["http://u:s3cret@h", "ftp://h", "h", "http://h:0", "http://h/?q", "http://[::1", "http://h\u00e9"],
)
def test_bad_base_urls(text: str) -> None:
    """A base URL has a scheme, a host and no secrets, and a secret is not told."""
    assert "s3cret" not in refused(URL, text)


def test_paths_and_hosts(tmp_path: Path) -> None:
    """Prefixes lose their last slash, hosts their brackets; files must exist."""
    assert PATH_PREFIX.read("/a/b/", "X") == "/a/b"
    assert PATH_PREFIX.read("/", "X") == ""
    refused(PATH_PREFIX, "//a")
    assert HOST.read("[::1]", "X") == "::1"
    refused(HOST, "http://h")
    refused(FILE, str(tmp_path))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("localhost:65535", TcpAddress("localhost", 65535)),
        ("unix:/run/p.sock", UnixAddress("/run/p.sock")),
    ],
)
def test_listen_addresses_read_and_show_alike(text: str, address: TcpAddress | UnixAddress) -> None:
    """An address is shown as it was written."""
    assert parse_listen(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["80", ":80", "h:", "h:65536", "h:-1", "::1:80", "unix:p.sock", "[::1]"])
def test_bad_listen_addresses(text: str) -> None:
    """What is no address is refused with what to write instead."""
    assert "; write" in refused(LISTEN, text)


def test_listen_address_twice_is_refused() -> None:
    """The same address twice could not be bound."""
    assert "twice" in refused(LISTEN, "h:1,h:1")
