"""Forwards a call to a replica: the attempt loop, and one conversation per attempt.

The only place that retries. Rules come from `retry.next_step`; until the answer is committed a failure may
lead to another attempt, afterwards it is one error frame.
"""

import asyncio
from dataclasses import replace
from random import Random
from time import monotonic

from tenacity import AsyncRetrying, retry_if_exception

from pointsman import attempt
from pointsman.admission import Admission
from pointsman.attempt import AttemptFailed, End, Retry, Verdict
from pointsman.candidates import none_left, reachable, sound
from pointsman.conversation import converse
from pointsman.errors import POISON_PROMPT, ClientGone, RouterError
from pointsman.exchange import AttemptRecord
from pointsman.generation import Tokens
from pointsman.lengths import Lengths
from pointsman.poison import Poison
from pointsman.registry import Lease
from pointsman.replica import Replica
from pointsman.retry import Again, RetryConfig, Stop, next_step
from pointsman.run import Run
from pointsman.upstream import Pools

_FREE = (Retry.REPAIR, Retry.FRESH)  # cost no retry: the engine did well, or never got the request


class Forwarder:
    """Sends calls to replicas; one per worker process."""

    def __init__(self, admission: Admission, pools: Pools, retry: RetryConfig, rng: Random) -> None:
        self._admission = admission
        self._pools = pools
        self._rng = rng
        self._lengths = Lengths()
        self.poison = Poison(retry.poison_s)
        self.retry = retry

    @property
    def counts(self) -> int:
        """Counts of tokens that are kept."""
        return len(self._lengths)

    @property
    def retry(self) -> RetryConfig:
        """The knobs of the attempt loop; they may change at any time."""
        return self._retry

    @retry.setter
    def retry(self, config: RetryConfig) -> None:
        self._retry = config
        self.poison.lasts_s = config.poison_s

    async def serve(self, run: Run) -> None:
        """Get an answer for the call and send it to the sink.

        Raises:
            RouterError: nothing was committed, and this is what the client is to be told.
            ClientGone: the client left.
        """
        run.model.budget.note_request(monotonic())
        if self.poison.bodies:
            self._heed(run)
        try:
            try:
                await self._attempt(run)
            except AttemptFailed as failure:
                await self._again(run, failure)
        except RouterError as error:
            if run.trouble is None or (error.status >= 500 and isinstance(error.__cause__, AttemptFailed)):
                raise
            raise run.trouble from run.trouble.__cause__  # the other model was not one for this call

    def _heed(self, run: Run) -> None:
        """Keep a request over which two engines failed lately from any third.

        Raises:
            RouterError: POISON_PROMPT; they died, or are not there now.
        """
        only = self.poison.ruling(run.fingerprint(), monotonic()).only
        if only is None:
            return
        pool = [replica for replica in run.model.pool if replica.id in only and replica.usable]
        if not pool:
            raise RouterError(POISON_PROMPT)
        run.model, run.chain = replace(run.model, pool=pool), ()

    async def _again(self, run: Run, first: AttemptFailed) -> None:
        async def rest(seconds: float) -> None:
            with run.watch:
                await asyncio.sleep(seconds)

        loop = AsyncRetrying(
            retry=retry_if_exception(lambda error: self._decide(run, error)),  # asked before stop and wait
            stop=lambda _: isinstance(run.step, Stop),
            wait=lambda _: run.step.after_s if isinstance(run.step, Again) else 0.0,
            sleep=rest,
            reraise=True,
        )
        exchange, unfit = run.exchange, Tokens()
        try:
            async for trial in loop:
                with trial:
                    if trial.retry_state.attempt_number == 1:
                        raise first  # the first try is over; the loop begins with its end
                    if exchange.attempts[-1].end is attempt.MISFIT:  # the engine did all of its work
                        unfit.prompt += exchange.prompt_tokens
                        unfit.completion += exchange.completion_tokens
                        exchange.prompt_tokens = exchange.completion_tokens = 0
                    await self._attempt(run)
        except AttemptFailed as failure:
            if run.tried.repaired and failure.end is attempt.REJECTED:  # the longer request is ours
                failure = AttemptFailed(attempt.MISFIT, failure.detail)
            raise _told(failure) from failure
        except RouterError as error:
            if not run.tried.repaired or error.status >= 500:
                raise
            misfit = AttemptFailed(attempt.MISFIT, error.message)
            raise client_error(misfit) from misfit
        finally:
            exchange.prompt_tokens += unfit.prompt
            exchange.completion_tokens += unfit.completion

    def _decide(self, run: Run, failure: BaseException) -> bool:
        """Set the run's next step; False for what no attempt can mend."""
        if not isinstance(failure, AttemptFailed):
            return False
        failure.__traceback__ = failure.__context__ = None  # they hold the request while another is asked
        now = asyncio.get_running_loop().time()
        others = reachable(run.model, run.call, run.asked, again=False)  # one that is busy is waited for
        leaves = self._leaves(run, others=others)
        step = next_step(failure, run.tried, others or leaves, self.retry, self._rng.random())
        if isinstance(step, Again):
            run.tried.fresh_used |= failure.end.retry is Retry.FRESH
            run.tried.once_used |= failure.end.retry is Retry.ONCE_OTHER
            run.tried.repaired |= failure.end.retry is Retry.REPAIR
            late = now + step.after_s >= run.deadline
            if late or not (failure.end.retry in _FREE or run.home.budget.spend(now)):
                step = Stop()
            elif leaves and not step.same_replica:
                run.fall_back(_told(failure))
        run.step = step
        return True

    def _leaves(self, run: Run, *, others: bool) -> bool:
        """Whether the next attempt is another model's: the last one is, and each where no replica is left."""
        last = len(run.asked) >= self.retry.max_attempts - 1
        if not run.chain or (others and not last):
            return False
        run.chain = tuple(
            model
            for model in run.chain
            if sound(model) and reachable(model, run.call, run.asked, again=False)
        )
        return bool(run.chain)

    async def _lease(self, run: Run, *, again: bool) -> Lease:
        """A slot of the replica that is asked next, of the next model where this one has none.

        Raises:
            RouterError: there is none.
        """
        slots = self._admission
        if run.chain and not sound(run.model) and self._leaves(run, others=False):
            run.fall_back(none_left(run.model, run.call))
        while True:
            try:
                return slots.at_once(run, again=again) or await slots.wait(run, again=again)
            except RouterError as error:
                if error.status != 503 or not self._leaves(run, others=False):
                    raise
                run.fall_back(error)
                again = False

    async def _attempt(self, run: Run) -> None:
        """Ask one replica.

        Raises:
            AttemptFailed: it failed and nothing was committed.
        """
        if monotonic() >= run.deadline:
            raise run.overtime()  # nothing is asked that nobody waits for
        again = isinstance(run.step, Again) and run.step.same_replica
        lease = None if run.chain else self._admission.at_once(run, again=again)
        if lease is None:
            lease = await self._lease(run, again=again)
        replica = lease.replica
        run.asked.add(replica)
        run.tried.attempts += 1
        run.exchange.replica_id = replica.id
        end, detail = attempt.BUG, ""
        try:
            with run.watch:
                await converse(run, replica, self._pools.of(replica), self._lengths)
            end = attempt.OK
            if self.poison.bodies:
                self.poison.cleared(run.fingerprint())
        except ClientGone:
            end = attempt.CLIENT_ABORT
            raise
        except asyncio.CancelledError:
            end = attempt.CANCELLED
            raise
        except RouterError:
            end = attempt.REJECTED
            raise
        except AttemptFailed as failure:
            end, detail = failure.end, failure.detail
            run.watch.forget()
            self._suspect(run, replica, end)
            if not run.sink.committed:
                raise
            run.exchange.end = end
            await self._break_off(run, failure)
        finally:
            self._admission.release(lease, run, end)
            run.exchange.attempts.append(AttemptRecord(replica.id, end, detail, replica.model_id))

    def _suspect(self, run: Run, replica: Replica, end: End) -> None:
        """Remember over which request a replica may have died, and that it was found dead."""
        if end in attempt.DEADLY:
            run.tried.hurt.add(replica.id)
            self.poison.failed(run.fingerprint(), replica.id, monotonic())
        elif end is attempt.CONNECT and self.poison.bodies:
            self.poison.died(replica.id, monotonic())

    async def _break_off(self, run: Run, failure: AttemptFailed) -> None:
        now = monotonic()
        with run.watch:
            run.watch.set(now + run.timeouts.send_s, ClientGone)
            await run.sink.break_off(failure, mid_event=run.exchange.mid_event)


def _told(failure: AttemptFailed) -> RouterError:
    error = client_error(failure)
    error.__cause__ = failure
    return error


def client_error(failure: AttemptFailed) -> RouterError:
    """What a client is told of a failed attempt."""
    kind = failure.end.error
    retry_after_s = None
    if failure.end.verdict is Verdict.OVERLOAD or failure.end is attempt.SHUTDOWN:
        retry_after_s = max(1, round(failure.retry_after_s or 1))
    return RouterError(kind, failure.client_message, status=failure.status, retry_after_s=retry_after_s)
