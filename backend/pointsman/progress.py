"""Whether an engine that has calls makes anything of them, without asking it to generate.

Pure. Two things show it: bytes of answers to us, and the engine's own counters, which move for others' calls
too. Source: `contracts/vllm.md` section 11 (5), `contracts/tgi.md` section 7 (4).
"""

from dataclasses import dataclass

from pointsman.replica import Replica


@dataclass(frozen=True, slots=True)
class ProgressConfig:
    """Knobs of looking for engines that hang, per replica and worker process.

    Raises:
        ValueError: one sentence that names the knob.
    """

    wedged_after_s: float = 30.0  # without a byte and a token; 0: nobody looks
    deep_probe_s: float = 0.0  # without an answer after which we ask for one token; 0: never

    def __post_init__(self) -> None:
        for name in ("wedged_after_s", "deep_probe_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(frozen=True, slots=True)
class Progress:
    """What an engine's counters showed. `count` None: not known; times are monotonic seconds."""

    count: float | None = None
    since: float = 0.0  # when that figure was seen first


def observe(before: Progress, count: float | None, now: float) -> Progress:
    """Take the counters as they are now; None: the engine does not tell them."""
    if count is None:
        return Progress()
    return before if count == before.count else Progress(count, now)


def quiet_s(replica: Replica, now: float) -> float:
    """Seconds for which calls run at the replica without a byte of an answer; 0 where none runs."""
    if not replica.in_flight:
        return 0.0
    return max(0.0, now - max(replica.heard_at, replica.busy_since))


def is_stuck(replica: Replica, progress: Progress, now: float, config: ProgressConfig) -> bool:
    """Whether calls run there and neither bytes nor counters moved for long.

    An engine that tells no counters is never taken for stuck: it may be busy with one long answer.
    """
    if progress.count is None or not config.wedged_after_s:
        return False
    return min(quiet_s(replica, now), now - progress.since) >= config.wedged_after_s
