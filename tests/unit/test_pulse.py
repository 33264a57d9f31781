"""Engines that pass their health checks and do no work are found."""

import asyncio
from collections.abc import Callable
from random import Random

import httpx
import pytest

from pointsman import attempt
from pointsman.attempt import End
from pointsman.breaker import BreakerConfig
from pointsman.conduct import Cause, Conduct
from pointsman.engines import DIALECTS
from pointsman.outliers import Outliers
from pointsman.progress import Progress, ProgressConfig
from pointsman.pulse import Answer, Pulse
from pointsman.replica import Endpoint, Engine, Health, Replica, State

pytestmark = pytest.mark.anyio

_PAGES = {
    Engine.VLLM: 'vllm:generation_tokens_total{{engine="0"}} {}\nvllm:prompt_tokens_total 3\n',
    Engine.TGI: 'tgi_batch_inference_count{{method="decode"}} {}\n',
}
_TEXTS = {
    Engine.VLLM: b'{"id":"c","object":"text_completion","created":1,"model":"m",'
    b'"choices":[{"index":0,"text":"a","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}',
    Engine.TGI: b'{"generated_text":"a"}',
}


class Scene:
    """One replica, what it answers, and a clock."""

    def __init__(self, engine: Engine = Engine.VLLM) -> None:
        self.now = 1000.0
        self.replica = Replica("m-0", "m", engine, Endpoint("http", "h", 80), health=Health(State.UP))
        self.outliers = Outliers(BreakerConfig(), Random(1), lambda: self.now)
        config = ProgressConfig(wedged_after_s=30.0, deep_probe_s=20.0)
        self.pulse = Pulse(config, DIALECTS, self.outliers, self._ask, Random(1))
        self.asked: list[tuple[str, bytes | None]] = []
        self.deadlines: list[float] = []
        self.answer: Answer | Exception = Answer(404, b"")
        self.pages: list[Answer] = []  # of metrics, in turn; then the answer to everything
        self.meanwhile: Callable[[], None] | None = None  # happens while it is asked
        self.progress = Progress()

    async def _ask(self, replica: Replica, path: str, deadline: float, content: bytes | None) -> Answer:
        assert replica is self.replica
        assert deadline >= self.now
        self.asked.append((path, content))
        self.deadlines.append(deadline)
        if self.meanwhile is not None:
            self.meanwhile()
        if content is None and self.pages:
            return self.pages.pop(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def counts(self, tokens: int) -> None:
        self.answer = self.page(tokens)

    def page(self, tokens: int) -> Answer:
        return Answer(200, _PAGES[self.replica.engine].format(tokens).encode())

    @property
    def tries(self) -> list[str]:
        """Where it was asked for a token."""
        return [path for path, content in self.asked if content is not None]

    async def feel(self, at: float) -> Cause | None:
        self.now = at
        self.progress = await self.pulse.feel(self.replica, self.progress)
        return self.replica.conduct.cause


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    monkeypatch.setattr("pointsman.pulse.monotonic", lambda: made.now)
    return made


@pytest.mark.parametrize("engine", Engine)
async def test_who_has_calls_and_does_nothing_is_wedged(scene: Scene, engine: Engine) -> None:
    """After thirty seconds without a byte and with counters that stand still; and back when they move."""
    scene.replica.engine = engine
    scene.replica.in_flight, scene.replica.busy_since = 1, 1000.0
    scene.counts(7)
    for at in (1004.0, 1006.0, 1016.0, 1035.0):
        assert await scene.feel(at) is None
    assert [path for path, _ in scene.asked] == ["/metrics"] * 3  # it was not looked at before it was quiet
    assert await scene.feel(1036.0) is Cause.WEDGED
    assert await scene.feel(1037.0) is Cause.WEDGED
    scene.counts(8)
    assert await scene.feel(1038.0) is None


async def test_a_byte_brings_a_wedged_engine_back(scene: Scene) -> None:
    """Nobody needs to ask for its counters then."""
    scene.replica.in_flight, scene.replica.busy_since = 1, 1000.0
    scene.counts(7)
    for at in (1006.0, 1036.0):
        await scene.feel(at)
    assert scene.replica.conduct.cause is Cause.WEDGED
    asked = len(scene.asked)
    scene.replica.heard_at = 1037.0
    assert await scene.feel(1038.0) is None
    assert len(scene.asked) == asked


async def test_others_calls_count_as_work(scene: Scene) -> None:
    """An engine that makes tokens for somebody is not wedged, however long we wait for ours."""
    scene.replica.in_flight, scene.replica.busy_since = 1, 1000.0
    for step in range(30):
        scene.counts(step)
        assert await scene.feel(1006.0 + 5 * step) is None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(404, b""),
        Answer(200, b"python_info 1\n"),
        httpx.ReadTimeout("late"),
        OSError("cut"),
    ],
)
async def test_who_tells_nothing_is_not_accused(scene: Scene, answer: Answer | Exception) -> None:
    """Without counters a long answer looks like none."""
    scene.replica.in_flight, scene.replica.busy_since = 1, 1000.0
    scene.answer = answer
    for at in (1006.0, 1036.0, 2000.0):
        assert await scene.feel(at) is None


