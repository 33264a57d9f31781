"""The bodies of what operators do, and of the comparison of models."""

from pointsman.control.forms.schema import (
    ASK,
    COUNT,
    MESSAGE,
    TEXT,
    Form,
    Schema,
    list_of,
    number,
    record,
    whole,
)
from pointsman.surfaces.comparison import MODELS_MAX, TOKENS_MAX

_NAME: Schema = {"type": ["string", "null"]}
_SECONDS: Schema = {"type": "number"}
_ERROR = record(
    code=TEXT, message=TEXT, owner=TEXT, retryable={"type": "boolean"}, request_id=TEXT, status=COUNT
)
_AWAY = {
    "status": 503,
    "message": "Model 'distilgpt2' is known, but no replica of it is up.",
    "code": "no_replica",
    "owner": "router",
    "retryable": True,
    "request_id": "1a2b3c-2",
}
DEFAULT = Form(
    "the default model",
    {},
    (),
    {},
    record(model=_NAME, configured=_NAME),
    {"model": "gemma-3-12b", "configured": None},
)
CHANGE_DEFAULT = Form(
    "another default model",
    {"model": _NAME},
    ("model",),
    {"model": "gemma-3-12b"},
    record(old=_NAME, model=_NAME, configured=_NAME, workers=COUNT),
    {"old": None, "model": "gemma-3-12b", "configured": None, "workers": 1},
)
WARM = Form(
    "one token of each replica",
    {},
    (),
    {},
    record(
        model_id=TEXT,
        replicas=list_of(record(id=TEXT, ok={"type": "boolean"}, seconds=_SECONDS, error=_ERROR)),
    ),
    {"model_id": "distilgpt2", "replicas": [{"id": "distilgpt2-0", "ok": True, "seconds": 0.041}]},
)
COMPARE = Form(
    "the same to several models",
    {
        "models": {**list_of(TEXT), "minItems": 1, "maxItems": MODELS_MAX},
        "prompt": TEXT,
        "messages": list_of(MESSAGE),
        "max_tokens": whole(1, TOKENS_MAX, 200),
        "temperature": number(0, 2, 0.7),
    },
    ("models",),
    {"models": ["gemma-3-12b", "distilgpt2"], "messages": ASK, "max_tokens": 12},
    record(
        results=list_of(
            record(
                model=TEXT,
                text=TEXT,
                finish_reason=TEXT,
                prompt_tokens=COUNT,
                completion_tokens=COUNT,
                seconds=_SECONDS,
                error=_ERROR,
            )
        )
    ),
    {
        "results": [
            {
                "model": "gemma-3-12b",
                "text": "Hello!",
                "finish_reason": "stop",
                "prompt_tokens": 11,
                "completion_tokens": 2,
                "seconds": 0.31,
            },
            {"model": "distilgpt2", "error": _AWAY},
        ]
    },
)
