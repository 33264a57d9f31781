"""Seed 004's chat: what it takes, what the engine is asked, and how it answers (`contracts/seeds.md` 5)."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from pointsman import errors
from pointsman.apis import writer_of
from pointsman.apis.base import Reply
from pointsman.call import Api, Call, Operation
from pointsman.errors import RouterError
from pointsman.generation import Delta, Finish, Message, Tokens, Wish
from pointsman.language import Language
from pointsman.sessions import Sessions
from pointsman.sse import data
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.plg import DEFAULTS, SYSTEM_PROMPTS, Plg, PlgConfig, safe

USER = [{"role": "user", "content": "Hi"}]


def decode(config: PlgConfig = DEFAULTS, sessions: Sessions | None = None, **body: Any) -> Call:
    raw = json.dumps({"messages": USER, **body}).encode()
    return Plg(config, sessions).decode(Operation.CHAT, read_fields(raw), raw, stream=False)


def wish(config: PlgConfig = DEFAULTS, **body: Any) -> Wish:
    found = decode(config, **body).wish
    assert found is not None
    return found


def refused(**body: Any) -> str:
    with pytest.raises(RouterError) as caught:
        decode(**body)
    status, told = Plg().error(caught.value, "id")
    assert status == 400
    detail: str = json.loads(told)["detail"]
    return detail


def test_defaults_are_the_seeds() -> None:
    """It streams, with the seed's length and sampling, and half a context at most is kept free."""
    call = decode()
    assert (call.api, call.stream, call.model) == (Api.PLAIN, True, None)
    found = wish()
    assert (found.max_new, found.temperature, found.top_p, found.sampling) == (2048, 0.7, 0.9, True)
    assert (found.reserve, found.window, found.clamps, found.ignored) == (2048, None, True, ())


def test_what_the_seed_ignored_is_honoured() -> None:
    """`temperature`, `max_tokens`, `stream` and the model; temperature 0 is the likeliest token."""
    found = wish(temperature=1.5, max_tokens=7)
    assert (found.temperature, found.max_new) == (1.5, 7)
    assert wish(temperature=0).sampling is False
    assert decode(stream=False).stream is False
    assert decode(stream=None).stream is True
    assert decode(model="m").model == "m"


def test_the_operators_defaults_count() -> None:
    """Settings are for calls that do not say; a call's own null says nothing."""
    config = PlgConfig(9, 0.0, 1.0, 4096, 100)
    found = wish(config, temperature=None, max_tokens=None)
    assert (found.max_new, found.sampling, found.top_p) == (9, False, None)
    assert (found.window, found.reserve) == (4096, 100)
    assert wish(config, temperature=0.5, max_tokens=3).max_new == 3


@pytest.mark.parametrize("content", ["  a\n\tb  ", "שלום\r\n", "\u2028x", "a\x00b"])
def test_content_stays_byte_exact(content: str) -> None:
    """Nothing is stripped: blanks before code are code."""
    assert wish(messages=[{"role": "user", "content": content}]).messages[-1].content == content


@pytest.mark.parametrize(
    ("more", "content", "language"),
    [
        ({}, "מה שלומך?", Language.HEBREW),
        ({}, "How are you?", Language.ENGLISH),
        ({}, "תקן: def f(x)", Language.HEBREW),
        ({}, "What does the word שלום mean in everyday English?", Language.ENGLISH),
        ({}, "1234?", Language.ENGLISH),
        ({"language": "he"}, "How are you?", Language.HEBREW),
        ({"language": "Hebrew"}, "How are you?", Language.HEBREW),
        ({"language": "en-US"}, "מה שלומך?", Language.ENGLISH),
        ({"language": None}, "מה שלומך?", Language.HEBREW),
    ],
)
def test_a_system_prompt_is_put_before(more: dict[str, Any], content: str, language: Language) -> None:
    """By `language`, else by the letters of the last message."""
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    found = wish(messages=[*messages, {"role": "user", "content": content}], **more)
    assert found.messages[0] == Message("system", SYSTEM_PROMPTS[language])
    assert len(found.messages) == 4
    assert found.ignored == ()


def test_the_clients_own_system_message_is_kept() -> None:
    """The seed replaced it; ours puts none beside it, and says that `language` had no effect."""
    own = [{"role": "system", "content": "Be brief."}, *USER]
    assert wish(messages=own).messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert wish(messages=own, language="he").ignored == ("language",)


def test_messages_of_one_speaker_in_a_row_all_stay() -> None:
    """The seed kept only the last of them."""
    found = wish(messages=[*USER, {"role": "user", "content": "again"}])
    assert [turn.content for turn in found.messages[1:]] == ["Hi", "again"]


def test_what_is_not_understood_is_told() -> None:
    """A language we have no prompt in, tools, and fields from elsewhere."""
    told = wish(language="fr", use_mcp=True, top_k=5).ignored
    assert set(told) == {"language", "use_mcp", "top_k"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"messages": None}, "`messages` must be a list"),
        ({"messages": []}, "`messages` must hold at least one message."),
        ({"messages": "x"}, "`messages` must be a list"),
        ({"messages": [{"type": "user", "content": "x"}]}, "`messages` must be a list of objects"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "`messages[0].role` must be system, user or"),
        ({"messages": [*USER, {"role": "user", "content": " \n"}]}, "`messages[1].content` must be a string"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "`messages` must be a list of objects"),
        ({"messages": [*USER, {"role": "assistant", "content": "x"}]}, "`messages` must end with a message"),
        ({"messages": [{"role": "system", "content": "x"}]}, "`messages` must end with a message"),
        ({"session_id": 5}, "`session_id` must be a string."),
        ({"stream": "yes"}, "`stream` must be true or false."),
        ({"temperature": 2.5}, "`temperature` must be a number from 0 to 2."),
        ({"temperature": True}, "`temperature` must be a number"),
        ({"max_tokens": 0}, "`max_tokens` must be a whole number from 1"),
        ({"max_tokens": -5}, "`max_tokens` must be a whole number from 1"),
        ({"language": 1}, "`language` must be a string."),
    ],
)
def test_a_bad_body_is_a_400_that_names_what_is_wrong(body: dict[str, Any], sentence: str) -> None:
    """Never 422, and `detail` is a string, which clients show as it is."""
    assert refused(**body).startswith(sentence)


