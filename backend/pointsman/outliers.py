"""Ejects replicas whose calls fail, and lets them come back. Per worker process.

Decides nothing: `breaker` does. Here are the clock, the dice, the log and who is told.
"""

import logging
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic, time

from pointsman import attempt, breaker
from pointsman.attempt import End, Verdict
from pointsman.breaker import BreakerConfig, Evidence
from pointsman.condition import WHY
from pointsman.conduct import Cause
from pointsman.replica import Replica

_log = logging.getLogger("pointsman.outliers")

_SUSPICIOUS = (Verdict.FAULT_BEFORE_SENDING, Verdict.FAULT_AFTER_SENDING)
_SETTLED_S = 1.0  # a check in the very moment of the errors disproves nothing
_CERTAIN = (Cause.WEDGED, Cause.DRAINING)  # it does no work, however few others there are


class Outliers:
    """Keeps the conduct of replicas.

    Args:
        clock: monotonic seconds.
        wall: seconds since the epoch, shown to people.
    """

    def __init__(
        self,
        config: BreakerConfig,
        rng: Random,
        clock: Callable[[], float] = monotonic,
        wall: Callable[[], float] = time,
    ) -> None:
        self.config = config
        self._rng = rng
        self._clock = clock
        self._wall = wall
        self.pool_of: Callable[[Replica], Sequence[Replica]] = lambda replica: (replica,)
        self.on_suspicion: Callable[[Replica], None] = lambda replica: None  # it may be dead: look at it now
        # Told of each ejection with its cause, a further one of an ejected replica too; None: it is back.
        self.on_change: Callable[[Replica, Cause | None], None] = lambda replica, cause: None

    def begin(self, replica: Replica) -> tuple[float, bool]:
        """A call goes to the replica.

        Returns:
            When (monotonic seconds), and whether it is the call that tries an ejected one.
        """
        now = self._clock()
        if replica.in_flight == 0:
            replica.busy_since = now
        if replica.in_flight + 1 == replica.slots:
            replica.full_since = self._wall()
        conduct = replica.conduct
        tries = conduct.cause is not None and breaker.may_try(replica, now)
        if tries:
            conduct.trial_at = now
        return now, tries

    def end(self, replica: Replica, end: End, begun_at: float, *, tried: bool = False) -> None:
        """A call to the replica ended; `begun_at` and `tried` as `begin` said."""
        conduct, now = replica.conduct, self._clock()
        if end.verdict is Verdict.SUCCESS and conduct.cause is None:  # nearly all calls
            breaker.note_good(conduct, now, self.config)
            return
        silent = replica.heard_at < begun_at
        found = breaker.evidence(end, silent=silent, lasted_s=now - begun_at)
        ejected = conduct.cause is not None
        cause = breaker.note(conduct, found, now, self.config)
        if ejected:
            self._judge_try(replica, found, begun_at, now, tried=tried)
        elif cause is not None:
            self._eject(replica, cause, now)
        if end.verdict in _SUSPICIOUS and end is not attempt.BUG:
            self.on_suspicion(replica)

    def _judge_try(
        self, replica: Replica, found: Evidence, begun_at: float, now: float, *, tried: bool
    ) -> None:
        conduct = replica.conduct
        if found is Evidence.GOOD and begun_at >= conduct.ejected_at:
            self._take_back(replica, now)
        elif not tried or conduct.trial_at != begun_at:
            return  # what began earlier, or against our will, lengthens nothing
        elif found in (Evidence.NOTHING, Evidence.GOOD, Evidence.REFUSAL):
            breaker.put_off(conduct, now)
        else:
            self._put_out(replica, breaker.CAUSES[found], now)

    def look(self, replica: Replica) -> None:
        """See whether the call that tries an ejected replica has had the beginning of an answer by now."""
        conduct = replica.conduct
        if conduct.trial_at is not None and replica.answered_at >= conduct.trial_at:
            self._take_back(replica, self._clock())

    def checked(self, replica: Replica, *, good: bool, gone: bool, back: bool) -> None:
        """A health check is over.

        Args:
            good: the replica passed it.
            gone: the engine is not there, or says itself that it is dead.
            back: the replica is up again by it.
        """
        conduct, now = replica.conduct, self._clock()
        if gone:
            breaker.forget(conduct)
        elif good:
            conduct.doubted = False
            found = conduct.cause is Cause.UNREACHED and now - conduct.ejected_at >= _SETTLED_S
            if found or (back and conduct.cause is None):
                self._take_back(replica, now)
        self.look(replica)

    def stuck(self, replica: Replica) -> None:
        """Calls run at the replica, and nothing moves there."""
        conduct, now = replica.conduct, self._clock()
        if conduct.cause is Cause.WEDGED:
            breaker.hold(conduct, now, self.config)
        elif conduct.cause is None:
            self._eject(replica, Cause.WEDGED, now)
        else:
            conduct.cause = Cause.WEDGED

    def moving(self, replica: Replica) -> None:
        """Something moves at the replica."""
        if replica.conduct.cause is Cause.WEDGED:
            self._take_back(replica, self._clock())

    def _eject(self, replica: Replica, cause: Cause, now: float) -> None:
        if cause not in _CERTAIN and not breaker.may_eject(replica, self.pool_of(replica)):
            breaker.keep(replica.conduct, now)
            return
        self._put_out(replica, cause, now)

    def _put_out(self, replica: Replica, cause: Cause, now: float) -> None:
        length_s = breaker.eject(replica.conduct, cause, now, self._wall(), self.config, self._rng.random())
        _log.warning("replica %s: ejected for %.1f s: %s", replica.id, length_s, WHY[cause])
        self.on_change(replica, cause)

    def _take_back(self, replica: Replica, now: float) -> None:
        was = replica.conduct.cause
        breaker.come_back(replica.conduct, now, self._wall(), self.config)
        if was is not None:
            _log.info("replica %s: takes calls again", replica.id)
            self.on_change(replica, None)
