"""TGI's chat and completion routes. Source: router/src/chat.rs, server.rs, lib.rs of 3.3.7."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from emulator.assembly import Step
from emulator.dialect import Dialect, Exchange, as_json
from emulator.settings import Settings
from emulator.stream import DONE, frame, relay
from emulator.structure import minimal_json
from emulator.template import continue_or_answer, prompt_of
from emulator.tgi_checks import (
    Job,
    Refused,
    chat_types,
    check_parameters,
    completion_types,
    wanted_of,
)
from emulator.tgi_jobs import End, Jobs, Run, reply_headers, stream_headers

_FINISH = {"eos_token": "stop"}  # `stop_sequence` and `length` go out as they are


def error_frames(message: str) -> list[bytes]:
    """An error inside a stream of the OpenAI routes."""
    return [frame({"error": {"message": message, "http_status_code": 422}}), DONE]


def templated(value: dict[str, Any], settings: Settings, body: bytes) -> str:
    """The prompt of a chat request."""
    chat_types(value, body)
    if not settings.chat_template:
        raise Refused(422, "template_error", "Template error: template not found")
    return prompt_of(value["messages"], continue_or_answer(value["messages"]))


def _seen(value: dict[str, Any], settings: Settings) -> str:
    """The name an answer carries: an unknown one is an adapter, echoed, and the base model serves it."""
    model = value.get("model")
    return settings.model if model in (None, "tgi") else str(model)


def _shared(value: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Fields of every OpenAI answer."""
    return {
        "id": "",
        "created": int(time.time()),
        "model": _seen(value, settings),
        "system_fingerprint": f"{settings.version}-native",
    }


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    """The request as native parameters; temperature 0 means greedy here and is not refused."""
    names = ("temperature", "top_p", "frequency_penalty", "repetition_penalty", "seed")
    given = {name: value.get(name) for name in names}
    if given["temperature"] == 0:
        given["temperature"] = None
    presence = value.get("presence_penalty")
    if presence is not None:
        given["repetition_penalty"] = presence + 2.0
    return given


def _tool(value: dict[str, Any]) -> dict[str, Any] | None:
    """The tool that `tool_choice` forces."""
    choice, tools = value.get("tool_choice"), value.get("tools") or []
    if tools and value.get("response_format"):
        raise Refused(422, "tool_error", "Tool error: Grammar and tools are mutually exclusive")
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    for tool in tools:
        function: dict[str, Any] = tool.get("function", {})
        if choice == "required" or (named is not None and function.get("name") == named):
            return function
    if named is not None:
        raise Refused(422, "tool_error", f"Tool error: Tool with name {named} not found")
    return None


async def chat(exchange: Exchange, value: dict[str, Any], jobs: Jobs, dialect: Dialect) -> None:
    """`/v1/chat/completions`; template and tool errors come before a stream begins."""
    settings, body = jobs.settings, exchange.request.body
    prompt = templated(value, settings, body)
    tool = _tool(value)
    wanted = minimal_json(tool.get("parameters") or {"type": "object"}) if tool else None
    limit = value.get("max_tokens")
    job = Job(
        inputs=prompt,
        max_new_tokens=value.get("max_completion_tokens") if limit is None else limit,
        stop=tuple(value.get("stop") or ()),
        seed=value.get("seed"),
        wanted=wanted or wanted_of(value.get("response_format"), body),
    )
    if value.get("stream"):
        await exchange.outlet.start(200, stream_headers(len(prompt)))
        await relay(_guarded(_chat_frames(exchange, value, job, jobs, tool)), exchange, dialect)
        return
    await _answer(exchange, value, [job], jobs, dialect, tool=tool)


async def completions(exchange: Exchange, value: dict[str, Any], jobs: Jobs, dialect: Dialect) -> None:
    """`/v1/completions`."""
    completion_types(value, exchange.request.body)
    if value.get("suffix") is not None:
        raise Refused(
            422,
            "suffix not supported",
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
        )
    given = value["prompt"]
    prompts = given if isinstance(given, list) else [given]
    most = jobs.limits.max_client_batch
    if len(prompts) > most:
        message = f"Number of prompts exceeds the maximum allowed batch size of {most}"
        raise Refused(422, "batch size exceeded", message)
    limit, stop = value.get("max_tokens"), tuple(value.get("stop") or ())
    batch = [Job(inputs=text, max_new_tokens=limit, stop=stop, seed=value.get("seed")) for text in prompts]
    if value.get("stream"):
        await exchange.outlet.start(200, stream_headers(sum(map(len, prompts))))
        await relay(_guarded(_text_frames(exchange, value, batch, jobs)), exchange, dialect)
        return
    await _answer(exchange, value, batch, jobs, dialect)


