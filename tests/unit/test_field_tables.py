"""Each row of the field tables is true: what it calls translated, ignored or refused is that.

A field is sent with a telling value through its surface and a dialect. What leaves for the engine and what
the client reads is compared with the same call without it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pointsman.apis import openai, tgi, wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.apis.fields import Fate, Table, ignored
from pointsman.bridge import Bridge
from pointsman.call import Call, Operation
from pointsman.engines import DIALECTS, tgi_fields
from pointsman.engines.base import Reader
from pointsman.errors import INVALID_PARAMETER, RouterError
from pointsman.replica import Endpoint, Engine, Facts, Replica
from pointsman.services import summary, tasks, title
from pointsman.services.summary import Summary
from pointsman.services.tasks import Tasks
from pointsman.services.title import Title
from pointsman.sse import frame
from pointsman.surfaces import backend_api, comparison, distilgpt2, llm_service, plg
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import Surface, read_fields
from pointsman.surfaces.comparison import Comparison
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.llm_service import LlmService
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.plg import Plg
from pointsman.surfaces.tgi import Tgi
from pointsman.transcript import as_text

Body = dict[str, Any]
TURN, OTHER = [{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Other"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
TGI_END = b'{"finish_reason":"length","generated_tokens":2,"input_length":3}'
TGI_EVENTS = (
    b'{"index":1,"token":{"id":5,"text":" a","logprob":-1,"special":false},"generated_text":null}',
    b'{"index":2,"token":{"id":6},"generated_text":" ab","details":%b}' % TGI_END,
)
CHOICE = (
    b'"text":" ab","delta":{"content":" ab"},"message":{"content":" ab"},"finish_reason":"length",'
    b'"token_ids":[5],"logprobs":{"tokens":[" ab"],"token_logprobs":[-1]}'
)
OPENAI_EVENTS = (
    b'{"choices":[{"index":0,%b}]}' % CHOICE,
    b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
    b"[DONE]",
)
OPENAI_WHOLE = b'{"choices":[{"index":0,%b}],"usage":{"prompt_tokens":3,"completion_tokens":2}}' % CHOICE
TGI_WHOLE = b'{"generated_text":" ab","details":{"finish_reason":"length","generated_tokens":2}}'


@dataclass(frozen=True)
class Sent:
    """What one call became: the request for the engine, what was told, and what the client reads."""

    path: str
    body: Body
    ignored: tuple[str, ...]
    model: str | None
    session: str | None
    answer: bytes


@dataclass(frozen=True)
class Walk:
    """A table, the way its calls go, and a telling value for each of its rows."""

    name: str
    table: Table
    surface: Surface
    operation: Operation
    engine: Engine
    base: Body
    values: Body
    template: bool = False
    inside: str = ""  # the field that holds the fields
    own: frozenset[str] = frozenset()  # rows whose note says that this engine ignores them
    with_: dict[str, Body] = field(default_factory=dict)  # what a field needs beside it to tell
    said: str = " ab"  # what the model answers

    def __str__(self) -> str:
        return self.name

    @property
    def passes(self) -> bool:
        """Whether the call goes to a route of the engine that has the same API."""
        return self.table in tgi_fields.TABLES.values()

    def send(self, fields: Body) -> Sent:
        body = {**self.base, **fields}
        if self.inside:
            body = {**self.base, self.inside: {**self.base[self.inside], **fields}}
        raw = json.dumps(body).encode()
        call = self.surface.decode(self.operation, read_fields(raw), raw, stream=False)
        facts = Facts(("served",), max_total_tokens=4096, chat_template=self.template)
        replica = Replica("m-0", "m", self.engine, Endpoint("http", "h", 80), facts=facts)
        dialect = DIALECTS[self.engine]
        reply = Reply("id", call.model or "m", "m", 0, lambda: 0.0)
        reader: Reader
        if dialect.carries(call, replica):
            outgoing, reader = dialect.encode(call, replica), dialect.reader(call, reply)
        else:
            wish = wish_of(call)
            wish = as_text(wish) if wish.messages and not self.template else wish
            outgoing = dialect.ask(wish, replica, stream=call.stream)
            reader = Bridge(dialect.source(wish), writer_of(call, reply), wish)
        answer = self._answer(call, reader)
        body = json.loads(outgoing.body)
        return Sent(outgoing.path, body, outgoing.ignored, call.model, call.session, answer)

    def _answer(self, call: Call, reader: Reader) -> bytes:
        native = self.engine is Engine.TGI and not isinstance(self.surface, OpenAI)
        native = native or (self.engine is Engine.TGI and not self.template and "messages" in self.base)
        if not call.stream:
            whole = TGI_WHOLE if native else OPENAI_WHOLE
            return reader.whole(whole.replace(b'" ab"', json.dumps(self.said).encode()))
        said = b""
        for data in TGI_EVENTS if native else OPENAI_EVENTS:
            reader.look(data)
            said += reader.mend(data) if reader.mends else frame(data)
        return said

    def fate(self, name: str) -> Fate:
        return Fate.IGNORED if name in self.own else self.table[name].fate


_NUMBERS = {"frequency_penalty": 0.5, "seed": 7, "temperature": 0.3, "top_p": 0.5}
_OPENAI: Body = {
    **_NUMBERS, "logit_bias": {"5": 1}, "max_tokens": 9, "min_p": 0.1, "model": "other", "n": 2,
    "presence_penalty": 0.5, "prompt_logprobs": 1, "guided_choice": ["a"], "guided_grammar": "root ::= a",
    "guided_json": SCHEMA, "guided_regex": "[a]", "repetition_penalty": 1.3, "service_tier": "flex",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "stop": "END", "store": True, "stream": True, "structured_outputs": {"regex": "[b]"}, "top_k": 4,
    "stream_options": {"include_usage": True}, "user": "u",
}  # fmt: skip
_CHAT: Body = {
    **_OPENAI, "logprobs": True, "top_logprobs": 2, "max_completion_tokens": 8, "metadata": {"a": "b"},
    "messages": OTHER, "parallel_tool_calls": False, "tools": TOOL,
    "tool_choice": "required", "function_call": {"name": "f"}, "functions": [{"name": "f"}],
}  # fmt: skip
_COMPLETION = {**_OPENAI, "best_of": 2, "echo": True, "logprobs": 1, "prompt": "Other", "suffix": "x"}
_STREAMS = {"stream_options": {"stream": True}}
_TEXT_CHAT = {name: _CHAT.get(name) for name in openai.FIELDS} | {
    "best_of": 2, "continue_final_message": True, "parallel_tool_calls": "x",
}  # fmt: skip
_TGI: Body = {
    **_NUMBERS, "adapter_id": "x", "best_of": 2, "decoder_input_details": True, "details": True,
    "do_sample": False, "grammar": {"type": "json", "value": SCHEMA}, "max_new_tokens": 9,
    "repetition_penalty": 1.3, "return_full_text": True, "stop": ["END"], "top_k": 4, "top_n_tokens": 2,
    "truncate": 50, "typical_p": 0.5, "watermark": True,
}  # fmt: skip
_SEED: Body = {
    "do_sample": False, "max_length": 30, "max_tokens": 31, "messages": OTHER, "model": "other",
    "no_repeat_ngram_size": 2, "num_return_sequences": 2, "pad_token_id": 7,
    "prompt": "Other", "repetition_penalty": 1.3, "stream": True, "temperature": 0.3,
    "top_k": 4, "top_p": 0.5, "user_id": "u",
}  # fmt: skip
_FORGETFUL = llm_service._OF_CHAT | {"session_id": ignored()}
_SERVICE: Body = {
    "max_tokens": 9, "messages": OTHER, "model": "other", "prompt": "Other", "session_id": "other",
    "stream": True, "temperature": 0.3, "top_k": 4, "top_p": 0.5,
}  # fmt: skip
_PLG: Body = {
    "language": "he", "max_tokens": 9, "messages": OTHER, "model": "other", "session_id": "other",
    "stream": True, "temperature": 0.3, "use_mcp": True,
}  # fmt: skip
_TASKS: Body = {"email_content": "Other", "model": "other"}
_SUMMARY: Body = {**_TASKS, "length": 50}
_TITLE: Body = {"model": "other", "user_message": "Other"}
_COMPARED: Body = {"max_tokens": 9, "messages": OTHER, "prompt": "Other", "temperature": 0}
_BACKEND: Body = {
    "max_new_tokens": 9, "model": "other", "model_id": "other", "prompt": "Other", "repetition_penalty": 1.3,
    "stream": True, "temperature": 0.3, "top_p": 0.5,
}  # fmt: skip

WALKS = [
    Walk(
        "tgi on vllm",
        tgi.FIELDS,
        Tgi(),
        Operation.GENERATE,
        Engine.VLLM,
        {"inputs": "Hi", "parameters": {"do_sample": True}},
        _TGI,
        inside="parameters",
    ),
    *[
        Walk(
            f"chat as text on {engine}",
            openai.FIELDS,
            OpenAI(),
            Operation.CHAT,
            engine,
            {"messages": TURN},
            _TEXT_CHAT,
            with_=_STREAMS,
            own=frozenset({"min_p", "presence_penalty"}) if engine is Engine.TGI else frozenset(),
        )
        for engine in Engine
    ],
    Walk(
        "chat on tgi",
        tgi_fields.CHAT_FIELDS,
        OpenAI(),
        Operation.CHAT,
        Engine.TGI,
        {"messages": TURN},
        {**_CHAT, "best_of": 2, "tool_prompt": "x", "parallel_tool_calls": "x"},
        template=True,
        with_=_STREAMS,
    ),
    Walk(
        "completions on tgi",
        tgi_fields.COMPLETION_FIELDS,
        OpenAI(),
        Operation.COMPLETION,
        Engine.TGI,
        {"prompt": "Hi"},
        _COMPLETION,
        with_=_STREAMS,
    ),
    *[
        Walk(
            f"000 {operation} on {engine}",
            table,
            DistilGpt2(),
            operation,
            engine,
            base,
            _SEED,
        )
        for engine in Engine
        for operation, table, base in (
            (Operation.GENERATE, distilgpt2._OF_TEXT, {"prompt": "Hi"}),
            (Operation.COMPLETION, distilgpt2._OF_TEXT, {"prompt": "Hi"}),
            (Operation.CHAT, distilgpt2._OF_CHAT, {"messages": TURN}),
        )
    ],
    *[
        Walk(
            f"003 on {engine}",
            backend_api.FIELDS,
            BackendApi(),
            Operation.GENERATE,
            engine,
            {"prompt": "Hi"},
            _BACKEND,
        )
        for engine in Engine
    ],
    *[
        Walk(f"002 {name} on {engine}", table, surface, operation, engine, base, _SERVICE)
        for engine in Engine
        for name, operation, surface, table, base in (
            ("text", Operation.GENERATE, LlmService(), llm_service._OF_TEXT, {"prompt": "Hi"}),
            ("chat", Operation.CHAT, LlmService(), llm_service._OF_CHAT, {"messages": TURN}),
            (
                "chat without history",
                Operation.CHAT,
                LlmService(remembers=False),
                _FORGETFUL,
                {"messages": TURN},
            ),
        )
    ],
    *[
        Walk(f"{name} on {engine}", table, surface, Operation.CHAT, engine, base, values, said=said)
        for engine in Engine
        for name, table, surface, base, values, said in (
            ("tasks", tasks.FIELDS, Tasks(), {"email_content": "Hi"}, _TASKS, '{"tasks":[]}'),
            (
                "summary",
                summary.FIELDS,
                Summary(),
                {"email_content": "Hi"},
                _SUMMARY,
                '{"title":"a","summary":"b"}',
            ),
            ("title", title.FIELDS, Title(), {"user_message": "Hi"}, _TITLE, " ab"),
        )
    ],
    *[
        Walk(
            f"compared {name} on {engine}",
            # `models` is read by the route, which makes a call of each.
            {row: fate for row, fate in comparison.FIELDS.items() if row not in ("models", other)},
            Comparison(),
            Operation.GENERATE,
            engine,
            {"models": ["m"], **base},
            _COMPARED,
        )
        for engine in Engine
        for name, other, base in (
            ("text", "messages", {"prompt": "Hi"}),
            ("chat", "prompt", {"messages": TURN}),
        )
    ],
    *[
        Walk(
            f"004 on {engine}",
            plg.FIELDS,
            Plg(),
            Operation.CHAT,
            engine,
            {"messages": TURN, "session_id": "s", "stream": False},
            _PLG,
        )
        for engine in Engine
    ],
]


# Fields for which null or false are of the wrong kind, and refused as such.
_OF_ANOTHER_KIND = {
    "n",
    "best_of",
    "adapter_id",
    "top_n_tokens",
    "typical_p",
    "decoder_input_details",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "session_id",
}
ROWS = [pytest.param(walk, name, id=f"{walk}: {name}") for walk in WALKS for name in walk.table]


@pytest.mark.parametrize("walk", WALKS, ids=str)
def test_each_row_has_a_telling_value(walk: Walk) -> None:
    """A row that nobody tries proves nothing."""
    untried = [name for name in walk.table if walk.values.get(name) is None]
    assert untried == []


@pytest.mark.parametrize(("walk", "name"), ROWS)
def test_a_row_is_true(walk: Walk, name: str) -> None:
    """Translated: request or answer differ. Ignored: told, and no more. Refused: an error that names it."""
    beside = walk.with_.get(name, {})
    value = walk.values[name]
    plain = walk.send(beside)
    assert plain.ignored == ()
    match walk.fate(name):
        case Fate.TRANSLATED:
            sent = walk.send({**beside, name: value})
            assert sent != plain
            assert sent.ignored == ()
        case Fate.IGNORED:
            sent = walk.send({**beside, name: value})
            assert sent.ignored == (name,)
            if walk.passes:
                assert sent.body.pop(name) == value  # TGI passes over what it does not know
            if name != "decoder_input_details":  # which asks for the answer's details too
                assert replace(sent, ignored=()) == plain
        case Fate.REFUSED:
            with pytest.raises(RouterError) as caught:
                walk.send({**beside, name: value})
            assert (caught.value.kind, caught.value.param) == (INVALID_PARAMETER, name)
            assert caught.value.message.startswith(f"`{name}` ")


@pytest.mark.parametrize(("walk", "name"), ROWS)
def test_harmless_values_do_nothing(walk: Walk, name: str) -> None:
    """A value that asks for nothing is neither refused nor told, and null counts for one in most of them."""
    row = walk.table[name]
    if row.fate is not Fate.TRANSLATED:
        plain = walk.send({})
        nothing = [] if name in _OF_ANOTHER_KIND else [None, False]
        for value in (*nothing, *[json.loads(raw) for raw in row.harmless]):
            sent = walk.send({name: value})
            if walk.passes:
                sent.body.pop(name, None)
            assert sent == plain, value


@pytest.mark.parametrize("walk", WALKS, ids=str)
def test_what_no_table_knows_is_told(walk: Walk) -> None:
    """A field from elsewhere is ignored, by decision, and never without a word."""
    assert walk.send({"x_unheard_of": 1}).ignored == ("x_unheard_of",)
    assert walk.send({"x_unheard_of": None}).ignored == ()


def _of(walks: list[Walk], holds: Callable[[Walk], bool]) -> set[str]:
    return {name for walk in walks if holds(walk) for name in walk.table}


def test_the_fields_that_clients_know_are_in_a_table() -> None:
    """The names that clients of the seeds, of TGI and of vLLM send are decided one by one."""
    named = {
        "no_repeat_ngram_size", "pad_token_id", "watermark", "typical_p", "best_of", "top_k",
        "num_return_sequences", "decoder_input_details", "grammar", "response_format", "structured_outputs",
        "seed", "logprobs", "n",
    }  # fmt: skip
    assert named <= _of(WALKS, lambda walk: True)
