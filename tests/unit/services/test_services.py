"""Seed 004's services: what the model is asked, and what becomes of what it says."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pointsman.apis import writer_of
from pointsman.apis.base import Reply
from pointsman.call import Call, Operation
from pointsman.conversation import repaired
from pointsman.engines import DIALECTS
from pointsman.errors import RouterError
from pointsman.generation import Delta, Misfit, Tokens, Wish
from pointsman.language import Language
from pointsman.replica import Endpoint, Engine, Facts, Replica
from pointsman.services import base, summary, tasks, title
from pointsman.services.summary import Summary
from pointsman.services.tasks import Tasks
from pointsman.services.title import FALLBACK, Title
from pointsman.surfaces.base import Surface, read_fields

MAILS = Path(__file__).parents[2] / "data" / "mails"
HEBREW = (MAILS / "hebrew.txt").read_text(encoding="utf-8")
ENGLISH = (MAILS / "english.txt").read_text(encoding="utf-8")
TASKS, SUMMARY, TITLE = Tasks(today=lambda: date(2025, 8, 5)), Summary(), Title()
TASK = {
    "sender": "נועה לוי",
    "sending_date": "2025-08-03",
    "assigned_to": "דן",
    "title": "חשבוניות יולי",
    "description": 'לשלוח את חשבוניות יולי, כולל אלה של "אור-ים בע"מ"',
    "due_date": "2025-08-06",
}
SUMMED = {
    "sender": "ruth@example.org",
    "sending_date": "2025-08-04T14:30:00",
    "title": "Move",
    "summary": "We move.",
}


def decode(surface: Surface, **body: object) -> Call:
    raw = json.dumps(body).encode()
    return surface.decode(Operation.CHAT, read_fields(raw), raw, stream=False)


def wish(surface: Surface, **body: object) -> Wish:
    found = decode(surface, **body).wish
    assert found is not None
    return found


def answer(surface: Surface, said: str, **body: object) -> Any:
    """What a client gets for what the model says."""
    writer = writer_of(decode(surface, **body), Reply("id", "m", "m", 0, lambda: 0.0))
    return json.loads(writer.whole(Delta(said), Tokens()))


def extracted(said: str) -> Any:
    return answer(TASKS, said, email_content=HEBREW)


def summed(said: str) -> Any:
    return answer(SUMMARY, said, email_content=ENGLISH)


def named(said: str, message: str = "How are you?") -> str:
    found: dict[str, str] = answer(TITLE, said, user_message=message)
    assert set(found) == {"title"}
    return found["title"]


@pytest.mark.parametrize(
    ("surface", "field"), [(TASKS, "email_content"), (SUMMARY, "email_content"), (TITLE, "user_message")]
)
def test_the_model_gets_instructions_and_the_text_as_it_came(surface: Surface, field: str) -> None:
    """Instructions in the language of the text, the likeliest answer, a schema for the engine to enforce."""
    for text, word in ((HEBREW, "JSON בלבד"), (ENGLISH, "JSON alone")):
        found = wish(surface, **{field: text})
        assert [turn.role for turn in found.messages] == ["system", "user"]
        assert word in found.messages[0].content
        assert found.messages[1].content == text
        assert (found.sampling, found.ignored, found.grammar_is_regex) == (False, (), False)
        assert found.grammar is not None
        assert json.loads(bytes(found.grammar))["type"] == "object"


@pytest.mark.parametrize("engine", Engine)
def test_each_engine_is_held_to_the_schema(engine: Engine) -> None:
    """vLLM by `response_format`, TGI by its grammar."""
    replica = Replica("m-0", "m", engine, Endpoint("http", "h", 80), facts=Facts(("served",)))
    sent = json.loads(DIALECTS[engine].ask(wish(TASKS, email_content="x"), replica, stream=False).body)
    told = sent["response_format"]
    schema = told["value"] if engine is Engine.TGI else told["json_schema"]["schema"]
    assert schema == tasks.SCHEMA
    assert told["type"] == ("json" if engine is Engine.TGI else "json_schema")


@pytest.mark.parametrize("schema", [tasks.SCHEMA, summary.SCHEMA, title.SCHEMA])
def test_schemas_leave_nothing_open(schema: dict[str, Any]) -> None:
    """Each field is required, so that no engine's decoder may leave one out."""
    assert list(schema["properties"]) == schema["required"]
    assert schema["additionalProperties"] is False


def test_today_is_told_for_relative_dates() -> None:
    """With the name of the day, in the language of the mail."""
    assert "2025-08-05 (יום שלישי)" in wish(TASKS, email_content=HEBREW).messages[0].content
    assert "2025-08-05 (Tuesday)" in wish(TASKS, email_content=ENGLISH).messages[0].content


