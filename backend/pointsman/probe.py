"""Active health checks: asks each replica how it is, on connections of its own.

The checks generate nothing. What an answer means is decided by `health`, which routes to ask and how to read
them by the dialects. Sources: `reliability.md` section 6; `contracts/tgi.md` sections 2, 5.4, 7;
`contracts/vllm.md` sections 1, 3, 6.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Self

import httpx

from pointsman.breaker import BreakerConfig
from pointsman.conduct import Cause
from pointsman.diagnosis import of_silence, of_status
from pointsman.engines import DIALECTS
from pointsman.engines.base import Dialect
from pointsman.guarded import Guarded, restricted
from pointsman.health import (
    OK,
    HealthConfig,
    Outcome,
    ProbeResult,
    failed,
    misconfigured,
    next_delay_s,
    observe,
)
from pointsman.outliers import Outliers
from pointsman.progress import Progress, ProgressConfig
from pointsman.pulse import Answer, Pulse
from pointsman.replica import Engine, Facts, Health, Replica, State
from pointsman.resolver import Resolver
from pointsman.stall import StallWatch

_log = logging.getLogger("pointsman.probe")

_ANSWER_MAX_BYTES = 1 << 20
_INVALID = (400, 422)  # by which vLLM and TGI say that there is no chat template
# httpx limits the wait for each piece of an answer; an answer that drips needs a limit as a whole. It lies
# beyond httpx's own, since cancelling a call of httpx is the rude way out.
_BACKSTOP = 2.0
_GAP_S = 0.2  # between two checks, however many calls fail meanwhile
_GONE = (Outcome.GONE, Outcome.ABSENT)
_BACK_SOON = (Cause.WEDGED, Cause.UNREACHED)  # what our own looking can end
_AWAY = (State.DOWN, State.LOADING, State.MISCONFIGURED)

OnChange = Callable[[Replica, Health], None]  # the replica as it is now, its health before


class Prober:
    """Checks replicas, one task for each, until stopped. Writes `replica.health` and `replica.facts`.

    Args:
        tls: how to verify engines that are reached by https; None: against the system's authorities.
        rng: dice for phase and jitter.
        on_change: called after each change of state, and only then.
        outliers: is told of checks, and says when one is wanted at once.
        progress: how to look for engines that hang.
        resolver: whom to ask for names; None: one of its own.
    """

    def __init__(
        self,
        replicas: Iterable[Replica],
        config: HealthConfig,
        *,
        dialects: Mapping[Engine, Dialect] = DIALECTS,
        tls: ssl.SSLContext | None = None,
        rng: Random | None = None,
        on_change: OnChange | None = None,
        outliers: Outliers | None = None,
        progress: ProgressConfig | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._replicas = list(replicas)
        self._config = config
        self._dialects = dialects
        self._rng = rng or Random()
        self._on_change = on_change
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wanted: dict[Replica, asyncio.Event] = {}  # set: a check is wanted at once
        self._outliers = outliers or Outliers(BreakerConfig(), self._rng)
        self._pulse = Pulse(progress or ProgressConfig(), dialects, self._outliers, self._ask_for, self._rng)
        # A fresh connection for each call: vLLM closes idle ones after 5 s, which is just our interval.
        self._client = httpx.AsyncClient(
            transport=Guarded(tls or ssl.create_default_context(), resolver or Resolver()),
            trust_env=False,
            follow_redirects=False,
            headers={"user-agent": "pointsman", "accept-encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Begin to check the replicas; needs a running event loop."""
        self._outliers.on_suspicion = self.check_soon
        for replica in self._replicas:
            self.watch(replica)

    def watch(self, replica: Replica) -> None:
        """Check this replica too. One that has the id of another takes its place."""
        self.forget(replica.id)
        task = asyncio.create_task(self._keep_checking(replica), name=f"probe {replica.id}")
        task.add_done_callback(_tell_of_bug)
        self._tasks[replica.id] = task

    def check_soon(self, replica: Replica) -> None:
        """Check this replica at once, unless that was done just now."""
        wanted = self._wanted.get(replica)
        if wanted is not None:
            wanted.set()

    def forget(self, replica_id: str) -> None:
        """Check this replica no longer."""
        task = self._tasks.pop(replica_id, None)
        if task is not None:
            task.cancel()

    def renew(self, config: HealthConfig, progress: ProgressConfig) -> None:
        """Go on by other rules; a replica that waits for its next check waits as it was told."""
        self._config, self._pulse.config = config, progress

    async def stop(self) -> None:
        """End all checks and close their connections, those of running checks too. There is no new start."""
        tasks = list(self._tasks.values())
        for replica_id in list(self._tasks):
            self.forget(replica_id)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def probe_once(self, replica: Replica) -> ProbeResult | None:
        """Check a replica now and take the result into account.

        None: the result was discarded, since our own event loop stood still meanwhile.
        """
        with StallWatch() as stall:
            result, facts = await self._check(replica)
        if stall.worst_s > self._config.stall_s:
            _log.warning("replica %s: check discarded, the event loop stood still", replica.id)
            return None
        if facts is not None:
            replica.learn(facts)
        before = replica.health
        replica.health = observe(before, result, time.time(), self._config)
        back = replica.health.state is State.UP and before.state in _AWAY
        self._outliers.checked(replica, good=result is OK, gone=result.outcome in _GONE, back=back)
        if replica.health.state is not before.state:
            self._tell(replica, before)
        return result

    def _tell(self, replica: Replica, before: Health) -> None:
        level = logging.INFO if replica.health.state is State.UP else logging.WARNING
        now = replica.health
        _log.log(level, "replica %s: %s -> %s: %s", replica.id, before.state, now.state, now.reason)
        if self._on_change is not None:
            self._on_change(replica, before)

    async def _keep_checking(self, replica: Replica) -> None:
        wanted = self._wanted[replica] = asyncio.Event()
        try:
            # The first check comes soon, but not at the same moment for all replicas and all routers.
            await _rest(wanted, self._rng.random() * self._config.interval_changing_s)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._check_for_ever(replica, wanted), name=f"checks {replica.id}")
                both.create_task(self._pulse.keep_trying(replica), name=f"deep probe {replica.id}")
        finally:
            if self._wanted.get(replica) is wanted:
                del self._wanted[replica]

    async def _check_for_ever(self, replica: Replica, wanted: asyncio.Event) -> None:
        changed_at, progress = time.monotonic(), Progress()
        while True:
            before = replica.health.state
            await self.probe_once(replica)
            progress = await self._pulse.feel(replica, progress)
            now = time.monotonic()
            if replica.health.state is not before:
                changed_at = now
            delay_s = next_delay_s(replica.health, now - changed_at, self._config, self._rng.random())
            if replica.conduct.cause in _BACK_SOON:
                delay_s = min(delay_s, self._config.interval_changing_s)
            await _rest(wanted, delay_s)

    async def _check(self, replica: Replica) -> tuple[ProbeResult, Facts | None]:
        dialect = self._dialects[replica.engine]
        deadline = time.monotonic() + self._config.timeout_s
        try:
            async with asyncio.timeout(self._config.timeout_s * _BACKSTOP):
                alive = await self._ask(replica, dialect.health_path, deadline, read=False)
                fault = of_status(dialect.health_path, alive.status, replica)
                if fault is not None:
                    return fault, None
                return await self._read_facts(replica, dialect, deadline)
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            OSError,
            UnicodeError,
        ) as error:  # SSLError, TimeoutError too
            return of_silence(error, self._config.timeout_s), None

    async def _read_facts(
        self, replica: Replica, dialect: Dialect, deadline: float
    ) -> tuple[ProbeResult, Facts | None]:
        answer = await self._ask(replica, dialect.facts_path, deadline)
        fault = of_status(dialect.facts_path, answer.status, replica)
        if fault is None:
            try:
                facts = dialect.read_facts(answer.body)
                template, alternates = await self._template(replica, dialect, deadline)
                return OK, replace(facts, chat_template=template, alternates=alternates)
            except ValueError as sentence:
                fault = failed(str(sentence))
            except RecursionError:
                fault = failed(f"GET {dialect.facts_path} answered nonsense")
        elif answer.status not in (404, 405):
            return fault, None
        other = await self._other_engine(replica, deadline)
        if other is not None:
            fault = misconfigured(f"the engine is {other}, but the replica is set up as {replica.engine}")
        return fault, None

    async def _template(
        self, replica: Replica, dialect: Dialect, deadline: float
    ) -> tuple[bool | None, bool]:
        """Whether the model has a chat template, and whether in that user and assistant must alternate.

        Asked anew only after the replica was not up.
        """
        known = replica.facts.chat_template, replica.facts.alternates
        if known[0] is not None and replica.health.state is State.UP:
            return known
        for questions in (2, 1):
            probe = dialect.template_probe(questions)
            try:
                answer = await self._ask(replica, probe.path, deadline, content=probe.body)
            except (httpx.HTTPError, OSError):
                return known  # its health was good a moment ago; the next check asks again
            if answer.status == 200:
                return True, questions == 1
            if answer.status not in _INVALID:
                return known
        return False, False

    async def _other_engine(self, replica: Replica, deadline: float) -> Engine | None:
        """Which engine answers, if it is one we know but not the one expected."""
        for engine, dialect in self._dialects.items():
            if engine is not replica.engine:
                try:
                    answer = await self._ask(replica, dialect.facts_path, deadline)
                    if answer.status == 200:
                        dialect.read_facts(answer.body)
                        return engine
                except (httpx.HTTPError, OSError, ValueError, RecursionError):
                    continue
        return None

    async def _ask(
        self, replica: Replica, path: str, deadline: float, *, read: bool = True, content: bytes | None = None
    ) -> Answer:
        """Call a constant path of the replica; with content it is a POST.

        Raises:
            httpx.HTTPError, httpx.InvalidURL, UnicodeError, TimeoutError: no answer.
        """
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        headers = {b"authorization": b"Bearer " + replica.key.encode(errors="replace")} if replica.key else {}
        url, method = replica.endpoint.url + path, "GET"
        if content is not None:
            method = "POST"
            headers[b"content-type"] = b"application/json"
        body = bytearray()
        async with self._client.stream(
            method, url, headers=headers, content=content, timeout=left_s, extensions=restricted(replica)
        ) as response:
            if read:
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > _ANSWER_MAX_BYTES:
                        break
            return Answer(response.status_code, bytes(body))

    async def _ask_for(self, replica: Replica, path: str, deadline: float, content: bytes | None) -> Answer:
        async with asyncio.timeout((deadline - time.monotonic()) * _BACKSTOP):
            return await self._ask(replica, path, deadline, content=content)


async def _rest(wanted: asyncio.Event, delay_s: float) -> None:
    """Wait, or only until a check is wanted."""
    begun_at = time.monotonic()
    try:
        async with asyncio.timeout(delay_s):
            await wanted.wait()
    except TimeoutError:
        return
    wanted.clear()
    await asyncio.sleep(min(delay_s, _GAP_S) - (time.monotonic() - begun_at))


def _tell_of_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("%s ended, which is a bug", task.get_name(), exc_info=task.exception())
