"""Which failures are tried again on another replica, how often, and what each attempt tells the engine."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import pytest

from processes import Emulator, Router, wait_for
from wire import VLLM, Incoming, call, outcome

_SETTINGS = {
    "TIMEOUT__FIRST_EVENT_S": "0.4",
    "TIMEOUT__TOTAL_S": "0.6",
    "HEALTH__INTERVAL_S": "3600",  # what the attempts show counts here, not the checks
    "HEALTH__INTERVAL_CHANGING_S": "0.05",
    "UPSTREAM__IDLE_EXPIRY_S": "0.3",
    # Nor what calls make of a replica: it stays in rotation, however often it fails.
    "EJECTION__FAILURES": "1000",
    "EJECTION__CONNECT_ERRORS": "1000",
    "EJECTION__FIRST_EVENT_TIMEOUTS": "1000",
    "EJECTION__SUCCESS_SHARE": "0",
    "EJECTION__BASE_S": "0.05",
    "EJECTION__MAX_S": "0.05",
    "EJECTION__JITTER": "0",
    "EJECTION__SLOW_START_S": "0",
}
_EXPIRED_S = 0.35  # no idle connection to an engine lives so long
_numbers = count()


@dataclass(frozen=True)
class Pool:
    """A router before equal engines."""

    router: Router
    engines: Sequence[Emulator]

    def call(self, *, stream: bool) -> tuple[str, Incoming]:
        """Call with an id of its own."""
        own_id = f"retry-{next(_numbers)}"
        # Each asks for another text: one over which two engines failed would go to those two alone.
        asked = VLLM.request(f"Hello {own_id}", 5, f"x-request-id: {own_id}", stream=stream)
        return own_id, call(self.router.port, asked)

    def call_the_first(self, *, stream: bool) -> tuple[str, Incoming]:
        """Call until the first attempt reaches the first of two engines.

        Equals are chosen at random, and one that refused a connection comes last until its next check.
        """
        end = time.monotonic() + 30
        while time.monotonic() < end:
            own_id, answer = self.call(stream=stream)
            lucky = (
                answer.status,
                answer.header("x-pointsman-replica"),
                answer.header("x-pointsman-attempts"),
            )
            if lucky != (200, "gemma-3-12b-1", "1"):
                return own_id, answer
        raise AssertionError("always the other one")

    def ids(self, own_id: str) -> list[tuple[str, int]]:
        """The request ids that the engines got for one call, in order of time, each with its engine."""
        found = [
            (entry["monotonic"], value, place)
            for place, engine in enumerate(self.engines)
            for entry in engine.sent()
            for name, value in entry["headers"]
            if name == "x-request-id" and value.startswith(f"{own_id}-")
        ]
        return [(value, place) for _, value, place in sorted(found)]

    def clear(self) -> None:
        for engine in self.engines:
            engine.disarm()
            engine.reset()


def pool_of(stack: ExitStack, size: int, **settings: str) -> Pool:
    engines = [stack.enter_context(Emulator("vllm")) for _ in range(size)]
    urls = ",".join(engine.url for engine in engines)
    router = stack.enter_context(Router(VLLM_GEMMA3_ENDPOINT=urls, **{**_SETTINGS, **settings}))
    wait_for(lambda: up(router) == size, "all replicas are up", 10)
    return Pool(router, engines)


def up(router: Router) -> int:
    """How many replicas pass their health checks; an ejected one waits for a call to try it."""
    replicas = router.http.get("/models/gemma-3-12b/health").json()["replicas"]
    return sum(replica["state"] in ("up", "ejected") for replica in replicas)


@pytest.fixture(scope="module")
def two() -> Iterator[Pool]:
    with ExitStack() as stack:
        yield pool_of(stack, 2, RETRY__BUDGET_FLOOR_PER_S="1000", HEALTH__INTERVAL_S="1")


@pytest.fixture(scope="module")
def four() -> Iterator[Pool]:
    with ExitStack() as stack:
        yield pool_of(stack, 4)


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("two", "four"):
        if name in request.fixturenames:
            request.getfixturevalue(name).clear()


RETRIED = [
    ("status", "503"),
    ("status", "429"),
    ("status", "502"),
    ("status", "500"),
    ("status", "424"),
    ("status", "401"),
    ("error_first", "overloaded"),
    ("error_first", "unavailable"),
    ("error_first", "internal"),
    ("abort", "0"),
    ("reset_before_headers", None),
    ("close_before_headers", None),
    ("cut_bytes", "20:fin"),
]


@pytest.mark.parametrize(("fault", "arg"), RETRIED)
def test_a_failure_before_any_content_is_tried_on_the_other_replica(
    two: Pool, fault: str, arg: str | None
) -> None:
    """The client sees one good answer and two attempts; the engines see ids that end in -a1 and -a2."""
    two.engines[0].arm(fault, arg)
    for stream in (True, False):
        if fault.endswith("before_headers"):
            time.sleep(_EXPIRED_S)  # on a connection used before it is another case
        own_id, answer = two.call_the_first(stream=stream)
        assert outcome(VLLM, answer, stream=stream) == "ok"
        told = (answer.header("x-request-id"), answer.header("x-pointsman-attempts"))
        assert told == (own_id, "2")
        assert answer.header("x-pointsman-replica") == "gemma-3-12b-1"
        assert two.ids(own_id) == [(f"{own_id}-a1", 0), (f"{own_id}-a2", 1)]


NOT_RETRIED = [
    ("status", "504", "504 total_timeout"),
    ("status", "400", "400 engine_rejected"),
    ("html", None, "502 engine_junk"),
    ("bad_json", None, "502 engine_junk"),
    ("not_http", None, "502 engine_junk"),
    ("cl_te", None, "502 engine_junk"),
]


@pytest.mark.parametrize(("fault", "arg", "told"), NOT_RETRIED)
def test_what_another_replica_would_not_do_better_is_not_tried_again(
    two: Pool, fault: str, arg: str | None, told: str
) -> None:
    """Accepted work, nonsense and the client's own mistakes are told after one attempt."""
    two.engines[0].arm(fault, arg)
    for stream in (True, False):
        own_id, answer = two.call_the_first(stream=stream)
        assert outcome(VLLM, answer, stream=stream) == told
        assert answer.header("x-pointsman-attempts") == "1"
        assert len(two.ids(own_id)) == 1


