"""Trouble on purpose, measured from outside; `scripts/chaos` prints what the router makes of it.

The engines are emulated ones: processes of their own, killed by real signals. A scene is a function in a
module of this folder, and a line in the table here.
"""

from chaos import aborts, deaths, growth, hostile, overload, poison, restarts, retries, rotation, shared
from chaos.scene import Scene

SCENES: dict[str, Scene] = {
    "S1": deaths.a_killed_engine,
    "S2": deaths.cut_streams,
    "S3": aborts.time_to_the_engine,
    "S4": retries.everything_fails,
    "S5": retries.reused_connections,
    "S6": rotation.refused,
    "S7": rotation.hung,
    "S8": rotation.recovered,
    "S9": overload.goodput,
    "S10": overload.stalled_readers,
    "S11": aborts.nothing_is_left,
    "S12": restarts.terminated,
    "S13": restarts.reloaded,
    "S14": hostile.corpus,
    "S15": hostile.leaks,
    "S16": hostile.addresses,
    "S17": hostile.cost,
    "S18": shared.redis_away,
    "S19": shared.tenants,
    "S20": growth.series,
    "S21": shared.clock_steps,
    "S22": poison.prompt,
    "S23": growth.memory,
}
