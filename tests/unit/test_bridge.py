"""One engine's answer in another API's words: what is said when, and how it ends."""

import json
from collections.abc import Callable

import pytest

from pointsman import attempt, sse
from pointsman.apis import tgi
from pointsman.apis.base import Reply, Writer
from pointsman.apis.openai import ChatWriter
from pointsman.apis.plain import PlainWriter
from pointsman.attempt import AttemptFailed
from pointsman.bridge import Bridge
from pointsman.call import Api, Call, Operation
from pointsman.engines.base import Seen, Source
from pointsman.engines.chat import ChatSource
from pointsman.engines.tgi_text import GenerateSource
from pointsman.engines.vllm_text import CompletionSource
from pointsman.generation import Delta, Finish, Tokens, Wish


class Script:
    """A source that says the deltas of a script, one for each event; its data are their numbers."""

    def __init__(self, *deltas: Delta | None, leaves: tuple[str, ...] = ()) -> None:
        self.tokens = Tokens(3, 2)
        self.leaves = leaves
        self.heeded: dict[bytes, bytes] = {}
        self._deltas = deltas

    def heed(self, headers: dict[bytes, bytes]) -> None:
        self.heeded = headers

    def read(self, data: bytes) -> Delta | None:
        return self._deltas[int(data)]

    def whole(self, body: bytes) -> Delta:
        delta = self._deltas[0]
        assert delta is not None
        return delta


class Plain:
    """A writer whose events are easily read."""

    def write(self, delta: Delta) -> bytes:
        return f"<{delta.text}>".encode() if delta.text else b""

    def end(self, tokens: Tokens) -> bytes:
        return b"<end %d %d>" % (tokens.prompt, tokens.completion)

    def whole(self, delta: Delta, tokens: Tokens) -> bytes:
        return json.dumps([delta.text, delta.finish and delta.finish.name, tokens.prompt]).encode()


def run(
    *deltas: Delta | None, leaves: tuple[str, ...] = (), wish: Wish | None = None
) -> list[tuple[Seen, str]]:
    """What each event is, and what is written for it, up to the terminal one."""
    bridge, told = Bridge(Script(*deltas, leaves=leaves), Plain(), wish or Wish(prompt="Hi")), []
    for number in range(len(deltas)):
        seen = bridge.look(b"%d" % number)
        told.append((seen, bridge.mend(b"").decode()))
        if seen.last:
            break
    return told


END = Delta(finish=Finish.END)
LAST = Delta(last=True)


def test_a_stream_is_written_as_it_comes() -> None:
    """An event without a text or a reason is quiet; the terminal one has what the writer says last."""
    assert run(Delta(""), None, Delta("a"), Delta(""), END, None, LAST) == [
        (Seen.QUIET, ""), (Seen.QUIET, ""), (Seen.CONTENT, "<a>"), (Seen.QUIET, ""), (Seen.CONTENT, ""),
        (Seen.QUIET, ""), (Seen.FINAL, "<end 3 2>"),
    ]  # fmt: skip


def test_one_event_may_be_all() -> None:
    """Text, reason and end together."""
    assert run(Delta("a", finish=Finish.LENGTH, last=True)) == [(Seen.FINAL, "<a><end 3 2>")]


def test_a_comment_says_nothing() -> None:
    """Events without data are not the source's."""
    bridge = Bridge(Script(), Plain(), Wish(prompt="Hi"))
    assert (bridge.look(b""), bridge.mend(b"")) == (Seen.QUIET, b"")


def test_an_end_without_anything_before_it_is_no_content() -> None:
    """The relay takes it for nonsense."""
    assert [seen for seen, _ in run(None, LAST)] == [Seen.QUIET, Seen.LAST]


def test_an_end_without_a_reason_is_a_cut() -> None:
    """A text that nobody ended is not told as whole."""
    with pytest.raises(AttemptFailed) as caught:
        run(Delta("a"), LAST)
    assert caught.value.end is attempt.TRUNCATED


def test_a_stop_sequence_that_the_engine_leaves_ends_the_stream() -> None:
    """Whatever the engine says behind it; text that may begin one waits."""
    assert run(Delta("aE"), Delta("N"), Delta("Dx"), Delta("y"), leaves=("END",)) == [
        (Seen.CONTENT, "<a>"),
        (Seen.QUIET, ""),
        (Seen.FINAL, "<end 3 2>"),
    ]
    assert run(Delta("aE"), END, LAST, leaves=("END",))[1] == (Seen.CONTENT, "<E>")