@pytest.mark.parametrize("fault", ["hang_before_headers", "hang_first_event"])
def test_a_late_first_event_is_not_tried_again_by_default(two: Pool, fault: str) -> None:
    """The prompt was accepted, so asking again would double the work."""
    two.engines[0].arm(fault)
    own_id, answer = two.call_the_first(stream=True)
    assert outcome(VLLM, answer, stream=True) == "504 first_event_timeout"
    assert len(two.ids(own_id)) == 1


def test_a_late_first_event_is_tried_again_on_request(two: Pool) -> None:
    """RETRY__RETRY_ON_FIRST_EVENT_TIMEOUT allows it, and the first attempt is closed before the second."""
    urls = ",".join(engine.url for engine in two.engines)
    settings = {**_SETTINGS, "RETRY__RETRY_ON_FIRST_EVENT_TIMEOUT": "true"}
    with Router(VLLM_GEMMA3_ENDPOINT=urls, **settings) as router:
        wait_for(lambda: up(router) == 2, "both replicas are up")
        pool = Pool(router, two.engines)
        pool.engines[0].arm("hang_first_event")
        own_id, answer = pool.call_the_first(stream=True)
        assert outcome(VLLM, answer, stream=True) == "ok"
        assert [place for _, place in pool.ids(own_id)] == [0, 1]
        closed = pool.engines[0].stats()["aborts"][-1]["monotonic"]
        asked = pool.engines[1].sent()[-1]["monotonic"]
        assert closed - asked < 0.05, "the second attempt began before the first was closed"


