"""Conversations that are too long: which turns go, and that no more of them go than must."""

import json
from typing import Any

import pytest
from msgspec import structs

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.engines import DIALECTS
from pointsman.engines.base import Outgoing
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Message, Wish
from pointsman.lengths import Lengths, pairs
from pointsman.replica import Endpoint, Engine, Facts, Replica

pytestmark = pytest.mark.anyio

SYSTEM = Message("system", "s")


class Engines:
    """A replica that counts words: a turn of n words has n tokens and 3 around them."""

    def __init__(
        self, context: int | None = 1000, engine: Engine = Engine.VLLM, *, template: bool = True
    ) -> None:
        facts = Facts(("served",), max_total_tokens=context, chat_template=template)
        self.replica = Replica("m-0", "m", engine, Endpoint("http", "h", 80), facts=facts)
        self.tells = True
        self.asked: list[str] = []
        self._lengths = Lengths()

    async def trim(self, wish: Wish) -> Wish:
        assert wish.reserve is not None
        dialect = DIALECTS[self.replica.engine]
        return await self._lengths.trim(wish, wish.reserve, self.replica, dialect, self._ask)

    async def _ask(self, outgoing: Outgoing) -> bytes | None:
        self.asked.append(outgoing.path)
        told = json.loads(outgoing.body)
        if "messages" in told:
            words = sum(len(turn["content"].split()) + 3 for turn in told["messages"])
        else:
            words = len(told.get("prompt", told.get("inputs", "")).split())
        if not self.tells:
            return None
        ids = list(range(words))
        if self.replica.engine is Engine.VLLM:
            found: Any = {"count": words, "tokens": ids, "token_strs": None}
        else:
            tokens = [{"id": number, "stop": 0} for number in ids]
            found = {"tokenize_response": tokens} if "messages" in told else tokens
        return json.dumps(found).encode()


def turns(*words: int, system: bool = True) -> tuple[Message, ...]:
    """Turns of so many words, in turn of the user and the assistant; the last is the user's."""
    said = [
        Message("user" if place % 2 == 0 else "assistant", " ".join([f"w{place}"] * count))
        for place, count in enumerate(words)
    ]
    return (SYSTEM, *said) if system else tuple(said)


def chat(*words: int, max_new: int = 100, reserve: int = 100, window: int | None = None) -> Wish:
    return Wish(
        messages=turns(*words),
        max_new=max_new,
        reserve=reserve,
        window=window,
        clamps=True,
        length_name="max_tokens",
    )


@pytest.mark.parametrize("engine", Engine)
async def test_what_fits_by_its_bytes_is_not_counted(engine: Engine) -> None:
    """Most conversations need no look-up."""
    engines = Engines(4000, engine)
    wish = chat(20, 20, 20)
    assert await engines.trim(wish) is wish
    assert engines.asked == []


@pytest.mark.parametrize("engine", Engine)
async def test_what_fits_by_its_tokens_stays_whole(engine: Engine) -> None:
    """Counted once by the replica, and once only."""
    engines = Engines(1000, engine)
    wish = chat(100, 200, 100)
    assert (await engines.trim(wish)).messages == wish.messages
    assert (await engines.trim(wish)).dropped == 0
    assert engines.asked == ["/tokenize" if engine is Engine.VLLM else "/chat_tokenize"]


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(
    ("words", "left"),
    [
        ((300, 300, 200, 100, 50), 3),  # one pair is enough
        ((300, 300, 500, 100, 50), 3),
        ((300, 300, 600, 200, 150), 1),  # both must go
        ((10, 10, 10, 10, 830, 10, 60), 1),  # the small ones go with the large one that follows
        ((890, 1, 50), 1),
    ],
)
async def test_whole_oldest_pairs_go_and_no_more_than_must(
    engine: Engine, words: tuple[int, ...], left: int
) -> None:
    """System message and last message stay, and so do the newest pairs that fit."""
    engines = Engines(1000, engine)
    wish = chat(*words)
    found = await engines.trim(wish)
    assert found.messages == (SYSTEM, *wish.messages[-left:])
    assert found.dropped == len(words) - left


@pytest.mark.parametrize("number", [1, 2, 3, 7, 40, 200])
async def test_the_search_is_exact_and_short(number: int) -> None:
    """Whatever the lengths, one pair fewer would not have fitted; the counts grow as a logarithm."""
    engines = Engines(1000)
    words = [(place * 37) % 60 + 1 for place in range(2 * number)]
    wish = chat(*words, 400)
    found = await engines.trim(wish)
    cost = [count + 3 for count in words]
    gone = next(k for k in range(0, 2 * number + 1, 2) if sum(cost[k:]) + 4 + 403 + 100 <= 1000)
    assert found.dropped == gone
    assert len(engines.asked) <= 4 + number.bit_length()


