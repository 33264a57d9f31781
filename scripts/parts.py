"""What the router's own decisions cost a request, part by part; see `scripts/bench`.

Each part runs alone in this process, on the memory store, as a keyed request with limits takes it. Medians of
rounds, in microseconds.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from pointsman.access import AccessConfig
from pointsman.attempt import OK
from pointsman.call import Api, Call, Operation
from pointsman.exchange import AttemptRecord, Exchange
from pointsman.guard import Guard, check_call
from pointsman.keyring import Keyring
from pointsman.keys import Key, Need, digest_of
from pointsman.knobs import LogFormat
from pointsman.limits import Limiter, LimitsConfig, used
from pointsman.log import AccessLog
from pointsman.metrics import Metrics
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.origin import CorsConfig
from pointsman.registry import Registry
from pointsman.replica import Endpoint, Engine
from pointsman.retry import RetryConfig
from pointsman.store.memory import MemoryStore

ROUNDS, CALLS = 7, 20_000
TARGET_US = 30
SECRET = "pm-0123456789abcdef0123456789"
HEADERS = [
    (b"host", b"router:8000"),
    (b"content-type", b"application/json"),
    (b"authorization", f"Bearer {SECRET}".encode()),
]
ROUTE = "POST /v1/chat/completions"

Part = Callable[[], Awaitable[None]]


def parts(log: AccessLog) -> dict[str, Part]:
    """One request's worth of each."""
    key = Key(digest_of(SECRET), requests_per_minute=1e9, tokens_per_minute=1e12, concurrency=1000)
    guard = Guard(AccessConfig(), CorsConfig(), Keyring(None, (key,)))
    limiter = Limiter(LimitsConfig(), MemoryStore())
    engines = tuple(ReplicaConfig(Endpoint("http", f"10.0.0.{n}", 80), Engine.VLLM) for n in range(4))
    registry = Registry([ModelConfig("m", engines, "M")], RetryConfig())
    model = registry.models["m"]
    metrics = Metrics(registry, ["/v1/chat/completions"])
    rng, headers = Random(0), dict(HEADERS)
    call = Call(Api.OPENAI, Operation.CHAT, "m", body=b"x" * 200)
    caller = guard.authenticate(guard.admit("10.0.0.1", HEADERS), headers, Need.IF_ANY, ROUTE)

    def exchange() -> Exchange:
        made = Exchange("id", "/v1/chat/completions", "POST", time.monotonic(), "10.0.0.1", model_id="m")
        made.replica_id, made.status, made.body_bytes = "m-0", 200, 200
        made.sent_at = made.first_event_at = made.ended_at = made.started_at
        made.prompt_tokens, made.completion_tokens = 20, 60
        made.attempts.append(AttemptRecord("m-0", OK))
        return made

    async def nothing() -> None:
        exchange()

    async def address() -> None:
        exchange()
        guard.admit("10.0.0.1", HEADERS)

    async def secret() -> None:
        exchange()
        check_call(guard.authenticate(caller_without, headers, Need.IF_ANY, ROUTE), call, "m")

    async def limit() -> None:
        made = exchange()
        rules = limiter.rules(caller.address, caller.key, "openai")
        grant = await limiter.admit(rules, call, 200, 600.0)
        limiter.settle(grant, used(made))

    async def policy() -> None:
        exchange()
        registry.lease(model.policy.choose(model.pool, rng)).close(OK)

    async def count() -> None:
        metrics.observe(exchange())

    async def line() -> None:
        log.observe(exchange())

    caller_without = guard.admit("10.0.0.1", HEADERS)
    return {
        "(the record itself)": nothing,
        "address": address,
        "key": secret,
        "limits": limit,
        "policy and lease": policy,
        "metrics": count,
        "access log": line,
    }


async def measure(part: Part) -> float:
    """Microseconds of processor time of one call."""
    start = time.process_time()
    for number in range(CALLS):
        await part()
        if not number % 500:
            await asyncio.sleep(0)  # what is batched is done within the time that is measured
    return 1e6 * (time.process_time() - start) / CALLS


async def main(fd: int) -> None:
    """Measure with a log that writes there."""
    log = AccessLog(LogFormat.JSON, "INFO", fd)
    log.start(asyncio.get_running_loop())
    await report(parts(log))
    log.close()


async def report(made: dict[str, Part]) -> None:
    """Measure the parts in turns, and print medians."""
    rounds = [{name: await measure(part) for name, part in made.items()} for _ in range(ROUNDS)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in made}
    base = medians.pop("(the record itself)")
    print(f"\nparts of a request, medians of {ROUNDS} rounds, memory store")
    for name, took in medians.items():
        print(f"{name:46}{took - base:10.1f} us")
    print(f"{'together':46}{sum(medians.values()) - base * len(medians):10.1f} us (wanted: {TARGET_US})")


if __name__ == "__main__":
    with Path(os.devnull).open("wb") as sink:
        asyncio.run(main(sink.fileno()))
