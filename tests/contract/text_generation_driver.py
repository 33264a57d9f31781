"""Calls by TGI's own Python client, the package `text-generation`; run by its environment, not by ours.

That has a `huggingface_hub` of the years before 1.0 too, whose classes can be called as well.
Reads `{url, calls: [{client, method, arguments}]}` from stdin; `client` is the name of a class. Writes for
each call `{pieces, error: {class, message} | null}`: the answer, or the events of a stream that the client
read before it ended or raised.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, is_dataclass
from importlib import import_module
from inspect import isawaitable
from typing import Any

# By name: the packages are not there, or not the same, where the types are checked.
packages: list[Any] = [import_module(name) for name in ("text_generation", "huggingface_hub")]
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


def plain(piece: Any) -> dict[str, Any]:
    """What JSON can say of what a client gave: a model of pydantic, a dataclass, or a mere text."""
    if isinstance(piece, str):
        return {"text": piece}
    if is_dataclass(piece) and not isinstance(piece, type):
        return asdict(piece)
    found: dict[str, Any] = piece.model_dump(mode="json")
    return found


async def outcome(url: str, call: dict[str, Any]) -> dict[str, Any]:
    """What the client made of one call."""
    pieces: list[Any] = []
    try:
        package = next(one for one in packages if hasattr(one, call["client"]))
        client = getattr(package, call["client"])(url, timeout=TIMEOUT_S)
        async for piece in pieces_of(getattr(client, call["method"])(**call["arguments"])):
            pieces.append(plain(piece))  # noqa: PERF401 - those before an error count too
    except Exception as error:  # noqa: BLE001 - which class the client raises is what the tests ask
        return {"pieces": pieces, "error": {"class": type(error).__name__, "message": str(error)}}
    return {"pieces": pieces, "error": None}


async def main() -> None:
    asked = json.load(sys.stdin)
    json.dump([await outcome(asked["url"], call) for call in asked["calls"]], sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