async def test_idle_engines_are_left_alone(scene: Scene) -> None:
    """Nothing is asked of them, nor of those that are down."""
    scene.counts(7)
    assert await scene.feel(2000.0) is None
    scene.replica.in_flight, scene.replica.health = 1, Health(State.DOWN)
    assert await scene.feel(3000.0) is None
    assert scene.asked == []


@pytest.mark.parametrize("engine", Engine)
async def test_one_token_is_enough(scene: Scene, engine: Engine) -> None:
    """It counts as a call that was answered, and ends an ejection."""
    scene.replica.engine = engine
    scene.outliers.end(scene.replica, attempt.ABORTED, scene.now)
    assert scene.replica.conduct.cause is Cause.DRAINING
    scene.now += 1.0
    scene.answer = Answer(200, _TEXTS[engine])
    assert await scene.pulse.try_once(scene.replica) is attempt.OK
    assert scene.replica.conduct.cause is None
    assert scene.replica.answered_at == scene.now
    assert scene.tries == [{Engine.VLLM: "/v1/completions", Engine.TGI: "/generate"}[engine]]


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Answer(500, b""), attempt.ENGINE_ERROR),
        (Answer(503, b""), attempt.REFUSED),
        (Answer(404, b""), attempt.MISCONFIGURED),
        (Answer(200, b"{"), attempt.JUNK),
        (httpx.ReadTimeout("late"), attempt.TTFT),
        (TimeoutError(), attempt.TTFT),
        (httpx.ConnectError("refused"), attempt.CONNECT),
        (httpx.ConnectTimeout("late"), attempt.CONNECT),
        (httpx.ReadError("cut"), attempt.RESET_NEW),
    ],
)
async def test_a_token_that_does_not_come_counts_as_a_call_does(
    scene: Scene, answer: Answer | Exception, end: End
) -> None:
    """But a model that generates for nobody, and says so, is not blamed for it."""
    scene.answer = answer
    scene.outliers.pool_of = lambda replica: (replica, Scene().replica)
    assert await scene.pulse.try_once(scene.replica) is end
    conduct = scene.replica.conduct
    assert (conduct.cause is Cause.SILENT) == (end is attempt.TTFT)
    assert conduct.calm == (end is attempt.MISCONFIGURED)


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("heard", [True, False])
async def test_a_full_engine_is_not_accused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, engine: Engine, *, heard: bool
) -> None:
    """A token that is late behind others' says nothing while text comes or the counters move."""
    scene.replica.engine = engine
    scene.outliers.pool_of = lambda replica: (replica, Scene().replica)
    scene.pages = [scene.page(7), scene.page(7 if heard else 8)]
    scene.answer = httpx.ReadTimeout("late")
    answer = scene.pulse._ask

    async def late(replica: Replica, path: str, deadline: float, content: bytes | None) -> Answer:
        if content is not None:
            scene.now = deadline
            scene.replica.heard_at = scene.now - 1.0 if heard else 0.0
        return await answer(replica, path, deadline, content)

    monkeypatch.setattr(scene.pulse, "_ask", late)
    assert await scene.pulse.try_once(scene.replica) is attempt.TTFT
    assert scene.replica.conduct.calm


async def test_an_idle_engine_whose_token_is_late_is_accused(scene: Scene) -> None:
    """Nothing moved there meanwhile; nor is one believed that tells its counters only now."""
    scene.outliers.pool_of = lambda replica: (replica, Scene().replica)
    for pages in ([scene.page(7), scene.page(7)], [Answer(404, b""), scene.page(7)]):
        scene.replica.conduct = Conduct()
        scene.pages = pages
        scene.answer = httpx.ReadTimeout("late")
        assert await scene.pulse.try_once(scene.replica) is attempt.TTFT
        assert scene.replica.conduct.cause is Cause.SILENT


async def test_only_who_was_silent_is_asked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that answered a client lately, is drained, or is down, is asked for no token."""
    rounds = 0

    async def pass_time(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        scene.now += seconds
        if rounds == 2:
            scene.replica.answered_at = scene.now
        if rounds == 3:
            scene.replica.draining, scene.replica.answered_at = True, 0.0
        if rounds == 4:
            scene.replica.draining, scene.replica.health = False, Health(State.DOWN)
        if rounds == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr("pointsman.pulse.asyncio.sleep", pass_time)
    with pytest.raises(asyncio.CancelledError):
        await scene.pulse.keep_trying(scene.replica)
    assert len(scene.tries) == 1


async def test_new_settings_leave_a_probe_that_has_begun_its_time(scene: Scene) -> None:
    """Deep probes end while one reads the counters: its engine is asked as patiently as before."""

    def end() -> None:
        scene.pulse.config = ProgressConfig(wedged_after_s=30.0, deep_probe_s=0.0)

    scene.pages, scene.answer = [scene.page(7)], Answer(200, _TEXTS[Engine.VLLM])
    scene.meanwhile = end
    assert await scene.pulse.try_once(scene.replica) is attempt.OK
    assert scene.deadlines[-1] == scene.now + 20.0
