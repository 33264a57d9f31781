"""Limits of callers: whose they are, what is taken, what is paid, and what the refused are told."""

from ipaddress import IPv4Network

import pytest

from pointsman.call import Api, Call, Operation
from pointsman.errors import KEY_WRONG, RATE_LIMITED, STORE_AWAY, RouterError
from pointsman.exchange import Exchange
from pointsman.keys import Key, digest_of
from pointsman.limits import FREE, Limiter, LimitsConfig, SurfaceLimits, counted, used
from pointsman.store.base import Ask, Granted, Hold, Once, Take, Unavailable
from pointsman.store.memory import MemoryStore
from pointsman.surfaces.base import read_fields

KEY = Key(digest_of("pm-0123456789abcdef"), requests_per_minute=60, tokens_per_minute=600, concurrency=2)
PLAIN = Key(digest_of("pm-another-secret"))
ADDRESS = "10.0.0.1"

pytestmark = pytest.mark.anyio


class Clock:
    """Time that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def call(body: bytes = b'{"messages":[],"max_tokens":50}', *, stream: bool = False) -> Call:
    return Call(Api.OPENAI, Operation.CHAT, "m", stream, body, read_fields(body))


def limiter(clock: Clock, config: LimitsConfig | None = None, **surfaces: SurfaceLimits) -> Limiter:
    return Limiter(config or LimitsConfig(), MemoryStore(clock=clock), surfaces)


async def test_without_limits_nothing_is_asked() -> None:
    """Who has none costs the store nothing."""
    made = limiter(Clock())
    assert made.rules(ADDRESS, None, "openai") is FREE
    assert made.rules(ADDRESS, PLAIN, "openai") is FREE


async def test_a_key_has_its_own_limits_whatever_its_address() -> None:
    """Two addresses of one key share; another key, and an address without one, have their own."""
    made = limiter(Clock(), LimitsConfig(requests_per_minute=6))
    here, there = made.rules(ADDRESS, KEY, "openai"), made.rules("10.0.0.2", KEY, "openai")
    assert here == there
    assert here.requests is not None
    assert (here.requests.rate.per_minute, here.at_once) == (60, 2)
    common = made.rules(ADDRESS, PLAIN, "openai").requests
    address, other = (made.rules(one, None, "openai").requests for one in (ADDRESS, "10.0.0.2"))
    assert common is not None
    assert address is not None
    assert other is not None
    assert common.rate.per_minute == address.rate.per_minute == 6
    assert len({here.requests.key, common.key, address.key, other.key}) == 4
    assert ADDRESS not in address.key


async def test_an_exempt_address_is_not_limited_without_a_key() -> None:
    """A gateway brings all its users from one address; its key, if it sends one, still counts."""
    config = LimitsConfig(requests_per_minute=6, exempt=(IPv4Network("10.0.0.0/24"),))
    made = limiter(Clock(), config, seed=SurfaceLimits())
    assert made.rules(ADDRESS, None, "seed") is FREE
    assert made.rules(ADDRESS, KEY, "seed") is not FREE
    assert made.rules("10.1.0.1", None, "seed") is not FREE
    assert made.rules("unknown", None, "seed") is not FREE


async def test_a_surface_may_have_a_limit_of_its_own() -> None:
    """Seed 002's bucket: 15 at once, then one each six seconds, on its routes; a key's own limit wins."""
    clock = Clock()
    made = limiter(clock, seed=SurfaceLimits())
    assert made.rules(ADDRESS, None, "openai") is FREE
    rules = made.rules(ADDRESS, None, "seed")
    grants = [await made.admit(rules, call(), 40, 10.0) for _ in range(16)]
    assert [grant.refusal for grant in grants[:15]] == [None] * 15
    refusal = grants[15].refusal
    assert refusal is not None
    assert (refusal.kind, refusal.retry_after_s) == (RATE_LIMITED, 6)
    clock.now += 6
    assert (await made.admit(rules, call(), 40, 10.0)).refusal is None
    own = made.rules(ADDRESS, KEY, "seed").requests
    assert own is not None
    assert own.rate.per_minute == 60
    assert limiter(clock, seed=SurfaceLimits(enabled=False)).rules(ADDRESS, None, "seed") is FREE


async def test_limits_of_single_surfaces_are_told_apart() -> None:
    """With what is left of them; not where a key's own limit holds for all, nor where there is none."""
    made = limiter(Clock(), LimitsConfig(requests_per_minute=60), seed=SurfaceLimits())
    assert (await made.admit(made.rules(ADDRESS, PLAIN, "seed"), call(), 40, 10.0)).refusal is None
    apart = made.apart(ADDRESS, PLAIN)
    assert list(apart) == ["seed"]
    assert await made.levels(apart["seed"]) == {"requests": 14, "tokens": None}
    assert (await made.levels(made.rules(ADDRESS, PLAIN, "")))["requests"] == 60
    assert made.apart(ADDRESS, KEY) == {}
    assert limiter(Clock(), seed=SurfaceLimits(enabled=False)).apart(ADDRESS, PLAIN) == {}


