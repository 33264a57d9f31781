"""vLLM's chat and completion routes on the engine."""

import json
from collections.abc import AsyncGenerator
from typing import Any

from emulator.assembly import Wish
from emulator.dialect import Dialect, Exchange, as_json
from emulator.schedule import Batch, Engine
from emulator.settings import Settings
from emulator.stream import DONE, frame, relay
from emulator.template import TemplateError, check_alternation, prompt_of
from emulator.text import GEMMA, script, story
from emulator.vllm_answers import Shapes, Spoken, shapes_for, usage_of
from emulator.vllm_checks import Ask, check, forced_tool
from emulator.vllm_refusals import NO_TEMPLATE, Refused, bad

_BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."


class Generation:
    """Admission, prompts, streams and whole answers."""

    def __init__(self, settings: Settings, engine: Engine, dialect: Dialect) -> None:
        """Made by the dialect."""
        self._settings = settings
        self._engine = engine
        self._dialect = dialect

    async def answer(self, exchange: Exchange, value: dict[str, Any], *, chat: bool) -> None:
        """One request; raises Refused before anything is written."""
        settings = self._settings
        ask = check(
            value, chat=chat, auto_tools=settings.auto_tools, force_usage=settings.force_include_usage
        )
        if chat and not settings.chat_template:
            raise bad(NO_TEMPLATE)
        prompts = [_counted(_chat_prompt(value))] if chat else _prompts(value)
        wishes, spoken = self._wishes(prompts, ask, exchange)
        self._admit(len(wishes))
        header_id = exchange.request.header("x-request-id")
        shapes = shapes_for(
            ask,
            chat=chat,
            request_id=header_id or value.get("request_id"),
            model=settings.name,
            version=settings.version,
            tool=forced_tool(value) if chat else None,
        )
        with self._engine.open(wishes) as batch:
            exchange.batch = batch
            if ask.stream:
                await exchange.outlet.start(200, (("content-type", "text/event-stream; charset=utf-8"),))
                frames = self._frames(batch, shapes, spoken)
                await relay(frames, exchange, self._dialect)
            else:
                await self._whole(exchange, batch, shapes, spoken)

    def _admit(self, wanted: int) -> None:
        limit = self._settings.max_queued
        if limit and self._engine.in_flight + wanted > limit:
            self._engine.meters.rejected += 1
            raise Refused(503, "Service Unavailable", _BUSY)

    def _wishes(
        self, prompts: list[tuple[str, int]], ask: Ask, exchange: Exchange
    ) -> tuple[list[Wish], list[Spoken]]:
        wishes, spoken = [], []
        limit = self._settings.max_total_tokens
        for prompt, tokens in prompts:
            if tokens >= limit:
                raise bad(
                    f"This model's maximum context length is {limit} tokens. However, your prompt contains "
                    f"{tokens} input tokens, which exceeds this limit even without any output tokens. "
                    "Please reduce the length of the input prompt.",
                    "input_tokens",
                    tokens,
                )
            room = limit - tokens
            wanted = room if ask.max_tokens is None else ask.max_tokens
            if wanted > limit:
                message = f"max_tokens={wanted} cannot be greater than max_model_len={limit}."
                raise bad(f"{message} Please request fewer output tokens.", "max_tokens", wanted)
            for place in range(ask.n):
                wishes.append(self._wish(prompt, tokens, min(wanted, room), ask, exchange, place))
                spoken.append(Spoken(prompt, tokens))
        return wishes, spoken

    def _wish(self, prompt: str, tokens: int, room: int, ask: Ask, exchange: Exchange, place: int) -> Wish:
        plan, settings = exchange.plan, self._settings
        seed = settings.seed + (ask.seed or 0) + place
        if "empty" in plan or "say" in plan:
            words = script(prompt, plan.get("say", ""), GEMMA)
        elif ask.wanted is not None:
            words = script(prompt, ask.wanted, GEMMA)
        else:
            words = story(prompt, GEMMA, seed=seed, eos_after=settings.eos_after, ignore_eos=ask.ignore_eos)
        return Wish(
            prompt=prompt,
            tokens=words,
            input_tokens=tokens,
            max_tokens=room,
            stop=ask.stop,
            keep_stop=ask.keep_stop,
            min_tokens=ask.min_tokens,
            salt=ask.salt,
            extra_ttft_s=plan.number("slow_first_token"),
            stall_after=plan.stall_after,
            abort_after=plan.abort_after,
            blank_tokens=int(plan.number("empty_tokens")),
        )

    async def _frames(
        self, batch: Batch, shapes: Shapes, spoken: list[Spoken]
    ) -> AsyncGenerator[bytes, None]:
        begun: set[int] = set()
        while not batch.over:
            got = await batch.next(self._settings.sse_keep_alive_s)
            if got is None:
                yield b": keep-alive\n\n"
                continue
            index, step = got
            if step.finish == "error":
                for data in self._dialect.error_frames("", "internal"):
                    yield data
                return
            one = spoken[index]
            if shapes.chat and index not in begun:
                begun.add(index)
                yield self._framed(shapes.role_chunk(index, one), shapes, one)
            one.take(step)
            yield self._framed(shapes.step_chunk(index, step, one), shapes, one)
        if shapes.ask.usage:
            more = {"usage": usage_of(spoken, shapes.ask.n), "system_fingerprint": shapes.fingerprint}
            yield frame(shapes.chunk([], **more))
        yield DONE

    def _framed(self, chunk: dict[str, Any], shapes: Shapes, one: Spoken) -> bytes:
        if not shapes.ask.every_usage:
            return frame(chunk)
        usage = usage_of([one], 1) | {"completion_tokens_details": None}
        order = dict.fromkeys(("id", "object", "created", "model", "choices", "usage"))
        return frame(order | chunk | {"usage": usage})

    async def _whole(self, exchange: Exchange, batch: Batch, shapes: Shapes, spoken: list[Spoken]) -> None:
        kind = exchange.plan.error
        if kind:
            await exchange.reply(self._dialect.error_answer(kind, exchange.plan))
            return
        while not batch.over:
            got = await batch.next()
            if got is not None:
                spoken[got[0]].take(got[1])
                if got[1].finish == "error":
                    await exchange.reply(self._dialect.error_answer("internal", exchange.plan))
                    return
        load = _load_header(exchange, self._engine)
        await exchange.reply(as_json(shapes.whole(spoken), headers=load))


