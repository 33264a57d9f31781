"""Clients by the hundred, on sockets of their own, each with one call; every answer is judged."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from wire import Front, Incoming, outcome

LIMIT_S = 60.0  # for one call; longer is a hang


@dataclass
class Done:
    """What became of one call. Times are seconds since it was sent."""

    outcome: str = "no connection"  # as `wire.outcome`, or what was dishonest about it
    committed: bool = False  # something of the answer itself had come
    took_s: float = 0.0
    first_s: float = float("inf")
    answer: Incoming = field(default_factory=Incoming)

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


async def call(port: int, front: Front, data: bytes, *, stream: bool) -> Done:
    """Make one call and judge its answer."""
    done = Done()
    begin = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(data)
                while not done.answer.ended and (block := await reader.read(65536)):
                    done.answer.feed(block)
                    if not done.committed and has_content(done.answer, stream=stream):
                        done.committed, done.first_s = True, time.monotonic() - begin
            finally:
                writer.close()
        done.outcome = outcome(front, done.answer, stream=stream)
    except TimeoutError:
        done.outcome = "hangs"
    except AssertionError as error:
        done.outcome = f"dishonest: {str(error).splitlines()[0] if str(error) else 'no end'}"
    except (OSError, ValueError) as error:
        done.outcome = type(error).__name__ if done.answer.status == 0 else f"broken: {type(error).__name__}"
    done.took_s = time.monotonic() - begin
    return done


def has_content(answer: Incoming, *, stream: bool) -> bool:
    """Whether something of the answer itself came: more than a head, comments, or an error."""
    if not stream or answer.status != 200:
        return answer.ended and answer.status == 200
    return b'"content":' in answer.body or b'"text":' in answer.body


async def open_loop(rate: float, seconds: float, make: Callable[[int], "asyncio.Future[Done]"]) -> list[Done]:
    """Calls at a rate per second, whatever becomes of those before."""
    begin, tasks = time.monotonic(), []
    for number in range(int(rate * seconds)):
        pause = begin + number / rate - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        tasks.append(make(number))
    return list(await asyncio.gather(*tasks))


async def at_once(total: int, workers: int, make: Callable[[int], "asyncio.Future[Done]"]) -> list[Done]:
    """Calls one after the other, in so many lines."""
    numbers, found = iter(range(total)), []

    async def line() -> None:
        found.extend([await make(number) for number in numbers])

    await asyncio.gather(*(line() for _ in range(workers)))
    return found


def told(results: Iterable[Done]) -> str:
    """How many ended how, for people."""
    return ", ".join(f"{count} {name}" for name, count in Counter(d.outcome for d in results).most_common(6))