def _admit(value: dict[str, Any], batch: list[Job], jobs: Jobs, *, stream: bool) -> None:
    jobs.permit(len(batch))
    for job in batch:
        check_parameters(_parameters(value), job, jobs.limits, stream=stream)


async def _guarded(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """A refusal after the headers is an error frame."""
    try:
        async for data in frames:
            yield data
    except Refused as refused:
        for data in error_frames(refused.message):
            yield data


async def _answer(
    exchange: Exchange,
    value: dict[str, Any],
    batch: list[Job],
    jobs: Jobs,
    dialect: Dialect,
    *,
    tool: dict[str, Any] | None = None,
) -> None:
    jobs.refuse_by_fault(exchange, dialect)
    _admit(value, batch, jobs, stream=False)
    native = exchange.request.path == "/v1/chat/completions"
    async with jobs.run(exchange, batch) as run:
        await run.finish()
        choices = [_choice(index, end, value, native, tool) for index, end in enumerate(run.ends)]
        answer = {"object": "chat.completion" if native else "text_completion"}
        answer |= _shared(value, jobs.settings) | {"choices": choices, "usage": _usage(run.ends)}
        headers = reply_headers(run, sum(len(job.inputs) for job in batch), compute_time=native)
        await exchange.reply(as_json(answer, headers=headers))


def _choice(
    index: int, end: End, value: dict[str, Any], native: bool, tool: dict[str, Any] | None
) -> dict[str, Any]:
    finish = _FINISH.get(end.reason, end.reason)
    if not native:
        return {"index": index, "text": end.text, "logprobs": None, "finish_reason": finish}
    message: dict[str, Any] = {"role": "assistant", "content": end.text}
    if tool is not None:
        function = {"description": None, "name": tool.get("name"), "arguments": end.text}
        message = {"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": function}]}
    logprobs = {"content": [_logprob(end, step) for step in end.steps]} if value.get("logprobs") else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def _logprob(end: End, step: Step) -> dict[str, Any]:
    token = end.token(step)
    return {"token": token["text"], "logprob": token["logprob"], "top_logprobs": []}


def _usage(ends: list[End]) -> dict[str, int]:
    prompt, generated = sum(end.input_tokens for end in ends), sum(end.generated for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


async def _chat_frames(
    exchange: Exchange, value: dict[str, Any], job: Job, jobs: Jobs, tool: dict[str, Any] | None
) -> AsyncGenerator[bytes, None]:
    _admit(value, [job], jobs, stream=True)
    base = {"object": "chat.completion.chunk"} | _shared(value, jobs.settings)
    async with jobs.run(exchange, [job]) as run:
        async for end, step in _steps(run):
            if step is None:
                yield b":\n\n"
                continue
            finish = _FINISH.get(end.reason, end.reason) if step.finish else None
            delta: dict[str, Any] = {"role": "assistant", "content": step.text}
            if tool is not None:
                call = {"name": tool.get("name"), "arguments": step.text}
                delta = {
                    "role": "assistant",
                    "tool_calls": [{"index": 0, "id": "0", "type": "function", "function": call}],
                }
            logprobs = {"content": [_logprob(end, step)]} if value.get("logprobs") else None
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
            yield frame(base | {"choices": [choice], "usage": None})
        if (value.get("stream_options") or {}).get("include_usage"):
            yield frame(base | {"choices": [], "usage": _usage(run.ends)})
    yield DONE


async def _text_frames(
    exchange: Exchange, value: dict[str, Any], batch: list[Job], jobs: Jobs
) -> AsyncGenerator[bytes, None]:
    _admit(value, batch, jobs, stream=True)
    base = {"object": "text_completion"} | _shared(value, jobs.settings)
    async with jobs.run(exchange, batch) as run:
        async for end, step in _steps(run):
            if step is None:
                yield b":\n\n"
                continue
            finish = end.reason if step.finish else ""
            choice = {
                "index": run.ends.index(end),
                "text": step.text,
                "logprobs": None,
                "finish_reason": finish,
            }
            chunk = base | {"choices": [choice]}
            yield frame(chunk | {"usage": _usage([end])} if finish else chunk)
    yield DONE


async def _steps(run: Run) -> AsyncIterator[tuple[End, Step | None]]:
    async for end, step in run.steps():
        if step is not None and step.token is None:
            raise Refused(500, "incomplete_generation_stream", "Incomplete generation stream")
        yield end, step
