"""Who gets a slot of a model's replicas: at once where one is free, else in a bounded line, or not at all.

`waiting` knows whose turn it is; here slots are handed out, and each wait is ended: by a slot, by time, by a
newcomer with a better claim, by the client who leaves, or because no replica is left. Per worker process.
Source: `reliability.md` section 7.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from random import Random
from time import monotonic

from pointsman import attempt
from pointsman.attempt import AttemptFailed, End
from pointsman.call import Operation
from pointsman.candidates import eligible, none_left, pick, reachable
from pointsman.errors import OVER_SHARE, QUEUE_FULL, QUEUE_TIMEOUT, ErrorKind, RouterError
from pointsman.registry import Lease, Model, Registry
from pointsman.replica import USUAL_SLOTS, Replica
from pointsman.run import Run
from pointsman.waiting import Line, Waiter, retry_after_s

_LOOK_S = 0.25  # while somebody waits: what changes by time alone (a slow start, a pause's end) tells nobody
_LATEST = 0.1  # share of the latest call in the mean time that calls take


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Knobs of admission, per worker process. How long a call may wait is `Timeouts.queue_s`."""

    slots: int = USUAL_SLOTS  # of a replica without max_in_flight that does not tell its own limit
    queue_per_slot: float = 2.0  # calls that may wait for a model, for each slot that its replicas have
    queue_max: int = 256  # the same, at most
    newest_first_after_s: float = 5.0
    buffer_bytes: int = 256 << 20  # of all requests' bodies together


class _Waiting(Waiter):
    """A call in a line. What ends its wait sets `turn`, and a lease or a refusal before."""

    __slots__ = ("again", "due", "lease", "refusal", "run", "turn")

    def __init__(self, run: Run, due: float, now: float, *, again: bool) -> None:
        super().__init__(run.party, run.priority, now)
        self.run = run
        self.again = again
        self.due = due
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lease: Lease | None = None
        self.refusal: RouterError | None = None

    def too_late(self) -> AttemptFailed:
        """What is raised when `due` has passed."""
        return self.run.overtime() if self.due == self.run.deadline else AttemptFailed(attempt.QUEUE_TIMEOUT)

    def end(self) -> None:
        """Wake its task."""
        if not self.turn.done():
            self.turn.set_result(None)