def test_a_stop_sequence_stays_where_the_api_has_it_so() -> None:
    """TGI's clients find it in their text."""
    wish = Wish(prompt="Hi", stop=("END",), keeps_stop=True)
    assert run(Delta("aENDx"), END, LAST, leaves=("END",), wish=wish)[0] == (Seen.CONTENT, "<aENDx>")


def test_a_bare_text_has_no_blanks_before_it() -> None:
    """And they are no content."""
    told = run(Delta(" "), Delta("\n a "), Delta(" b"), END, LAST, wish=Wish(prompt="Hi", bare=True))
    assert told[:3] == [(Seen.QUIET, ""), (Seen.CONTENT, "<a >"), (Seen.CONTENT, "< b>")]


def test_a_whole_answer() -> None:
    """Cut and stripped in the same way; the counts stand in its head."""
    delta = Delta(" aENDx", finish=Finish.LENGTH)
    bridge = Bridge(Script(delta, leaves=("END",)), Plain(), Wish(prompt="Hi", bare=True))
    bridge.heed({b"x": b"y"})
    assert json.loads(bridge.whole(b"")) == ["a", "STOP", 3]
    assert bridge.headers == b"x-prompt-tokens: 3\r\nx-generated-tokens: 2\r\n"
    assert bridge.mends
    assert json.loads(Bridge(Script(delta), Plain(), Wish(prompt="Hi")).whole(b"")) == [" aENDx", "LENGTH", 3]


def test_a_failure_is_the_sources_to_tell() -> None:
    """What it raises passes through, and nothing is written."""

    class Failing(Script):
        def read(self, data: bytes) -> Delta | None:
            raise AttemptFailed(attempt.ENGINE_ERROR)

    with pytest.raises(AttemptFailed) as caught:
        Bridge(Failing(), Plain(), Wish(prompt="Hi")).look(b"0")
    assert caught.value.end is attempt.ENGINE_ERROR


def frames(*payloads: dict[str, object]) -> bytes:
    """Events as engines write them, Hebrew unescaped."""
    return b"".join(b"data: %b\n\n" % json.dumps(one, ensure_ascii=False).encode() for one in payloads)


_WISH = Wish(prompt="Hi", tells_tokens=True)
_TGI = frames(
    {"index": 1, "token": {"id": 1, "text": "של", "special": False}},
    {"index": 2, "token": {"id": 2, "text": "", "special": False}},
    {"index": 3, "token": {"id": 3, "text": "ו🚂", "special": False}, "generated_text": "שלו🚂"},
)
_VLLM = frames(
    {
        "choices": [
            {"text": "של", "delta": {"content": "של"}, "token_ids": [1], "logprobs": {"tokens": ["של"]}}
        ]
    },
    {"choices": [{"text": "ו🚂", "delta": {"content": "ו🚂"}, "token_ids": [2, 3], "finish_reason": "stop"}]},
)
_DONE = b"data: [DONE]\n\n"
_SOURCES: dict[str, tuple[Callable[[], Source], bytes]] = {
    "tgi": (lambda: GenerateSource(_WISH), _TGI),
    "vllm": (lambda: CompletionSource(_WISH), _VLLM + _DONE),
    "chat": (ChatSource, _VLLM + _DONE),
}
_REPLY = Reply("id", "m", "m", 0, lambda: 0.0)
_CALL = Call(Api.OPENAI, Operation.CHAT, "m", stream=True)
_WRITERS: dict[str, Callable[[], Writer]] = {
    "tgi": lambda: tgi.Writer(tgi.Form(details=True)),
    "openai": lambda: ChatWriter(_CALL, _REPLY),
    "plain": lambda: PlainWriter(lambda said: {"text": said.text}, _REPLY),
}


def through(source: str, writer: str, parts: list[bytes]) -> bytes:
    bridge = Bridge(_SOURCES[source][0](), _WRITERS[writer](), _WISH)
    splitter, said = sse.Splitter(), b""
    for part in parts:
        for event in sse.events(splitter.feed(part)):
            bridge.look(sse.data(event))
            said += bridge.mend(b"")
    return said


@pytest.mark.parametrize("writer", _WRITERS)
@pytest.mark.parametrize("source", _SOURCES)
def test_a_stream_may_be_cut_at_every_byte(source: str, writer: str) -> None:
    """In the middle of a Hebrew letter too: the same events come out, whole, with the same text."""
    data = _SOURCES[source][1]
    expected = through(source, writer, [data])
    assert "של".encode() in expected
    assert "ו🚂".encode() in expected
    for cut in range(1, len(data)):
        assert through(source, writer, [data[:cut], data[cut:]]) == expected, cut
    assert through(source, writer, [data[at : at + 1] for at in range(len(data))]) == expected