def _load_header(exchange: Exchange, engine: Engine) -> tuple[tuple[str, str], ...]:
    """The ORCA header, when it is asked for."""
    wanted = exchange.request.header("endpoint-load-metrics-format")
    used = min(1.0, engine.kv_tokens_used / engine.pace.kv_tokens)
    named = {"kv_cache_usage_perc": used, "num_requests_waiting": float(len(engine.waiting))}
    if wanted == "JSON":
        return (("endpoint-load-metrics", f"JSON {json.dumps({'named_metrics': named})}"),)
    if wanted == "TEXT":
        text = ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
        return (("endpoint-load-metrics", f"TEXT {text}"),)
    return ()


def _chat_prompt(value: dict[str, Any]) -> str:
    messages = value["messages"]
    continued = bool(value.get("continue_final_message"))
    answer = value.get("add_generation_prompt", True)
    if continued and answer:
        raise bad("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    try:
        check_alternation(messages)
    except TemplateError as error:
        raise bad(str(error)) from None
    return prompt_of(messages, continued, answer=answer)


def _counted(prompt: str) -> tuple[str, int]:
    return prompt, GEMMA.count(prompt)


def _prompts(value: dict[str, Any]) -> list[tuple[str, int]]:
    """Texts and their lengths in tokens; a text gets a `<bos>` that is counted and not shown."""
    given = value["prompt"]
    if isinstance(given, str) or isinstance(given[0], int):
        given = [given]
    return [_measured(one) for one in given]


def _measured(prompt: str | list[int]) -> tuple[str, int]:
    if isinstance(prompt, str):
        return prompt, GEMMA.count(prompt) + 1
    return GEMMA.decode(prompt), len(prompt)