class Admission:
    """Hands out the slots of all replicas."""

    def __init__(self, registry: Registry, config: AdmissionConfig, rng: Random) -> None:
        self._registry = registry
        self.config = config
        self._rng = rng
        self._lines: dict[Model, Line[_Waiting]] = {}  # of models for which somebody waits
        self._look: asyncio.TimerHandle | None = None

    def at_once(self, run: Run, *, again: bool) -> Lease | None:
        """A slot that is free now; None: there is none for this call.

        Args:
            again: replicas that the exchange has asked already may be asked once more.
        """
        model = run.model
        found = eligible(model, run.call, run.asked, again=again)
        if found and self._lines and model in self._lines:
            self._hand_out(model)  # who waits comes before
            found = eligible(model, run.call, run.asked, again=again)
        return self._registry.lease(pick(model, found, self._rng)) if found else None

    async def wait(self, run: Run, *, again: bool) -> Lease:
        """A slot, when one is free and it is this call's turn.

        Raises:
            RouterError: no replica is left, too many wait, or the wait took too long.
            AttemptFailed: the exchange's own time is up.
            ClientGone: the client left.
        """
        waiter = self._join(run, again=again)
        exchange = run.exchange
        exchange.place = partial(self._place, waiter)
        try:
            with run.watch:
                run.watch.set(waiter.due, waiter.too_late)
                await waiter.turn
            lease, waiter.lease = waiter.lease, None
        except AttemptFailed as late:
            run.watch.forget()
            if late.end is not attempt.QUEUE_TIMEOUT:
                raise
            raise self._refusal(QUEUE_TIMEOUT, run.model) from late
        finally:
            exchange.place = None
            exchange.queued_s += monotonic() - waiter.since
            self._leave(waiter)
        if lease is None:
            raise waiter.refusal or none_left(run.model, run.call)
        return lease

    def release(self, lease: Lease, run: Run, end: End) -> None:
        """Give a slot back; who waits for it has it at once."""
        lease.close(end)
        model = run.model
        if end is attempt.OK and run.exchange.sent_at:
            spent_s = monotonic() - run.exchange.sent_at
            known_s = model.service_s or spent_s
            model.service_s = known_s + _LATEST * (spent_s - known_s)
        if self._lines:
            self._freed(model.id)

    def changed(self, model_id: str) -> None:
        """A replica of a model came, went or changed: who waits may have a slot, or wait for nothing."""
        self._freed(model_id)
        for model, line in list(self._lines.items()):
            if model.id == model_id:
                self._send_away(model, line)

    def queued(self) -> dict[str, int]:
        """How many wait, by model; models for which nobody waits are left out."""
        lengths: dict[str, int] = {}
        for model, line in self._lines.items():
            lengths[model.id] = lengths.get(model.id, 0) + len(line)
        return lengths

    def _join(self, run: Run, *, again: bool) -> _Waiting:
        """Stand in the line, which may take another's place.

        Raises:
            RouterError: no replica would serve it, or the line is full.
        """
        model, now = run.model, monotonic()
        if not reachable(model, run.call, run.asked, again=again):
            raise none_left(model, run.call)
        waiter = _Waiting(run, min(now + run.timeouts.queue_s, run.deadline), now, again=again)
        line = self._lines.get(model) or Line(self.config.newest_first_after_s)
        if len(line) >= self._room(model):
            displaced = line.displaced(waiter, now)
            if displaced is None:
                raise self._refusal(OVER_SHARE if line.crowds(waiter) else QUEUE_FULL, model)
            line.leave(displaced)
            rivals = displaced.priority is waiter.priority  # parties of one class; else a class gives way
            displaced.refusal = self._refusal(OVER_SHARE if rivals else QUEUE_FULL, model)
            displaced.end()
        line.join(waiter)
        if not self._lines:
            self._look_later()
        self._lines[model] = line
        return waiter

    def _hand_out(self, model: Model) -> None:
        """Hand out the slots that are free now."""
        line = self._lines[model]
        while line and any(replica.ready for replica in model.pool):
            waiter, found = self._next(model, line)
            if waiter is None:
                return
            line.serve(waiter)
            waiter.lease = self._registry.lease(pick(model, found, self._rng))
            waiter.end()
        if not line:
            del self._lines[model]

    def _next(self, model: Model, line: Line[_Waiting]) -> tuple[_Waiting | None, list[Replica]]:
        """Whose turn it is of those who can use a slot that is free, and the replicas that have one."""
        now = monotonic()
        in_vain: set[Operation] = set()  # of calls that may go anywhere
        for waiter in line.order(now):
            call, asked = waiter.run.call, waiter.run.asked
            if waiter.due <= now or waiter.turn.done() or (not asked and call.operation in in_vain):
                continue
            found = eligible(model, call, asked, again=waiter.again)
            if found:
                return waiter, found
            if not asked:
                in_vain.add(call.operation)
        return None, []

    def _freed(self, model_id: str) -> None:
        # More than one line where operators warm single replicas, or after a change of the model's settings.
        for model in [one for one in self._lines if one.id == model_id]:
            self._hand_out(model)

    def _leave(self, waiter: _Waiting) -> None:
        """Leave nothing behind: neither a place in the line nor a slot that nobody took up."""
        model = waiter.run.model
        line = self._lines.get(model)
        if line is not None and waiter in line:
            line.leave(waiter)
            if not line:
                del self._lines[model]
        if waiter.lease is not None:
            waiter.lease.close(attempt.CANCELLED)
            self._freed(model.id)

    def _send_away(self, model: Model, line: Line[_Waiting]) -> None:
        """Refuse those whom no replica would serve any more."""
        for waiter in list(line.order(monotonic())):
            run = waiter.run
            if not reachable(model, run.call, run.asked, again=waiter.again):
                waiter.refusal = none_left(model, run.call)
                line.leave(waiter)
                waiter.end()
        if not line:
            del self._lines[model]

    def _look_later(self) -> None:
        if self._look is not None:
            self._look.cancel()  # it may be of another loop, which has ended
        self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        for model_id in {model.id for model in self._lines}:
            self.changed(model_id)
        if self._lines:
            self._look_later()

    def _room(self, model: Model) -> int:
        """How many may wait for a model."""
        return min(self.config.queue_max, int(self.config.queue_per_slot * _slots(model)))

    def _place(self, waiter: _Waiting) -> int:
        line = self._lines.get(waiter.run.model)
        return 0 if line is None else line.position(waiter, monotonic())

    def _refusal(self, kind: ErrorKind, model: Model) -> RouterError:
        line = self._lines.get(model)
        waiting = 1 + (0 if line is None else len(line))
        wait_s = retry_after_s(waiting, _slots(model), model.service_s, self._rng.random())
        return RouterError(kind, retry_after_s=wait_s)


def _slots(model: Model) -> int:
    return sum(replica.slots for replica in model.pool if replica.usable)
