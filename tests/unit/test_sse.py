"""Framing of server-sent events: any cut of the bytes gives the same events, and none is torn."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman import sse
from pointsman.sse import EVENT_CAP_BYTES, Splitter

HEBREW = 'data: {"text":"שלום עולם"}'
LINE_ENDS = ["\n", "\r\n", "\r"]
LINES = st.sampled_from([b"data: x", b"data:{}", b": ping", b"event: e", b"data", b"id: 7", HEBREW.encode()])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream of events with every line end that the standard knows, blank lines in excess included."""
    parts = []
    for line in draw(st.lists(LINES, max_size=8)):
        parts += [line, b"".join(draw(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), max_size=4)))]
    return b"".join(parts)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def feed_all(chunks: list[bytes]) -> tuple[list[bytes], Splitter]:
    splitter = Splitter()
    return [block for chunk in chunks if (block := splitter.feed(chunk))], splitter


def payloads(stream: bytes) -> list[bytes]:
    """What a reader built by the book dispatches: one entry per event with data."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found: list[bytes] = []
    lines: list[bytes] = []
    for line in text.split(b"\n")[:-1]:
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            found.append(b"\n".join(lines))
            lines = []
    return found


def read_blocks(blocks: list[bytes]) -> list[bytes]:
    return [data for block in blocks for event in sse.events(block) if (data := sse.data(event))]


@given(streams(), st.lists(st.integers(0, 400), max_size=12))
def test_no_byte_is_lost_or_moved(stream: bytes, places: list[int]) -> None:
    """Whatever the cuts, the blocks and the partial event together are the stream."""
    blocks, splitter = feed_all(cut(stream, places))
    assert b"".join(blocks) + splitter.partial == stream


@given(streams(), st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same_events(stream: bytes, places: list[int]) -> None:
    """Events do not depend on how the network cut the bytes, and are those that the standard defines."""
    blocks, _ = feed_all(cut(stream, places))
    whole, _ = feed_all([stream])
    assert read_blocks(blocks) == read_blocks(whole) == payloads(stream)


@given(streams(), st.lists(st.integers(0, 400), max_size=12))
def test_a_block_ends_where_an_event_ends(stream: bytes, places: list[int]) -> None:
    """After each block the reader stands at the begin of an event: nothing it holds is unfinished."""
    splitter, seen = Splitter(), b""
    for chunk in cut(stream, places):
        block = splitter.feed(chunk)
        seen += block
        if block:
            lines = seen.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            assert lines.endswith(b"\n\n")


@pytest.mark.parametrize("end", LINE_ENDS)
def test_hebrew_survives_a_cut_at_every_byte(end: str) -> None:
    """Two-byte letters may be torn by the network, never by us, with each kind of line end."""
    event = (HEBREW + end + end).encode()
    for place in range(len(event) * 2):
        blocks, splitter = feed_all(cut(event * 2, [place]))
        assert b"".join(blocks) == event * 2
        assert [json.loads(data) for data in read_blocks(blocks)] == [{"text": "שלום עולם"}] * 2
        assert splitter.partial == b""


@pytest.mark.parametrize("end", LINE_ENDS)
def test_the_last_event_comes_at_once(end: str) -> None:
    """A terminal event is not held back for bytes that never come, whatever its line end."""
    done = ("data: [DONE]" + end + end).encode()
    assert Splitter().feed(done) == done


def test_one_byte_at_a_time() -> None:
    """The smallest chunks give exactly one block per event."""
    stream = b"data: a\n\n: c\n\ndata: b\r\n\r\ndata: c\r\r"
    blocks, _ = feed_all([stream[at : at + 1] for at in range(len(stream))])
    assert [b for b in blocks if b != b"\n"] == [b"data: a\n\n", b": c\n\n", b"data: b\r\n\r", b"data: c\r\r"]


def test_a_line_end_of_long_ago_ends_no_event() -> None:
    """The LF that may follow a CR is the next byte or none; later it is the end of a line alone."""
    splitter = Splitter()
    assert splitter.feed(b"data: a\r\r") == b"data: a\r\r"
    assert splitter.feed(b"data: b") == b""
    assert splitter.feed(b"\n") == b""
    assert splitter.feed(b"\n") == b"data: b\n\n"


@pytest.mark.parametrize("end", [end.encode() for end in LINE_ENDS])
def test_blank_lines_in_excess_are_no_events(end: bytes) -> None:
    """Before, between and behind events; each of those has its own blank line."""
    one, two = b"data: 1" + end * 2, b"data: 2" + end * 2
    block = end * 2 + one + end * 2 + two + end * 2
    assert [event.strip(b"\r\n") for event in sse.events(block)] == [b"data: 1", b"data: 2"]
    assert sse.events(one + two) == [one, two]
    assert sse.first_end(one + two) == len(one)
    assert sse.first_end(b"data: 1" + end) == len(b"data: 1" + end)


def test_whole_chunks_pass_without_a_copy() -> None:
    """A chunk of whole events comes out as the very object that went in."""
    chunk = b"data: a\n\ndata: b\n\n"
    assert Splitter().feed(chunk) is chunk


def test_events_over_the_cap_pass_and_framing_recovers() -> None:
    """A huge event flows on as it comes; the event after it is whole again."""
    huge = b"data: " + b"x" * (EVENT_CAP_BYTES + 100_000) + b"\n\n"
    splitter, sent, was_oversize = Splitter(), b"", False
    for start in range(0, len(huge), 65_536):
        sent += splitter.feed(huge[start : start + 65_536])
        was_oversize |= splitter.oversize
        assert len(splitter.partial) <= EVENT_CAP_BYTES
    assert was_oversize
    assert not splitter.oversize
    assert sent == huge
    assert splitter.feed(b"data: next\n") == b""
    assert splitter.feed(b"\n") == b"data: next\n\n"


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("cut_back", range(6))
def test_the_end_of_a_huge_event_may_be_torn(end: str, cut_back: int) -> None:
    """The blank line that ends an oversize event is found wherever the chunk ends."""
    huge = b"data: " + b"x" * (EVENT_CAP_BYTES + 10) + (end + end).encode()
    at = len(huge) - cut_back
    splitter = Splitter()
    sent = splitter.feed(huge[: EVENT_CAP_BYTES + 8]) + splitter.feed(huge[EVENT_CAP_BYTES + 8 : at])
    sent += splitter.feed(huge[at:])
    assert sent == huge
    assert not splitter.oversize


@pytest.mark.parametrize("byte", [b"x", b"\r\n", b"\n:"])
def test_cost_stays_linear_in_small_chunks(byte: bytes) -> None:
    """An event of nearly 1 MiB in 64-byte chunks costs about sixteen times one of 64 KiB, not 256 times."""

    def cost(size: int) -> float:
        splitter, chunk = Splitter(), byte.ljust(64, b"y")
        began = time.process_time()
        for _ in range(size // 64):
            splitter.feed(chunk)
        return time.process_time() - began

    small = min(cost(1 << 16) for _ in range(5))
    large = min(cost((1 << 20) - 64) for _ in range(3))
    assert large < 60 * small + 0.01


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b'data: {"a":1}\n\n', b'{"a":1}'),
        (b'data:{"a":1}\n\n', b'{"a":1}'),
        (b"data:  two\n\n", b" two"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"event: x\r\nid: 1\r\ndata: y\r\n\r\n", b"y"),
        (b": keep-alive\n\n", b""),
        (b":\n\n", b""),
        (b": data: no\n\n", b""),
        (b"database: no\n\n", b""),
        (b"\ndata: late\n\n", b"late"),
        (b"\n", b""),
        (b"", b""),
    ],
)
def test_data_of_an_event(event: bytes, data: bytes) -> None:
    """Data lines are joined by LF, one leading space is cut, other fields and comments count for nothing."""
    assert sse.data(event) == data


@given(streams())
def test_events_keep_every_line(stream: bytes) -> None:
    """Cutting a block into events loses blank lines at most."""
    joined = b"".join(sse.events(stream))
    assert joined.replace(b"\r", b"").replace(b"\n", b"") == stream.replace(b"\r", b"").replace(b"\n", b"")


def test_a_frame_is_one_event() -> None:
    """A JSON text comes back out of its frame."""
    assert sse.data(sse.frame(b'{"a":"\xd7\xa9"}')) == b'{"a":"\xd7\xa9"}'


def test_frames_hold_no_sign_that_a_line_reader_splits_at() -> None:
    """U+2028, U+2029 and U+0085 are escaped, and mean the same to a JSON reader."""
    text = "a\u2028b\u2029c\u0085dש"
    frame = sse.frame(json.dumps({"t": text}, ensure_ascii=False).encode())
    assert len(frame.decode().splitlines()) == 2
    assert json.loads(sse.data(frame)) == {"t": text}


def test_a_comment_carries_no_data() -> None:
    """Readers skip what we send to keep a connection open."""
    assert sse.comment("waiting") == b": waiting\n\n"
    assert sse.data(sse.comment("waiting")) == b""
