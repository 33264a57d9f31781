"""What a scene of trouble is, and what it tells."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure of a scene.

    `most`: it is met at this value or below; `least`: at this or above; neither: it is only told. `timed`: it
    depends on how fast and how idle the machine is.
    """

    what: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None
    timed: bool = False

    @property
    def met(self) -> bool:
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    def line(self) -> str:
        """The figure for people."""
        bounds = (("<=", self.most), (">=", self.least))
        wanted = [f"{sign} {bound:g}" for sign, bound in bounds if bound is not None]
        verdict = "" if not wanted else f"wanted {' and '.join(wanted)}: {'met' if self.met else 'MISSED'}"
        shown = f"{self.value:,.0f}" if float(self.value).is_integer() else f"{self.value:,.3g}"
        return f"{self.what:66} {shown:>10} {self.unit:6} {verdict}".rstrip()


@dataclass(frozen=True)
class Size:
    """How much a scene is to do."""

    long: bool

    def pick(self, short: int, long: int) -> int:
        return long if self.long else short


Scene = Callable[[Size], Iterable[Figure]]


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies; of none: infinite."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")
