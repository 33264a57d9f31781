"""OpenAI's bodies: the fields that matter most; the engine's own documentation has them all."""

from typing import Any

from pointsman.control.forms.schema import (
    ASK,
    COUNT,
    FLAG,
    MESSAGE,
    ONCE,
    TEXT,
    TEXTS,
    Form,
    frames,
    list_of,
    number,
    record,
    whole,
)

_USAGE = record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
_OPENAI = {"id": TEXT, "object": TEXT, "created": COUNT, "model": TEXT, "usage": _USAGE}
_USED = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
_SAMPLING = {
    "model": TEXT,
    "max_tokens": whole(1),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "stop": TEXTS,
    "seed": COUNT,
    "stream": FLAG,
    "stream_options": record(include_usage=FLAG),
}


def _openai(kind: str, model: str, choice: dict[str, Any]) -> dict[str, Any]:
    made = {"id": "cmpl-1", "object": kind, "created": 1767225600, "model": model}
    return {**made, "choices": [{"index": 0, **choice, "finish_reason": "stop"}], "usage": _USED}


_CHUNK = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"gemma-3-12b",'
    '"choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}'
)
_PIECE = (
    '{"id":"cmpl-1","object":"text_completion","created":1767225600,"model":"distilgpt2",'
    '"choices":[{"index":0,"text":" there","finish_reason":null}]}'
)
CHAT = Form(
    "OpenAI's chat",
    {**_SAMPLING, "messages": list_of(MESSAGE), "tools": list_of(record()), "response_format": record()},
    ("messages",),
    {"model": "gemma-3-12b", "messages": ASK, "max_tokens": 64, "stream": False},
    record(**_OPENAI, choices=list_of(record(index=COUNT, message=MESSAGE, finish_reason=TEXT))),
    _openai("chat.completion", "gemma-3-12b", {"message": {"role": "assistant", "content": "Hello!"}}),
    frames(_CHUNK, "[DONE]"),
)
COMPLETION = Form(
    "OpenAI's completion",
    {**_SAMPLING, "prompt": TEXTS},
    ("prompt",),
    {"model": "distilgpt2", "prompt": ONCE, "max_tokens": 32},
    record(**_OPENAI, choices=list_of(record(index=COUNT, text=TEXT, finish_reason=TEXT))),
    _openai("text_completion", "distilgpt2", {"text": " there was a train."}),
    frames(_PIECE, "[DONE]"),
)
EMBEDDING = Form(
    "OpenAI's embeddings",
    {"model": TEXT, "input": TEXTS, "encoding_format": TEXT},
    ("input",),
    {"model": "my-embedder", "input": ["one text", "another"]},
    record(object=TEXT, model=TEXT, data=list_of(record(index=COUNT, embedding=list_of(number(-1, 1))))),
    {"object": "list", "model": "my-embedder", "data": [{"index": 0, "embedding": [0.1, -0.2]}]},
)
