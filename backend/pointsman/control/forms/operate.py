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
STATE = Form(
    "what is held",
    {},
    (),
    {},
    record(
        idle={"type": "boolean"},
        workers=list_of(
            record(
                worker=COUNT,
                idle={"type": "boolean"},
                leaving={"type": "boolean"},
                held={"type": "object", "additionalProperties": COUNT},
                exchanges=list_of(
                    record(id=TEXT, route=TEXT, model=TEXT, replica=TEXT, state=TEXT, age_s=_SECONDS)
                ),
                requests=list_of(record(id=TEXT, route=TEXT, age_s=_SECONDS)),
                replicas={"type": "object"},
                queued={"type": "object", "additionalProperties": COUNT},
                deadlines=COUNT,
                tables={"type": "object", "additionalProperties": COUNT},
                clients=COUNT,
                tasks={"type": "object", "additionalProperties": COUNT},
                descriptors={"type": ["integer", "null"]},
                memory_bytes=COUNT,
                error=TEXT,
            )
        ),
    ),
    {
        "idle": True,
        "workers": [
            {
                "worker": 4711,
                "idle": True,
                "leaving": False,
                "held": {"exchanges": 0, "in_flight": 0, "queued": 0},
                "exchanges": [],
                "requests": [],
                "replicas": {"distilgpt2-0": {"in_flight": 0, "connections": {"active": 0, "idle": 2}}},
                "queued": {},
                "deadlines": 0,
                "tables": {"leases": 0},
                "clients": 1,
                "tasks": {"keyring": 1, "probe distilgpt2-0": 1},
                "descriptors": 14,
                "memory_bytes": 60424192,
            }
        ],
    },
)