@pytest.mark.parametrize(
    "form", ["{}", "```json\n{}\n```", "```\n{}\n```\n", "Here it is:\n{} \nGood luck!", "\ufeff{}"]
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_json_is_found_whatever_stands_around_it(form: str, wrapped: bool) -> None:
    """Fences, a sentence before, a newline after: each of them was a 500 of the seed's."""
    said = json.dumps({"tasks": [TASK]} if wrapped else [TASK], ensure_ascii=False)
    assert extracted(form.replace("{}", said)) == [TASK]


def test_json_is_found_behind_thoughts_and_false_starts() -> None:
    """A model that thinks aloud writes braces of its own; the first JSON of the wanted form counts."""
    said = '<think>{"tasks": [{"title": "wrong"}]}</think>As [1] says {see}: {"tasks": []}'
    assert extracted(said) == []


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [
        ("assigned_to", "", False),
        ("assigned_to", None, False),
        ("title", "none", False),
        ("description", "NULL", False),
        ("description", " N/A ", False),
        ("assigned_to", "אין", False),
        ("sender", None, True),
        ("due_date", "unspecified", True),
        ("title", 5, False),
    ],
)
def test_a_task_without_its_essentials_is_none(field: str, value: object, kept: bool) -> None:
    """Without a person, a title or a description it is dropped; anything else may be null."""
    found = extracted(json.dumps({"tasks": [{**TASK, field: value}]}))
    assert found == ([{**TASK, field: None}] if kept else [])


def test_fields_that_are_missing_are_null_and_others_are_left_out() -> None:
    """The answer has the fields of the schema, whatever the model adds or forgets."""
    said = {"assigned_to": "Tom", "title": " Trucks ", "description": "Book two", "mood": "good"}
    empty = {"sender": None, "sending_date": None, "due_date": None}
    expected = {**empty, "assigned_to": "Tom", "title": "Trucks", "description": "Book two"}
    assert extracted(json.dumps([said])) == [expected]


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2025-08-06", "2025-08-06"),
        ("06-08-2025", "2025-08-06"),
        ("6.8.2025", "2025-08-06"),
        ("06/08/2025", "2025-08-06"),
        ("2025-08-06T10:00:00+03:00", "2025-08-06"),
        ("2025-08-06 10:00", "2025-08-06"),
        ("Wed, 6 Aug 2025 10:00:00 +0300", "2025-08-06"),
        ("2025-02-30", None),
        ("31/02/2025", None),
        ("next Wednesday", None),
        ("מחר", None),
        ("٢٠٢٥-٠٨-٠٦", None),
        ("Mon, 99999999999 Aug 2025 10:00:00", None),
    ],
)
def test_a_due_date_is_a_day_or_null(written: str, day: str | None) -> None:
    """Free text in place of a date does not spoil the others, as it did with the seed."""
    (found,) = extracted(json.dumps([{**TASK, "due_date": written}]))
    assert found["due_date"] == day


@pytest.mark.parametrize(
    "said", ["", "No tasks.", '{"tasks": [', '{"tasks": 5}', "[1, 2]", '{"tasks": ["x"]}', "[" * 5000]
)
def test_what_is_no_list_of_tasks_is_a_misfit(said: str) -> None:
    """It names the fault to the model and holds nothing of the mail for the log."""
    with pytest.raises(Misfit) as caught:
        extracted(said)
    assert caught.value.fault == "no list of tasks"
    assert "no list of tasks" in caught.value.told
    assert str(caught.value) == caught.value.fault


@pytest.mark.parametrize(
    ("sender", "address"),
    [
        ("ruth@example.org", "ruth@example.org"),
        ("Ruth Amsel <ruth@example.org>", "ruth@example.org"),
        ("Ruth Amsel", None),
        ("ruth@localhost", None),
        (None, None),
        (7, None),
    ],
)
def test_the_sender_of_a_summary_is_an_address_or_null(sender: object, address: str | None) -> None:
    """A sender without an address is no error, as it was with the seed."""
    assert summed(json.dumps({**SUMMED, "sender": sender})) == {**SUMMED, "sender": address}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("2025-08-04T14:30:00", "2025-08-04T14:30:00"),
        ("2025-08-04", "2025-08-04"),
        ("Mon, 4 Aug 2025 14:30:00 +0300", "2025-08-04T14:30:00+03:00"),
        ("Monday", None),
        (None, None),
    ],
)
def test_the_date_of_a_summary_has_its_time_where_it_has_one(written: str | None, told: str | None) -> None:
    """ISO 8601, or null."""
    assert summed(json.dumps({**SUMMED, "sending_date": written}))["sending_date"] == told


