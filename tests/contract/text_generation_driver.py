"""Calls by TGI's own Python client, the package `text-generation`; run by its environment, not by ours.

Reads `{url, calls: [{client, method, arguments}]}` from stdin; `client` is the name of a class. Writes for
each call `{pieces, error: {class, message} | null}`: the answer, or the events of a stream that the client
read before it ended or raised.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from inspect import isawaitable
from typing import Any

# By name: the package is not there where the types are checked.
package: Any = import_module("text_generation")
TIMEOUT_S = 15


async def pieces_of(answer: Any) -> AsyncIterator[Any]:
    """The events of a stream, or the one answer there is, of either client."""
    answer = await answer if isawaitable(answer) else answer
    if isinstance(answer, AsyncIterator):
        async for piece in answer:
            yield piece
        return
    for piece in answer if isinstance(answer, Iterator) else [answer]:
        yield piece


async def outcome(url: str, call: dict[str, Any]) -> dict[str, Any]:
    """What the client made of one call."""
    pieces: list[Any] = []
    try:
        client = getattr(package, call["client"])(url, timeout=TIMEOUT_S)
        async for piece in pieces_of(getattr(client, call["method"])(**call["arguments"])):
            pieces.append(piece.model_dump(mode="json"))  # noqa: PERF401 - those before an error count too
    except Exception as error:  # noqa: BLE001 - which class the client raises is what the tests ask
        return {"pieces": pieces, "error": {"class": type(error).__name__, "message": str(error)}}
    return {"pieces": pieces, "error": None}


async def main() -> None:
    asked = json.load(sys.stdin)
    json.dump([await outcome(asked["url"], call) for call in asked["calls"]], sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
