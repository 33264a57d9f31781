"""Conversations are kept for their tenant alone, within bounds, and each turn once."""

from random import Random

import pytest

from pointsman.generation import Message
from pointsman.history import History, HistoryConfig
from pointsman.store.memory import MemoryStore

pytestmark = pytest.mark.anyio


def turn(number: int, size: int = 1) -> list[Message]:
    return [Message("user", f"question {number}"), Message("assistant", "x" * size)]


def history(**knobs: float) -> History:
    settings = {name: int(value) for name, value in knobs.items()}
    return History(MemoryStore(), HistoryConfig(armed=True, **settings))


async def test_nothing_is_kept_unless_it_is_armed() -> None:
    """By default sessions are empty and writing says that nothing is kept."""
    found = History(MemoryStore())
    assert not found.armed
    assert not await found.write("me", "session", "1", turn(1))
    assert await found.read("me", "session") == ()


async def test_a_conversation_is_read_as_it_was_written() -> None:
    """Turns in their order, each with all its messages."""
    found = history()
    assert await found.write("me", "session", "1", turn(1))
    assert await found.write("me", "session", "2", [Message("user", "שלום\n"), *turn(2)])
    assert await found.read("me", "session") == (*turn(1), Message("user", "שלום\n"), *turn(2))


async def test_a_retried_turn_is_kept_once() -> None:
    """The same turn under the same id does not appear twice."""
    found = history()
    for _ in range(3):
        assert await found.write("me", "session", "1", turn(1))
    assert await found.read("me", "session") == tuple(turn(1))


async def test_sessions_of_two_tenants_have_nothing_in_common() -> None:
    """The same name of a session, with newlines or in Hebrew, is another session for another tenant."""
    found = history()
    for name in ("user-123-chat", "a\nb", "שיחה", ""):
        await found.write("me", name, "1", turn(1))
        assert await found.read("you", name) == ()
        await found.write("you", name, "1", turn(2))
        assert await found.read("me", name) == tuple(turn(1))


async def test_the_oldest_turns_go_whole() -> None:
    """Beyond the bounds a session loses questions with their answers, never half of a turn."""
    found = history(turns=3)
    for number in range(10):
        await found.write("me", "session", str(number), turn(number))
    assert await found.read("me", "session") == (*turn(7), *turn(8), *turn(9))
    found = history(session_bytes=1000)
    for number in range(10):
        await found.write("me", "session", str(number), turn(number, 300))
    assert await found.read("me", "session") == (*turn(8, 300), *turn(9, 300))


async def test_a_turn_larger_than_a_session_is_not_kept() -> None:
    """It would push out all the others and itself; the conversation stays without it."""
    found = history(session_bytes=1000)
    await found.write("me", "session", "1", turn(1))
    assert not await found.write("me", "session", "2", turn(2, 2000))
    assert await found.read("me", "session") == tuple(turn(1))


async def test_a_forgotten_session_is_empty() -> None:
    """It can be taken away, once."""
    found = history()
    await found.write("me", "session", "1", turn(1))
    assert not await found.forget("you", "session")
    assert await found.forget("me", "session")
    assert not await found.forget("me", "session")
    assert await found.read("me", "session") == ()


async def test_no_tenant_ever_reads_anothers_words() -> None:
    """Ten thousand random reads and writes: every message read was written by that tenant in that session."""
    found, rng = history(sessions=20, turns=5), Random(7)
    for step in range(10_000):
        tenant, session = f"tenant {rng.randint(0, 4)}", f"session {rng.randint(0, 9)}"
        if rng.random() < 0.5:
            await found.write(tenant, session, str(step), [Message("user", f"{tenant}, {session}")])
        else:
            assert {said.content for said in await found.read(tenant, session)} <= {f"{tenant}, {session}"}


@pytest.mark.parametrize("knob", ["ttl_s", "sessions", "turns", "session_bytes", "bytes"])
async def test_a_wrong_knob_is_named(knob: str) -> None:
    """Bounds and times of nothing are mistakes."""
    with pytest.raises(ValueError, match=f"^{knob} of the history"):
        history(**{knob: 0})