class Away:
    """A store that is always waited for, as Redis is; it may be away."""

    def __init__(self, *, away: bool = False) -> None:
        self.memory = MemoryStore(clock=Clock())
        self.away = away

    def at_once(self, ask: Ask) -> None:
        """Not at once."""

    async def settle(self, ask: Ask) -> Granted:
        if self.away:
            raise Unavailable
        return self.memory.at_once(ask)

    def give_back(self, granted: Granted, takes: tuple[Take, ...] = (), holds: tuple[Hold, ...] = ()) -> None:
        pytest.fail("a refused body reserves nothing")


@pytest.mark.parametrize("stored", ["here", "elsewhere"])
async def test_a_refused_body_is_a_request_where_the_surface_counts(stored: str) -> None:
    """It takes from the bucket of the good ones, neither tokens nor a lease; elsewhere it costs nothing."""
    config = LimitsConfig(requests_per_minute=60, exempt=(IPv4Network("10.9.0.0/24"),))
    store = MemoryStore(clock=Clock()) if stored == "here" else Away()
    made = Limiter(config, store, {"seed": SurfaceLimits()})
    grants = [await made.spend(ADDRESS, PLAIN, "seed") for _ in range(16)]
    assert all(grant is not None and grant.refusal is None for grant in grants[:15])
    over = grants[15]
    assert over is not None
    assert over.refusal is not None
    assert (over.refusal.kind, over.refusal.retry_after_s) == (RATE_LIMITED, 6)
    assert over.lines.startswith(b"x-ratelimit-limit: 15\r\nx-ratelimit-remaining: 0\r\n")
    assert (await made.admit(made.rules(ADDRESS, PLAIN, "seed"), call(), 40, 10.0)).refusal is not None
    assert await made.spend("10.9.0.1", None, "seed") is None
    assert await made.spend(ADDRESS, PLAIN, "openai") is None
    own = [await made.spend(ADDRESS, KEY, "seed") for _ in range(4)]
    assert [grant is not None and grant.refusal for grant in own] == [None] * 4
    assert (await made.levels(made.rules(ADDRESS, KEY, "openai"))) == {"requests": 56, "tokens": 600}
    off = Limiter(config, store, {"seed": SurfaceLimits(enabled=False)})
    assert await off.spend(ADDRESS, PLAIN, "seed") is None


async def test_a_refused_body_that_was_signed_counts_once() -> None:
    """Who sends it again spends nothing of its key's."""
    made = limiter(Clock(), seed=SurfaceLimits())
    once = Once("nonce", 600.0)
    first, again = [await made.spend(ADDRESS, PLAIN, "seed", once) for _ in range(2)]
    assert first is not None
    assert first.refusal is None
    assert again is not None
    assert again.refusal is not None
    assert again.refusal.kind is KEY_WRONG
    assert (await made.levels(made.rules(ADDRESS, PLAIN, "seed")))["requests"] == 14


async def test_a_refused_body_in_the_shadow_is_only_noted() -> None:
    """The operator learns that it was one too many."""
    noted: list[str] = []
    surfaces = {"seed": SurfaceLimits(burst_size=1)}
    made = Limiter(LimitsConfig(shadow=True), MemoryStore(clock=Clock()), surfaces, noted.append)
    grants = [await made.spend(ADDRESS, PLAIN, "seed") for _ in range(2)]
    assert [grant is not None and grant.refusal for grant in grants] == [None, None]
    assert noted == ["requests"]


async def test_a_refused_body_is_not_counted_by_a_store_that_is_away() -> None:
    """It hears what a good one would."""
    made = Limiter(LimitsConfig(), Away(away=True), {"seed": SurfaceLimits()})
    with pytest.raises(RouterError) as raised:
        await made.spend(ADDRESS, PLAIN, "seed")
    assert raised.value.kind is STORE_AWAY


async def test_tokens_are_reserved_and_then_paid() -> None:
    """An estimate first; what was used less comes back, what was used more is owed."""
    clock = Clock()
    made = limiter(clock)
    rules = made.rules(ADDRESS, KEY, "openai")
    grant = await made.admit(rules, call(), 400, 10.0)
    assert grant.reserved is not None
    assert grant.reserved.cost == 400 / 4 + 50
    made.settle(grant, 10)
    left = await made.admit(rules, call(), 0, 10.0)
    assert left.granted.levels[1].remaining == 600 - 10 - 50
    made.settle(left, 700)
    owing = await made.admit(rules, call(), 0, 10.0)
    assert owing.refusal is not None
    assert "tokens" in owing.refusal.message


