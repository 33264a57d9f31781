"""Forwards a call to a replica: the attempt loop, and one conversation per attempt.

The only place that retries. Rules come from `retry.next_step`; until the answer is committed a failure may
lead to another attempt, afterwards it is one error frame.
"""

import asyncio
from random import Random
from time import monotonic

from tenacity import AsyncRetrying, retry_if_exception

from pointsman import attempt
from pointsman.admission import Admission
from pointsman.attempt import AttemptFailed, Retry, Verdict
from pointsman.candidates import reachable
from pointsman.conversation import Run, converse
from pointsman.errors import ClientGone, RouterError
from pointsman.exchange import AttemptRecord
from pointsman.lengths import Lengths
from pointsman.retry import Again, RetryConfig, Stop, next_step
from pointsman.upstream import Pools


class Forwarder:
    """Sends calls to replicas; one per worker process."""

    def __init__(self, admission: Admission, pools: Pools, retry: RetryConfig, rng: Random) -> None:
        self._admission = admission
        self._pools = pools
        self._retry = retry
        self._rng = rng
        self._lengths = Lengths()

    async def serve(self, run: Run) -> None:
        """Get an answer for the call and send it to the sink.

        Raises:
            RouterError: nothing was committed, and this is what the client is to be told.
            ClientGone: the client left.
        """
        run.model.budget.note_request(monotonic())
        try:
            await self._attempt(run)
        except AttemptFailed as failure:
            await self._again(run, failure)

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
        try:
            async for trial in loop:
                with trial:
                    if trial.retry_state.attempt_number == 1:
                        raise first  # the first try is over; the loop begins with its end
                    await self._attempt(run)
        except AttemptFailed as failure:
            if run.tried.repaired and failure.end is attempt.REJECTED:  # the longer request is ours
                failure = AttemptFailed(attempt.MISFIT, failure.detail)
            raise client_error(failure) from failure
        except RouterError as error:
            if not run.tried.repaired or error.status >= 500:
                raise
            unfit = AttemptFailed(attempt.MISFIT, error.message)
            raise client_error(unfit) from unfit

    def _decide(self, run: Run, failure: BaseException) -> bool:
        """Set the run's next step; False for what no attempt can mend."""
        if not isinstance(failure, AttemptFailed):
            return False
        now = asyncio.get_running_loop().time()
        others = reachable(run.model, run.call, run.asked, again=False)  # one that is busy is waited for
        step = next_step(failure, run.tried, others, self._retry, self._rng.random())
        if isinstance(step, Again):
            run.tried.fresh_used |= failure.end.retry is Retry.FRESH
            run.tried.once_used |= failure.end.retry is Retry.ONCE_OTHER
            run.tried.repaired |= failure.end.retry is Retry.REPAIR
            late = now + step.after_s >= run.deadline
            # A repair is no retry that costs: the engine did well, and there is one at most.
            if late or not (failure.end.retry is Retry.REPAIR or run.model.budget.spend(now)):
                step = Stop()
        run.step = step
        return True

    async def _attempt(self, run: Run) -> None:
        """Ask one replica.

        Raises:
            AttemptFailed: it failed and nothing was committed.
        """
        if monotonic() >= run.deadline:
            raise run.overtime()  # nothing is asked that nobody waits for
        same = isinstance(run.step, Again) and run.step.same_replica
        lease = self._admission.at_once(run, again=same) or await self._admission.wait(run, again=same)
        replica = lease.replica
        run.asked.add(replica)
        run.tried.attempts += 1
        run.exchange.replica_id = replica.id
        end, detail = attempt.BUG, ""
        try:
            with run.watch:
                await converse(run, replica, self._pools.of(replica), self._lengths)
            end = attempt.OK
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
            if not run.sink.committed:
                raise
            run.exchange.end = end
            await self._break_off(run, failure)
        finally:
            self._admission.release(lease, run, end)
            run.exchange.attempts.append(AttemptRecord(replica.id, end, detail))

    async def _break_off(self, run: Run, failure: AttemptFailed) -> None:
        now = monotonic()
        with run.watch:
            run.watch.set(now + run.timeouts.send_s, ClientGone)
            await run.sink.break_off(failure, mid_event=run.exchange.mid_event)


def client_error(failure: AttemptFailed) -> RouterError:
    """What a client is told of a failed attempt."""
    kind = failure.end.error
    retry_after_s = None
    if failure.end.verdict is Verdict.OVERLOAD or failure.end is attempt.SHUTDOWN:
        retry_after_s = max(1, round(failure.retry_after_s or 1))
    return RouterError(kind, failure.client_message, status=failure.status, retry_after_s=retry_after_s)
