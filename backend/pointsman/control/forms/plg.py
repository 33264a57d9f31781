"""The bodies of seed 004 (`contracts/seeds.md` 5)."""

from pointsman.control.forms.schema import (
    COUNT,
    MESSAGE,
    TEXT,
    Form,
    Schema,
    frames,
    list_of,
    number,
    record,
    whole,
)
from pointsman.services.summary import LENGTH_MAX, LENGTH_MIN
from pointsman.services.tasks import SCHEMA as _TASKS
from pointsman.surfaces.plg import TOKENS_MAX

_OR_NULL: Schema = {"type": ["string", "null"]}
_SESSION = "chat_1754212345678_k3x9"
_MAIL = (
    "From: Noa Levi <noa@example.com>\nDate: Sun, 3 Aug 2025 09:00\nSubject: Before the audit\n\n"
    "Dan, please send me the July invoices by Thursday."
)
_SAID = {"role": "assistant", "content": "שלום!"}
_USED = {"prompt_tokens": 42, "completion_tokens": 2, "total_tokens": 44}
CHAT = Form(
    "a chat that streams unless told otherwise",
    {
        "messages": list_of(MESSAGE),
        "session_id": TEXT,
        "stream": {"type": "boolean", "default": True},
        "temperature": number(0, 2, 0.7),
        "max_tokens": whole(1, TOKENS_MAX, 2048),
        "language": TEXT,
        "model": TEXT,
    },
    ("messages",),
    {"messages": [{"role": "user", "content": "אמור שלום"}], "session_id": _SESSION, "language": "he"},
    record(
        session_id=TEXT,
        content=TEXT,
        model=TEXT,
        finish_reason=TEXT,
        usage=record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT),
        choices=list_of(record(index=COUNT, message=MESSAGE, finish_reason=TEXT)),
    ),
    {
        "session_id": _SESSION,
        "content": "שלום!",
        "model": "gemma-3-12b",
        "finish_reason": "stop",
        "usage": _USED,
        "choices": [{"index": 0, "message": _SAID, "finish_reason": "stop"}],
    },
    frames(
        '{"type":"content","content":"שלום!",'
        '"choices":[{"index":0,"delta":{"content":"שלום!"},"finish_reason":null}]}',
        f'{{"type":"done","session_id":"{_SESSION}"}}',
        "[DONE]",
    ),
)
TASKS = Form(
    "the tasks in a mail",
    {"email_content": TEXT, "model": TEXT},
    ("email_content",),
    {"email_content": _MAIL},
    list_of(_TASKS["properties"]["tasks"]["items"]),
    [
        {
            "sender": "Noa Levi",
            "sending_date": "2025-08-03",
            "assigned_to": "Dan",
            "title": "July invoices",
            "description": "Send the July invoices to Noa",
            "due_date": "2025-08-07",
        }
    ],
)
SUMMARY = Form(
    "a mail in short",
    {"email_content": TEXT, "length": whole(LENGTH_MIN, LENGTH_MAX, 100), "model": TEXT},
    ("email_content",),
    {"email_content": _MAIL, "length": 80},
    record(sender=_OR_NULL, sending_date=_OR_NULL, title=TEXT, summary=TEXT),
    {
        "sender": "noa@example.com",
        "sending_date": "2025-08-03T09:00:00",
        "title": "Invoices before the audit",
        "summary": "Noa asks Dan to send her the July invoices by Thursday.",
    },
)
TITLE = Form(
    "a title for a conversation",
    {"user_message": TEXT, "model": TEXT},
    ("user_message",),
    {"user_message": "How do I renew a passport?"},
    record(title=TEXT),
    {"title": "Renewing a passport"},
)
