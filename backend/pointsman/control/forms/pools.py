"""The bodies of what operators do with replicas, and of the log of events."""

from typing import Any

from pointsman.control.forms.schema import COUNT, FLAG, TEXT, Form, Schema, list_of, record, whole

_MAYBE: Schema = {"type": ["string", "null"]}
_MAYBE_COUNT: Schema = {"type": ["integer", "null"]}
_REPLICA = record(
    id=TEXT,
    model=TEXT,
    engine=TEXT,
    served_name=_MAYBE,
    upstream=TEXT,
    state=TEXT,
    reason=TEXT,
    since=_MAYBE,
    draining=FLAG,
    added=FLAG,
    weight=COUNT,
    max_in_flight=_MAYBE_COUNT,
    in_flight=COUNT,
    workers=list_of(record(worker=COUNT, state=TEXT, in_flight=COUNT)),
)


def _example(**other: Any) -> dict[str, Any]:
    return {
        "id": "gemma-3-12b-2",
        "model": "gemma-3-12b",
        "engine": "vllm",
        "served_name": None,
        "upstream": "http://10.0.0.23:8000",
        "state": "up",
        "reason": "answers its health checks",
        "since": "2026-01-01T00:00:00Z",
        "draining": False,
        "added": True,
        "weight": 1,
        "max_in_flight": None,
        "in_flight": 3,
        "workers": [{"worker": 4711, "state": "up", "in_flight": 3}],
        **other,
    }


_ONE = record(replica={"oneOf": [_REPLICA, {"type": "null"}]}, in_flight=COUNT, workers=COUNT)
LIST = Form(
    "all replicas",
    {},
    (),
    {},
    record(replicas=list_of(_REPLICA), removed=list_of(record(model=TEXT, engine=TEXT))),
    {"replicas": [_example()], "removed": []},
)
ADD = Form(
    "one more replica",
    {
        "model": TEXT,
        "url": TEXT,
        "engine": TEXT,
        "served_name": _MAYBE,
        "weight": whole(1, 1000, 1),
        "max_in_flight": whole(1, 1_000_000),
        "key": _MAYBE,
    },
    ("model", "url"),
    {"model": "gemma-3-12b", "url": "http://10.0.0.23:8000"},
    _ONE,
    {
        "replica": _example(state="unknown", in_flight=0, reason="not probed yet"),
        "in_flight": 0,
        "workers": 1,
    },
)
DRAIN = Form(
    "no new work for a replica",
    {},
    (),
    {},
    _ONE,
    {"replica": _example(state="draining", draining=True), "in_flight": 3, "workers": 1},
)
RESUME = Form("work again", {}, (), {}, _ONE, {"replica": _example(), "in_flight": 3, "workers": 1})
REMOVE = Form(
    "a replica less",
    {},
    (),
    {},
    _ONE,
    {"replica": _example(state="draining", draining=True), "in_flight": 3, "workers": 1},
)
EVENTS = Form(
    "what happened lately",
    {},
    (),
    {},
    record(events=list_of(record(time=TEXT, kind=TEXT, what=TEXT, who=TEXT, worker=COUNT))),
    {
        "events": [
            {
                "time": "2026-01-01T00:00:00.000Z",
                "kind": "drain",
                "what": "replica gemma-3-12b-2 takes no new work",
                "who": "address 127.0.0.1",
                "worker": 4711,
            }
        ]
    },
)
