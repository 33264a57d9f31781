"""Keys and seals: what keeps one tenant's values from another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.store.base import Shelf, digest, seal, seal_item, unseal, unseal_items

texts = st.text(st.characters(), max_size=20)


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_two_keys_are_equal_only_if_all_their_parts_are(one: list[str], other: list[str]) -> None:
    """No part runs into the next: ("ab", "c") and ("a", "bc") differ, newlines and Hebrew or not."""
    assert (digest(*one) == digest(*other)) == (one == other)
    assert len(digest(*one)) == 64


def test_a_key_is_made_of_any_text() -> None:
    """Newlines, Hebrew and halves of surrogate pairs make a key as any other."""
    assert len({digest(text) for text in ("a\nb", "שלום", "\ud800", "", "a b")}) == 5


@given(texts, texts, st.binary(max_size=100))
def test_a_seal_opens_for_its_owner_and_key(owner: str, key: str, value: bytes) -> None:
    """What was sealed is read again under the same owner and key, and under no other."""
    sealed = seal(owner, key, value)
    assert unseal(owner, key, sealed) == value
    assert unseal(owner + "x", key, sealed) is None
    assert unseal(owner, key + "x", sealed) is None


def test_a_value_that_was_cut_or_changed_is_none() -> None:
    """Any length short of the whole, and any changed byte, spoils the seal."""
    sealed = seal("me", "key", b"the whole answer")
    assert all(unseal("me", "key", sealed[:length]) is None for length in range(len(sealed)))
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert unseal("me", "key", bytes(changed)) is None


def test_one_foreign_item_spoils_a_list() -> None:
    """A conversation with another's turn in it is not shown in part."""
    mine = [seal_item("me", "key", f"turn {number}", b"%d" % number) for number in range(3)]
    assert unseal_items("me", "key", mine) == [b"0", b"1", b"2"]
    assert unseal_items("me", "key", []) == []
    assert unseal_items("me", "key", [*mine, seal_item("you", "key", "turn 3", b"3")]) is None
    assert unseal_items("me", "key", [mine[0][:10]]) is None


@pytest.mark.parametrize("bounds", [{"entries": 0}, {"entries": 100_001}, {"bytes": 0}])
def test_a_shelf_has_bounds(bounds: dict[str, int]) -> None:
    """A shelf without room, or with more than a script should walk, is refused by name."""
    with pytest.raises(ValueError, match="of the cache must be"):
        Shelf("cache", **bounds)
