"""Bad input as bytes: what a client may send that no client should, with what it is to be answered.

For a router before a vLLM that serves `gemma-3-12b` and a TGI that serves `distilgpt2`, the default, without
keys or limits. Nothing here may be answered 5xx, crash the router or hang; the word of `MARK` stands in every
request that hides behind another one and must reach no engine.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MARK = b"smuggled"
GONE = 0  # instead of a status: the connection ends without an answer
_CRLF = b"\r\n"
_BODY = json.dumps({"inputs": "Hello", "parameters": {"max_new_tokens": 3}}).encode()
_GET = b"GET /live HTTP/1.1\r\n"
_POST = b"POST /generate HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
_CHUNKED = _POST + b"transfer-encoding: chunked\r\n\r\n"
_CODING = b"transfer-encoding: chunked\r\n\r\n"
_LENGTH = b"content-length: %d\r\n" % len(_BODY)
_HIDDEN = b'{"inputs":"%b","parameters":{"max_new_tokens":3}}' % MARK
HIDDEN = _POST + b"content-length: %d\r\n\r\n%b" % (len(_HIDDEN), _HIDDEN)  # the request that hides


@dataclass(frozen=True)
class Case:
    """What one connection sends, and the statuses with which it may be answered first.

    `code` is that of the error, where the front answers by itself and closes. `leaves`: the client then
    shuts down its side, without which it would be waited for.
    """

    family: str  # front, headers, json or parameters
    name: str
    data: bytes
    statuses: tuple[int, ...]
    code: str | None = None
    leaves: bool = False

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def _refused(rows: dict[str, bytes], status: int = 400, code: str = "bad_request") -> Iterator[Case]:
    """What the front answers by itself, before any route."""
    for name, data in rows.items():
        yield Case("front", name, data, (status,), code)


def _taken(rows: dict[str, bytes], *statuses: int) -> Iterator[Case]:
    """What is odd and allowed."""
    for name, data in rows.items():
        yield Case("front", name, data, statuses)


def _sized(value: bytes, name: bytes = b"content-length") -> bytes:
    return _POST + name + b":" + value + b"\r\n\r\n" + _BODY + HIDDEN


def _coded(value: bytes, name: bytes = b"transfer-encoding", more: bytes = b"") -> bytes:
    return _POST + name + b":" + value + _CRLF + more + b"\r\n" + chunk() + b"0\r\n\r\n" + HIDDEN


def chunk(size: bytes = b"%x" % len(_BODY), end: bytes = _CRLF) -> bytes:
    """A body that passes in one chunk, framed well or not."""
    return size + b"\r\n" + _BODY + end


def _line(line: bytes) -> bytes:
    return line + b"\r\nhost: router\r\n\r\n" + HIDDEN


def _with(*lines: bytes) -> bytes:
    return _GET + b"host: router\r\n" + b"".join(line + _CRLF for line in lines) + b"\r\n" + HIDDEN


def _host(value: bytes) -> bytes:
    return _GET + b"host: " + value + b"\r\n\r\n" + HIDDEN


def _lengths() -> Iterator[Case]:
    size = b"%d" % len(_BODY)
    bad = {
        "a list": size + b"," + size, "a list with blanks": size + b", " + size, "signed": b"+" + size,
        "negative": b"-" + size, "minus nought": b"-0", "hexadecimal": b"0x33", "with a point": size + b".0",
        "with an exponent": b"5e1", "with a blank within": b"5 3", "with an underscore": b"5_3",
        "a word": b"many",
        "with NUL": size + b"\0", "with a vertical tab": size + b"\x0b", "with a semicolon": size + b";",
        "empty": b"",
        "other digits": "٥٣".encode(), "above 64 bits": b"18446744073709551669", "endless": b"9" * 400,
        "quoted": b'"' + size + b'"', "folded": b"\r\n " + size,
    }  # fmt: skip
    yield from _refused({f"length {name}": _sized(value) for name, value in bad.items()})
    twice = _POST + b"content-length: %b\r\ncontent-length: %b\r\n\r\n" + _BODY + HIDDEN
    yield from _refused(
        {
            "two lengths": twice % (size, b"3"),
            "two lengths, the first shorter": twice % (b"3", size),
            "two equal lengths": twice % (size, size),
            "a blank before a length's colon": _sized(size, b"content-length "),
            "a tab before a length's colon": _sized(size, b"content-length\t"),
            "length and transfer coding": _coded(b" chunked", more=_LENGTH),
            "length nought and transfer coding": _coded(b" chunked", more=b"content-length: 0\r\n"),
            "length before transfer coding": _POST + _LENGTH + _CODING + chunk(),
            "length before transfer coding in capitals": _POST + _LENGTH + _CODING.upper() + chunk(),
        }
    )
    yield from _taken(
        {
            "length with noughts before": _sized(b"000000" + size),
            "length with blanks about": _sized(b" \t" + size + b" \t"),
            "length in capitals": _sized(size, b"CONTENT-LENGTH"),
            "a header like transfer coding": _POST + _LENGTH + _CODING.replace(b"-", b"_", 1) + _BODY,
            "TE, which is no transfer coding": _POST + _LENGTH + b"te: chunked\r\n\r\n" + _BODY,
        },
        200,
    )  # fmt: skip
    short = _POST + b"content-length: 5\r\n\r\n" + _BODY + HIDDEN
    yield Case("front", "a length shorter than the body", short, (400,))
    long = _POST + b"content-length: 999\r\n\r\n" + _BODY
    yield Case("front", "a length longer than the body", long, (GONE,), leaves=True)


def _codings() -> Iterator[Case]:
    bad = {
        "gzip": b" gzip", "gzip, chunked": b" gzip, chunked", "chunked, gzip": b" chunked, gzip",
        "chunked twice": b" chunked, chunked", "chunked and a comma": b" chunked,",
        "a comma and chunked": b" ,chunked",
        "identity": b" identity", "identity, chunked": b" identity, chunked",
        "with a parameter": b" chunked;q=1",
        "xchunked": b" xchunked", "chunkedx": b" chunkedx", "with NUL": b" chunked\0",
        "in quotes": b' "chunked"',
        "with a vertical tab": b" \x0bchunked", "with a form feed": b" chunked\x0c", "empty": b"",
        "with a bare CR": b" chunked\rx: y", "folded": b"\r\n chunked", "with high bytes": b" chunked\xa0",
        "with a bare LF": b" chunked\nx: y",
    }  # fmt: skip
    yield from _refused({f"coding {name}": _coded(value) for name, value in bad.items()})
    yield from _refused(
        {
            "two lines of codings": _coded(b" chunked", more=_CODING[:-2]),
            "two lines of codings, one identity": _coded(b" identity", more=_CODING[:-2]),
            "a blank before a coding's colon": _coded(b" chunked", b"transfer-encoding "),
            "a tab before a coding's colon": _coded(b" chunked", b"transfer-encoding\t"),
            "a coding in HTTP/1.0": _coded(b" chunked").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            "a coding on a GET in HTTP/1.0": b"GET /live HTTP/1.0\r\n" + _CODING + b"0\r\n\r\n",
        }
    )
    yield from _taken({"a coding in capitals": _coded(b" CHUNKED")}, 200)
    yield from _taken({"a coding with blanks": _coded(b" \tchunked ")}, 200, 400)


def _chunks() -> Iterator[Case]:
    size = b"%x" % len(_BODY)
    end = b"0\r\n\r\n" + HIDDEN
    bad = {
        "no number": b"zz", "hexadecimal by its prefix": b"0x" + size, "negative": b"-1",
        "signed": b"+" + size,
        "empty": b"", "a blank before": b" " + size, "above 64 bits": b"1" + b"0" * 16,
        "with a bare LF": size + b"\n", "with NUL": size + b"\0", "with a bare CR": size + b"\rx",
        "other digits": "٣".encode(), "with a bare LF in its extension": size + b";a\nb",
    }  # fmt: skip
    yield from _refused({f"chunk size {name}": _CHUNKED + chunk(value) + end for name, value in bad.items()})
    yield from _refused(
        {
            "a chunk longer than told": _CHUNKED + chunk(b"%x" % (len(_BODY) - 2)) + end,
            "a chunk without line end": _CHUNKED + chunk(end=b"") + end,
            "a chunk that ends in LF": _CHUNKED + chunk(end=b"\n") + end,
            "a chunk that ends in CR": _CHUNKED + chunk(end=b"\r") + end,
            "a trailer without a colon": _CHUNKED + chunk() + b"0\r\nnothing\r\n\r\n" + HIDDEN,
            "a folded trailer": _CHUNKED + chunk() + b"0\r\nx: y\r\n z\r\n\r\n" + HIDDEN,
            "a length in a trailer": _CHUNKED + chunk() + b"0\r\ncontent-length: 3\r\n\r\n" + HIDDEN,
            "a coding in a trailer": _CHUNKED + chunk() + b"0\r\n" + _CODING + HIDDEN,
            "NUL in a trailer": _CHUNKED + chunk() + b"0\r\nx: \0\r\n\r\n" + HIDDEN,
            "a trailer's name with a blank": _CHUNKED + chunk() + b"0\r\nx : y\r\n\r\n" + HIDDEN,
            "a bare LF after the last chunk": _CHUNKED + chunk() + b"0\n\n" + HIDDEN,
        }
    )
    yield from _refused(
        {
            "endless trailers": _CHUNKED + chunk() + b"0\r\nx: " + b"y" * 80_000,
            "many trailers": _CHUNKED + chunk() + b"0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
            "an endless chunk size": _CHUNKED + b"0" * 90_000,
            "an endless chunk extension": _CHUNKED + size + b";" + b"x" * 90_000,
        },
        431,
        "headers_too_large",
    )
    trailers = b"host: b\r\nhost: c\r\nx-request-id: from-trailer\r\nauthorization: x\r\n"
    yield from _taken(
        {
            "trailers that would be headers": _CHUNKED + chunk() + b"0\r\n" + trailers + b"\r\n" + HIDDEN,
            "a chunk extension": _CHUNKED + chunk(size + b";a=b") + end,
            "a chunk extension in quotes": _CHUNKED + chunk(size + b';a="b c"') + end,
            "a chunk size with noughts before": _CHUNKED + chunk(b"000" + size) + end,
            "a last chunk of several noughts": _CHUNKED + chunk() + b"000\r\n\r\n" + HIDDEN,
        },
        200,
    )
    yield from _taken({"no chunk but the last": _CHUNKED + end}, 400)
    yield Case("front", "chunks without an end", _CHUNKED + chunk(), (GONE,), leaves=True)


def _lines() -> Iterator[Case]:
    """Request lines."""
    bad = {
        "no version": b"GET /live", "HTTP/0.9": b"GET /live HTTP/0.9", "HTTP/1.2": b"GET /live HTTP/1.2",
        "HTTP/2.0": b"GET /live HTTP/2.0", "HTTP/11": b"GET /live HTTP/11",
        "HTTP/1.10": b"GET /live HTTP/1.10",
        "http in lower case": b"GET /live http/1.1", "another protocol": b"GET /live ICAP/1.0",
        "a blank in HTTP": b"GET /live HTTP /1.1",
        "a blank after the version": b"GET /live HTTP/1.1 ", "a tab for a blank": b"GET\t/live\tHTTP/1.1",
        "a blank in the path": b"GET /li ve HTTP/1.1", "no path": b"GET HTTP/1.1",
        "an empty path": b"GET  HTTP/1.1",
        "a path without a slash": b"GET live HTTP/1.1", "a blank first": b" GET /live HTTP/1.1",
        "NUL first": b"\0GET /live HTTP/1.1",
        "a method in lower case": b"get /live HTTP/1.1", "an unknown method": b"FOO /live HTTP/1.1",
        "a method with NUL": b"G\0T /live HTTP/1.1", "an endless method": b"G" * 60_000,
        "NUL in the path": b"GET /li\0ve HTTP/1.1", "a control in the path": b"GET /li\x01ve HTTP/1.1",
        "a tab in the path": b"GET /li\tve HTTP/1.1", "DEL in the path": b"GET /li\x7fve HTTP/1.1",
        "a bare CR in the path": b"GET /li\rve HTTP/1.1", "a letter above ASCII": "GET /ש HTTP/1.1".encode(),
        "CONNECT": b"CONNECT engine:80 HTTP/1.1",
        "an authority for a path": b"GET router:80 HTTP/1.1",
        "a bad port in the absolute form": b"GET http://router:99999999/live HTTP/1.1",
        "no host in the absolute form": b"GET http:///live HTTP/1.1",
    }  # fmt: skip
    yield from _refused({f"request line with {name}": _line(data) for name, data in bad.items()})
    yield from _refused(
        {
            "a URL of 9 KiB": _line(b"GET /" + b"a" * 9000 + b" HTTP/1.1"),
            "an endless URL": b"GET /" + b"a" * 60_000,
            "a query of 9 KiB": _line(b"GET /live?" + b"a" * 9000 + b" HTTP/1.1"),
        },
        414,
        "url_too_long",
    )
    yield from _taken(
        {
            "blank lines before": _CRLF * 3 + _line(b"GET /live HTTP/1.1"),
            "the absolute form": _line(b"GET http://elsewhere/live HTTP/1.1"),
            "the absolute form with a user": _line(b"GET http://u:p@elsewhere/live HTTP/1.1"),
            "a fragment": _line(b"GET /live#there HTTP/1.1"),
            "a query of 8,000 bytes": _line(b"GET /live?" + b"a" * 8000 + b" HTTP/1.1"),
            "HTTP/1.0 without Host": b"GET /live HTTP/1.0\r\n\r\n" + HIDDEN,
            "HTTP/1.0 that would stay": b"GET /live HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + HIDDEN,
        },
        200,
    )
    odd = [
        b"//live", b"/live/", b"/./live", b"/../live", b"/x/../live", b"/%2e%2e/live", b"/%2e/live",
        b"/live%00",
        b"/live%0d%0ax:y", b"/live%20", b"/%ff", b"/%zz", b"/%", b"/live%2f", b"/generate%2f", b"/GENERATE",
        b"/\\live", b"/live;x=y", b"/%u002e", b"/%252e%252e/live", b"/v1/models/..%2f..%2fmetrics",
        b"/docs/../metrics",
        b"/models/%00", b"/models/" + b"x" * 3000, b"/models/%d7%a9", b"/%e0%80%af", b"/.env",
        b"/.git/config",
        b"/pause", b"/invocations", b"/update_weights", b"/v1/load_lora_adapter", b"/static/../../etc/passwd",
    ]  # fmt: skip
    for path in odd:
        name = f"GET {path[:40].decode('latin-1')}"
        yield Case("front", name, _line(b"GET " + path + b" HTTP/1.1"), (404, 405))
    yield Case("front", "OPTIONS *", _line(b"OPTIONS * HTTP/1.1"), (400, 404, 405))
    yield Case("front", "GET *", _line(b"GET * HTTP/1.1"), (400, 404))
    yield Case("front", "CONNECT with a path", _line(b"CONNECT /live HTTP/1.1"), (400, 405))
    rtsp = b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    yield Case("front", "RTSP", rtsp, (400, 404, 405))
    yield Case("front", "TRACE", _line(b"TRACE /live HTTP/1.1"), (400, 404, 405))


def _heads() -> Iterator[Case]:
    """Header lines, and Host."""
    bad = {
        "without a colon": b"nothing", "without a name": b": x", "with a blank in its name": b"x y: z",
        "with a blank before its colon": b"x : y", "with a tab before its colon": b"x\t: y",
        "with a bracket in its name": b"x(y): z", "with a quote in its name": b'x"y: z',
        "with a slash in its name": b"x/y: z",
        "with a control in its name": b"x\x01: y", "with NUL in its name": b"x\0: y",
        "with a name above ASCII": "ש: y".encode(),
        "with NUL": b"x: a\0b", "with a control": b"x: a\x01b", "with DEL": b"x: a\x7fb",
        "with a bare CR": b"x: a\rb: c",
        "with a bare LF": b"x: a\nb: c", "folded": b"x: a\r\n b", "folded by a tab": b"x: a\r\n\tb",
        "of a CR": b"\r",
        "with two CRs": b"x: a\r", "of blanks": b"   ", "with an escape": b"x: \x1b[2J",
    }  # fmt: skip
    yield from _refused({f"a header {name}": _with(line) for name, line in bad.items()})
    yield from _refused(
        {
            "a folded first header": _GET + b" host: router\r\n\r\n" + HIDDEN,
            "bare LF for all line ends": b"GET /live HTTP/1.1\nhost: router\n\n" + HIDDEN,
            "bare LF after the headers": _GET + b"host: router\r\n\n" + HIDDEN,
            "bare LF after the request line": b"GET /live HTTP/1.1\nhost: router\r\n\r\n" + HIDDEN,
            "bare CR for all line ends": b"GET /live HTTP/1.1\rhost: router\r\r" + HIDDEN,
            "LF and CR in turns": b"GET /live HTTP/1.1\n\rhost: router\n\r\n\r" + HIDDEN,
        }
    )
    large = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(33))
    yield from _refused(
        {
            "101 headers": _GET + b"host: a\r\n" + b"x: y\r\n" * 100 + b"\r\n" + HIDDEN,
            "1,000 empty headers": _GET + b"host: a\r\n" + b"x:\r\n" * 1000 + b"\r\n" + HIDDEN,
            "33 KiB of headers": _GET + b"host: a\r\n" + large + b"\r\n" + HIDDEN,
            "one endless header": _GET + b"host: a\r\nx: " + b"y" * 60_000,
            "one endless header name": _GET + b"host: a\r\n" + b"y" * 60_000,
        },
        431,
        "headers_too_large",
    )
    hosts = {
        "with a path": b"a/b", "with a user": b"u@a", "with a blank": b"a b", "with a tab": b"a\tb",
        "that is a list": b"a, b",
        "with a query": b"a?b", "that is a URL": b"http://a", "with two ports": b"a:80:80",
        "with a word for a port": b"a:b",
        "with a long port": b"a:123456", "with an open bracket": b"[::1",
        "with text after a bracket": b"[::1]x",
        "that is a star": b"*", "in percent": b"a%00", "above ASCII": "ש".encode(), "in quotes": b'"a"',
        "with a backslash": b"a\\b",
        "with NUL": b"a\0", "with a comma": b"a,", "in braces": b"{a}",
    }  # fmt: skip
    yield from _refused({f"a Host {name}": _host(value) for name, value in hosts.items()})
    yield from _refused(
        {
            "no Host": _GET + b"\r\n" + HIDDEN,
            "two Hosts": _GET + b"host: a\r\nhost: b\r\n\r\n" + HIDDEN,
            "two equal Hosts": _GET + b"host: a\r\nHOST: a\r\n\r\n" + HIDDEN,
            "two Hosts in HTTP/1.0": b"GET /live HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n" + HIDDEN,
            "no Host in the absolute form": b"GET http://a/live HTTP/1.1\r\n\r\n" + HIDDEN,
            "a blank before Host's colon": _GET + b"host : a\r\n\r\n" + HIDDEN,
        }
    )
    yield from _taken(
        {
            "an empty Host": _host(b""), "Host with a port": _host(b"a:1"),
            "an address for a Host": _host(b"[::1]:8000"),
            "a Host of 5,000 letters": _host(b"a" * 5000), "an empty header": _with(b"x:"),
            "bytes above ASCII": _with(b"x: \xff\xfe"),
            "100 headers": _with(*[b"x: y"] * 99), "a header of 30,000 bytes": _with(b"x: " + b"y" * 30_000),
        },
        200,
    )  # fmt: skip


def _strangers() -> Iterator[Case]:
    """Other protocols, and no protocol."""
    dice = random.Random(11)
    noise = {f"noise {number}": dice.randbytes(300) + b"\r\n\r\n" for number in range(8)}
    noise |= {
        f"letters {number}": bytes(dice.choices(range(33, 127), k=300)) + b"\r\n\r\n" for number in range(4)
    }
    yield from _refused(
        {
            "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
            "an SSLv2 hello": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
            "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
            "an SSH banner": b"SSH-2.0-OpenSSH_9.6\r\n",
            "a mail client": b"EHLO client\r\nMAIL FROM:<a@b.example>\r\n",
            "a Redis client": b"*1\r\n$4\r\nPING\r\n",
            "SOCKS 5": b"\5\1\0",
            "a proxy's line": b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n" + _with(),
            "a proxy's binary line": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
            "an answer": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "NULs": bytes(500), "high bytes": b"\xff" * 500, "UTF-16": _with().decode().encode("utf-16"),
            "a BOM": b"\xef\xbb\xbf" + _with(), **noise,
        }
    )  # fmt: skip


def _followers() -> Iterator[Case]:
    """What follows a request, or asks for more than it."""
    whole = _POST + _LENGTH + b"\r\n" + _BODY
    upgrade = b"connection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nupgrade: h2c\r\n"
    told = b"host: a\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 5\r\n\r\n"
    yield from _taken(
        {
            "a second request": whole + HIDDEN,
            "ten more requests": whole + HIDDEN * 10,
            "junk after a request": whole + b"\0\xff no HTTP\r\n\r\n" * 20,
            "a request within the body of a GET": _with(b"content-length: %d" % len(HIDDEN)),
            "an upgrade to HTTP/2": _POST + _LENGTH + upgrade + b"\r\n" + _BODY + HIDDEN,
            "an upgrade to a websocket": _with(b"connection: upgrade", b"upgrade: websocket"),
            "an upgrade on a GET with a body": _GET + told + b"hello" + HIDDEN,
            "connection: close, and more": _with(b"connection: close"),
            "connection says many things": _with(b"connection: close, keep-alive, host, x"),
            "an expectation that nobody knows": whole.replace(b"\r\n\r\n", b"\r\nexpect: wonders\r\n\r\n", 1),
        },
        200,
        417,
    )  # fmt: skip
    yield Case("front", "the client leaves within a head", _GET, (GONE,), leaves=True)
    yield Case("front", "the client leaves without a word", b"", (GONE,), leaves=True)
    yield Case("front", "the client leaves within a body", whole[:-5], (GONE,), leaves=True)


# --- well-formed HTTP

_CHAT: dict[str, Any] = {
    "model": "gemma-3-12b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3,
}  # fmt: skip
_PATHS = {
    "/v1/chat/completions": _CHAT,
    "/generate": {"inputs": "Hello", "parameters": {"max_new_tokens": 3}},
    "/models/distilgpt2/generate_stream": {"inputs": "Hello", "parameters": {"max_new_tokens": 3}},
}


def post(path: str, body: bytes, *lines: bytes, json_type: bool = True) -> bytes:
    """A POST; `lines` are further header lines."""
    told = (
        *([b"content-type: application/json"] if json_type else []),
        *lines,
        b"content-length: %d" % len(body),
    )
    return b"POST %b HTTP/1.1\r\nhost: router\r\n" % path.encode() + b"\r\n".join(told) + b"\r\n\r\n" + body


def _headers() -> Iterator[Case]:
    body = json.dumps(_CHAT).encode()
    path = "/v1/chat/completions"
    rows: dict[str, tuple[tuple[bytes, ...], tuple[int, ...]]] = {
        "no type": ((), (415,)),
        "an empty type": ((b"content-type:",), (415,)),
        "plain text": ((b"content-type: text/plain",), (415,)),
        "a form": ((b"content-type: multipart/form-data; boundary=x",), (415,)),
        "two types": ((b"content-type: application/json", b"content-type: text/plain"), (200, 415)),
        "a type in Hebrew": (("content-type: שלום".encode(),), (415,)),
        "JSON with a charset": ((b"content-type: Application/JSON; charset=utf-16",), (200, 415)),
        "gzip": ((b"content-type: application/json", b"content-encoding: gzip"), (415,)),
        "a foreign page": ((b"content-type: application/json", b"origin: https://evil.example"), (403,)),
        "a null origin": ((b"content-type: application/json", b"origin: null"), (403,)),
        "an origin that is none": ((b"content-type: application/json", b"origin: \xff\xfe"), (403,)),
    }
    harmless = {
        "an endless key": b"authorization: Bearer " + b"x" * 20_000,
        "a key above ASCII": b"x-api-key: \xff\xfe",
        "basic authorization": b"authorization: Basic Og==", "authorization of nothing": b"authorization:",
        "a request id with a quote": b'x-request-id: "}{', "a request id above ASCII": b"x-request-id: \xff",
        "an endless request id": b"x-request-id: " + b"a" * 5000,
        "a trace that is none": b"traceparent: 00-zz-yy-01",
        "an endless trace": b"traceparent: " + b"0" * 9000,
        "a time limit that is none": b"x-request-timeout: soon",
        "a negative time limit": b"x-request-timeout: -1",
        "an endless time limit": b"x-request-timeout: " + b"9" * 500,
        "an infinite time limit": b"x-request-timeout: inf", "a range": b"range: bytes=0-5",
        "a condition": b'if-none-match: "x"',
        "a cookie": b"cookie: " + b"a=b; " * 2000, "an accept that is none": b"accept: \xff",
        "a list of 500 proxies": b"x-forwarded-for: " + b"1.2.3.4," * 500,
        "a proxy's line of NULs": b"x-forwarded-for: %00",
        "a forwarded line": b'forwarded: for="[::1";by=_x',
        "a real address that is none": b"x-real-ip: 999.1.1.1",
        "a signature that is none": b"x-signature: zz", "an unknown priority": b"x-priority: \xff",
        "a method in a header": b"x-http-method-override: DELETE",
    }  # fmt: skip
    for name, (lines, statuses) in rows.items():
        yield Case("headers", name, post(path, body, *lines, json_type=False), statuses)
    for name, line in harmless.items():
        yield Case("headers", name, post(path, body, line), (200, 400, 401, 403))
    for path, method in (
        ("/v1/chat/completions", "GET"),
        ("/generate", "PUT"),
        ("/live", "DELETE"),
        ("/models", "PATCH"),
    ):
        data = f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}".encode()
        yield Case("headers", f"{method} {path}", data, (405,))


NO_OBJECTS = (
    b"", b" ", b"{", b"}", b"[]", b"1", b"null", b"true", b'"text"', b"{}{}", b'{"a":1}x', b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}', b'{"a":1,}', b"{,}", b'{"a"}', b'{"a":}', b"{a:1}", b"{'a':1}", b'{"a":01}',
    b'{"a":+1}', b'{"a":.5}', b'{"a":1.}',
    b'{"a":0x1}', b'{"a":"\n"}', b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\\ud800"', b'{"a":tru}',
    b'{"a":/**/1}', b"\xef\xbb\xbf{}",
    b'{"a":"\xff"}', b'{"a":"\xc0\x80"}', b'{"a":"\xed\xa0\x80"}', b'{"\xff":1}', b'{"a":"\0"}', b"\0",
    b'{"a":1', b'{"a":"x',
    '{"a":1}'.encode("utf-16"), '{"a":1}'.encode("utf-32"), b'{"a":' + b"[" * 70 + b"]" * 70 + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000, b'{"a":' + b'{"a":' * 70 + b"1" + b"}" * 71, b"<xml/>", b"a=b&c=d", b"---\na: 1\n",
)  # fmt: skip


def _jsons() -> Iterator[Case]:
    for place, body in enumerate(NO_OBJECTS):
        for path in list(_PATHS)[: 3 if place % 4 == 0 else 1]:
            yield Case("json", f"{place}: {body[:24]!r} to {path}", post(path, body), (400,))
    fields = b"".join(b'"f%d":1,' % number for number in range(100_000))
    odd: dict[str, tuple[bytes, tuple[int, ...]]] = {
        "100,000 fields": (b"{" + fields + json.dumps(_CHAT).encode()[1:], (400,)),
        "200,000 objects": (b'{"messages":[' + b",".join([b"{}"] * 200_000) + b"]}", (400,)),
        "a number of 100,000 digits": (b'{"messages":[],"seed":' + b"9" * 100_000 + b"}", (400,)),
        "a number beyond doubles": (b'{"messages":[],"seed":1e400}', (400,)),
        "the same field twice": (json.dumps(_CHAT).encode()[:-1] + b',"model":"gemma-3-12b"}', (200,)),
        "a field named with NUL": (json.dumps(_CHAT).encode()[:-1] + b',"\\u0000":1}', (200, 400)),
        "half a pair of surrogates": (json.dumps({**_CHAT, "user": "\ud800"}).encode(), (200, 400)),
        "a name in escapes": (json.dumps(_CHAT).encode().replace(b'"model"', b'"\\u006dodel"'), (200,)),
        "a prototype": (json.dumps({**_CHAT, "__proto__": {"x": 1}}).encode(), (200, 400)),
        "a megabyte of blanks": (json.dumps(_CHAT).encode() + b" " * 1_000_000, (200,)),
    }
    for name, (body, statuses) in odd.items():
        yield Case("json", name, post("/v1/chat/completions", body), statuses)


def _parameters() -> Iterator[Case]:
    wrong: tuple[Any, ...] = (None, True, "x", -1, 1 << 70, 1.5, [], {}, ["x"])
    chat: dict[str, Iterable[Any]] = {
        "model": (5, "x" * 300, "no-such", [], {}, True, "\0", "../../etc/passwd"),
        "messages": (None, 5, "x", {}, [5], [[]], [{}], [{"role": 5}], [{"role": "user"}],
                     [{"role": "user", "content": 5}]),
        "stream": ("yes", 1, [], {}), "n": (0, 17, *wrong[1:]), "best_of": (17, *wrong[1:]),
        "seed": (1 << 64, -(1 << 70)), "max_tokens": wrong, "temperature": (*wrong, 1e308),
        "priority": (1,), "kv_transfer_params": ({},), "api_base": ("http://169.254.169.254/",),
        "response_format": (5, {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}),
        "tools": ("x", [{}] * 1000), "stop": (["x"] * 1000, 5), "logit_bias": ({"x": "y"}, 5),
    }  # fmt: skip
    # An engine says by itself what is wrong with a field that the router does not read; some it takes.
    for field, values in chat.items():
        for number, value in enumerate(values):
            body = json.dumps({**_CHAT, field: value}).encode()
            name = f"chat: {field} {number}: {json.dumps(value)[:30]}"
            yield Case("parameters", name, post("/v1/chat/completions", body), (200, 400, 404, 422))
    generate: dict[str, Iterable[Any]] = {
        "inputs": wrong, "parameters": (5, "x", []), "stream": ("x",),
        "max_new_tokens": wrong, "temperature": wrong, "top_p": (2, *wrong), "top_k": wrong,
        "stop": ("x", 5, [5], ["x"] * 100),
        "seed": wrong, "do_sample": (5, "x"), "best_of": (17, *wrong),
        "grammar": (5, {"type": "regex", "value": "(a+)+$"}),
    }  # fmt: skip
    for field, values in generate.items():
        for number, value in enumerate(values):
            whole: dict[str, Any] = {"inputs": "Hello", "parameters": {"max_new_tokens": 3}}
            (whole if field in {"inputs", "parameters", "stream"} else whole["parameters"])[field] = value
            name = f"generate: {field} {number}: {json.dumps(value)[:30]}"
            yield Case("parameters", name, post("/generate", json.dumps(whole).encode()), (200, 400, 422))
    seeds: dict[str, dict[str, Iterable[Any]]] = {
        "/generate": {"model_id": (5, "no-such", ""), "prompt": wrong, "top_p": (2, True),
                      "max_new_tokens": (0, 2049, *wrong)},
        "/v1/generate": {"prompt": (5, "", None), "max_tokens": wrong},
        "/api/chat/stream": {"messages": wrong},
        "/v1/completions": {"prompt": (5, {}, None, [[]])}, "/v1/embeddings": {"input": (5, {}, None)},
        "/tokenize": {"inputs": wrong}, "/models/compare": {"models": wrong, "prompt": wrong},
    }  # fmt: skip
    for path, table in seeds.items():
        for field, values in table.items():
            for number, value in enumerate(values):
                body = json.dumps(
                    {"model_id": "distilgpt2", "prompt": "Hello", "max_new_tokens": 3, field: value}
                ).encode()
                name = f"{path}: {field} {number}: {json.dumps(value)[:30]}"
                yield Case("parameters", name, post(path, body), (200, 400, 401, 404, 415, 422))


CASES: tuple[Case, ...] = (
    *_lengths(), *_codings(), *_chunks(), *_lines(), *_heads(), *_strangers(), *_followers(),
    *_headers(), *_jsons(), *_parameters(),
)  # fmt: skip
