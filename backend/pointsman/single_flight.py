"""Requests that are equal and asked at the same time share one call to an engine. Per worker process."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from pointsman.errors import ClientGone

_Answer = TypeVar("_Answer")
_UNWATCHED: AbstractContextManager[object] = nullcontext()


@dataclass(frozen=True, slots=True)
class SingleFlightConfig:
    """Knobs of single-flight, per worker process.

    Raises:
        ValueError: one sentence that names the knob.
    """

    wait_s: float = 30.0  # a follower waits so long at most, then makes a call of its own; above 0
    flights: int = 1000  # calls that may be followed at once; further ones go alone; at least 1

    def __post_init__(self) -> None:
        if not self.wait_s > 0:
            raise ValueError("wait_s of single-flight must be more than 0 seconds")
        if self.flights < 1:
            raise ValueError("flights of single-flight must be at least 1")


class _LeaderLeft(Exception):
    """The call was given up, not answered."""


class _LeaderFailed(Exception):
    """The call failed in a way that may be the leader's own."""


class SingleFlight(Generic[_Answer]):
    """The first to ask for a key leads: it calls. Who asks meanwhile follows: it waits for the answer."""

    def __init__(self, config: SingleFlightConfig | None = None) -> None:
        self.config = config or SingleFlightConfig()  # may be set anew
        self._flights: dict[str, asyncio.Future[_Answer]] = {}
        self.shared = 0  # answers that followers got

    def __len__(self) -> int:
        return len(self._flights)

    async def run(
        self,
        key: str,
        call: Callable[[], Awaitable[_Answer]],
        watch: AbstractContextManager[object] = _UNWATCHED,
        until: float = math.inf,
    ) -> tuple[_Answer, bool]:
        """The answer of `call`, or of another's equal call that is under way.

        The call runs in the leader's own task. When the leader is cancelled or its client leaves, one
        follower takes over with its own call and the others follow that. When the leader's call fails, each
        follower makes its own: the fault may be the leader's (its deadline), and an error has its asker's
        shape.

        Args:
            key: as `cache.request_key` makes it, so that no two tenants share.
            call: makes the call; called at most once.
            watch: ends a follower's wait, as when its client leaves; what comes out of it is raised.
            until: the loop's time beyond which a follower does not wait.

        Returns:
            The answer, and whether it was another's.

        Raises:
            whatever this caller's own `call` raises, nothing of another's.
        """
        end = min(until, asyncio.get_running_loop().time() + self.config.wait_s)
        while (flight := self._flights.get(key)) is not None:
            try:
                async with asyncio.timeout_at(end):
                    with watch:
                        answer = await asyncio.shield(flight)
            except _LeaderLeft:
                continue
            except (_LeaderFailed, TimeoutError):
                return await call(), False
            self.shared += 1
            return answer, True
        if len(self._flights) >= self.config.flights:
            return await call(), False
        return await self._lead(key, call), False

    async def _lead(self, key: str, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        flight: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        flight.add_done_callback(asyncio.Future.exception)  # nobody may follow, and then nobody looks
        self._flights[key] = flight
        try:
            answer = await call()
        except (asyncio.CancelledError, ClientGone):
            flight.set_exception(_LeaderLeft())
            raise
        except BaseException:
            flight.set_exception(_LeaderFailed())
            raise
        else:
            flight.set_result(answer)
            return answer
        finally:
            del self._flights[key]
