"""`scripts/chaos [--long] [S1 S2 ...]`: plays the scenes and prints their figures.

The exit code is 1 when a figure was missed that does not depend on the machine's speed, else 0.
"""

import argparse
import sys
import time

import pytest

from chaos import SCENES
from chaos.scene import Figure, Size


def play(names: list[str], size: Size) -> list[Figure]:
    """Play the scenes one after the other; all figures that were missed."""
    missed = []
    for name in names:
        scene = SCENES[name]
        print(f"{name}: {scene.__doc__}", flush=True)
        begin = time.monotonic()
        try:
            for figure in scene(size):
                print(f"  {figure.line()}", flush=True)
                if not figure.met:
                    missed.append(figure)
        except pytest.skip.Exception as reason:
            print(f"  left out: {reason}", flush=True)
        print(f"  ({time.monotonic() - begin:.0f} s)", flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("scenes", nargs="*", metavar="S1", help="which; all by default")
    parser.add_argument("--long", action="store_true", help="as long as the figures are defined for")
    told = parser.parse_args()
    unknown = [name for name in told.scenes if name not in SCENES]
    if unknown:
        parser.error(f"{unknown[0]} is no scene; there are {', '.join(SCENES)}")
    missed = play(told.scenes or list(SCENES), Size(told.long))
    late = sum(figure.timed for figure in missed)
    print(f"{len(missed) - late} counts missed, {late} figures of time missed")
    return int(len(missed) > late)


if __name__ == "__main__":
    sys.exit(main())
