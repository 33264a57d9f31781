"""Seed 002's two routes: its bounds and defaults, its answers, its error bodies."""

import json
from typing import Any

import pytest

from pointsman import errors
from pointsman.apis import wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.call import Api, Call, Operation
from pointsman.errors import ALL_KINDS, ErrorKind, Owner, RouterError
from pointsman.generation import Delta, Finish, Message, Tokens
from pointsman.keys import Need
from pointsman.sse import data, events
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.llm_service import LlmService, LlmServiceConfig

GENERATE, CHAT = Operation.GENERATE, Operation.CHAT
PATHS = {GENERATE: "/v1/generate", CHAT: "/v1/chat"}
HELLO = [{"role": "user", "content": "Hi"}]
ASK: dict[Operation, dict[str, object]] = {GENERATE: {"prompt": "Hi"}, CHAT: {"messages": HELLO}}
REPLY = Reply("id", "m", "gemma-3-12b", 0, lambda: 1.25)


def decode(operation: Operation, config: LlmServiceConfig | None = None, **body: object) -> Call:
    raw = json.dumps(body).encode()
    return LlmService(PATHS[operation], config).decode(operation, read_fields(raw), raw, stream=False)


def ask(operation: Operation, **more: object) -> Call:
    return decode(operation, None, **{**ASK[operation], **more})


def refused(operation: Operation, **more: object) -> tuple[int, dict[str, Any]]:
    """Status and body of what a bad body gets."""
    with pytest.raises(RouterError) as caught:
        ask(operation, **more)
    return told(caught.value, operation)


def told(error: RouterError, operation: Operation = CHAT) -> tuple[int, dict[str, Any]]:
    status, body = LlmService(PATHS[operation]).error(error, "r1")
    found: dict[str, Any] = json.loads(body)
    return status, found


def said(operation: Operation, text: str, **more: object) -> dict[str, Any]:
    """The body of a whole answer."""
    writer = writer_of(ask(operation, **more), REPLY)
    found: dict[str, Any] = json.loads(writer.whole(Delta(text, finish=Finish.END), Tokens(2, 3)))
    return found


@pytest.mark.parametrize("operation", ASK)
def test_defaults_are_the_operators(operation: Operation) -> None:
    """What a call does not say comes from the section MODEL, whose defaults are the seed's."""
    wish = wish_of(ask(operation, max_tokens=None, temperature=None))
    assert (wish.max_new, wish.sampling, wish.temperature, wish.top_p, wish.top_k) == (
        512,
        True,
        0.7,
        0.9,
        50,
    )
    own = LlmServiceConfig(max_tokens=9, temperature=0, top_p=1, top_k=3)
    wish = wish_of(decode(operation, own, **ASK[operation]))
    assert (wish.max_new, wish.sampling, wish.temperature, wish.top_p, wish.top_k) == (
        9,
        False,
        None,
        None,
        3,
    )
    call = ask(operation)
    assert (call.api, call.operation, call.model, call.stream, call.session) == (
        Api.PLAIN,
        operation,
        None,
        False,
        None,
    )
    assert (wish.length_name, wish.clamps) == ("max_tokens", True)
    assert LlmService.need is Need.ALWAYS
    assert LlmService.prefers_chat


@pytest.mark.parametrize("operation", ASK)
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_tokens", [1, 2048], [0, 2049, 1.5, "9", True]),
        ("temperature", [0, 2], [-0.1, 2.1, "0"]),
        ("top_p", [0, 1], [-0.1, 1.1]),
        ("top_k", [1, 1000], [0, -1, 2.5]),
        ("stream", [True, False, None], [1, "true"]),
    ],
)
def test_bounds_are_the_seeds(operation: Operation, name: str, good: list[Any], bad: list[Any]) -> None:
    """The bounds themselves are taken; beyond them FastAPI's list names the field."""
    for value in good:
        ask(operation, **{name: value})
    for value in bad:
        status, body = refused(operation, **{name: value})
        assert (status, body["detail"][0]["loc"]) == (422, ["body", name])


