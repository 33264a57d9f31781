"""Whether a text fits: counted by bytes, else by the engine, and what becomes of what does not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from pointsman import attempt
from pointsman.attempt import AttemptFailed
from pointsman.engines import DIALECTS
from pointsman.engines.base import Outgoing
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.generation import Wish
from pointsman.lengths import Lengths
from pointsman.replica import Endpoint, Engine, Facts, Replica

pytestmark = pytest.mark.anyio


class Engines:
    """A replica that counts words: a text of n words has n tokens, and on vLLM one before them."""

    def __init__(self, context: int | None = 100, engine: Engine = Engine.TGI, *, tells: bool = True) -> None:
        facts = Facts(("served",), max_total_tokens=context)
        self.replica = Replica("m-0", "m", engine, Endpoint("http", "h", 80), facts=facts)
        self.tells = tells
        self.asked: list[Outgoing] = []
        self._lengths = Lengths()

    async def fit(self, wish: Wish) -> Wish:
        return await self._lengths.fit(wish, self.replica, DIALECTS[self.replica.engine], self._ask)

    async def _ask(self, outgoing: Outgoing) -> bytes | None:
        self.asked.append(outgoing)
        if not self.tells:
            return None
        told = json.loads(outgoing.body)
        text = told.get("inputs", told.get("prompt"))
        words = [word + " " for word in text.split(" ")[:-1]] + [text.rsplit(" ", 1)[-1]]
        if self.replica.engine is Engine.VLLM:
            pieces = ["<bos>", *words]
            body: Any = {"tokens": list(range(len(pieces))), "token_strs": pieces}
        else:
            body, at = [], 0
            for number, word in enumerate(words):
                end = at + len(word.encode())
                body.append({"id": number, "text": word, "start": at, "stop": end})
                at = end
        return json.dumps(body).encode()


def text(words: int) -> str:
    return " ".join(["word"] * words)


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("prompt", ["x" * 42, "ש" * 21, "🚂" * 10 + "ab"])
async def test_what_fits_by_its_bytes_is_not_counted(engine: Engine, prompt: str) -> None:
    """No text has more tokens than bytes: 42 of them, 8 around them and 50 to come fit into 100."""
    engines = Engines(100, engine)
    wish = Wish(prompt=prompt, max_new=50)
    assert await engines.fit(wish) is wish
    assert engines.asked == []


@pytest.mark.parametrize("engine", Engine)
async def test_what_may_not_fit_is_counted_once(engine: Engine) -> None:
    """The engine's own tokenizer is asked once for a text, whatever else is asked of it."""
    engines = Engines(100, engine)
    wish = Wish(prompt=text(40), max_new=50)
    assert await engines.fit(wish) is wish
    assert await engines.fit(structs.replace(wish, max_new=55)) == structs.replace(wish, max_new=55)
    assert [outgoing.path for outgoing in engines.asked] == ["/tokenize"]
    await engines.fit(structs.replace(wish, prompt=text(41)))
    assert len(engines.asked) == 2


async def test_counts_belong_to_a_model_on_an_engine() -> None:
    """The same text is counted anew by another engine, under another name and for another model."""
    engines = Engines(100)
    wish = Wish(prompt=text(40), max_new=50)
    await engines.fit(wish)
    engines.replica.model_id = "other"
    await engines.fit(wish)
    engines.replica.facts = replace(engines.replica.facts, names=("elsewhere",))
    await engines.fit(wish)
    engines.replica.engine = Engine.VLLM
    await engines.fit(wish)
    assert len(engines.asked) == 4