def test_a_refused_connection_is_tried_on_the_other_replica(two: Pool) -> None:
    """Nothing was sent, so nothing is lost but time."""
    for _ in range(30):  # a health check may find it dead before a call does
        time.sleep(_EXPIRED_S)
        two.engines[0].arm("refuse", 0.3)
        own_id, answer = two.call(stream=True)
        assert outcome(VLLM, answer, stream=True) == "ok"
        assert [place for _, place in two.ids(own_id)] == [1]
        wait_for(lambda: listens(two.engines[0]), "it listens again")
        wait_for(lambda: up(two.router) == 2, "it is up again")
        if answer.header("x-pointsman-attempts") == "2":
            return
    raise AssertionError("always the other one")


def listens(engine: Emulator) -> bool:
    try:
        call(engine.port, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("fault", ["reset_if_reused", "close_if_reused"])
def test_a_connection_that_died_while_idle_costs_nobody_anything(two: Pool, fault: str) -> None:
    """The call goes out again at once on a fresh connection, and the client sees a good answer."""
    for engine in two.engines:
        engine.arm(fault)
    fresh = 0
    for _ in range(8):
        own_id, answer = two.call(stream=True)
        assert outcome(VLLM, answer, stream=True) == "ok"
        assert len(two.ids(own_id)) == int(answer.header("x-pointsman-attempts") or "") <= 2
        fresh += len(two.ids(own_id)) == 2
    assert fresh > 0


def test_nothing_is_tried_again_once_content_was_sent(two: Pool) -> None:
    """What fails later ends in an error frame, and the other replica hears nothing of it."""
    two.engines[0].arm("error_after", "2:overloaded")
    own_id, answer = two.call_the_first(stream=True)
    assert outcome(VLLM, answer, stream=True) == "frame engine_overloaded"
    assert [place for _, place in two.ids(own_id)] == [0]


def test_three_attempts_at_most_each_on_another_replica(four: Pool) -> None:
    """With four replicas that refuse, three are asked, then the client is told to come back."""
    for engine in four.engines:
        engine.arm("status", "503")
    own_id, answer = four.call(stream=False)
    assert outcome(VLLM, answer, stream=False) == "503 engine_overloaded"
    assert answer.header("x-pointsman-attempts") == "3"
    ids = four.ids(own_id)
    assert [name for name, _ in ids] == [f"{own_id}-a{number}" for number in (1, 2, 3)]
    assert len({place for _, place in ids}) == 3
    line = four.router.access_line(own_id)
    assert (line["status"], line["attempts"], line["end"]) == (503, 3, "refused")


def test_a_request_that_broke_two_engines_gets_no_third(four: Pool) -> None:
    """A 500 is tried once more and not twice: the prompt itself may be what breaks engines."""
    for engine in four.engines:
        engine.arm("status", "500")
    own_id, answer = four.call(stream=False)
    assert outcome(VLLM, answer, stream=False) == "502 engine_failed"
    assert len(four.ids(own_id)) == 2


def test_retries_cannot_become_a_storm(four: Pool) -> None:
    """With all engines failing, attempts stay within a fifth above the calls and the floor of the time."""
    for engine in four.engines:
        engine.arm("status", "500")
    begin = time.monotonic()
    for _ in range(150):
        assert four.call(stream=False)[1].status == 502
    seconds = time.monotonic() - begin
    routes = [engine.stats()["routes"] for engine in four.engines]  # checks ask for other routes
    attempts = sum(asked.get("POST /v1/chat/completions", 0) for asked in routes)
    assert 150 <= attempts <= 150 * 1.2 + 2 * (seconds + 10)


def test_the_only_replica_is_asked_again_when_it_says_when(router: Router, vllm: Emulator) -> None:
    """A Retry-After of up to 2 s is waited for where there is no other replica."""
    vllm.arm("status", "503:1", times=1)
    begin = time.monotonic()
    answer = call(router.port, VLLM.request(stream=False))
    assert outcome(VLLM, answer, stream=False) == "ok"
    assert answer.header("x-pointsman-attempts") == "2"
    assert time.monotonic() - begin >= 1.0