def test_every_error_about_a_body_is_a_400() -> None:
    """An engine's own 422 too; a size keeps its own status."""
    surface = Plg()
    assert surface.error(RouterError(errors.ENGINE_REJECTED, status=422), "id")[0] == 400
    assert surface.error(RouterError(errors.MALFORMED_JSON), "id")[0] == 400
    assert surface.error(RouterError(errors.BODY_TOO_LARGE), "id")[0] == 413
    assert surface.error(RouterError(errors.NO_REPLICA), "id")[0] == 503


@pytest.mark.parametrize(
    "session",
    ["chat_1754212345678_k3x9", "שיחה", "a\r\nset-cookie: x=1", "x" * 200, "a b", "é", "\x00", "🚂", "a.b"],
)
def test_a_session_is_told_in_a_safe_form(session: str) -> None:
    """The header has no sign that could end it; the same name gives the same header, another another."""
    lines = decode(session_id=session).lines
    assert re.fullmatch(rb"x-session-id: [A-Za-z0-9_-]{1,128}\r\n", lines)
    assert lines == decode(session_id=session).lines
    assert safe(session) != safe(session + "x")


@given(session=st.text())
def test_no_session_can_add_a_line_to_the_head(session: str) -> None:
    """Whatever it is called."""
    assert re.fullmatch("[A-Za-z0-9_-]{1,128}", safe(session))


def test_a_fit_session_stays_as_it_is() -> None:
    """The interface's own ids come back."""
    assert decode(session_id="chat_1754212345678_k3x9").lines == b"x-session-id: chat_1754212345678_k3x9\r\n"


@pytest.mark.parametrize("session", [None, ""])
def test_a_session_is_made_where_none_is_given(session: str | None) -> None:
    """`chat_` and 12 hex digits, a new one each time, and the frame names it too."""
    one, other = decode(session_id=session), decode(session_id=session)
    matched = re.fullmatch(rb"x-session-id: (chat_[0-9a-f]{12})\r\n", one.lines)
    assert matched is not None
    assert one.lines != other.lines
    assert said(one)[-2] == {"type": "done", "session_id": matched[1].decode()}


def said(call: Call, *texts: str) -> list[Any]:
    """The frames of a stream."""
    writer = writer_of(call, Reply("id", "m", "m", 0, lambda: 0.0))
    events = b"".join([writer.write(Delta(text)) for text in texts]) + writer.end(Tokens(3, 2))
    frames = [data(event + b"\n\n") for event in events.split(b"\n\n") if event]
    return [json.loads(frame) if frame != b"[DONE]" else "[DONE]" for frame in frames]


def test_frames_are_for_every_known_reader() -> None:
    """`type`, `content` and `choices` together; then `done`, which holds no text; then `[DONE]`."""
    piece, done, last = said(decode(session_id="שיחה\n"), " a\n")
    choices = [{"index": 0, "delta": {"content": " a\n"}, "finish_reason": None}]
    assert piece == {"type": "content", "content": " a\n", "choices": choices}
    assert (done, last) == ({"type": "done", "session_id": "שיחה\n"}, "[DONE]")


def test_a_whole_answer_has_the_same_facts() -> None:
    """Session and content, with OpenAI's choices and the engine's counts beside."""
    writer = writer_of(decode(stream=False, session_id="s"), Reply("id", "m", "m", 0, lambda: 0.0))
    found = json.loads(writer.whole(Delta(" a", finish=Finish.LENGTH), Tokens(3, 2)))
    assert (found["session_id"], found["content"], found["finish_reason"]) == ("s", " a", "length")
    assert found["choices"][0]["message"] == {"role": "assistant", "content": " a"}
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_an_error_within_a_stream_is_a_string_and_done_comes_last() -> None:
    """The client shows `error` as it is, and waits for `[DONE]`."""
    first, last = [
        data(e + b"\n\n") for e in Plg().error_frame(RouterError(errors.ENGINE_CUT), "r").split(b"\n\n")[:2]
    ]
    assert json.loads(first)["error"] == errors.ENGINE_CUT.message
    assert last == b"[DONE]"


def test_sessions_are_counted_by_good_calls() -> None:
    """A bad body is no conversation."""
    sessions = Sessions()
    decode(sessions=sessions, session_id="a")
    decode(sessions=sessions, session_id="b")
    decode(sessions=sessions, session_id="a")
    with pytest.raises(RouterError):
        decode(sessions=sessions, session_id="c", messages=[])
    assert sessions.active(0.0) == 2


def test_the_call_changes_nothing_of_the_wish_but_what_is_said() -> None:
    """Two calls that differ in their session ask the engine the same."""
    assert structs.asdict(wish(session_id="a")) == structs.asdict(wish(session_id="b"))
