"""What the generation routes take and give, as `/openapi.json` shows it: JSON schemas with examples.

Of the APIs that engines speak, the fields that matter most; the engine's own documentation has them all.
"""

from typing import Any

import msgspec

Schema = dict[str, Any]


class Form(msgspec.Struct, frozen=True):
    """One form of a body and of its answer. `frames` is an example of a stream; empty: there is none."""

    title: str
    takes: dict[str, Schema]
    needs: tuple[str, ...]
    example: dict[str, Any]
    gives: Schema
    answer: Any
    frames: str = ""


def _whole(low: int, high: int | None = None, usual: int | None = None) -> Schema:
    return _bounds("integer", low, high, usual)


def _number(low: float, high: float | None = None, usual: float | None = None) -> Schema:
    return _bounds("number", low, high, usual)


def _bounds(kind: str, low: float, high: float | None, usual: float | None) -> Schema:
    told = {"type": kind, "minimum": low, "maximum": high, "default": usual}
    return {name: value for name, value in told.items() if value is not None}


def _object(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _frames(*frames: str) -> str:
    return "".join([f"data: {frame}\n\n" for frame in frames])


_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"oneOf": [_TEXT, _list(_TEXT)]}
_FLAG: Schema = {"type": "boolean", "default": False}
_COUNT: Schema = {"type": "integer"}
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_MESSAGE = _object(role=_TEXT, content=_TEXT)
_ASK = [{"role": "user", "content": "Say hello."}]
_ONCE = "Once upon a time"

# --- OpenAI's

