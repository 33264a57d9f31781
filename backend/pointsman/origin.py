"""Which foreign web pages may call us: CORS headers, preflights, and the guard against DNS rebinding.

Pure. CORS is closed by default; what is refused simply gets no permission header, and the browser
does the rest. Sources: the Fetch standard (CORS protocol), RFC 6454 7 (Origin), RFC 9110 7.2 (Host).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Headers = Sequence[tuple[bytes, bytes]]

ANY_ORIGIN = "*"
# A browser's script sees no other header of ours; there is no prefix form, so each has its name here.
EXPOSED_HEADERS = (
    "X-Request-ID",
    "X-Process-Time",
    "X-Session-ID",
    "X-Pointsman-Model",
    "X-Pointsman-Replica",
    "X-Pointsman-Attempts",
    "X-Pointsman-Ignored",
    "X-Pointsman-Trimmed",
    "X-Pointsman-Cache",
    "X-Pointsman-Explain",
)
ALLOWED_METHODS = ("GET", "POST", "DELETE", "PUT", "OPTIONS")
ALLOWED_HEADERS = (
    "Content-Type",
    "Authorization",
    "X-API-Key",
    "X-Request-ID",
    "X-Request-Timeout",
    "X-Pointsman-Priority",
    "X-Pointsman-Cache",
    "X-Client-ID",
    "X-Session-ID",
)
PREFLIGHT_MAX_AGE_S = 600

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_EXPOSE = (b"access-control-expose-headers", ", ".join(EXPOSED_HEADERS).encode())
_CREDENTIALS = (b"access-control-allow-credentials", b"true")
_VARY = (b"vary", b"Origin")
_ALLOW_ANY = (b"access-control-allow-origin", b"*")
_PERMISSIONS = (
    (b"access-control-allow-methods", ", ".join(ALLOWED_METHODS).encode()),
    (b"access-control-allow-headers", ", ".join(ALLOWED_HEADERS).encode()),
    (b"access-control-max-age", str(PREFLIGHT_MAX_AGE_S).encode()),
)


@dataclass(frozen=True, slots=True)
class CorsConfig:
    """Knobs of the Origin rules; fill them with `parse_origins` and `parse_hosts`.

    Raises:
        ValueError: "*" beside other origins.
    """

    allowed_origins: tuple[str, ...] = ()  # ("*",): every page, but without credentials
    public_hosts: tuple[str, ...] = ()  # names under which we are reached, lower case, without port

    def __post_init__(self) -> None:
        if ANY_ORIGIN in self.allowed_origins and len(self.allowed_origins) > 1:
            raise ValueError("ALLOWED_ORIGINS: '*' must stand alone; write either '*' or the list of origins")

    @property
    def any_origin(self) -> bool:
        """Whether every page on the web is allowed."""
        return self.allowed_origins == (ANY_ORIGIN,)


@dataclass(frozen=True, slots=True)
class Preflight:
    """The whole answer to a preflight; it has no body."""

    status: int
    headers: list[tuple[bytes, bytes]]


def parse_origins(text: str, setting_name: str) -> tuple[str, ...]:
    """Read origins, separated by commas or white space, into the form browsers send.

    Case and default ports are put right. An empty text gives (): closed.

    Raises:
        ValueError: one sentence that names the setting, the bad item and what to write instead.
    """
    items = text.replace(",", " ").split()
    origins = tuple(dict.fromkeys(_origin(item, setting_name) for item in items))
    if ANY_ORIGIN in origins and len(origins) > 1:
        raise ValueError(f"{setting_name}: '*' must stand alone; write either '*' or the list of origins")
    return origins


def parse_hosts(text: str, setting_name: str) -> tuple[str, ...]:
    """Read host names, separated by commas or white space, into lower case without final dot.

    Raises:
        ValueError: one sentence that names the setting, the bad item and what to write instead.
    """
    hosts = []
    for item in text.replace(",", " ").split():
        name = item.lower().removesuffix(".")
        if re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name) is None:
            hint = "write the bare name, such as router.example.com, without scheme, port, path or '*'"
            raise ValueError(f"{setting_name}: {item[:64]!r} is not a host name; {hint}")
        hosts.append(name)
    return tuple(dict.fromkeys(hosts))


def cors_headers(origin: bytes | None, config: CorsConfig) -> list[tuple[bytes, bytes]]:
    """Headers to add to an answer of any status; [] while CORS is closed.

    With a list of origins `Vary` goes on every answer, also to callers without Origin: a shared
    cache must not serve one page's permission to another.
    """
    if not config.allowed_origins:
        return []
    if config.any_origin:
        return [_ALLOW_ANY, _EXPOSE]
    if origin is None or not _listed(origin, config):
        return [_VARY]
    return [(b"access-control-allow-origin", origin), _CREDENTIALS, _EXPOSE, _VARY]


def preflight(headers: Headers, config: CorsConfig) -> Preflight | None:
    """Answer an OPTIONS request; None if it is no preflight and wants the usual routing.

    An allowed page learns all we permit, whatever it asked for: 204. Any other gets 403.
    """
    origins = [value for name, value in headers if name == b"origin"]
    if not origins or not any(name == b"access-control-request-method" for name, _ in headers):
        return None
    if len(origins) > 1 or not _listed(origins[0], config):
        return Preflight(403, [_VARY])
    granted = [line for line in cors_headers(origins[0], config) if line is not _EXPOSE]
    return Preflight(204, [*granted, *_PERMISSIONS])


def origin_allowed(origin: bytes | None, host: bytes | None, config: CorsConfig) -> bool:
    """Whether a POST may go on, judged by the page that sent it; False means 403.

    A page that rebinds its own name to our address is same-origin to its browser and is asked no
    preflight, but its name stands in Host. So an unlisted origin may only call us under a Host that
    no foreign DNS can hold: an IP literal, localhost, or a name in `public_hosts`. A cross-site page
    that names such a host passes here; it is stopped by the preflight that a JSON content type
    needs, so a route that takes a POST of any other type is not protected by this rule alone.

    Args:
        origin: the Origin header; None for callers that are no browser, who pass untouched.
        host: the Host header with or without port; None (HTTP/1.0) is a host we do not know.
    """
    if origin is None or _listed(origin, config):
        return True
    return host is not None and _own_host(host, config)


def _listed(origin: bytes, config: CorsConfig) -> bool:
    return config.any_origin or origin.decode("latin-1") in config.allowed_origins


def _own_host(host: bytes, config: CorsConfig) -> bool:
    matched = _HOST.fullmatch(host.decode("latin-1").lower())
    if matched is None:
        return False
    name = matched[1].removesuffix(".")
    return name == "localhost" or name in config.public_hosts or _literal(matched[1]) is not None


def _literal(host: str) -> str | None:
    """The canonical form of a dotted IPv4 or a bracketed IPv6 address; None for a name."""
    try:
        if host.startswith("["):
            return f"[{IPv6Address(host[1:-1])}]"
        return str(IPv4Address(host))
    except ValueError:
        return None


def _origin(item: str, setting_name: str) -> str:
    if item == ANY_ORIGIN:
        return item
    shown = f"{setting_name}: {item[:64]!r}"
    matched = _ORIGIN.fullmatch(item.lower())
    if matched is None:
        base = "/".join(item.lower().split("/")[:3])
        hint = f"write {base}" if _ORIGIN.fullmatch(base) else "write https://name or http://name:port"
        raise ValueError(f"{shown} is not an origin; {hint} (scheme, host and port only, no wildcard)")
    scheme, host, port = matched[1], matched[2], matched[3]
    if host.startswith("["):
        host = _literal(host) or ""
    if not host or (port is not None and not 0 < int(port) < 65536):
        raise ValueError(f"{shown} has a bad address or port; write it as in http://[2001:db8::1]:3000")
    if port is None or int(port) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"