async def test_old_counts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded; the counts used last stay."""
    monkeypatch.setattr("pointsman.lengths._KEPT", 2)
    engines = Engines(100)
    for words in (40, 41, 40, 42, 40, 41):
        await engines.fit(Wish(prompt=text(words), max_new=50))
    assert len(engines.asked) == 4
    assert len(engines._lengths) == 2


async def test_counts_are_kept_without_their_texts() -> None:
    """A thousand long prompts take no memory; one that was cut is cut alike when it comes again."""
    engines = Engines(600)
    cuts = [await engines.fit(Wish(prompt=text(700), max_new=50, first_tokens=512)) for _ in range(2)]
    assert cuts[0] == cuts[1]
    assert len(engines.asked) == 1
    assert text(10).strip() not in repr(vars(engines._lengths))


@pytest.mark.parametrize(("engine", "room"), [(Engine.TGI, 60), (Engine.VLLM, 59)])
async def test_a_length_beyond_the_context_is_lowered_and_told(engine: Engine, room: int) -> None:
    """Told by the client's own name for it, behind what is told already."""
    asked = Wish(prompt=text(40), max_new=87, clamps=True, length_name="max_tokens", ignored=("user",))
    got = await Engines(100, engine).fit(asked)
    assert (got.max_new, got.ignored) == (room, ("user", f"max_tokens;clamped={room}"))


async def test_a_length_is_lowered_to_one_at_least() -> None:
    """A prompt that leaves no room is refused, and the sentence holds the figures, not the prompt."""
    got = await Engines(100).fit(Wish(prompt=text(99), max_new=5, clamps=True))
    assert (got.max_new, got.ignored) == (1, ("max_new_tokens;clamped=1",))
    for clamps in (True, False):
        with pytest.raises(RouterError) as caught:
            await Engines(100).fit(Wish(prompt=text(100), max_new=5, clamps=clamps))
        assert (caught.value.kind, caught.value.param) == (INVALID_PARAMETER, "prompt")
        assert caught.value.message == (
            "The prompt has 100 tokens; this model takes 100, those of the answer included."
        )


async def test_tgis_rule() -> None:
    """What it would refuse is refused in its words; of a length above 1024 only 1024 must fit."""
    with pytest.raises(RouterError) as caught:
        await Engines(100).fit(Wish(prompt=text(40), max_new=61))
    assert (caught.value.kind, caught.value.param) == (INVALID_PARAMETER, "max_new_tokens")
    assert caught.value.message == (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 100. "
        "Given: 40 `inputs` tokens and 61 `max_new_tokens`"
    )
    got = await Engines(2000).fit(Wish(prompt=text(900), max_new=5000))
    assert (got.max_new, got.ignored) == (1100, ("max_new_tokens;clamped=1100",))
    with pytest.raises(RouterError, match="and 1024 `max_new_tokens`"):
        await Engines(2000).fit(Wish(prompt=text(977), max_new=5000))


async def test_without_a_length_as_much_as_fits() -> None:
    """TGI does so by itself; vLLM would stop after 16 tokens, so it is told."""
    short, long = Wish(prompt="x" * 80), Wish(prompt=text(40))
    tgi, vllm = Engines(100), Engines(100, Engine.VLLM)
    assert await tgi.fit(short) is short
    assert tgi.asked == []
    assert (await tgi.fit(long)).max_new == 60
    assert (await vllm.fit(long)).max_new == 59
    vllm.tells = False
    assert (await vllm.fit(Wish(prompt="x" * 10))).max_new == 100 - 10 - 8


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("prompt", ["x" * 512, "ש" * 256])
async def test_512_bytes_have_no_more_than_512_tokens(engine: Engine, prompt: str) -> None:
    """Nothing is cut and nobody is asked."""
    engines = Engines(4096, engine)
    wish = Wish(prompt=prompt, max_new=100, first_tokens=512)
    assert await engines.fit(wish) is wish
    assert engines.asked == []


@pytest.mark.parametrize(("engine", "kept"), [(Engine.TGI, 512), (Engine.VLLM, 511)])
async def test_a_long_prompt_keeps_its_first_tokens(engine: Engine, kept: int) -> None:
    """Those behind the 512th are cut and this is told; a second time it comes from memory."""
    engines = Engines(4096, engine)
    wish = Wish(prompt=text(600), max_new=100, first_tokens=512, clamps=True)
    for _ in range(2):
        got = await engines.fit(wish)
        assert got.prompt == "word " * kept
        assert (got.max_new, got.ignored) == (100, ("prompt;truncated=512",))
    assert len(engines.asked) == 1
    short = Wish(prompt=text(500), max_new=100, first_tokens=512, clamps=True)
    assert await engines.fit(short) == short


