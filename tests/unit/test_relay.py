"""A relay sends whole events, commits on content, and stops at the engine's own end."""

import asyncio
from typing import cast

import pytest

from pointsman import attempt
from pointsman.apis.base import Reply
from pointsman.apis.openai import ChatWriter
from pointsman.attempt import AttemptFailed
from pointsman.bridge import Bridge
from pointsman.call import Api, Call, Operation, Timeouts
from pointsman.connection import Connection
from pointsman.engines.base import Reader
from pointsman.engines.chat import ChatSource
from pointsman.engines.openai import OpenAIReader
from pointsman.engines.tgi import TgiReader
from pointsman.exchange import Exchange
from pointsman.generation import Message, Wish
from pointsman.relay import Relay
from pointsman.replica import Endpoint, Replica
from pointsman.replica import Engine as Kind
from pointsman.sse import EVENT_CAP_BYTES
from pointsman.watch import Clock, Watch

pytestmark = pytest.mark.anyio

ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
WORD = 'data: {"choices":[{"delta":{"content":"שלום"},"finish_reason":null}]}\n\n'.encode()
STOP = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
ABORT = b'data: {"choices":[{"delta":{},"finish_reason":"abort"}]}\n\n'
ERROR = b'data: {"error":{"message":"x","type":"InternalServerError","code":500}}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"


class Engine:
    """A connection that answers with these chunks and then ends."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


class Client:
    """A sink that keeps each write."""

    def __init__(self) -> None:
        self.committed = False
        self.writes: list[bytes] = []
        self.ended = False

    async def begin(self) -> None:
        self.committed = True

    async def write(self, block: bytes, *, last: bool = False) -> None:
        self.writes.append(block)
        self.ended = last


CALL = Call(Api.OPENAI, Operation.CHAT, "m", stream=True)


async def relay(*chunks: bytes, by: Reader | None = None) -> tuple[Client, Exchange, Reader]:
    """Relay these chunks; what the relay raises carries a note of what was sent before."""
    task = asyncio.current_task()
    assert task is not None
    client, exchange, reader = Client(), Exchange("id", "/v1", "POST", 0.0), by or OpenAIReader(CALL)
    watch = Watch(Clock(asyncio.get_running_loop()), task)
    try:
        replica = Replica("m-0", "m", Kind.VLLM, Endpoint("http", "h", 80))
        run = Relay(reader, client, exchange, replica, watch, Timeouts(), deadline=float("inf"))
        await run.run(cast("Connection", Engine(*chunks)))
    except AttemptFailed as failure:
        failure.add_note(b"".join(client.writes).decode())
        raise
    return client, exchange, reader


def sent_before(failure: AttemptFailed) -> bytes:
    return failure.__notes__[0].encode()


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_all_events_pass_unchanged_whatever_the_chunks(size: int) -> None:
    """Bytes out are bytes in, each write ends on an event, and the last one ends the answer."""
    stream = ROLE + WORD * 9 + COMMENT + STOP + USAGE + DONE
    client, exchange, reader = await relay(*[stream[i : i + size] for i in range(0, len(stream), size)])
    assert b"".join(client.writes) == stream
    assert all(block.endswith(b"\n\n") for block in client.writes)
    assert client.ended
    assert exchange.events >= 13
    assert (reader.tokens.prompt, reader.tokens.completion) == (3, 2)


@pytest.mark.parametrize("room", range(120))
async def test_events_of_any_size_may_share_a_block(room: int) -> None:
    """A word and an event that ends the answer, in one block, whatever their sizes."""
    word = b'data: {"choices":[{"delta":{"content":"' + b"x" * room + b'"},"finish_reason":null}]}\n\n'
    client, _, reader = await relay(ROLE + WORD, word + USAGE, DONE)
    assert b"".join(client.writes) == ROLE + WORD + word + USAGE + DONE
    assert reader.tokens.completion == 2


async def test_the_role_waits_for_content() -> None:
    """Nothing is sent for a role-only event; it goes out together with the first word."""
    client, _, _ = await relay(ROLE, WORD, STOP + DONE)
    assert client.writes[0] == ROLE + WORD


async def test_what_follows_the_end_is_dropped() -> None:
    """The engine's terminal event is the last thing sent."""
    client, _, _ = await relay(ROLE + WORD + DONE + WORD)
    assert b"".join(client.writes) == ROLE + WORD + DONE


