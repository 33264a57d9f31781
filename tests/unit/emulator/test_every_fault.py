"""Each fault of the table, on both engines, whole and streamed: the emulator itself must survive it."""

import time
from contextlib import suppress
from typing import Any

import httpx
import pytest

from emulator.faults import FAULTS, Scope

_QUICK = {
    "delay": "0.05",
    "slow_first_token": "0.05",
    "slow_body": "20000",
    "split_every": "50",
    "status": "503",
    "big_event": "5000",
}
_HANGS = ("hang_before_headers", "hang_first_event", "hang_after", "comments_after")
_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "tgi": ("/", {"inputs": "Hi", "parameters": {"max_new_tokens": 4}}),
    "vllm": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}),
}


@pytest.mark.parametrize("engine", ["tgi", "vllm"])
def test_every_fault_strikes_and_passes(start: Any, engine: str) -> None:
    """After each fault nothing runs any more, and at the end an answer is good again."""
    base = start(engine, "--ttft-ms", "1", "--tokens-per-s", "0")
    path, body = _BODIES[engine]
    names = [name for name, kind in FAULTS.items() if kind.scope is Scope.GENERATE and name != "die"]
    with httpx.Client(base_url=base, timeout=5) as control, httpx.Client(base_url=base) as client:
        for name in names:
            for stream in (False, True):
                with suppress(
                    httpx.TransportError
                ):  # a connection to be reused, unless the last fault cut it
                    client.get("/health")
                _arm(control, name)
                with suppress(httpx.TransportError):
                    timeout_s = 0.1 if name in _HANGS else 5
                    client.post(path, json=body | {"stream": stream}, timeout=timeout_s)
                _settled(control, name)
        assert control.get("/__faults").json()["armed"] == []
        assert control.post(path, json=body).status_code == 200
        assert control.get("/__stats").json()["struck"] == dict.fromkeys(names, 2)


def _arm(control: httpx.Client, name: str) -> None:
    kind = FAULTS[name]
    arg = _QUICK.get(name) or (kind.default or "2" if kind.argument else None)
    control.post("/__faults", json={"fault": name, "arg": arg, "times": 1}).raise_for_status()


def _settled(control: httpx.Client, name: str) -> None:
    end = time.monotonic() + 2
    while control.get("/__stats").json()["running"]:
        assert time.monotonic() < end, f"{name} leaves a request running"
        time.sleep(0.01)
