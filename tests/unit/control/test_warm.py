"""Warming: each replica is asked by itself, as long as somebody waits for it.

The attempt loop is played: it waits for ever.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from clockwork import Clockwork
from pointsman import attempt
from pointsman.control import warm
from pointsman.control.warm import WAIT_S, Asking, Warmth
from pointsman.errors import OWN_TIMEOUT, TOTAL_TIMEOUT, ErrorKind
from pointsman.forward import Forwarder, client_error
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.registry import Model, Registry
from pointsman.replica import Endpoint, Engine
from pointsman.retry import RetryConfig
from pointsman.run import Run

FOREVER_S = 1e6

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Callable[[], Clockwork]]]:
    """No test waits: its clock is played."""
    return "asyncio", {"loop_factory": Clockwork}


@pytest.fixture(autouse=True)
def _played_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "monotonic", now)


def now() -> float:
    return asyncio.get_running_loop().time()


class Hung:
    """An attempt loop whose engines never answer."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    async def serve(self, run: Run) -> None:
        self.runs.append(run)
        try:
            with run.watch:
                run.watch.set(run.deadline, run.overtime)
                await asyncio.sleep(FOREVER_S)
        except attempt.AttemptFailed as failure:
            raise client_error(failure) from failure


def model() -> Model:
    """Two replicas."""
    entries = tuple(ReplicaConfig(Endpoint("http", "127.0.0.1", n), Engine.VLLM) for n in (1, 2))
    return Registry([ModelConfig("m", entries, "M")], RetryConfig()).models["m"]


async def asked(asking: Asking) -> list[Warmth]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asking.ask(one, f"r-{n}")) for n, one in enumerate(asking.model.pool, 1)]
    return [task.result() for task in tasks]


async def test_who_leaves_ends_all_waits_at_once() -> None:
    """Each replica was asked by itself, and none is waited for any longer."""
    hung = Hung()
    asking = Asking(cast("Forwarder", hung), model(), None)
    began = now()
    asyncio.get_running_loop().call_later(3.0, asking.leave)
    await asked(asking)
    assert now() - began == pytest.approx(3.0)
    assert asking.left
    assert [[one.id for one in run.model.pool] for run in hung.runs] == [["m-0"], ["m-1"]]


async def test_for_who_has_left_nobody_is_asked() -> None:
    """The client may leave before the first task has begun."""
    hung = Hung()
    asking = Asking(cast("Forwarder", hung), model(), None)
    asking.leave()
    await asked(asking)
    assert hung.runs == []


@pytest.mark.parametrize(
    ("patience_s", "takes_s", "kind"),
    [(None, WAIT_S, TOTAL_TIMEOUT), (5.0, 5.0, OWN_TIMEOUT), (3600.0, WAIT_S, TOTAL_TIMEOUT)],
)
async def test_a_client_may_shorten_the_wait(
    patience_s: float | None, takes_s: float, kind: ErrorKind
) -> None:
    """Never lengthen it; each replica that is late is told as such, and whose limit it was."""
    began = now()
    found = await asked(Asking(cast("Forwarder", Hung()), model(), patience_s))
    assert now() - began == pytest.approx(takes_s, abs=0.1)
    for one in found:
        assert one.error is not None
        assert (one.error["code"], one.error["owner"]) == ("total_timeout", kind.owner)
        assert one.seconds == pytest.approx(takes_s, abs=0.1)
