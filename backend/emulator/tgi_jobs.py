"""Running TGI jobs on the engine: permits, lengths, the running text, details, timing headers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from emulator.assembly import Step, Wish
from emulator.dialect import Dialect, Exchange
from emulator.faults import Plan
from emulator.schedule import Batch, Engine
from emulator.settings import Settings
from emulator.text import GPT2, script, story
from emulator.tgi_checks import Job, Limits, Refused, check_length

_COMPUTE = "gpu+optimized"
_REASONS = {"eos": "eos_token", "stop": "stop_sequence", "length": "length", "abort": "length"}


@dataclass(slots=True)
class End:
    """What one sequence has come to. `text` is without special tokens."""

    input_tokens: int
    seed: int | None
    prompt: str
    text: str = ""
    steps: list[Step] = field(default_factory=list)
    finish: str | None = None

    def take(self, step: Step) -> None:
        """Add a step."""
        self.text += step.text
        self.finish = step.finish
        self.steps.append(step)

    @property
    def reason(self) -> str:
        """The native finish reason."""
        return _REASONS[self.finish or "length"]

    @property
    def generated(self) -> int:
        """Tokens, the end token included."""
        return self.steps[-1].count if self.steps else 0

    def token(self, step: Step) -> dict[str, Any]:
        """A step as TGI's token; the text of a special token is shown here and nowhere else."""
        if step.token is None:
            return {"id": 0, "text": "", "logprob": 0.0, "special": False}
        special = step.token.special
        text = step.token.data.decode() if special else step.text
        return {"id": step.token.id, "text": text, "logprob": step.logprob, "special": special}

    def stream_details(self) -> dict[str, Any]:
        """Of the final frame."""
        return {
            "finish_reason": self.reason,
            "generated_tokens": self.generated,
            "seed": self.seed,
            "input_length": self.input_tokens,
        }

    def details(self, job: Job) -> dict[str, Any]:
        """Of a whole answer."""
        shown = {
            "finish_reason": self.reason,
            "generated_tokens": self.generated,
            "seed": self.seed,
            "prefill": [],
            "tokens": [self.token(step) for step in self.steps],
        }
        if job.top_n:
            shown["top_tokens"] = [[self.token(step)] for step in self.steps]
        return shown


class Run:
    """The jobs of one request, running."""

    def __init__(self, batch: Batch, ends: list[End], keep_alive_s: float, arrived_at: float) -> None:
        """Made by `Jobs.run`."""
        self.batch = batch
        self.ends = ends
        self.arrived_at = arrived_at
        self._keep_alive_s = keep_alive_s

    async def steps(self) -> AsyncIterator[tuple[End, Step | None]]:
        """Each step with its sequence; `None` when it is time for a comment."""
        while not self.batch.over:
            got = await self.batch.next(self._keep_alive_s)
            if got is None:
                yield self.ends[0], None
                continue
            index, step = got
            end = self.ends[index]
            end.take(step)
            yield end, step

    async def finish(self) -> None:
        """Wait for the end of all; raises Refused when the engine gave up."""
        async for _, step in self.steps():
            if step is not None and step.token is None:
                raise Refused(500, "incomplete_generation", "Incomplete generation")


class Jobs:
    """Admission and start of jobs."""

    def __init__(self, settings: Settings, engine: Engine, limits: Limits) -> None:
        """One semaphore of `max_concurrent` for queued and running sequences alike."""
        self.settings = settings
        self.limits = limits
        self._engine = engine

    def permit(self, wanted: int) -> None:
        """Refuse when there are fewer than `wanted` permits."""
        if self._engine.in_flight + wanted > self.settings.max_concurrent:
            self._engine.meters.failures["overloaded"] += 1
            raise Refused(429, "overloaded", "Model is overloaded")

    def refuse_by_fault(self, exchange: Exchange, dialect: Dialect) -> None:
        """On whole answers, `error_first` and `error_after` are answers with their own status."""
        kind = exchange.plan.error
        if kind:
            whole = dialect.error_answer(kind, exchange.plan)
            raise Refused(whole.status, kind, "", whole)

    @asynccontextmanager
    async def run(self, exchange: Exchange, jobs: list[Job]) -> AsyncIterator[Run]:
        """Check lengths, start the jobs, and abort what is left at the end."""
        wishes, ends = [], []
        for job in jobs:
            text = _truncated(job)
            tokens = GPT2.count(text)
            wishes.append(
                self._wish(job, text, tokens, check_length(job, tokens, self.limits), exchange.plan)
            )
            ends.append(End(tokens, job.seed, text))
        with self._engine.open(wishes) as batch:
            exchange.batch = batch
            yield Run(batch, ends, self.settings.sse_keep_alive_s, exchange.request.arrived_at)

    def _wish(self, job: Job, text: str, tokens: int, room: int, plan: Plan) -> Wish:
        settings = self.settings
        seed = settings.seed + (job.seed or 0)
        if "empty" in plan or "say" in plan:
            words = script(text, plan.get("say", ""), GPT2)
        elif job.wanted is not None:
            words = script(text, job.wanted, GPT2)
        else:
            words = story(text, GPT2, seed=seed, eos_after=settings.eos_after)
        return Wish(
            prompt=text,
            tokens=words,
            input_tokens=tokens,
            max_tokens=room,
            stop=job.stop,
            stop_on_token=True,
            extra_ttft_s=plan.number("slow_first_token"),
            stall_after=plan.stall_after,
            abort_after=plan.abort_after,
            blank_tokens=int(plan.number("empty_tokens")),
        )


def _truncated(job: Job) -> str:
    if job.truncate is None:
        return job.inputs
    tokens = GPT2.encode(job.inputs)[-job.truncate :]
    return b"".join(token.data for token in tokens).decode("utf-8", "ignore")


def stream_headers(characters: int) -> tuple[tuple[str, str], ...]:
    """Headers of every SSE answer."""
    return (
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-compute-type", _COMPUTE),
        ("x-compute-characters", str(characters)),
        ("x-accel-buffering", "no"),
    )


def reply_headers(run: Run, characters: int, *, compute_time: bool = True) -> tuple[tuple[str, str], ...]:
    """Timing and token headers of a whole answer; sums over its sequences."""
    seqs = run.batch.seqs
    total = max(seq.last_at for seq in seqs) - run.arrived_at
    inference = sum(seq.last_at - seq.started_at for seq in seqs)
    generated = sum(end.generated for end in run.ends)
    fields = [
        ("x-compute-type", _COMPUTE),
        ("x-compute-time", f"{total:.9f}"),
        ("x-compute-characters", str(characters)),
        ("x-total-time", _ms(total)),
        ("x-validation-time", _ms(seqs[0].queued_at - run.arrived_at)),
        ("x-queue-time", _ms(sum(seq.started_at - seq.queued_at for seq in seqs))),
        ("x-inference-time", _ms(inference)),
        ("x-time-per-token", _ms(inference / max(1, generated))),
        ("x-prompt-tokens", str(sum(end.input_tokens for end in run.ends))),
        ("x-generated-tokens", str(generated)),
    ]
    return tuple(field for field in fields if compute_time or field[0] != "x-compute-time")


def _ms(seconds: float) -> str:
    return str(int(max(0.0, seconds) * 1000))
