"""The body of a request that asks for an upgrade, which we decline.

httptools takes all after such a head for the new protocol, so that the body needs a parser of its own.
"""

from typing import Protocol

import httptools


class Reader(Protocol):
    """Who takes the body: our HTTP protocol."""

    def on_body(self, body: bytes) -> None: ...

    def leave_off(self) -> None: ...


class _BodyOnly:
    """Parser callbacks for a body whose headers another parser has read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._whole = False

    def on_body(self, body: bytes) -> None:
        if not self._whole:
            self._reader.on_body(body)

    def on_message_complete(self) -> None:
        if not self._whole:
            self._whole = True
            self._reader.leave_off()


def body_parser(reader: Reader, headers: list[tuple[bytes, bytes]]) -> httptools.HttpRequestParser:
    """A parser that is fed what follows the head, and calls `leave_off` once the body is whole."""
    parser = httptools.HttpRequestParser(_BodyOnly(reader))
    parser.feed_data(b"POST / HTTP/1.1\r\n" + framing(headers) + b"\r\n")
    return parser


def framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The header lines that say how long a body is; empty without body."""
    lines = [
        name + b": " + value + b"\r\n"
        for name, value in headers
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
    ]
    return b"".join(lines)
