"""Continuous batching: who waits, who runs, and when each sequence gets its next token.

All on the event loop's clock, with callbacks instead of tasks: one tick per token time serves every
running sequence, as a step of a real engine does.
"""

import asyncio
from collections import deque
from collections.abc import Sequence as Row
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from emulator.assembly import Assembly, Step, Wish
from emulator.meters import Meters
from emulator.prefixes import PrefixCache


class Phase(Enum):
    """Where a sequence is."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed and size of the engine.

    Args:
        ttft_s: prefill time of any request, seconds.
        tokens_per_s: per running sequence; 0: as fast as the loop turns.
        prefill_tokens_per_s: work through uncached prompt tokens one request after another; 0: no such cost.
        max_running: sequences that run at once.
        kv_tokens: tokens that fill the KV cache.
        prefix_cache: whether prompts seen before cost less.
    """

    ttft_s: float
    tokens_per_s: float
    prefill_tokens_per_s: float
    max_running: int
    kv_tokens: int
    prefix_cache: bool


class Seq:
    """One sequence on its way through the engine. Times are loop seconds."""

    def __init__(self, wish: Wish, index: int, mailbox: "Batch", now: float) -> None:
        """Made by `Batch`; `index` is its number there."""
        self.wish = wish
        self.index = index
        self.mailbox = mailbox
        self.assembly = Assembly(wish)
        self.phase = Phase.QUEUED
        self.cached_tokens = 0
        self.queued_at = self.started_at = self.first_at = self.last_at = now
        self.timer: asyncio.TimerHandle | None = None

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self.assembly.count

    @property
    def stalled(self) -> bool:
        """A fault has stopped it; it still holds its place."""
        limit = self.wish.stall_after
        return limit is not None and self.tokens >= limit


@dataclass(frozen=True, slots=True)
class Aborted:
    """A sequence that was given up because nobody listened any more."""

    phase: str
    tokens: int


