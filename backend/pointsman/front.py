"""The HTTP front: where the router listens, and how it ends connections."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """`host` is a name or an address without brackets; port 0 takes any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


ListenAddress = TcpAddress | UnixAddress


class StreamErrorTermination(StrEnum):
    """How a stream ends after its error frame."""

    CLEAN = "clean"  # with the final chunk
    ABORT = "abort"  # without it, so that raw HTTP clients see the failure too


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """Knobs of the front. Times are seconds (`reliability.md` sections 8 and 9)."""

    listen: tuple[ListenAddress, ...] = (TcpAddress("0.0.0.0", 8000),)
    keep_alive_s: float = 95.0  # above what callers keep: nginx 60 s, Go 90 s
    head_s: float = 10.0  # from a request's first byte, or a connection's begin, to the end of its head
    body_s: float = 30.0  # for a request's body; a larger one must go on coming at a least pace
    send_s: float = 30.0  # for a client to take what it was sent, the last bytes of an answer too
    max_connections: int = 4096  # per worker; who comes beyond is told 503
    grace_s: float = 5.0  # from not ready to no longer accepting, so that load balancers notice
    drain_s: float = 120.0  # for running answers to finish
    stream_error_termination: StreamErrorTermination = StreamErrorTermination.CLEAN


def parse_listen(text: str) -> ListenAddress:
    """Read `host:port`, `[v6]:port` or `unix:/path`.

    Raises:
        ValueError: what is wrong, as the end of a sentence that begins with the setting.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError(f"{text!r} needs an absolute path; write it like unix:/run/pointsman.sock")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not an address; write host:port, [v6 address]:port or unix:/path")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65536):
        raise ValueError(f"{text!r} has a bad port; write a number from 0 to 65535")
    return TcpAddress(host[1:-1] if bracketed else host, int(port))
