"""The bodies of seed 002 (`contracts/seeds.md` 3)."""

import msgspec

from pointsman.control.forms.schema import (
    ASK,
    COUNT,
    FLAG,
    MESSAGE,
    ONCE,
    TEXT,
    Form,
    frames,
    list_of,
    number,
    record,
    whole,
)

_WISHES = {
    "max_tokens": whole(1, 2048, 512),
    "temperature": number(0, 2, 0.7),
    "top_p": number(0, 1, 0.9),
    "top_k": whole(1, None, 50),
    "model": TEXT,
    "stream": FLAG,
}
_FACTS = {"model": TEXT, "tokens_generated": COUNT, "cached": FLAG}
_TOLD = {"model": "gemma-3-12b", "tokens_generated": 1, "cached": False}
_TEXT = {"generated_text": " there", "prompt": ONCE, **_TOLD}
_SAID = {"message": {"role": "assistant", "content": " there"}, **_TOLD}


def _frames(whole_answer: dict[str, object]) -> str:
    piece = (
        '{"type":"content","content":" there",'
        '"choices":[{"index":0,"delta":{"content":" there"},"finish_reason":null}]}'
    )
    return frames(piece, msgspec.json.encode({"type": "done", **whole_answer}).decode(), "[DONE]")


GENERATE = Form(
    "a text goes on; needs an API key",
    {"prompt": TEXT, **_WISHES},
    ("prompt",),
    {"prompt": ONCE, "max_tokens": 32},
    record(generated_text=TEXT, prompt=TEXT, **_FACTS),
    _TEXT,
    _frames(_TEXT),
)
CHAT = Form(
    "chat with a session; needs an API key",
    {"messages": list_of(MESSAGE), "session_id": TEXT, **_WISHES},
    ("messages",),
    {"messages": ASK, "session_id": "user-123-chat", "max_tokens": 64},
    record(message=MESSAGE, **_FACTS),
    _SAID,
    _frames(_SAID),
)
