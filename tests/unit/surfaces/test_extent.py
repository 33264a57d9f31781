"""The extent of a body: told alike of small ones at once and of large ones in steps."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import MALFORMED_JSON, RouterError
from pointsman.surfaces import extent
from pointsman.surfaces.base import read_fields, read_in_turns
from pointsman.surfaces.extent import CONTAINERS_MAX, DEPTH_MAX, STRINGS_MAX, VALUES_MAX
from pointsman.turns import at_once


def refusal(body: bytes) -> str:
    """What is said against a body."""
    with pytest.raises(RouterError) as caught:
        at_once(extent.measure(body))
    assert caught.value.kind is MALFORMED_JSON
    return caught.value.message


def listed(piece: str, times: int) -> bytes:
    """An object with a list of equal values."""
    return ('{"a":[' + ",".join([piece] * times) + "]}").encode()


def test_strings_are_counted_without_brackets_too() -> None:
    """One list of two million strings is no better than a million lists."""
    at_once(extent.measure(listed('""', STRINGS_MAX - 1)))  # the name is a string
    assert "500,000 strings" in refusal(listed('""', STRINGS_MAX))


def test_values_are_counted_and_commas_in_texts_are_not() -> None:
    """A text that is a table of numbers is one value, also in quotes and beside many strings."""
    at_once(extent.measure(listed("1", VALUES_MAX)))
    assert "2,000,000 values" in refusal(listed("1", VALUES_MAX + 1))
    table = "1,2," * 600_000 + '\\",\\"' * 200_000
    at_once(extent.measure(listed(f'"{table}","{table}"', 1)))
    at_once(extent.measure(listed('",,,,,"', STRINGS_MAX - 1)))
    assert "2,000,000 values" in refusal(listed('",1","\\",\\\\",' + "1,2,3,4,5,6,7", 240_000))


@pytest.mark.parametrize("word", ['\\"', '\\"\\\\', '\\\\\\"', "\\\\\\\\"])
def test_quotes_in_a_text_are_no_strings(word: str) -> None:
    """A text of escaped quotes is one string, however long, also where pieces of it are looked at."""
    times = 3_000_000 // len(word)
    body = '{"a":[' + "[]," * DEPTH_MAX + '"' + word * times + '","x' + word + '"]}'
    at_once(extent.measure(body.encode()))
    assert list(read_fields(body.encode())) == ["a"]


@given(st.text(alphabet='\\"[x', max_size=40), st.integers(1, 9))
def test_pieces_are_cut_between_escapes(words: str, size: int) -> None:
    """Taking the escapes out piece by piece gives what taking them out at once does."""
    body = json.dumps([words, words]).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extent, "_PIECE_BYTES", size)
        assert at_once(extent._bare_in_pieces(body)) == extent._bare(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (listed("[]", CONTAINERS_MAX), "100,000 objects and arrays"),
        (b'{"a":' + b"[" * 90_000, "64 levels"),
        (listed("{}", 2_000_000), "100,000 objects and arrays"),
        (listed('["]"]', 90_000), "strings with brackets"),
    ],
)
def test_large_bodies_are_bounded(body: bytes, says: str) -> None:
    """Depth and numbers, each by name."""
    assert says in refusal(body)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[%b]}' % b",".join([b'{"role":"user","content":"a"}'] * 9000),
        b'{"a":"%b","b":[1,2]}' % ("é" * 600_000).encode(),
        b'{"a":"%b"}' % (b"\xff" * 1_200_000),
        b'{"a":"%b"' % (b"x" * 1_200_000),
        b"[%b1]" % (b"1," * 600_000),
        b'{"a":%b1%b}' % (b"[" * 60_000, b"]" * 60_000),
        b"{%b}" % b",".join(b'"f%d":"%0900d"' % (n, n) for n in range(1200)),
        b'{"messages":[%b]}' % b",".join([b'{"role":"user","content":"a"}'] * 11_000),
    ],
    ids=["chat", "no ASCII", "no UTF-8", "no end", "no object", "deep", "fields", "messages"],
)
async def test_steps_read_as_one_does(body: bytes) -> None:
    """Whether others have their turn meanwhile makes no difference to what is read or refused."""

    async def outcome(in_turns: bool) -> object:
        try:
            return await read_in_turns(body) if in_turns else read_fields(body)
        except RouterError as error:
            return error.kind, error.message

    assert await outcome(in_turns=True) == await outcome(in_turns=False)
