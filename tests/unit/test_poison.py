"""Requests that engines die of: two are hurt, no third is asked, and what did no harm is forgotten."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.call import Api, Call, Operation
from pointsman.generation import Message, Wish
from pointsman.poison import DEAD_WITHIN_S, ENTRIES, FREE, REFUSED, Poison, Ruling, digest_of

LASTS_S = 60.0
PROMPT = b"\x01" * 32
OTHER = b"\x02" * 32


def only(*replica_ids: str) -> Ruling:
    return Ruling(frozenset(replica_ids))


@pytest.fixture
def poison() -> Poison:
    return Poison(LASTS_S)


def test_one_engine_may_fail_over_anything(poison: Poison) -> None:
    """Engines die of many things; the request goes to another, as often as it comes."""
    for now in (0.0, 1.0, 2.0):
        poison.failed(PROMPT, "a", now)
    poison.died("a", 3.0)
    assert poison.ruling(PROMPT, 4.0) == FREE


def test_after_two_no_third_is_asked(poison: Poison) -> None:
    """Those two may be: should they live, it was not the request."""
    poison.failed(PROMPT, "a", 0.0)
    poison.failed(PROMPT, "b", 1.0)
    assert poison.ruling(PROMPT, 2.0) == only("a", "b")
    assert poison.ruling(OTHER, 2.0) == FREE


def test_clocks_need_not_begin_at_zero(poison: Poison) -> None:
    """What happens at one time is near, whatever the number of its seconds."""
    for name in ("a", "b"):
        poison.failed(PROMPT, name, 1e6)
        poison.died(name, 1e6 + DEAD_WITHIN_S)
    assert poison.ruling(PROMPT, 1e6 + DEAD_WITHIN_S) == REFUSED


def test_what_two_died_of_goes_to_nobody(poison: Poison) -> None:
    """Not to those two either, though they may have been started again."""
    poison.failed(PROMPT, "a", 0.0)
    poison.failed(PROMPT, "b", 1.0)
    poison.died("a", 2.0)
    assert poison.ruling(PROMPT, 2.0) == only("a", "b")
    poison.died("b", 2.5)
    assert poison.ruling(PROMPT, 3.0) == REFUSED


def test_who_is_found_dead_much_later_did_not_die_of_it(poison: Poison) -> None:
    """An engine that is stopped half a minute afterwards was stopped."""
    poison.failed(PROMPT, "a", 0.0)
    poison.failed(PROMPT, "b", 0.0)
    poison.died("a", DEAD_WITHIN_S)
    poison.died("b", DEAD_WITHIN_S + 0.1)
    poison.died("c", 1.0)
    assert poison.ruling(PROMPT, 20.0) == only("a", "b")


def test_a_death_is_not_taken_back_by_another_failure(poison: Poison) -> None:
    """The same engine, started again, failed once more."""
    poison.failed(PROMPT, "a", 0.0)
    poison.died("a", 1.0)
    poison.failed(PROMPT, "a", 5.0)
    poison.failed(PROMPT, "b", 6.0)
    poison.died("b", 7.0)
    assert poison.ruling(PROMPT, 8.0) == REFUSED


def test_a_good_answer_clears_it(poison: Poison) -> None:
    """Engines that fail over everything for a while do not make everything suspect for longer."""
    poison.failed(PROMPT, "a", 0.0)
    poison.failed(PROMPT, "b", 0.0)
    poison.cleared(PROMPT)
    poison.cleared(OTHER)
    assert poison.ruling(PROMPT, 1.0) == FREE
    assert len(poison) == 0


def test_it_is_forgotten_in_time(poison: Poison) -> None:
    """So long after the second engine failed; the table is empty then, and costs no request anything."""
    poison.failed(PROMPT, "a", 0.0)
    poison.failed(OTHER, "a", 1.0)
    poison.failed(PROMPT, "b", 30.0)
    assert poison.ruling(PROMPT, 89.9) == only("a", "b")
    assert len(poison) == 1
    assert poison.ruling(PROMPT, 90.0) == FREE
    assert len(poison) == 0


def test_the_same_two_failing_on_does_not_make_it_last(poison: Poison) -> None:
    """Two engines that fail over everything and live may not keep a request from all others for ever."""
    for now in (0.0, 20.0, 40.0, 59.0):
        poison.failed(PROMPT, "a", now)
        poison.failed(PROMPT, "b", now)
    assert poison.ruling(PROMPT, 59.9) == only("a", "b")
    assert poison.ruling(PROMPT, 60.0) == FREE


def test_the_operator_may_do_without() -> None:
    """With 0 nothing is remembered."""
    poison = Poison(0.0)
    poison.failed(PROMPT, "a", 0.0)
    assert len(poison) == 0


def test_the_table_has_a_bound(poison: Poison) -> None:
    """The death of an engine with very many requests pushes out what is oldest."""
    for number in range(ENTRIES + 10):
        poison.failed(number.to_bytes(32), "a", number / 1000)
    assert len(poison) == ENTRIES
    poison.failed((9).to_bytes(32), "b", 5.0)  # was pushed out: known of one engine alone
    poison.failed((11).to_bytes(32), "b", 5.0)
    assert poison.ruling((9).to_bytes(32), 5.0) == FREE
    assert poison.ruling((11).to_bytes(32), 5.0) == only("a", "b")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["failed", "died", "cleared", "ask"]),
            st.sampled_from("abcd"),
            st.sampled_from([PROMPT, OTHER]),
            st.floats(0, 10),
        ),
        max_size=60,
    )
)
def test_no_third_engine_is_ever_allowed(steps: list[tuple[str, str, bytes, float]]) -> None:
    """Whatever happens in which order: who fails is one that was allowed, so a prompt hurts two at most."""
    poison, now = Poison(1e9), 0.0
    hurt: dict[bytes, set[str]] = {PROMPT: set(), OTHER: set()}
    for what, replica_id, digest, wait in steps:
        now += wait
        allowed = poison.ruling(digest, now).only
        if what == "failed" and (allowed is None or replica_id in allowed):
            poison.failed(digest, replica_id, now)
            hurt[digest].add(replica_id)
        elif what == "died":
            poison.died(replica_id, now)
        elif what == "cleared":
            poison.cleared(digest)
            hurt[digest].clear()
        assert len(hurt[digest]) <= 2


def test_a_request_is_told_by_what_is_asked() -> None:
    """The model, the operation and each byte of the body; sent again, it is the same."""
    chat = Call(Api.OPENAI, Operation.CHAT, "gemma", body=b'{"messages":[]}')
    seen = {
        digest_of("gemma", chat),
        digest_of("gpt2", chat),
        digest_of("gemma", msgspec.structs.replace(chat, operation=Operation.COMPLETION)),
        digest_of("gemma", msgspec.structs.replace(chat, body=b'{"messages":[ ]}')),
    }
    assert len(seen) == 4
    assert digest_of("gemma", msgspec.structs.replace(chat, hides_usage=True)) in seen


def test_a_request_without_a_body_is_told_by_its_wish_or_fields() -> None:
    """APIs of no engine have a wish; a body that the router changes has fields."""
    wishes = [
        Wish(messages=(Message("user", "a"),), max_new=5),
        Wish(messages=(Message("user", "b"),), max_new=5),
        Wish(prompt="a", stop=("\n",), grammar=msgspec.Raw(b'{"type":"object"}')),
    ]
    calls = [Call(Api.PLAIN, Operation.GENERATE, None, wish=wish, shape=str) for wish in wishes]
    fields: list[dict[str, msgspec.Raw]] = [
        {"n": msgspec.Raw(b"1"), "m": msgspec.Raw(b"2")},
        {"n": msgspec.Raw(b"1,m:2")},
        {},
    ]
    calls += [Call(Api.OPENAI, Operation.CHAT, None, fields=one) for one in fields]
    assert len({digest_of("gemma", call) for call in calls}) == 6


def test_a_prompt_is_the_same_however_its_answer_is_asked_for() -> None:
    """Streamed or not, longer, hotter: an engine that died of it dies again. Another prompt is another."""
    fields = {"messages": msgspec.Raw(b'[{"role":"user"}]'), "stream": msgspec.Raw(b"true")}
    call = Call(Api.OPENAI, Operation.CHAT, None, fields=fields, body=b"1")
    again = {**fields, "stream": msgspec.Raw(b"false"), "max_tokens": msgspec.Raw(b"9")}
    other = {**fields, "messages": msgspec.Raw(b'[{"role":"tool"}]')}
    replace = msgspec.structs.replace
    assert digest_of("gemma", replace(call, fields=again, body=b"2")) == digest_of("gemma", call)
    assert digest_of("gemma", replace(call, fields=other)) != digest_of("gemma", call)
