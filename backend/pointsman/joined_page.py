"""Joins the metrics pages of several workers into one: each series gets a label that says whose it is.

Sums would be no counters: they fall when a worker is replaced. With the label each series is one process's,
and `sum without (worker)` is the whole. The format is Prometheus' text format 0.0.4.
"""

from collections.abc import Mapping

LABEL = "worker"


def join(pages: Mapping[int, str]) -> str:
    """One page of all, its families in the order in which they are met.

    Args:
        pages: by worker; each as `Metrics.render` writes it.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        family = ""
        for line in page.splitlines():
            if line.startswith("#"):
                family = line.split(" ", 3)[2]
                if worker == next(iter(pages)) or line not in heads.get(family, []):
                    heads.setdefault(family, []).append(line)
                samples.setdefault(family, [])
            elif line:
                samples.setdefault(family, []).append(_labelled(line, worker))
    lines = [line for family, found in samples.items() for line in (*heads.get(family, ()), *found)]
    return "\n".join(lines) + "\n" if lines else ""


def _labelled(line: str, worker: int) -> str:
    name, brace, rest = line.partition("{")
    if brace and " " not in name:
        return f'{name}{{{LABEL}="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{{LABEL}="{worker}"}} {value}'
