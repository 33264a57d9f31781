"""What Redis does for the store, in Lua: each script is one atomic step in one round trip.

The clock is Redis' own (`TIME`), for the clocks of several workers differ; ARGV[1] names another in tests,
else it is empty. The arithmetic of rates is that of `gcra`, operation by operation; Lua's numbers are the
same doubles, and `%.17g` carries them unchanged. Scripts name keys that they were not given (values that make
room), so a Redis Cluster will not do; one server with replicas does.

Every key gets a time to live. A rate's is a minute longer than it needs: a clock set back frees nobody.
"""

import hashlib
from dataclasses import dataclass, field

from pointsman.gcra import SLACK_S
from pointsman.store.base import ID_BYTES, LEASE_RETRY_S

_NUMBERS = {"SLACK_S": SLACK_S, "LEASE_RETRY_S": LEASE_RETRY_S, "ID_BYTES": ID_BYTES}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name Redis gives it: the SHA-1 of its text, which is no matter of security.

    `@NAME@` in the text stands for one of our own numbers.
    """

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        text = self.text
        for name, number in _NUMBERS.items():
            text = text.replace(f"@{name}@", repr(number))
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "sha", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


CLOCK = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
"""

_RATE = """
local function exact(number) return string.format('%.17g', number) end
local function ahead_s(key)
  local known = redis.call('GET', key)
  if not known then return 0 end
  local gap = string.find(known, ' ', 1, true)
  local ahead = tonumber(string.sub(known, gap + 1))
  local passed = now - tonumber(string.sub(known, 1, gap - 1))
  if passed > 0 then ahead = ahead - passed end
  return math.max(ahead, 0)
end
local function charge(key, ahead, cost, interval)
  ahead = ahead + cost * interval
  if ahead > 0 then
    redis.call('SET', key, exact(now) .. ' ' .. exact(ahead), 'PX', math.ceil(ahead * 1000) + 60000)
    return ahead
  end
  redis.call('DEL', key)
  return 0
end
"""

# KEYS: takes, holds, the nonce if any. ARGV: now, number of takes, number of holds, the nonce's ttl or '',
# for each take interval, depth and cost, for each hold limit, id and ttl; times in seconds.
# Answer: number of the key that refuses (0: allowed), 1 if the nonce was seen, the wait, each take's ahead_s.
SETTLE = Script(
    CLOCK
    + _RATE
    + """
local takes, holds, once_ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if once_ttl then
  local again = redis.call('GET', KEYS[#KEYS])
  if again and tonumber(again) > now then return {#KEYS, 1, '0'} end
end
local refused, wait, ahead = 0, 0, {}
for number = 1, takes do
  local at = 2 + number * 3
  local interval, depth, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  ahead[number] = ahead_s(KEYS[number])
  local waits = ahead[number] + math.min(cost * interval, depth) - depth
  if waits > @SLACK_S@ and waits > wait then refused, wait = number, waits end
end
for number = 1, holds do
  local key, at = KEYS[takes + number], 2 + (takes + number) * 3
  redis.call('ZREMRANGEBYSCORE', key, '-inf', exact(now))
  local full = redis.call('ZCARD', key) >= tonumber(ARGV[at])
  if full and @LEASE_RETRY_S@ > wait and not redis.call('ZSCORE', key, ARGV[at + 1]) then
    refused, wait = takes + number, @LEASE_RETRY_S@
  end
end
local answer = {refused, 0, exact(wait)}
if refused > 0 then
  for number = 1, takes do answer[3 + number] = exact(ahead[number]) end
  return answer
end
for number = 1, takes do
  local at = 2 + number * 3
  local after = charge(KEYS[number], ahead[number], tonumber(ARGV[at + 2]), tonumber(ARGV[at]))
  answer[3 + number] = exact(after)
end
for number = 1, holds do
  local key, at = KEYS[takes + number], 2 + (takes + number) * 3
  local ttl = tonumber(ARGV[at + 2])
  redis.call('ZADD', key, exact(now + ttl), ARGV[at + 1])
  redis.call('PEXPIRE', key, math.max(redis.call('PTTL', key), math.ceil(ttl * 1000)))
end
if once_ttl then redis.call('SET', KEYS[#KEYS], exact(now + once_ttl), 'PX', math.ceil(once_ttl * 1000)) end
return answer
"""
)

# KEYS: takes, holds. ARGV: now, number of takes, then for each take interval and cost, for each hold its id.
GIVE_BACK = Script(
    CLOCK
    + _RATE
    + """
local takes = tonumber(ARGV[2])
for number = 1, takes do
  local at = 1 + number * 2
  charge(KEYS[number], ahead_s(KEYS[number]), tonumber(ARGV[at + 1]), tonumber(ARGV[at]))
end
for number = takes + 1, #KEYS do redis.call('ZREM', KEYS[number], ARGV[2 + takes + number]) end
return redis.status_reply('OK')
"""
)