def test_zero_is_the_likeliest_token() -> None:
    """Temperature 0 and top_p 0 mean greedy; neither is sent."""
    for more in ({"temperature": 0}, {"top_p": 0}):
        wish = wish_of(ask(GENERATE, **more))
        assert not wish.sampling
    assert wish_of(ask(GENERATE, temperature=0)).temperature is None


def test_a_prompt_is_continued() -> None:
    """`/v1/generate` gives the text without the prompt, the prompt, the model, true counts, `cached`."""
    assert wish_of(ask(GENERATE, prompt=" Once\n")).prompt == " Once\n"
    assert said(GENERATE, " upon", prompt="Once") == {
        "generated_text": " upon",
        "prompt": "Once",
        "model": "gemma-3-12b",
        "tokens_generated": 3,
        "cached": False,
    }
    for bad in ("", None, 7):
        status, body = refused(GENERATE, prompt=bad)
        assert (status, body["detail"][0]["loc"]) == (422, ["body", "prompt"])


def test_a_chat_is_answered() -> None:
    """`/v1/chat` gives the message, byte for byte."""
    turns = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert wish_of(ask(CHAT, messages=turns)).messages == (
        Message("system", "Be brief."),
        Message("user", "Hi"),
    )
    assert said(CHAT, "a\n\n  b ") == {
        "message": {"role": "assistant", "content": "a\n\n  b "},
        "model": "gemma-3-12b",
        "tokens_generated": 3,
        "cached": False,
    }


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        (None, []),
        ([], []),
        ("Hi", []),
        ([{"role": "user"}], []),
        ([{"role": "user", "content": ["Hi"]}], []),
        ([{"role": "tool", "content": "Hi"}, *HELLO], [0, "role"]),
        ([*HELLO, {"role": "user", "content": ""}], [1, "content"]),
        ([*HELLO, {"role": "assistant", "content": "Hello"}], []),
        ([{"role": "system", "content": "Hi"}], []),
    ],
)
def test_bad_conversations_are_named(messages: object, where: list[Any]) -> None:
    """The list says which message is wrong; the last must be the user's."""
    status, body = refused(CHAT, messages=messages)
    assert (status, body["detail"][0]["loc"]) == (422, ["body", "messages", *where])


def test_any_session_id_will_do() -> None:
    """Newlines, Hebrew and signs are a name as any other; an empty one is none; one too long is refused."""
    for name in ("user-123-chat", "שיחה 7", "a\r\nSet-Cookie: b", "\x00", "🚂" * 1024):
        assert ask(CHAT, session_id=name).session == name
    assert ask(CHAT, session_id="").session is None
    assert ask(CHAT, session_id=None).session is None
    for bad in (7, "x" * 1025):
        status, body = refused(CHAT, session_id=bad)
        assert (status, body["detail"][0]["loc"]) == (422, ["body", "session_id"])


def test_a_session_that_nobody_keeps_is_told() -> None:
    """Where the operator keeps no sessions, `session_id` is named among what is ignored."""
    raw = json.dumps({"messages": HELLO, "session_id": "s"}).encode()
    for remembers, told in ((True, ()), (False, ("session_id",))):
        surface = LlmService(remembers=remembers)
        assert wish_of(surface.decode(CHAT, read_fields(raw), raw, stream=False)).ignored == told


def test_only_the_new_turn_counts() -> None:
    """The limit of characters is the prompt's, and that of a conversation's last message; the seed's body."""
    old = [{"role": "user", "content": "x" * 9000}, {"role": "assistant", "content": "y" * 9000}]
    ask(CHAT, messages=[*old, {"role": "user", "content": "ש" * 4000}])
    ask(GENERATE, prompt="z" * 4000)
    for operation, body in (
        (CHAT, {"messages": [{"role": "user", "content": "ש" * 4100}]}),
        (GENERATE, {"prompt": "z" * 4100}),
    ):
        status, answer = refused(operation, **body)
        assert status == 400
        assert answer["error"] == "HTTP error"
        assert answer["path"] == PATHS[operation]
        assert answer["detail"] == {
            "error": "Prompt too long",
            "message": "Prompt must be at most 4000 characters",
            "current_length": 4100,
        }
    status, answer = refused(GENERATE, prompt="z" * 4100, max_tokens=0)
    assert status == 422  # as in the seed, fields come first


