"""Where the store is and how it is spoken to. Needs nothing of Redis, so it can be read without the extra."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MEMORY = "memory://"
_SCHEMES = ("redis", "rediss", "unix")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Knobs of the store. All but `url` are of Redis, and per worker process.

    Raises:
        ValueError: one sentence that names the knob; it never shows the address, which may hold a password.
    """

    url: str = MEMORY  # or redis://, rediss:// (TLS), unix://, with user, password and number of the database
    ca_file: Path | None = None  # PEM, for rediss://; None: the system's trust store
    client_cert: Path | None = None  # PEM, shown where Redis asks for one
    client_key: Path | None = None  # PEM, unless in the same file
    prefix: str = "pointsman:"  # of all keys; two installations on one Redis need two
    timeout_s: float = 0.05  # for one operation, connecting included; above 0
    connections: int = 32  # at most; an operation that finds none free waits within its timeout; at least 1
    pause_s: float = 0.1  # before the first trial after a failure, doubled from trial to trial; above 0
    pause_max_s: float = 2.0  # between two trials, a jitter of pause_s aside; above 0

    def __post_init__(self) -> None:
        if self.url != MEMORY:
            _check(self.url)
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key of the store is set without client_cert")
        try:
            self.tls()
        except OSError:  # ssl.SSLError is one
            name = "ca_file" if self.client_cert is None else "client_cert"
            raise ValueError(
                f"{name} of the store cannot be used for TLS; give readable PEM files that fit together"
            ) from None
        for name in ("timeout_s", "pause_s", "pause_max_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of the store must be more than 0 seconds")
        if self.connections < 1:
            raise ValueError("connections of the store must be at least 1")

    @property
    def in_memory(self) -> bool:
        """Whether it is this process's memory, shared with nobody."""
        return self.url == MEMORY

    def tls(self) -> ssl.SSLContext | None:
        """The context for `rediss://`; None: no TLS.

        Raises:
            OSError: a file is missing or holds no certificate.
        """
        if not self.url.startswith("rediss:"):
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.client_cert is not None:
            # A password is given, though none is right: without one OpenSSL asks for it on the terminal.
            context.load_cert_chain(self.client_cert, self.client_key, password="")
        return context


def _check(url: str) -> None:
    try:
        where = urlsplit(url)
        fits = where.scheme in _SCHEMES and (where.hostname or where.scheme == "unix")
        fits = fits and (where.path or where.scheme != "unix") and where.port != 0
        database = where.path.strip("/")
        fits = fits and (where.scheme == "unix" or database.isdecimal() or not database)
        options = parse_qs(where.query, keep_blank_values=True)
        fits = fits and set(options) <= {"db"} and all(n.isdecimal() for [n] in options.values())
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"url of the store must be {MEMORY} or like redis://host:6379/0, rediss://… (TLS) or"
            " unix:///path?db=0, without other options"
        )