# A shelf is an index of three keys beside its values: uses and ends (sorted sets of names by last use and by
# end of life), sizes (a hash, whose field '' is their sum). ARGV[2] is what the keys of values begin with.
_SHELF = (
    CLOCK
    + """
local uses, ends, sizes, stem = KEYS[1], KEYS[2], KEYS[3], ARGV[2]
local function score(number) return string.format('%.17g', number) end
local function forget(name)
  local size = redis.call('HGET', sizes, name)
  if size then
    redis.call('HINCRBY', sizes, '', -tonumber(size))
    redis.call('HDEL', sizes, name)
  end
  redis.call('ZREM', uses, name)
  redis.call('ZREM', ends, name)
  return redis.call('DEL', stem .. name)
end
local function sweep()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', score(now), 'LIMIT', 0, 1000)) do
    forget(name)
  end
end
local function total() return tonumber(redis.call('HGET', sizes, '') or '0') end
local function keep(name, size, ttl, most_entries, most_bytes)
  local value = stem .. name
  redis.call('PEXPIRE', value, math.ceil(ttl * 1000))
  redis.call('ZADD', uses, score(now), name)
  redis.call('ZADD', ends, score(now + ttl), name)
  redis.call('HINCRBY', sizes, '', size - tonumber(redis.call('HGET', sizes, name) or '0'))
  redis.call('HSET', sizes, name, size)
  while redis.call('ZCARD', uses) > most_entries or total() > most_bytes do
    local oldest = redis.call('ZRANGE', uses, 0, 0)[1]
    if oldest then forget(oldest) else redis.call('DEL', sizes) end  -- Redis itself evicts keys, too
  end
  for _, key in ipairs({uses, ends, sizes}) do
    redis.call('PEXPIRE', key, math.max(redis.call('PTTL', key), math.ceil(ttl * 1000)))
  end
end
"""
)

# KEYS: the index. ARGV: now, stem, name. Answer: the value or nothing; it counts as used now.
READ = Script(
    _SHELF
    + """
sweep()
local value = redis.call('GET', stem .. ARGV[3])
if value then redis.call('ZADD', uses, 'XX', score(now), ARGV[3]) end
return value
"""
)

# As READ, for a list.
ITEMS = Script(
    _SHELF
    + """
sweep()
redis.call('ZADD', uses, 'XX', score(now), ARGV[3])
return redis.call('LRANGE', stem .. ARGV[3], 0, -1)
"""
)

# ARGV: now, stem, name, value, its size, ttl, the shelf's entries and bytes.
WRITE = Script(
    _SHELF
    + """
sweep()
redis.call('SET', stem .. ARGV[3], ARGV[4], 'PX', math.ceil(tonumber(ARGV[6]) * 1000))
keep(ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))
return 1
"""
)

# ARGV: now, stem, name, item, its size, ttl, the shelf's entries and bytes, most items and bytes of the list.
APPEND = Script(
    _SHELF
    + """
local key, item, size = stem .. ARGV[3], ARGV[4], tonumber(ARGV[5])
local overhead, most_items = #item - size, tonumber(ARGV[9])
local most_bytes = math.min(tonumber(ARGV[10]), tonumber(ARGV[8]))
sweep()
redis.call('ZADD', uses, 'XX', score(now), ARGV[3])
local items = redis.call('LRANGE', key, 0, -1)
local sum = size
for _, other in ipairs(items) do
  if string.sub(other, 1, @ID_BYTES@) == string.sub(item, 1, @ID_BYTES@) then
    return 1
  end
  sum = sum + #other - overhead
end
if size > most_bytes then return 0 end
local gone = 0
while #items + 1 - gone > most_items or sum > most_bytes do
  gone = gone + 1
  sum = sum - (#items[gone] - overhead)
end
if gone > 0 then redis.call('LTRIM', key, gone, -1) end
redis.call('RPUSH', key, item)
keep(ARGV[3], sum, tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]))
return 1
"""
)

# ARGV: now, stem, names. Answer: how many were there.
DROP = Script(
    _SHELF
    + """
sweep()
local gone = 0
for number = 3, #ARGV do gone = gone + forget(ARGV[number]) end
return gone
"""
)

# ARGV: now, stem, prefix of names. Answer: how many were there.
DROP_UNDER = Script(
    _SHELF
    + """
sweep()
local gone = 0
for _, name in ipairs(redis.call('ZRANGE', uses, 0, -1)) do
  if string.sub(name, 1, #ARGV[3]) == ARGV[3] then gone = gone + forget(name) end
end
return gone
"""
)

# ARGV: now, stem. Answer: entries and bytes.
SIZE = Script(
    _SHELF
    + """
sweep()
return {redis.call('ZCARD', uses), total()}
"""
)
