"""What several workers count together: sessions that were heard of, and requests of the last day.

Sessions lie in a sorted set by the time they were heard last, requests in a hash, a field for each minute.
"""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import msgspec

from pointsman.store.base import Unavailable
from pointsman.store.scripts import CLOCK, Script

HEARD_S = 1800
HEARD_MOST = 65_536  # sessions; beyond, those that have been silent longest are forgotten
DAY_MINUTES = 24 * 60
HOUR_MINUTES = 60
BATCH = 1000  # sessions in one step


class Count(msgspec.Struct, frozen=True, gc=False):
    """Requests; `seconds`: how long those together took that were no errors."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0


class Totals(msgspec.Struct, frozen=True, gc=False):
    """What all workers have counted."""

    sessions: int
    day: Count
    hour: Count


@runtime_checkable
class Tallies(Protocol):
    """A store that others share."""

    async def tally(self, heard: Iterable[bytes], count: Count) -> Totals:
        """Add what was heard and done, and read what all did.

        Args:
            heard: digests of sessions, at most `BATCH`.

        Raises:
            Unavailable: whether it was added is unknown.
        """


# KEYS: sessions, minutes. ARGV: now, seconds a session is kept, how many, minutes of a day, of an hour;
# requests, errors, seconds to add; digests of sessions.
# Answer: sessions, then requests, errors and seconds of the day, and the same of the hour, as texts.
TALLY = Script(
    CLOCK
    + """
local keep, most, day, hour = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.17g', now - keep))
for at = 9, #ARGV do redis.call('ZADD', KEYS[1], string.format('%.17g', now), ARGV[at]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -most - 1)
redis.call('PEXPIRE', KEYS[1], keep * 1000)
local minute = math.floor(now / 60)
local sums, last = {{0, 0, 0}, {0, 0, 0}}, {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])}
local kept = redis.call('HGETALL', KEYS[2])
for at = 1, #kept, 2 do
  local age, parts = minute - tonumber(kept[at]), {}
  for part in string.gmatch(kept[at + 1], '%S+') do parts[#parts + 1] = tonumber(part) end
  if age == 0 then
    for n = 1, 3 do last[n] = last[n] + parts[n] end
  elseif age < 0 or age >= day then
    redis.call('HDEL', KEYS[2], kept[at])
  else
    for n = 1, 3 do
      sums[1][n] = sums[1][n] + parts[n]
      if age < hour then sums[2][n] = sums[2][n] + parts[n] end
    end
  end
end
if last[1] > 0 then
  redis.call('HSET', KEYS[2], minute, string.format('%d %d %.6f', last[1], last[2], last[3]))
  redis.call('PEXPIRE', KEYS[2], day * 60000)
end
local answer = {redis.call('ZCARD', KEYS[1])}
for n = 1, 6 do
  local sum, part = sums[n > 3 and 2 or 1], (n - 1) % 3 + 1
  answer[1 + n] = string.format('%.6f', sum[part] + last[part])
end
return answer
"""
)


def words(heard: Iterable[bytes], count: Count) -> list[str | bytes | int]:
    """The arguments of the script behind the time."""
    bounds = [HEARD_S, HEARD_MOST, DAY_MINUTES, HOUR_MINUTES]
    return [*bounds, count.requests, count.errors, repr(count.seconds), *heard]


def read(answer: Any) -> Totals:
    """The script's answer.

    Raises:
        Unavailable: it is none.
    """
    match answer:
        case [int() as sessions, *sums] if len(sums) == 6 and all(isinstance(one, bytes) for one in sums):
            day, hour = [float(one) for one in sums[:3]], [float(one) for one in sums[3:]]
            return Totals(
                sessions, Count(int(day[0]), int(day[1]), day[2]), Count(int(hour[0]), int(hour[1]), hour[2])
            )
    raise Unavailable("Redis answers what nobody asked for")
