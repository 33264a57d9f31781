"""What browsers are told about every answer: to take it for what it says it is, and to show it nowhere else.

Source: the OWASP cheat sheet "HTTP Headers". `Strict-Transport-Security` is the proxy's, who does TLS.
"""

_POLICY = b"default-src 'none'; frame-ancestors 'none'"  # for JSON and events, which load nothing
# For the pages of /docs and /redoc, as FastAPI makes them: their scripts, styles and fonts come from these
# hosts, and a small script stands in the page.
PAGE_POLICY = (
    b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; "
    b"script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    b"font-src https://fonts.gstatic.com; worker-src blob:; "
    b"img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly"
)
POLICY = (b"content-security-policy", _POLICY)
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
# No error is to be kept: a shared cache may give a 404 or 405 again by itself (RFC 9110 section 15.1), and go
# on doing so when the model is up.
NO_STORE = (b"cache-control", b"no-store")


def _lines(*headers: tuple[bytes, bytes]) -> bytes:
    return b"".join([name + b": " + value + b"\r\n" for name, value in headers])


LINES = _lines(*HEADERS, POLICY)  # each ended by CR LF
ERROR_LINES = LINES + _lines(NO_STORE)
