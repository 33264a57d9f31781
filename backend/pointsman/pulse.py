"""Looks whether engines that pass their health checks do any work: by their counters, or by one token.

What is found is judged by `progress` and `outliers`. Calls of its own, on the prober's connections.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from time import monotonic

import httpx

from pointsman import attempt
from pointsman.attempt import AttemptFailed, End
from pointsman.call import Operation
from pointsman.conduct import Cause
from pointsman.engines.base import Dialect, judge_status
from pointsman.generation import Wish
from pointsman.outliers import Outliers
from pointsman.progress import Progress, ProgressConfig, is_stuck, observe, quiet_s
from pointsman.replica import Engine, Replica, State

_PAGE_S = 1.0  # for a page of metrics
_SUSPECT = 1 / 6  # of the time after which a replica counts as wedged: from then on its counters are read
_IDLE_S = 30.0  # while nobody wants deep probes: until it is asked again whether somebody does
_ONE_TOKEN = Wish(prompt="1", max_new=1, sampling=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine answered to a call of the control plane."""

    status: int
    body: bytes


# Calls a path of a replica, until a moment (monotonic seconds); with content it is a POST.
Ask = Callable[[Replica, str, float, bytes | None], Awaitable[Answer]]


class Pulse:
    """Feels the pulse of replicas.

    Raises of `ask`: httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError.
    """

    def __init__(
        self,
        config: ProgressConfig,
        dialects: Mapping[Engine, Dialect],
        outliers: Outliers,
        ask: Ask,
        rng: Random,
    ) -> None:
        self.config = config
        self._dialects = dialects
        self._outliers = outliers
        self._ask = ask
        self._rng = rng

    async def feel(self, replica: Replica, before: Progress) -> Progress:
        """See whether a replica that has calls gets on with them; `before`: what the last look gave."""
        after_s = self.config.wedged_after_s
        wedged = replica.conduct.cause is Cause.WEDGED
        if not after_s or replica.health.state is not State.UP:
            return Progress()
        if wedged and replica.heard_at > replica.conduct.ejected_at:
            self._outliers.moving(replica)
            return Progress()
        if not wedged and quiet_s(replica, monotonic()) < after_s * _SUSPECT:
            return Progress()
        count = await self._count(replica)
        now = monotonic()
        progress = observe(before, count, now)
        if is_stuck(replica, progress, now, self.config):
            self._outliers.stuck(replica)
        elif wedged and before.count is not None and progress.count not in (None, before.count):
            self._outliers.moving(replica)
        return progress

    async def keep_trying(self, replica: Replica) -> None:
        """Ask for one token now and then, where no answer showed for as long that the engine gives any."""
        while True:
            every_s = self.config.deep_probe_s
            await asyncio.sleep((every_s or _IDLE_S) * (0.85 + 0.3 * self._rng.random()))
            quiet = monotonic() - replica.answered_at >= every_s
            if every_s and quiet and replica.health.state is State.UP and not replica.draining:
                await self.try_once(replica)

    async def try_once(self, replica: Replica) -> End:
        """Ask for one token, and let that count as a call does, unless it only waited for its turn."""
        patience_s = self.config.deep_probe_s  # new settings may end such probes meanwhile
        before = await self._count(replica)
        begun_at = monotonic()
        end = await self._one_token(replica, begun_at + patience_s)
        if end is attempt.OK:
            replica.answered_at = monotonic()
        elif end is attempt.TTFT and await self._worked(replica, before, begun_at):
            return end  # it is full, maybe with others' calls, and our patience is shorter than theirs
        if end is not attempt.MISCONFIGURED:  # a model for embeddings, say: it generates for nobody
            self._outliers.end(replica, end, begun_at)
        return end

    async def _worked(self, replica: Replica, before: float | None, since: float) -> bool:
        """Whether text came or the counters moved since then; `before`: what they showed."""
        if replica.heard_at > since:
            return True
        count = await self._count(replica)
        return before is not None and count is not None and count != before

    async def _one_token(self, replica: Replica, deadline: float) -> End:
        dialect = self._dialects[replica.engine]
        outgoing = dialect.ask(_ONE_TOKEN, replica, stream=False)
        try:
            answer = await self._ask(replica, outgoing.path, deadline, outgoing.body)
            fault = judge_status(answer.status, answer.body, Operation.GENERATE)
            if fault is not None:
                return fault.end
            dialect.source(_ONE_TOKEN).whole(answer.body)
        except AttemptFailed as failure:
            return failure.end
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return attempt.CONNECT
        except (httpx.TimeoutException, TimeoutError):
            return attempt.TTFT
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):
            return attempt.RESET_NEW
        return attempt.OK

    async def _count(self, replica: Replica) -> float | None:
        dialect = self._dialects[replica.engine]
        try:
            page = await self._ask(replica, dialect.load_path, monotonic() + _PAGE_S, None)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):
            return None
        return dialect.read_progress(page.body) if page.status == 200 else None