@pytest.mark.parametrize("said", ["{}", '{"title": "x"}', '{"summary": "x", "title": ""}', "[]", "x"])
def test_a_summary_without_title_or_summary_is_a_misfit(said: str) -> None:
    """Either is what the client came for."""
    with pytest.raises(Misfit):
        summed(said)


def test_half_a_character_does_no_harm() -> None:
    """JSON can name a lone surrogate, which no UTF-8 can hold."""
    assert summed('{"title": "a\\ud800", "summary": "b"}')["title"] == "a?"


@pytest.mark.parametrize("length", [20, 5000, None])
def test_the_length_of_a_summary_is_told_to_the_model(length: int | None) -> None:
    """In characters, 100 where none is given."""
    instructions = wish(SUMMARY, email_content="x", length=length).messages[0].content
    assert f" {length or 100} characters" in instructions


@pytest.mark.parametrize("length", [-5, 0, 19, 5001, 1.5, "100", True])
def test_a_length_out_of_bounds_is_refused(length: object) -> None:
    """The seed took -5."""
    with pytest.raises(RouterError, match="`length` must be a"):
        decode(SUMMARY, email_content="x", length=length)


@pytest.mark.parametrize(
    ("surface", "field"), [(TASKS, "email_content"), (SUMMARY, "email_content"), (TITLE, "user_message")]
)
@pytest.mark.parametrize("value", ["", " \n", None, 5, ["x"]])
def test_a_text_that_is_none_is_a_400(surface: Surface, field: str, value: object) -> None:
    """The seed answered 500."""
    with pytest.raises(RouterError) as caught:
        decode(surface, **{field: value})
    status, body = surface.error(caught.value, "id")
    assert status == 400
    assert json.loads(body)["detail"].startswith(f"`{field}` must be a string")


@pytest.mark.parametrize(
    ("said", "title_"),
    [
        ('{"title": "Train times"}', "Train times"),
        ('```json\n{"title": "Train times"}\n```', "Train times"),
        ("Train times", "Train times"),
        ('"Train times."\n\nShall I go on?', "Train times"),
        ("\n\n**Train\ttimes**", "Train times"),
        ('{"title": "one two three four five six seven"}', "one two three four five six"),
        ('{"title": "a\\nb\\u2028c"}', "a b c"),
        ('{"title": "שאלה על רכבות!"}', "שאלה על רכבות"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_title_is_a_few_words_on_one_line(said: str, title_: str) -> None:
    """At most six words and 80 characters, without quotes and full stops, from JSON or plain words."""
    assert named(said) == title_


@pytest.mark.parametrize(
    "said", ["", "...", '{"title": ""}', '{"title": "none"}', '{"name": "x"}', '{"title": "a', "```"]
)
def test_no_title_is_a_misfit(said: str) -> None:
    """Half an object is no title."""
    with pytest.raises(Misfit):
        named(said)


def test_a_title_has_an_answer_for_when_there_is_none() -> None:
    """In the language of the message; the other services have none and answer an error."""
    for message, language in (("שלום", "he"), ("Hello", "en")):
        otherwise = decode(TITLE, user_message=message).otherwise
        assert otherwise is not None
        assert json.loads(otherwise) == {"title": {str(k): v for k, v in FALLBACK.items()}[language]}
    assert decode(TASKS, email_content="x").otherwise is None


def test_a_long_first_message_is_cut() -> None:
    """Its beginning tells what it is about, and a title shall not fail for its length."""
    assert len(wish(TITLE, user_message="word " * 10_000).messages[1].content) == 2000


def test_the_model_is_told_its_fault_once_with_what_it_said() -> None:
    """The second question holds the first, the answer and the fault; it is cut to no context of ours."""
    call = decode(TASKS, email_content=HEBREW)
    with pytest.raises(Misfit) as caught:
        extracted("Sorry!")
    again = repaired(call, caught.value).wish
    assert call.wish is not None
    assert again is not None
    assert again.messages[:2] == call.wish.messages
    assert [(turn.role, turn.content) for turn in again.messages[2:]] == [
        ("assistant", "Sorry!"),
        ("user", base.REPAIRS[Language.HEBREW].format(fault="no list of tasks")),
    ]
    assert again.keeps_turns
    assert again.grammar == call.wish.grammar


def test_silence_is_asked_again_as_before() -> None:
    """No template takes a turn without content."""
    call = decode(TASKS, email_content=HEBREW)
    with pytest.raises(Misfit) as caught:
        extracted(" ")
    assert repaired(call, caught.value) is call


def test_a_model_can_be_named() -> None:
    """As on the other surfaces; what nobody knows is told."""
    call = decode(SUMMARY, email_content="x", model="m", tone="dry")
    assert call.model == "m"
    assert call.wish is not None
    assert call.wish.ignored == ("tone",)