@pytest.mark.parametrize(
    ("chunks", "end", "before"),
    [
        ((ROLE, ERROR), attempt.ENGINE_ERROR, b""),
        ((ROLE + ABORT + DONE,), attempt.ABORTED, b""),
        ((ROLE + WORD + ERROR + DONE,), attempt.ENGINE_ERROR, ROLE + WORD),
        ((ROLE + WORD * 8, WORD * 5 + ABORT + WORD + DONE), attempt.ABORTED, ROLE + WORD * 13),
        ((ROLE + WORD, WORD[:20]), attempt.TRUNCATED, ROLE + WORD),
        ((ROLE,), attempt.TRUNCATED, b""),
        ((ROLE + DONE,), attempt.JUNK, b""),
        ((b"data: nonsense\n\n",), attempt.JUNK, b""),
    ],
)
async def test_a_failure_ends_it_after_the_good_events(
    chunks: tuple[bytes, ...], end: attempt.End, before: bytes
) -> None:
    """What came before a failure is sent if content was among it, and nothing of the failing event."""
    with pytest.raises(AttemptFailed) as caught:
        await relay(*chunks)
    assert caught.value.end is end
    assert sent_before(caught.value) == before


async def test_a_stream_without_content_is_not_held_for_ever() -> None:
    """More than 4 MiB of events before any content are nonsense."""
    with pytest.raises(AttemptFailed) as caught:
        await relay(*[ROLE * 100] * 600)
    assert caught.value.end is attempt.JUNK
    assert sent_before(caught.value) == b""


def in_chunks(stream: bytes, size: int = 65_000) -> list[bytes]:
    return [stream[i : i + size] for i in range(0, len(stream), size)]


LARGE = b"x" * (EVENT_CAP_BYTES + 200_000)
TOKEN = b'data: {"index":1,"token":{"id":1,"text":"a"},"generated_text":null,"details":null}\n\n'


@pytest.mark.parametrize("into", range(-1, 20))
async def test_a_last_event_too_large_to_hold_is_the_last(into: int) -> None:
    """TGI's last event may list every token of a long prompt; its mark counts wherever the chunks part it."""
    last = b'data: {"details":{"seen":"' + LARGE + b'"},"generated_text":"a","index":2}\n\n'
    cut = last.index(b'"generated_text"') + into
    chunks = [TOKEN, *in_chunks(last[:cut]), last[cut:] + b"data: more\n\n"]
    client, _, _ = await relay(*chunks, by=TgiReader(CALL))
    assert b"".join(client.writes) == TOKEN + last
    assert client.ended


async def test_a_large_event_that_speaks_of_the_end_is_not_it() -> None:
    """Text is no mark: after a large event the stream goes on to its own end, also within the same chunk."""
    large = b'data: {"choices":[{"delta":{"content":"[DONE] \\"generated_text\\":\\"' + LARGE + b'"}}]}\n\n'
    stream = WORD + large + WORD + USAGE + DONE
    client, exchange, reader = await relay(*in_chunks(stream))
    assert b"".join(client.writes) == stream
    assert client.ended
    assert exchange.events == 5
    assert reader.tokens.completion == 2
    with pytest.raises(AttemptFailed) as caught:
        await relay(*in_chunks(TOKEN + large), by=TgiReader(CALL))
    assert caught.value.end is attempt.TRUNCATED


@pytest.mark.parametrize("before", [b"", WORD])
async def test_a_large_event_passes_no_bridge_unread(before: bytes) -> None:
    """Where events are translated, one too large to hold is nonsense, whether anything was sent or not."""
    wish = Wish(messages=(Message("user", "Hi"),))
    bridge = Bridge(ChatSource(), ChatWriter(CALL, Reply("id", "m", "m", 0, lambda: 0.0)), wish)
    large = b'data: {"choices":[{"delta":{"content":"a"}}],"engines_own":"' + LARGE + b'"}\n\n'
    with pytest.raises(AttemptFailed) as caught:
        await relay(*in_chunks(before + large), by=bridge)
    assert caught.value.end is attempt.JUNK
    assert all("engines_own" not in note for note in caught.value.__notes__)
    assert ("שלום" in "".join(caught.value.__notes__)) is bool(before)