async def test_a_cut_prompt_may_fit_only_with_a_lower_length() -> None:
    """Both are told."""
    got = await Engines(600).fit(Wish(prompt=text(700), max_new=100, first_tokens=512, clamps=True))
    assert (got.max_new, got.ignored) == (88, ("prompt;truncated=512", "max_new_tokens;clamped=88"))


async def test_a_letter_cut_in_two_is_left_out() -> None:
    """A prompt ends on a whole letter; where the engine tells no places, bytes are counted."""
    lengths, facts = Lengths(), Facts(("served",), max_total_tokens=100)
    replica = Replica("m-0", "m", Engine.TGI, Endpoint("http", "h", 80), facts=facts)
    for ends, kept in (([1, 2, 3, 4, 5, 6], "ש"), ([0, 0, 0, 0, 0, 0], "ש"), ([0, 2, 4, 6], "שש")):
        tokens = [{"id": n, "text": "", "start": 0, "stop": end} for n, end in enumerate(ends)]
        body = json.dumps(tokens).encode()

        async def ask(outgoing: Outgoing, body: bytes = body) -> bytes:
            return body

        wish = Wish(prompt="שלום"[:1] * 3, max_new=1, first_tokens=3)
        got = await lengths.fit(wish, replica, DIALECTS[Engine.TGI], ask)
        assert got.prompt == kept
        lengths = Lengths()


async def test_the_last_tokens_of_a_prompt_count() -> None:
    """A prompt that the engine cuts needs room for what is left of it alone."""
    got = await Engines(100, Engine.VLLM).fit(Wish(prompt=text(300), max_new=80, last_tokens=20))
    assert (got.max_new, got.last_tokens, got.prompt) == (80, 20, text(300))
    endless = await Engines(100, Engine.VLLM).fit(Wish(prompt=text(300), last_tokens=20))
    assert endless.max_new == 80
    with pytest.raises(RouterError):
        await Engines(100, Engine.VLLM).fit(Wish(prompt=text(300), max_new=81, last_tokens=20))
    untold = Engines(100, Engine.VLLM, tells=False)
    assert (await untold.fit(Wish(prompt=text(300), last_tokens=20))).max_new == 80


async def test_an_unknown_context_leaves_it_to_the_engine() -> None:
    """Before the first health check nothing is known; only the first tokens can be cut."""
    engines = Engines(None)
    wish = Wish(prompt=text(4000), max_new=5000)
    assert await engines.fit(wish) is wish
    assert engines.asked == []
    got = await engines.fit(Wish(prompt=text(600), max_new=5, first_tokens=512))
    assert got.ignored == ("prompt;truncated=512",)


async def test_an_engine_that_does_not_count_judges_itself() -> None:
    """Where it has no good answer the wish stays, and the next call asks again."""
    engines = Engines(100, tells=False)
    for wish in (Wish(prompt=text(40), max_new=80), Wish(prompt=text(600), max_new=5, first_tokens=512)):
        assert await engines.fit(wish) is wish
    await engines.fit(Wish(prompt=text(40), max_new=80))
    assert len(engines.asked) == 3


@pytest.mark.parametrize("engine", Engine)
async def test_nonsense_for_a_count_is_the_engines_failure(engine: Engine) -> None:
    """It is no reason to cut or to refuse anything."""
    facts = Facts(("served",), max_total_tokens=100)
    replica = Replica("m-0", "m", engine, Endpoint("http", "h", 80), facts=facts)

    async def ask(outgoing: Outgoing) -> bytes:
        return b'{"what":1}'

    with pytest.raises(AttemptFailed) as caught:
        await Lengths().fit(Wish(prompt=text(40), max_new=80), replica, DIALECTS[engine], ask)
    assert caught.value.end is attempt.JUNK
