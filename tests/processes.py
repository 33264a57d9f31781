"""Real processes for the flow tests: emulated engines and routers on free loopback ports.

Each is ended by its id when its `with` block ends; each wait has a limit.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import httpx

BACKEND = Path(__file__).parent.parent / "backend"
GUNICORN_CONFIG = BACKEND.parent / "deploy" / "gunicorn.conf.py"
START_S = 20.0
_STOP_S = 10.0
_URL = re.compile(r"http://(?:127\.0\.0\.1|10\.77\.\d+\.2):\d+")  # the latter: tests/namespaces.py


def wait_for(holds: Callable[[], bool], what: str, within_s: float = 30.0) -> float:
    """Wait until a condition holds; return the seconds it took.

    Raises:
        AssertionError: it did not hold in time.
    """
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() - begin < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - begin


class Process:
    """A program of ours that says `http://127.0.0.1:PORT`, or another address, once it listens."""

    def __init__(
        self, *arguments: str, env: dict[str, str] | None = None, descriptors: Sequence[int] = ()
    ) -> None:
        clean = {k: v for k, v in os.environ.items() if not re.match(r"TGI_|VLLM_|POINTSMAN_|PORT$|HOST$", k)}
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=BACKEND,
            env={**clean, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
        )
        self._output: deque[bytes] = deque(maxlen=50_000)
        self._reader = Thread(target=self._read, name=f"output of {self._process.pid}", daemon=True)
        self._reader.start()
        try:
            self.url = self._read_until(_URL)
        except BaseException:
            self.stop()
            raise
        self.http = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        """All the process printed so far."""
        return b"".join(self._output).decode("utf-8", "replace")

    def read_until(self, pattern: str, within_s: float = 30.0) -> str:
        """Wait for a pattern in the output; return what it matched.

        Raises:
            AssertionError: it did not come; with the output.
        """
        return self._read_until(re.compile(pattern), within_s)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, within_s: float = 60.0) -> int:
        """Wait until the process has ended by itself; its exit code."""
        return self._process.wait(within_s)

    def stop(self) -> int:
        """End the process, by force if it does not end by itself; its exit code."""
        if hasattr(self, "http"):
            self.http.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_S)
        self._reader.join(_STOP_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode

    def _read_until(self, pattern: re.Pattern[str], within_s: float = START_S) -> str:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            ended = self._process.poll() is not None
            found = pattern.search(self.output())
            if found:
                return found[0]
            if ended and not self._reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"{pattern.pattern!r} did not come; output:\n{self.output()}")

    def _read(self) -> None:
        # All the time: a process whose output nobody takes has its log blocked.
        pipe = self._process.stdout
        while pipe is not None and (block := os.read(pipe.fileno(), 65536)):
            self._output.append(block)


_BY_SYSTEMD = """
import os, sys
number, *words = sys.argv[1:]
os.dup2(int(number), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", *words])
"""


def activated(listener: socket.socket, *words: str, **settings: str) -> Process:
    """A module of Python, with its words, that is given a socket as systemd gives it."""
    number = listener.fileno()
    return Process("-c", _BY_SYSTEMD, str(number), *words, env=settings, descriptors=[number])


class Emulator(Process):
    """An emulated engine: `Emulator("tgi", "--ttft-ms", "5")`."""

    def __init__(self, engine: str, *flags: str) -> None:
        pace = ("--ttft-ms", "1", "--tokens-per-s", "2000")
        super().__init__("-m", "emulator", "--engine", engine, "--port", "0", *pace, *flags)

    def stop(self) -> int:
        """End it at once: an emulated vLLM asked politely takes its time, as the real one does."""
        self._process.kill()
        return super().stop()

    def arm(self, fault: str, arg: Any = None, **more: Any) -> None:
        """Arm a fault: `times=`, `marker=`, `route=` as `POST /__faults` takes them."""
        answer = self.http.post("/__faults", json={"fault": fault, "arg": arg, **more})
        assert answer.status_code < 300, answer.text

    def disarm(self) -> None:
        self.http.delete("/__faults").raise_for_status()

    def stats(self) -> dict[str, Any]:
        """What the engine received and did."""
        found: dict[str, Any] = self.http.get("/__stats").json()
        return found

    def reset(self) -> None:
        """Forget what it received so far."""
        self.http.post("/__reset").raise_for_status()

    def sent(self) -> list[dict[str, Any]]:
        """The POSTs it received, the latest last; health checks are GETs."""
        return [entry for entry in self.stats()["last_requests"] if entry["method"] == "POST"]

    def wait_until_quiet(self) -> None:
        """Wait until it generates nothing."""
        wait_for(lambda: not any(self.stats()[name] for name in ("running", "waiting")), "a quiet engine")


class Router(Process):
    """The router as `pointsman serve` starts it; settings are given as environment variables.

    It ends without a time of grace, which only load balancers need.
    """

    def __init__(self, **settings: str) -> None:
        env = {"HOST": "127.0.0.1", "PORT": "0", "GRACE_S": "0", **settings}
        super().__init__("-m", "pointsman", "serve", env=env)

    def wait_until_up(self, *models: str, within_s: float = 30.0) -> None:
        """Wait until the health checks found these models available."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if all(self.http.get(f"/models/{model}/health").json()["healthy"] for model in models):
                return
            time.sleep(0.02)
        raise AssertionError(f"{models} not up; output:\n{self.output()}")

    def metric(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + "{", name + " "))
        )

    def wait_until_quiet(self) -> None:
        """Wait until no request is with an engine."""
        wait_for(lambda: self.metric("pointsman_in_flight") == 0, "nothing in flight")

    def access_line(self, request_id: str, within_s: float = 30.0) -> dict[str, Any]:
        """The access log's line of one exchange."""
        found = self.read_until(rf'\{{[^\n]*"request_id":"{request_id}"[^\n]*\}}\n', within_s)
        line: dict[str, Any] = json.loads(found)
        return line

    def descriptors(self) -> int:
        """How many file descriptors the process has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


class Gunicorn(Process):
    """The router as an operator with several processors starts it."""

    def __init__(self, *flags: str, workers: int = 2, **settings: str) -> None:
        env = {"HOST": "127.0.0.1", "PORT": "0", "GRACE_S": "0", "WEB_CONCURRENCY": str(workers), **settings}
        super().__init__("-m", "gunicorn", "--config", str(GUNICORN_CONFIG), *flags, env=env)

    def booted(self) -> list[int]:
        """The ids of all workers that ever started to serve, the oldest first."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.output())]

    def wait_until_serving(self, workers: int, model: str = "gemma-3-12b") -> None:
        """Wait until so many workers serve and the one asked knows that the model is up."""
        wait_for(lambda: self.output().count("Application startup complete") >= workers, "all workers serve")
        wait_for(lambda: self.http.get(f"/models/{model}/health").json()["healthy"], "the model is up")
