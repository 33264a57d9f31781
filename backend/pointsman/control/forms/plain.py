"""The bodies of seeds 000 and 003 (`contracts/seeds.md` 2 and 4)."""

from typing import Any

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


def _plain(answer: dict[str, Any]) -> str:
    """A stream of theirs, which ends with what a whole answer would have been."""
    piece = (
        '{"type":"content","content":" there",'
        '"choices":[{"index":0,"delta":{"content":" there"},"finish_reason":null}]}'
    )
    return frames(piece, msgspec.json.encode({"type": "done", **answer}).decode(), "[DONE]")


_WISHES = {
    "max_length": whole(1, 1024, 100),
    "max_tokens": whole(1, 1024),
    "temperature": number(0.1, 2, 0.7),
    "top_p": number(0.1, 1, 0.9),
    "top_k": whole(0, 1000, 50),
    "repetition_penalty": number(0.1, 2, 1.2),
    "do_sample": {"type": "boolean", "default": True},
    "stream": FLAG,
}
_METADATA = record(generation_time={"type": "number"}, tokens_generated=COUNT, model=TEXT, finish_reason=TEXT)
_TOLD = {"generation_time": 0.4, "tokens_generated": 1, "model": "distilgpt2", "finish_reason": "stop"}
_WHOLE_TEXT = {"generated_text": f"{ONCE} there", "prompt": ONCE, "metadata": _TOLD}
_CONTINUED = {"generated_text": " there", "model_id": "distilgpt2"}
_COMPLETED = {"prompt": ONCE, "completion": "there", "raw_response": f"{ONCE} there"}
_SAID = {"content": "there", "role": "assistant"}
PROMPT = Form(
    "prompt alone; the text includes it",
    {"prompt": TEXT, **_WISHES},
    ("prompt",),
    {"prompt": ONCE, "max_length": 32},
    record(generated_text=TEXT, prompt=TEXT, metadata=_METADATA),
    _WHOLE_TEXT,
    _plain(_WHOLE_TEXT),
)
WITH_MODEL = Form(
    "with model_id",
    {
        "model_id": TEXT,
        "prompt": TEXT,
        "max_new_tokens": whole(1, 2048, 200),
        "temperature": number(0, 2, 0.7),
        "top_p": number(0, 1, 0.95),
        "repetition_penalty": number(1, 2, 1.0),
        "stream": FLAG,
    },
    ("model_id", "prompt"),
    {"model_id": "distilgpt2", "prompt": ONCE, "max_new_tokens": 32},
    record(generated_text=TEXT, model_id=TEXT),
    _CONTINUED,
    _plain(_CONTINUED),
)
COMPLETE = Form(
    "a text goes on",
    {"prompt": TEXT, **_WISHES},
    ("prompt",),
    {"prompt": ONCE, "max_tokens": 32},
    record(prompt=TEXT, completion=TEXT, raw_response=TEXT),
    _COMPLETED,
    _plain(_COMPLETED),
)
TALK = Form(
    "chat without choices",
    {
        "messages": list_of(MESSAGE),
        **_WISHES,
        "max_length": whole(1, 1024, 150),
        "top_k": whole(0, 1000),
        "repetition_penalty": number(0.1, 2),
    },
    ("messages",),
    {"messages": ASK, "max_tokens": 64},
    record(content=TEXT, role=TEXT),
    _SAID,
    _plain(_SAID),
)