def test_what_is_not_known_is_told() -> None:
    """Unknown fields are named, as is one that belongs to the other route."""
    assert wish_of(ask(CHAT, user="u", prompt="p")).ignored == ("user", "prompt")
    assert wish_of(ask(GENERATE, session_id="s")).ignored == ("session_id",)


def test_a_stream_is_byte_exact() -> None:
    """Deltas come as JSON, each letter as the model said it, then the whole body, then `[DONE]`."""
    writer = writer_of(ask(CHAT, stream=True), REPLY)
    pieces = ["a", "\n", "\n  b", " \t", "שלום", '"\\', "\u2028", "🚂"]
    out = b"".join([writer.write(Delta(piece)) for piece in pieces])
    out += writer.write(Delta(finish=Finish.END)) + writer.end(Tokens(2, 9))
    found = [data(event) for event in events(out)]
    assert found[-1] == b"[DONE]"
    frames = [json.loads(one) for one in found[:-1]]
    assert [frame["content"] for frame in frames[:-1]] == pieces
    assert [frame["choices"][0]["delta"]["content"] for frame in frames[:-1]] == pieces
    last = frames[-1]
    assert (last["type"], last["message"]["content"], last["tokens_generated"]) == (
        "done",
        "".join(pieces),
        9,
    )


@pytest.mark.parametrize(
    ("kind", "status", "title"),
    [
        (errors.KEY_MISSING, 401, "Missing API key"),
        (errors.KEY_WRONG, 403, "Invalid API key"),
        (errors.KEY_FORBIDDEN, 403, "Key forbidden"),
        (errors.PII_FOUND, 400, "PII detected"),
        (errors.BODY_TOO_LARGE, 413, "Body too large"),
        (errors.ADDRESS_FORBIDDEN, 403, "Address forbidden"),
    ],
)
def test_refusals_have_the_seeds_body(kind: ErrorKind, status: int, title: str) -> None:
    """`error`, `detail` with `error` and `message`, and `path`, which is a path and no URL."""
    found, body = told(RouterError(kind), GENERATE)
    assert found == status
    assert body["error"] == "HTTP error"
    assert body["detail"] == {"error": title, "message": kind.message}
    assert body["path"] == "/v1/generate"


def test_a_limit_tells_when() -> None:
    """429 has `retry_after` in the body as well."""
    status, body = told(RouterError(errors.RATE_LIMITED, retry_after_s=6))
    assert (status, body["detail"]["error"], body["detail"]["retry_after"]) == (429, "Rate limit exceeded", 6)


def test_every_error_has_a_shape() -> None:
    """Each kind is JSON with our code; failures behind the router have the seed's shape of a 500."""
    for kind in ALL_KINDS:
        status, body = told(RouterError(kind))
        assert body["code"] == kind.code
        assert body["request_id"] == "r1"
        if kind.owner in (Owner.ENGINE, Owner.ROUTER) or kind is errors.OWN_TIMEOUT:
            assert status == kind.status
            assert body["error"] == "Failed to generate text"
            assert body["details"] == {"error": kind.message}
        elif status in (404, 405):  # a thing that is not known has more to its detail than a route
            detail = body["detail"]
            assert (detail["message"] if isinstance(detail, dict) else detail) == kind.message
        elif status == 422 and kind is not errors.UNKNOWN_FORM:
            assert isinstance(body["detail"], list)
        else:
            assert body["error"] == "HTTP error"
    frame = json.loads(data(LlmService().error_frame(RouterError(errors.ENGINE_CUT), "r1")))
    assert (frame["error"], frame["code"]) == (errors.ENGINE_CUT.message, "engine_cut")
