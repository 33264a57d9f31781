"""An HTTP request as it was received."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Args:
        target: path and query as sent; `path` is without the query.
        headers: names as sent, values as text, in order.
        keep_alive: the client wants to send more on this connection.
        reused: this connection has carried an earlier request.
        oversized: the body was longer than the engine accepts and is cut.
        arrived_at: loop time of the last byte.
    """

    method: str
    target: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    version: str = "1.1"
    keep_alive: bool = True
    reused: bool = False
    oversized: bool = False
    arrived_at: float = 0.0

    def header(self, name: str) -> str | None:
        """The first header of that name (lower case), or `None`."""
        return next((value for key, value in self.headers if key.lower() == name), None)
