"""Faults between an engine's frames: errors, early ends, silence, comments."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from emulator.dialect import Dialect, Exchange, compact

DONE = b"data: [DONE]\n\n"


def frame(value: object) -> bytes:
    """A value as one `data:` event, as both engines write it."""
    return b"data: %b\n\n" % compact(value)


async def relay(frames: AsyncGenerator[bytes, None], exchange: Exchange, dialect: Dialect) -> None:
    """Write the frames and the end of the body, with whatever the plan does to them."""
    async with aclosing(frames):  # so that the engine hears of a cancelled or cut stream at once
        if not exchange.plan:
            async for data in frames:
                await exchange.outlet.event(data)
            await exchange.outlet.end()
        else:
            await _spoiled(frames, exchange, dialect)


async def _spoiled(frames: AsyncGenerator[bytes, None], exchange: Exchange, dialect: Dialect) -> None:
    plan, outlet = exchange.plan, exchange.outlet
    if "comment_first" in plan:
        await outlet.event(b": emulated\n\n")
    if "error_first" in plan:
        for data in dialect.error_frames(exchange.request.path, plan["error_first"]):
            await outlet.event(data)
        await outlet.end()
        return
    count, last = 0, b""
    if await _stopped(count, exchange, dialect):
        return
    async for data in frames:
        if count == 0 and data.startswith(b"data:"):
            await _extra_first(data, exchange)
        if "no_done" in plan:  # one frame behind, so that the last is never written
            data, last = last, data  # noqa: PLW2901 - the swap is the fault
        if data:
            await outlet.event(data)
        count += data.startswith(b"data:")
        # before the next frame is waited for: a stalled engine never has one
        if data and await _stopped(count, exchange, dialect):
            return
    await outlet.end()


async def _extra_first(data: bytes, exchange: Exchange) -> None:
    """Events before the first one."""
    plan = exchange.plan
    try:
        value = json.loads(data[5:])
    except ValueError:
        return
    if "usage_only" in plan and "choices" in value:
        usage = {"prompt_tokens": 1, "total_tokens": 1, "completion_tokens": 0}
        await exchange.outlet.event(frame(value | {"choices": [], "usage": usage}))
    if "big_event" in plan:
        padding = "x" * int(plan.number("big_event"))
        if value.get("choices"):  # without text, so that the text of the answer stays what it is
            choice = value["choices"][0]
            blank = {"text": ""} if "text" in choice else {"delta": {"role": "assistant", "content": ""}}
            value = value | {"choices": [choice | blank | {"finish_reason": None}]}
        elif "token" in value:
            value = value | {"token": value["token"] | {"text": ""}, "generated_text": None, "details": None}
        await exchange.outlet.event(frame(value | {"padding": padding}))


async def _stopped(count: int, exchange: Exchange, dialect: Dialect) -> bool:
    """Whether the stream ends here, after `count` data events."""
    plan, outlet = exchange.plan, exchange.outlet
    if "error_after" in plan and count >= plan.number("error_after"):
        for data in dialect.error_frames(exchange.request.path, plan.part("error_after", 1) or "internal"):
            await outlet.event(data)
        await outlet.end()
        return True
    if "eof_after" in plan and count >= plan.number("eof_after"):
        await outlet.end()
        return True
    if "hang_after" in plan and count >= plan.number("hang_after"):
        await asyncio.get_running_loop().create_future()
    if "comments_after" in plan and count >= plan.number("comments_after"):
        interval_s = float(plan.part("comments_after", 1) or 0.2)
        while True:
            await asyncio.sleep(interval_s)
            await outlet.event(b": keep-alive\n\n")
    return False
