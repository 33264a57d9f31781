"""The PII filter: what it refuses, what it takes out of a call and out of its answer."""

import json
from itertools import pairwise
from typing import Any

import pytest

from pointsman.apis import wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.bridge import Bridge
from pointsman.call import Api, Call, Operation
from pointsman.engines.base import Seen
from pointsman.errors import PII_FOUND, UNSUPPORTED, ErrorKind, RouterError
from pointsman.generation import Delta, Finish, Tokens
from pointsman.pii import PiiMode, redact
from pointsman.screening import screened
from pointsman.surfaces.base import Surface, read_fields
from pointsman.surfaces.llm_service import LlmService
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.tgi import Tgi

MAIL = "dana@example.com"
SECRET = f"Mail {MAIL}, card 4111 1111 1111 1111, SSN 123-45-6789."
CLEAN = "Mail [EMAIL], card [CARD], SSN [SSN]."
REPLY = Reply("id", "m", "m", 0, lambda: 1.0)


def call_of(surface: Surface, operation: Operation, **body: object) -> Call:
    raw = json.dumps(body).encode()
    return surface.decode(operation, read_fields(raw), raw, stream=False)


def talk(*contents: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("system", "user"), contents, strict=True)]


CALLS = [
    (LlmService(), Operation.CHAT, "messages"),
    (OpenAI(), Operation.CHAT, "messages"),
    (LlmService(), Operation.GENERATE, "prompt"),
    (Tgi(), Operation.GENERATE, "inputs"),
    (Tgi(), Operation.COMPAT, "inputs"),
]


def ask(surface: Surface, operation: Operation, name: str, text: str) -> Call:
    body: dict[str, Any] = {name: talk(text, "Hi") if name == "messages" else text}
    return call_of(surface, operation, **({"model": "m", **body} if surface.name == "openai" else body))


def texts(call: Call) -> list[str]:
    wish = wish_of(call)
    return [wish.prompt, *[turn.content for turn in wish.messages]]


@pytest.mark.parametrize(("surface", "operation", "name"), CALLS)
def test_all_inputs_are_looked_at(surface: Surface, operation: Operation, name: str) -> None:
    """Every message counts, the system's too: rejected or rewritten; either way the answer is redacted."""
    call = ask(surface, operation, name, SECRET)
    assert screened(call, PiiMode.OFF) is call
    with pytest.raises(RouterError) as caught:
        screened(call, PiiMode.REJECT)
    assert caught.value.kind is PII_FOUND
    assert MAIL not in caught.value.message
    kept = screened(call, PiiMode.REDACT)
    assert texts(kept) == [redact(text) for text in texts(call)]
    assert CLEAN in texts(kept)
    assert [turn.role for turn in wish_of(kept).messages] == [turn.role for turn in wish_of(call).messages]
    for mode in (PiiMode.REJECT, PiiMode.REDACT):
        clean = screened(ask(surface, operation, name, "Hi"), mode)
        assert clean.wish is not None
        assert clean.wish.redacts


@pytest.mark.parametrize(
    ("surface", "operation", "body", "kind"),
    [
        (OpenAI(), Operation.EMBEDDING, {"model": "m", "input": ["a", MAIL]}, PII_FOUND),
        (OpenAI(), Operation.EMBEDDING, {"model": "m", "input": ["a"]}, None),
        (Tgi(), Operation.TOKENIZE, {"inputs": MAIL}, PII_FOUND),
        (Tgi(), Operation.CHAT_TOKENIZE, {"messages": [{"role": "user", "content": MAIL}]}, PII_FOUND),
        (OpenAI(), Operation.COMPLETION, {"model": "m", "prompt": "Hi"}, UNSUPPORTED),
        (Tgi(), Operation.GENERATE, {"inputs": "Hi", "parameters": {"details": True}}, UNSUPPORTED),
        (Tgi(), Operation.COMPAT, {"inputs": "Hi", "stream": True}, UNSUPPORTED),
        (OpenAI(), Operation.CHAT, {"model": "m", "messages": talk("a", "b"), "n": 2}, UNSUPPORTED),
        (Tgi(), Operation.INFO, {}, None),
    ],
)
@pytest.mark.parametrize("mode", [PiiMode.REJECT, PiiMode.REDACT])
def test_what_cannot_be_rewritten_is_refused(
    surface: Surface, operation: Operation, body: dict[str, Any], kind: ErrorKind | None, mode: PiiMode
) -> None:
    """Calls whose words or answers cannot be replaced are refused, in either mode; off, nothing is."""
    call = call_of(surface, operation, **body)
    assert screened(call, PiiMode.OFF) is call
    if kind is None:
        assert screened(call, mode) is call
        return
    with pytest.raises(RouterError) as caught:
        screened(call, mode)
    assert caught.value.kind is kind
    assert kind is PII_FOUND or "while the PII filter is on" in caught.value.message
    assert caught.value.param == ("n" if "n" in body else None)


class Pieces:
    """An engine that says one thing in pieces."""

    leaves: tuple[str, ...] = ()
    tokens = Tokens(1, 5)

    def __init__(self, *deltas: Delta) -> None:
        self._deltas = list(deltas)

    def heed(self, headers: dict[bytes, bytes]) -> None:
        """Nothing in them."""

    def read(self, data: bytes) -> Delta:
        return self._deltas.pop(0)

    def whole(self, body: bytes) -> Delta:
        return Delta(body.decode(), finish=Finish.END)


def bridge_to(call: Call, source: Pieces) -> Bridge:
    screened_call = screened(call, PiiMode.REDACT)
    return Bridge(source, writer_of(screened_call, REPLY), wish_of(screened_call))


@pytest.mark.parametrize("ends_apart", [False, True])
def test_answers_are_redacted_across_pieces(ends_apart: bool) -> None:
    """However the engine cuts its answer, the client hears the same, and all of it before the end."""
    call = ask(LlmService(), Operation.CHAT, "messages", "Hi")
    for size in (1, 2, 3, 7, 200):
        cuts = [*range(0, len(SECRET), size), len(SECRET)]
        deltas = [Delta(SECRET[start:end]) for start, end in pairwise(cuts)]
        ends = (
            [Delta(finish=Finish.END), Delta(last=True)]
            if ends_apart
            else [Delta(finish=Finish.END, last=True)]
        )
        bridge = bridge_to(call, Pieces(*deltas, *ends))
        out = b""
        seen = Seen.QUIET
        for _ in (*deltas, *ends):
            seen = bridge.look(b"x")
            out += bridge.mend(b"x")
        assert seen is Seen.FINAL
        frames = [
            json.loads(line[6:]) for line in out.splitlines() if line.startswith(b'data: {"type":"content"')
        ]
        assert "".join([frame["content"] for frame in frames]) == CLEAN
        assert MAIL.encode() not in out
        assert CLEAN.encode() in out.splitlines()[-4]  # the last frame has the whole answer


def test_whole_answers_are_redacted() -> None:
    """So are answers that come at once."""
    call = ask(LlmService(), Operation.CHAT, "messages", "Hi")
    answer = json.loads(bridge_to(call, Pieces()).whole(SECRET.encode()))
    assert answer["message"]["content"] == CLEAN
    assert call.api is Api.PLAIN
