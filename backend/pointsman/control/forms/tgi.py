"""TGI's bodies: the fields that matter most; its own documentation has them all."""

from typing import Any

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

_PARAMETERS = record(
    max_new_tokens=whole(1, usual=100),
    do_sample=FLAG,
    temperature=number(0),
    top_p=number(0, 1),
    top_k=whole(1),
    repetition_penalty=number(0),
    seed=COUNT,
    stop=list_of(TEXT),
    details=FLAG,
    return_full_text=FLAG,
)
_TOKEN = record(id=COUNT, text=TEXT, logprob={"type": "number"}, special={"type": "boolean"})
_DETAILS = record(finish_reason=TEXT, generated_tokens=COUNT, seed=COUNT, tokens=list_of(_TOKEN))
_GENERATED = record(generated_text=TEXT, details=_DETAILS)
_INPUTS: dict[str, Any] = {"inputs": ONCE, "parameters": {"max_new_tokens": 32}}
_FRAME = (
    '{"index":1,"token":{"id":612,"text":" there","logprob":-1.2,"special":false},'
    '"generated_text":" there","details":null}'
)
_TAKES = {"inputs": TEXT, "parameters": _PARAMETERS}
_STORY = {"generated_text": " there was a train."}
GENERATE = Form("TGI's", _TAKES, ("inputs",), _INPUTS, _GENERATED, _STORY)
STREAM = Form("TGI's stream", _TAKES, ("inputs",), _INPUTS, TEXT, "", frames(_FRAME))
ROOT = Form(
    "TGI's at the root",
    {**_TAKES, "stream": FLAG},
    ("inputs",),
    {**_INPUTS, "stream": False},
    list_of(_GENERATED),
    [_STORY],
    frames(_FRAME),
)
_TOKENS = list_of(record(id=COUNT, text=TEXT, start=COUNT, stop=COUNT))
_CUT = [{"id": 7454, "text": "Once", "start": 0, "stop": 4}]
TOKENIZE = Form("TGI's tokens", {"inputs": TEXT}, ("inputs",), {"inputs": "Once"}, _TOKENS, _CUT)
CHAT_TOKENIZE = Form(
    "TGI's tokens of a chat",
    {"messages": list_of(MESSAGE)},
    ("messages",),
    {"messages": ASK},
    record(tokenize_response=_TOKENS, templated_text=TEXT),
    {"tokenize_response": _CUT, "templated_text": "Once"},
)
INFO = Form(
    "TGI's facts",
    {},
    (),
    {},
    record(model_id=TEXT, version=TEXT, max_total_tokens=COUNT),
    {"model_id": "distilbert/distilgpt2", "version": "3.3.7", "max_total_tokens": 1024},
)