class Batch:
    """The sequences of one request and the mailbox their steps fall into.

    Leaving its `with` block aborts whatever has not ended.
    """

    def __init__(self, engine: "Engine", wishes: Row[Wish]) -> None:
        """Made by `Engine.open`."""
        self._engine = engine
        self._steps: deque[tuple[int, Step]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        now = engine.now()
        self.seqs = [Seq(wish, index, self, now) for index, wish in enumerate(wishes)]
        self._open = len(self.seqs)
        self.aborted: list[Aborted] = []

    def __enter__(self) -> "Batch":
        """Nothing more than itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Abort what still waits or runs."""
        for seq in self.seqs:
            if seq.phase is not Phase.DONE:
                self.aborted.append(Aborted(seq.phase.value, seq.tokens))
                self._engine.drop(seq)

    def put(self, index: int, step: Step) -> None:
        """Called by the engine."""
        self._steps.append((index, step))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, timeout_s: float = 0.0) -> tuple[int, Step] | None:
        """The next step of any sequence, or `None` when `timeout_s` (0: never) passed without one."""
        if not self._steps:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout_s, _wake, self._waiter) if timeout_s > 0 else None
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        return self._steps.popleft() if self._steps else None

    @property
    def over(self) -> bool:
        """Every sequence has ended and every step was taken."""
        return not self._steps and all(seq.phase is Phase.DONE for seq in self.seqs)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Engine:
    """The batch, the queue and the prefix cache."""

    def __init__(self, pace: Pace) -> None:
        """An idle engine."""
        self.pace = pace
        self.meters = Meters()
        self.waiting: deque[Seq] = deque()
        self.running: set[Seq] = set()
        self.ending = False  # told to end: what runs may finish; refusing new work is the dialect's
        self._dead = False
        self._decoding: dict[Seq, None] = {}
        self._tick: asyncio.Handle | None = None
        self._prefill_free_at = 0.0
        self._prefixes = PrefixCache(max(1, pace.kv_tokens // 16) if pace.prefix_cache else 0)

    def now(self) -> float:
        """Loop time in seconds."""
        return asyncio.get_running_loop().time()

    @property
    def in_flight(self) -> int:
        """Waiting and running sequences."""
        return len(self.waiting) + len(self.running)

    @property
    def kv_tokens_used(self) -> int:
        """Tokens of the running sequences."""
        return sum(seq.wish.input_tokens + seq.tokens for seq in self.running)

    def open(self, wishes: Row[Wish]) -> Batch:
        """Queue sequences; use the result in a `with` statement."""
        batch = Batch(self, wishes)
        for seq in batch.seqs:
            self.meters.started += 1
            self.waiting.append(seq)
        self._admit()
        return batch

    def drop(self, seq: Seq) -> None:
        """Give a sequence up: nobody listens."""
        self.meters.failures["dropped"] += 1
        self.meters.finished["abort"] += 1
        self._leave(seq)
        self._admit()

    def stop(self, reason: str) -> None:
        """End everything that waits or runs: `abort` or `error`."""
        for seq in [*self.waiting, *self.running]:
            self._end(seq, Step(None, "", reason, count=seq.tokens))

    def die(self) -> None:
        """Generate nothing any more, and tell nobody: each sequence stays until its client leaves."""
        self._dead = True
        self._decoding.clear()
        for seq in self.running:
            if seq.timer is not None:
                seq.timer.cancel()
                seq.timer = None

    def _admit(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._dead and self.waiting and len(self.running) < self.pace.max_running:
            seq = self.waiting.popleft()
            self.running.add(seq)
            seq.phase, seq.started_at = Phase.PREFILL, loop.time()
            seq.cached_tokens = self._prefixes.use(seq.wish.prompt, seq.wish.salt, seq.wish.input_tokens)
            self.meters.prompt_tokens += seq.wish.input_tokens
            self.meters.cached_tokens += seq.cached_tokens
            self.meters.queue_s.observe(seq.started_at - seq.queued_at)
            self.meters.steps["prefill"] += 1
            if seq.wish.stall_after != 0:
                seq.timer = loop.call_at(self._prefilled_at(seq), self._prefilled, seq)

    def _prefilled_at(self, seq: Seq) -> float:
        start = seq.started_at
        if self.pace.prefill_tokens_per_s:
            work = (seq.wish.input_tokens - seq.cached_tokens) / self.pace.prefill_tokens_per_s
            start = self._prefill_free_at = max(start, self._prefill_free_at) + work
        return start + self.pace.ttft_s + seq.wish.extra_ttft_s

    def _prefilled(self, seq: Seq) -> None:
        seq.timer = None
        seq.phase = Phase.DECODE
        self._advance(seq)
        if seq.phase is Phase.DECODE:
            self._decoding[seq] = None
            self._plan_tick()

    def _plan_tick(self) -> None:
        if self._tick is None and self._decoding:
            loop = asyncio.get_running_loop()
            rate = self.pace.tokens_per_s
            self._tick = loop.call_later(1 / rate, self._turn) if rate else loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._tick = None
        self.meters.steps["decode"] += 1
        for seq in tuple(self._decoding):
            if seq.stalled:
                del self._decoding[seq]
            else:
                self._advance(seq)
        self._plan_tick()

    def _advance(self, seq: Seq) -> None:
        before, now = seq.tokens, self.now()
        step = seq.assembly.next()
        self.meters.generated_tokens += step.count - before
        if before == 0:
            seq.first_at = now
            self.meters.ttft_s.observe(now - seq.queued_at)
        else:
            self.meters.itl_s.observe(now - seq.last_at)
        seq.last_at = now
        if step.finish is None:
            seq.mailbox.put(seq.index, step)
        else:
            self._end(seq, step)

    def _end(self, seq: Seq, step: Step) -> None:
        meters, now = self.meters, self.now()
        seq.last_at = now
        self._leave(seq)
        meters.finished[step.finish or "abort"] += 1
        meters.total_s.observe(now - seq.queued_at)
        meters.inference_s.observe(now - seq.started_at)
        meters.input_tokens.observe(seq.wish.input_tokens)
        meters.output_tokens.observe(seq.tokens)
        seq.mailbox.put(seq.index, step)
        self._admit()

    def _leave(self, seq: Seq) -> None:
        if seq.phase is Phase.QUEUED:
            self.waiting.remove(seq)
        seq.phase = Phase.DONE
        self.running.discard(seq)
        self._decoding.pop(seq, None)
        if seq.timer is not None:
            seq.timer.cancel()
            seq.timer = None