@pytest.mark.parametrize("operation", [Operation.GENERATE, Operation.COMPAT])
@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [
        (b'{"max_new_tokens":20}', 20),
        (b'{"details":true,"max_new_tokens": 7 }', 7),
        (b'{"max_new_tokens":0}', 0),
        (b'{"max_new_tokens":null}', 256),
        (b'{"max_new_tokens":-5}', 256),
        (b'{"max_new_tokens":"20"}', 256),
        (b'{"max_new_tokens":1234567890}', 256),
        (b"{}", 256),
        (b"null", 256),
        (b"[1]", 256),
        (b"", 256),
    ],
)
async def test_tgis_own_calls_say_their_length_elsewhere(
    operation: Operation, parameters: bytes, tokens: int
) -> None:
    """Among their parameters, and nowhere else; what is no length leaves it open."""
    made = limiter(Clock())
    body = b'{"inputs":"Hi","max_tokens":9' + (b',"parameters":' + parameters if parameters else b"") + b"}"
    asked = Call(Api.TGI, operation, None, True, body, read_fields(body))
    grant = await made.admit(made.rules(ADDRESS, KEY, "tgi"), asked, 400, 10.0)
    assert grant.reserved is not None
    assert grant.reserved.cost == 400 / 4 + tokens


async def test_so_many_at_once() -> None:
    """A lease ends with its request; the third of two waits."""
    made = limiter(Clock())
    rules = made.rules(ADDRESS, KEY, "openai")
    first, second = [await made.admit(rules, call(), 0, 10.0) for _ in range(2)]
    third = await made.admit(rules, call(), 0, 10.0)
    assert third.refusal is not None
    assert "at once" in third.refusal.message
    made.settle(third, 0)
    made.settle(first, 0)
    assert (await made.admit(rules, call(), 0, 10.0)).refusal is None
    made.settle(second, 0)


async def test_in_the_shadow_nobody_is_refused() -> None:
    """The operator learns who would have been."""
    noted: list[str] = []
    config = LimitsConfig(requests_per_minute=1, shadow=True)
    made = Limiter(config, MemoryStore(clock=Clock()), note=noted.append)
    rules = made.rules(ADDRESS, None, "openai")
    grants = [await made.admit(rules, call(), 0, 10.0) for _ in range(3)]
    assert [grant.refusal for grant in grants] == [None] * 3
    assert noted == ["requests", "requests"]
    for grant in grants:
        made.settle(grant, 5)


async def test_the_answer_tells_how_much_is_left() -> None:
    """Limit, remaining and seconds until it is full; of the requests first, on refusals too."""
    made = limiter(Clock(), LimitsConfig(requests_per_minute=60, burst=2))
    rules = made.rules(ADDRESS, None, "openai")
    lines = [(await made.admit(rules, call(), 0, 10.0)).lines for _ in range(3)]
    assert lines[0] == b"x-ratelimit-limit: 2\r\nx-ratelimit-remaining: 1\r\nx-ratelimit-reset: 1\r\n"
    assert lines[2] == b"x-ratelimit-limit: 2\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 2\r\n"


@pytest.mark.parametrize(
    ("body", "stream", "asks"),
    [
        (b'{"messages":[]}', False, False),
        (b'{"messages":[]}', True, True),
        (b'{"messages":[],"stream_options":{"include_usage":false}}', True, True),
        (b'{"messages":[],"stream_options":{ "include_usage" : true }}', True, False),
        (b'{"messages":[],"stream_options":null}', True, True),
    ],
)
async def test_a_stream_is_counted_where_tokens_are_limited(body: bytes, stream: bool, asks: bool) -> None:
    """The engine is asked for its counts, and a client that did not ask is not shown them."""
    rules = limiter(Clock()).rules(ADDRESS, KEY, "openai")
    asked = call(body, stream=stream)
    found = counted(asked, rules)
    assert found.hides_usage is asks
    if asks:
        assert bytes(found.fields["stream_options"]) == b'{"include_usage":true}'
        assert found.body is None
    else:
        assert found is asked
    assert counted(asked, FREE) is asked


async def test_what_a_request_has_used() -> None:
    """The engine's count; of an answer that broke off uncounted, what was seen; of none, nothing.

    A prompt that was not counted is estimated as when it was reserved. Nothing was used where no engine was
    asked, since the answer was given before.
    """
    exchange = Exchange("id", "/x", "POST", 0.0, body_bytes=400)
    assert used(exchange) == 0
    exchange.first_event_at = 1.0
    assert used(exchange) == 0
    exchange.sent_at = 0.5
    exchange.first_event_at, exchange.events = 1.0, 7
    assert used(exchange) == 107
    exchange.completion_tokens = 5
    assert used(exchange) == 105
    exchange.prompt_tokens = 20
    assert used(exchange) == 25
    exchange.completion_tokens = 0
    assert used(exchange) == 20
