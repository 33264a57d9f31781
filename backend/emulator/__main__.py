"""`python -m emulator`: flags, start, signals."""

import asyncio
import signal
import sys

from emulator.dialect import Dialect
from emulator.flags import read_flags
from emulator.schedule import Engine, Pace
from emulator.server import Server
from emulator.settings import Kind, Settings


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends at once. Returns the exit code."""
    pace = Pace(
        ttft_s=settings.ttft_s,
        tokens_per_s=settings.tokens_per_s,
        prefill_tokens_per_s=settings.prefill_tokens_per_s,
        max_running=settings.max_batch_size,
        kv_tokens=settings.kv_tokens,
        prefix_cache=settings.engine is Kind.VLLM,
    )
    engine = Engine(pace)
    server = Server(settings, engine, _dialect(settings, engine))
    loop = asyncio.get_running_loop()
    stop, now = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: now.set() if stop.is_set() else stop.set())
    try:
        port = await server.listen()
    except OSError as error:
        print(
            f"emulator: cannot listen on {settings.host}:{settings.port}: {error.strerror}.", file=sys.stderr
        )
        return 1
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    kind, name = settings.engine.value, settings.name.rpartition("/")[2]
    print(f"emulator: {kind} {name} on http://{host}:{port} (emulated text, no model)", flush=True)
    await stop.wait()
    ending, hurry = loop.create_task(server.stop()), loop.create_task(now.wait())
    await asyncio.wait((ending, hurry), return_when=asyncio.FIRST_COMPLETED)
    return 0


def _dialect(settings: Settings, engine: Engine) -> Dialect:
    if settings.engine is Kind.TGI:
        from emulator.tgi import Tgi

        return Tgi(settings, engine)
    from emulator.vllm import Vllm

    return Vllm(settings, engine)


if __name__ == "__main__":
    sys.exit(asyncio.run(run(read_flags(sys.argv[1:]))))