_OPENAI = {"id": _TEXT, "object": _TEXT, "created": _COUNT, "model": _TEXT, "usage": _USAGE}
_USED = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
_SAMPLING = {
    "model": _TEXT,
    "max_tokens": _whole(1),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "stop": _TEXTS,
    "seed": _COUNT,
    "stream": _FLAG,
    "stream_options": _object(include_usage=_FLAG),
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
_CHAT = Form(
    "OpenAI's chat",
    {**_SAMPLING, "messages": _list(_MESSAGE), "tools": _list(_object()), "response_format": _object()},
    ("messages",),
    {"model": "gemma-3-12b", "messages": _ASK, "max_tokens": 64, "stream": False},
    _object(**_OPENAI, choices=_list(_object(index=_COUNT, message=_MESSAGE, finish_reason=_TEXT))),
    _openai("chat.completion", "gemma-3-12b", {"message": {"role": "assistant", "content": "Hello!"}}),
    _frames(_CHUNK, "[DONE]"),
)
_COMPLETION = Form(
    "OpenAI's completion",
    {**_SAMPLING, "prompt": _TEXTS},
    ("prompt",),
    {"model": "distilgpt2", "prompt": _ONCE, "max_tokens": 32},
    _object(**_OPENAI, choices=_list(_object(index=_COUNT, text=_TEXT, finish_reason=_TEXT))),
    _openai("text_completion", "distilgpt2", {"text": " there was a train."}),
    _frames(_PIECE, "[DONE]"),
)
_EMBEDDING = Form(
    "OpenAI's embeddings",
    {"model": _TEXT, "input": _TEXTS, "encoding_format": _TEXT},
    ("input",),
    {"model": "my-embedder", "input": ["one text", "another"]},
    _object(object=_TEXT, model=_TEXT, data=_list(_object(index=_COUNT, embedding=_list(_number(-1, 1))))),
    {"object": "list", "model": "my-embedder", "data": [{"index": 0, "embedding": [0.1, -0.2]}]},
)

# --- TGI's

_PARAMETERS = _object(
    max_new_tokens=_whole(1, usual=100),
    do_sample=_FLAG,
    temperature=_number(0),
    top_p=_number(0, 1),
    top_k=_whole(1),
    repetition_penalty=_number(0),
    seed=_COUNT,
    stop=_list(_TEXT),
    details=_FLAG,
    return_full_text=_FLAG,
)
_TOKEN = _object(id=_COUNT, text=_TEXT, logprob={"type": "number"}, special={"type": "boolean"})
_DETAILS = _object(finish_reason=_TEXT, generated_tokens=_COUNT, seed=_COUNT, tokens=_list(_TOKEN))
_GENERATED = _object(generated_text=_TEXT, details=_DETAILS)
_INPUTS: dict[str, Any] = {"inputs": _ONCE, "parameters": {"max_new_tokens": 32}}
_FRAME = (
    '{"index":1,"token":{"id":612,"text":" there","logprob":-1.2,"special":false},'
    '"generated_text":" there","details":null}'
)
_TAKES = {"inputs": _TEXT, "parameters": _PARAMETERS}
_STORY = {"generated_text": " there was a train."}
_GENERATE = Form("TGI's", _TAKES, ("inputs",), _INPUTS, _GENERATED, _STORY)
_STREAM = Form("TGI's stream", _TAKES, ("inputs",), _INPUTS, _TEXT, "", _frames(_FRAME))
_ROOT = Form(
    "TGI's at the root",
    {**_TAKES, "stream": _FLAG},
    ("inputs",),
    {**_INPUTS, "stream": False},
    _list(_GENERATED),
    [_STORY],
    _frames(_FRAME),
)
_TOKENS = _list(_object(id=_COUNT, text=_TEXT, start=_COUNT, stop=_COUNT))
_CUT = [{"id": 7454, "text": "Once", "start": 0, "stop": 4}]
_TOKENIZE = Form("TGI's tokens", {"inputs": _TEXT}, ("inputs",), {"inputs": "Once"}, _TOKENS, _CUT)
_CHAT_TOKENIZE = Form(
    "TGI's tokens of a chat",
    {"messages": _list(_MESSAGE)},
    ("messages",),
    {"messages": _ASK},
    _object(tokenize_response=_TOKENS, templated_text=_TEXT),
    {"tokenize_response": _CUT, "templated_text": "Once"},
)
_INFO = Form(
    "TGI's facts",
    {},
    (),
    {},
    _object(model_id=_TEXT, version=_TEXT, max_total_tokens=_COUNT),
    {"model_id": "distilbert/distilgpt2", "version": "3.3.7", "max_total_tokens": 1024},
)

# --- Of seeds 000 and 003 (`contracts/seeds.md` 2 and 4)


def _plain(answer: dict[str, Any]) -> str:
    """A stream of theirs, which ends with what a whole answer would have been."""
    piece = (
        '{"type":"content","content":" there",'
        '"choices":[{"index":0,"delta":{"content":" there"},"finish_reason":null}]}'
    )
    return _frames(piece, msgspec.json.encode({"type": "done", **answer}).decode(), "[DONE]")


_WISHES = {
    "max_length": _whole(1, 1024, 100),
    "max_tokens": _whole(1, 1024),
    "temperature": _number(0.1, 2, 0.7),
    "top_p": _number(0.1, 1, 0.9),
    "top_k": _whole(0, 1000, 50),
    "repetition_penalty": _number(0.1, 2, 1.2),
    "do_sample": {"type": "boolean", "default": True},
    "stream": _FLAG,
}
_METADATA = _object(
    generation_time={"type": "number"}, tokens_generated=_COUNT, model=_TEXT, finish_reason=_TEXT
)
_TOLD = {"generation_time": 0.4, "tokens_generated": 1, "model": "distilgpt2", "finish_reason": "stop"}
_WHOLE_TEXT = {"generated_text": f"{_ONCE} there", "prompt": _ONCE, "metadata": _TOLD}
_CONTINUED = {"generated_text": " there", "model_id": "distilgpt2"}
_COMPLETED = {"prompt": _ONCE, "completion": "there", "raw_response": f"{_ONCE} there"}
_SAID = {"content": "there", "role": "assistant"}
_PROMPT = Form(
    "prompt alone; the text includes it",
    {"prompt": _TEXT, **_WISHES},
    ("prompt",),
    {"prompt": _ONCE, "max_length": 32},
    _object(generated_text=_TEXT, prompt=_TEXT, metadata=_METADATA),
    _WHOLE_TEXT,
    _plain(_WHOLE_TEXT),
)
_WITH_MODEL = Form(
    "with model_id",
    {
        "model_id": _TEXT,
        "prompt": _TEXT,
        "max_new_tokens": _whole(1, 2048, 200),
        "temperature": _number(0, 2, 0.7),
        "top_p": _number(0, 1, 0.95),
        "repetition_penalty": _number(1, 2, 1.0),
        "stream": _FLAG,
    },
    ("model_id", "prompt"),
    {"model_id": "distilgpt2", "prompt": _ONCE, "max_new_tokens": 32},
    _object(generated_text=_TEXT, model_id=_TEXT),
    _CONTINUED,
    _plain(_CONTINUED),
)
_COMPLETE = Form(
    "a text goes on",
    {"prompt": _TEXT, **_WISHES},
    ("prompt",),
    {"prompt": _ONCE, "max_tokens": 32},
    _object(prompt=_TEXT, completion=_TEXT, raw_response=_TEXT),
    _COMPLETED,
    _plain(_COMPLETED),
)
_TALK = Form(
    "chat without choices",
    {
        "messages": _list(_MESSAGE),
        **_WISHES,
        "max_length": _whole(1, 1024, 150),
        "top_k": _whole(0, 1000),
        "repetition_penalty": _number(0.1, 2),
    },
    ("messages",),
    {"messages": _ASK, "max_tokens": 64},
    _object(content=_TEXT, role=_TEXT),
    _SAID,
    _plain(_SAID),
)

# By path at the root; where there are several, the body decides.
FORMS: dict[str, tuple[Form, ...]] = {
    "/v1/chat/completions": (_CHAT,),
    "/v1/completions": (_COMPLETION,),
    "/v1/embeddings": (_EMBEDDING,),
    "/generate": (_GENERATE, _WITH_MODEL, _PROMPT),
    "/generate_stream": (_STREAM,),
    "/": (_ROOT,),
    "/tokenize": (_TOKENIZE,),
    "/chat_tokenize": (_CHAT_TOKENIZE,),
    "/info": (_INFO,),
    "/complete": (_COMPLETE,),
    "/chat/completions": (_TALK,),
}
