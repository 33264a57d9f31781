"""Trouble on purpose, measured from outside; `scripts/chaos` prints what the router makes of it.

The engines are emulated ones: processes of their own, killed by real signals. A scene is a function in a
module of this folder, and a line in the table here.
"""

from chaos import aborts, deaths, growth, retries
from chaos.scene import Scene

SCENES: dict[str, Scene] = {
    "S1": deaths.a_killed_engine,
    "S2": deaths.cut_streams,
    "S3": aborts.time_to_the_engine,
    "S4": retries.everything_fails,
    "S5": retries.reused_connections,
    "S11": aborts.nothing_is_left,
    "S20": growth.series,
    "S23": growth.memory,
}