async def test_two_questions_in_a_row_and_a_greeting_are_pairs_too() -> None:
    """A question without an answer goes alone; an answer without a question too; system messages never."""
    roles = ["assistant", "user", "user", "system", "assistant", "assistant", "user"]
    assert pairs(tuple(Message(role, "x") for role in roles)) == [[0], [1], [2, 4, 5]]
    assert pairs((Message("user", "x"),)) == []


@pytest.mark.parametrize(
    ("wish", "size", "window", "reserve"),
    [
        (chat(950), 957, 1000, 100),
        (chat(10, 10, 950), 957, 1000, 100),
        (chat(450, max_new=2048, reserve=2048), None, 1000, 500),
        (chat(600, max_new=2048, reserve=2048), 607, 1000, 500),
        (chat(100, window=120, reserve=30), 107, 120, 30),
    ],
)
async def test_what_must_stay_and_does_not_fit_is_a_400(
    wish: Wish, size: int | None, window: int, reserve: int
) -> None:
    """With all numbers that a client needs to see why. At most half of the context is kept for the answer."""
    engines = Engines(1000)
    if size is None:
        assert (await engines.trim(wish)).dropped == 0
        return
    with pytest.raises(RouterError) as caught:
        await engines.trim(wish)
    assert (caught.value.kind, caught.value.param) == (INVALID_PARAMETER, "messages")
    for number in (size, window, reserve):
        assert str(number) in caught.value.message


async def test_the_answer_is_cut_to_what_is_left_and_that_is_told() -> None:
    """A length beyond the reserve drops no turn; it is lowered."""
    found = await Engines(1000).trim(chat(100, 100, 100, max_new=900))
    assert (found.dropped, found.max_new) == (0, 1000 - 313)
    assert found.ignored == ("max_tokens;clamped=687",)


async def test_a_short_answer_needs_no_more_room_than_itself() -> None:
    """A client that asks for 10 tokens loses no turns for 100."""
    found = await Engines(1000).trim(chat(500, 300, 100, max_new=10))
    assert found.dropped == 0


async def test_the_operators_window_counts_where_it_is_smaller() -> None:
    """And where the engine does not tell its own."""
    wish = chat(100, 100, 100, window=250, reserve=50, max_new=50)
    for context in (1000, None):
        assert (await Engines(context).trim(wish)).dropped == 2
    assert (await Engines(200).trim(wish)).dropped == 2
    unknown = chat(900, 900, 900)
    assert await Engines(None).trim(unknown) is unknown


@pytest.mark.parametrize("engine", Engine)
async def test_without_a_template_the_text_is_counted(engine: Engine) -> None:
    """The engine refuses to template such a conversation, so what it will get as a text is counted."""
    engines = Engines(1000, engine, template=False)
    found = await engines.trim(chat(600, 200, 200))
    assert found.dropped == 2
    assert set(engines.asked) == {"/tokenize"}


async def test_an_engine_that_does_not_count_judges_itself() -> None:
    """The conversation goes out as it came."""
    engines = Engines(1000)
    engines.tells = False
    wish = chat(900, 900, 900)
    assert await engines.trim(wish) is wish


async def test_a_count_that_is_none_fails_the_attempt() -> None:
    """Another replica may know better."""
    engines = Engines(100)

    async def ask(outgoing: Outgoing) -> bytes | None:
        return b"{}"

    with pytest.raises(AttemptFailed) as caught:
        await Lengths().trim(chat(900), 100, engines.replica, DIALECTS[Engine.VLLM], ask)
    assert caught.value.end is attempt.JUNK


async def test_counts_belong_to_a_model_on_an_engine() -> None:
    """The same words are other tokens elsewhere."""
    engines = Engines(1000)
    wish = chat(300, 300, 300)
    await engines.trim(wish)
    before = len(engines.asked)
    engines.replica.served_name = "another"
    await engines.trim(wish)
    assert len(engines.asked) == 2 * before


async def test_nothing_but_messages_and_length_changes() -> None:
    """How the answer is made is the client's."""
    wish = structs.replace(chat(600, 300, 300), temperature=0.3, seed=5)
    found = await Engines(1000).trim(wish)
    assert structs.replace(found, messages=wish.messages, dropped=0) == wish


async def test_a_conversation_that_keeps_its_turns_loses_none() -> None:
    """A question about a text is nothing without the text; its answer is cut to what is left all the same."""
    engines = Engines(1000)
    wish = structs.replace(chat(300, 300, 200), keeps_turns=True, max_new=500)
    found = await engines.trim(wish)
    assert (found.messages, found.max_new) == (wish.messages, 1000 - 813)
    with pytest.raises(RouterError, match="have 1013 tokens"):
        await engines.trim(structs.replace(chat(500, 300, 200), keeps_turns=True))
