"""Restarts and reloads at noon: what becomes of running streams and of new calls."""

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from chaos.load import Done, call, open_loop, told
from chaos.scene import Figure, Size
from processes import BACKEND, Emulator, Process, Router, wait_for
from wire import VLLM

STREAMS = 200
PACE = ("--ttft-ms", "50", "--tokens-per-s", "20", "--max-num-seqs", "256")
GUNICORN = BACKEND.parent / "deploy" / "gunicorn.conf.py"


class Gunicorn(Process):
    """The router as gunicorn runs it."""

    def __init__(self, **settings: str) -> None:
        env = {"LISTEN": "127.0.0.1:0", **settings}
        super().__init__("-m", "gunicorn", "--config", str(GUNICORN), "--workers", "2", env=env)


def terminated(size: Size) -> Iterable[Figure]:
    """SIGTERM comes while 200 streams run."""
    with Emulator("vllm", *PACE) as engine:
        settings = {"VLLM_GEMMA3_ENDPOINT": engine.url, "GRACE_S": "0.5", "DRAIN_S": "30"}
        kinds: tuple[tuple[str, Callable[..., Process]], ...] = (("serve", Router), ("gunicorn", Gunicorn))
        for name, kind in kinds:
            with kind(**settings) as router:
                _up(router)
                results = asyncio.run(_through_a_signal(router, signal.SIGTERM))
                wait_for(lambda router=router: not router.runs, "ended", 30)  # type: ignore[misc]
                code = router.stop()
            broken = [done for done in results if not done.ok]
            yield Figure(f"{name}: streams", len(results))
            yield Figure(f"{name}: broken ({told(broken)})", len(broken), most=0)
            yield Figure(f"{name}: exit code", code, most=0, least=0)


def _up(router: Process) -> None:
    wait_for(lambda: router.http.get("/models/gemma-3-12b/health").json()["healthy"], "up")


async def _through_a_signal(router: Process, number: signal.Signals) -> list[Done]:
    data = VLLM.request("Talk", 60, stream=True)
    tasks = [asyncio.ensure_future(call(router.port, VLLM, data, stream=True)) for _ in range(STREAMS)]
    await asyncio.sleep(1.5)  # so that most have begun
    router.send_signal(number)
    return list(await asyncio.gather(*tasks))


def reloaded(size: Size) -> Iterable[Figure]:
    """The configuration is edited and SIGHUP sent, again and again, under load."""
    seconds = size.pick(10, 60)
    with Emulator("vllm") as one, Emulator("vllm") as two, tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yml"
        _write(config, one.url)
        for name, kind in (("serve", Router), ("gunicorn", Gunicorn)):
            with kind(CONFIG_FILE=str(config), GRACE_S="0.2") as router:
                _up(router)
                results, reloads = asyncio.run(_under_load(router, config, (one, two), seconds))
            bad = [done for done in results if not done.ok]
            yield Figure(f"{name}: reloads", reloads)
            yield Figure(f"{name}: calls", len(results))
            yield Figure(f"{name}: refused, reset or 5xx ({told(bad)})", len(bad), most=0)


def _write(config: Path, *urls: str) -> None:
    replicas = "".join(f"\n      - url: {url}" for url in urls)
    text = f"models:\n  - id: gemma-3-12b\n    engine: vllm\n    replicas:{replicas}\n"
    fresh = config.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(config)


async def _under_load(
    router: Process, config: Path, pair: tuple[Emulator, Emulator], seconds: float
) -> tuple[list[Done], int]:
    loop = asyncio.get_running_loop()
    end, reloads = time.monotonic() + seconds, 0

    async def edit() -> None:
        nonlocal reloads
        while time.monotonic() < end - 2:
            reloads += 1
            _write(config, *(engine.url for engine in pair[: 1 + reloads % 2]))
            router.send_signal(signal.SIGHUP)
            await asyncio.sleep(2)

    def make(number: int) -> asyncio.Task[Done]:
        stream = number % 2 == 0
        return loop.create_task(call(router.port, VLLM, VLLM.request("Go", 8, stream=stream), stream=stream))

    editor = asyncio.ensure_future(edit())
    results = await open_loop(100, seconds, make)
    await editor
    return results, reloads
