"""What the engine counts, and Prometheus' text format."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

SECONDS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    60.0,
)
SIZES = (
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10000.0,
    20000.0,
    50000.0,
)


class Histogram:
    """Counts per bucket, sum and number."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds`: upper limits, ascending, without +Inf."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        """The samples; `labels` like `a="b",`, with a comma at the end or empty."""
        total = 0
        bare = f"{{{labels.rstrip(',')}}}" if labels else ""
        yield f"# TYPE {name} histogram"
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}le="{bound}"}} {total}'
        yield f"{name}_sum{bare} {self._sum}"
        yield f"{name}_count{bare} {total}"


def _seconds() -> Histogram:
    return Histogram(SECONDS)


def _sizes() -> Histogram:
    return Histogram(SIZES)


@dataclass(slots=True)
class Meters:
    """Counters since the start of the process; they are never reset, as in a real engine."""

    started: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)  # by reason: eos, stop, length, abort, error
    failures: Counter[str] = field(default_factory=Counter)  # TGI: by err
    rejected: int = 0
    steps: Counter[str] = field(default_factory=Counter)  # prefill, decode
    ttft_s: Histogram = field(default_factory=_seconds)
    itl_s: Histogram = field(default_factory=_seconds)
    total_s: Histogram = field(default_factory=_seconds)
    queue_s: Histogram = field(default_factory=_seconds)
    inference_s: Histogram = field(default_factory=_seconds)
    input_tokens: Histogram = field(default_factory=_sizes)
    output_tokens: Histogram = field(default_factory=_sizes)


def sample(kind: str, name: str, value: float, labels: str = "") -> list[str]:
    """One metric with one sample, in text format."""
    shown = f"{{{labels}}}" if labels else ""
    return [f"# TYPE {name} {kind}", f"{name}{shown} {value}"]
