"""Seed 003's `POST /generate`: its schema and bounds, its raw answer, its string `detail`."""

import json

import pytest

from pointsman import errors
from pointsman.apis import wish_of
from pointsman.call import Api, Call, Operation
from pointsman.engines.tgi import Tgi
from pointsman.errors import ALL_KINDS, ErrorKind, RouterError
from pointsman.generation import Finish, Said, Tokens
from pointsman.replica import Endpoint, Engine, Replica
from pointsman.sse import data
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import read_fields

SURFACE = BackendApi()
REPLICA = Replica("m-0", "m", Engine.TGI, Endpoint("http", "h", 80))
DEFAULTS = {
    "max_new_tokens": 200,
    "temperature": 0.7,
    "top_p": 0.95,
    "repetition_penalty": 1.0,
    "do_sample": True,
    "details": True,
}


def decode(**body: object) -> Call:
    raw = json.dumps(body).encode()
    return SURFACE.decode(Operation.GENERATE, read_fields(raw), raw, stream=False)


def sent(**body: object) -> dict[str, object]:
    told: dict[str, object] = json.loads(Tgi().ask(wish_of(decode(**body)), REPLICA, stream=False).body)
    return told


def test_it_is_said_in_tgis_words() -> None:
    """Prompt and parameters as seed 003 sent them, its defaults filled in."""
    call = decode(model_id="gpt-2", prompt="שלום \u2028 {x}")
    assert (call.api, call.operation, call.model, call.stream) == (
        Api.PLAIN,
        Operation.GENERATE,
        "gpt-2",
        False,
    )
    assert sent(prompt="שלום \u2028 {x}") == {"inputs": "שלום \u2028 {x}", "parameters": DEFAULTS}


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"model_id": "a"}, "a"),
        ({"model": "b"}, "b"),
        ({"model_id": "a", "model": "b"}, "a"),
        ({"model_id": None, "model": "b"}, "b"),
        ({"model_id": "", "model": "b"}, "b"),
        ({}, None),
    ],
)
def test_which_model(body: dict[str, object], model: str | None) -> None:
    """`model_id`, else `model`, else the default's to decide."""
    assert decode(prompt="x", **body).model == model


@pytest.mark.parametrize(
    ("field", "low", "high", "beyond"),
    [
        ("max_new_tokens", 1, 2048, (0, 2049, 1.5, True, "9")),
        ("temperature", 0, 2, (-0.1, 2.1, True, "0.5")),
        ("top_p", 0, 1, (-0.1, 1.1, False)),
        ("repetition_penalty", 1, 2, (0.9, 2.1, [])),
    ],
)
def test_bounds(field: str, low: float, high: float, beyond: tuple[object, ...]) -> None:
    """The documented bounds are inclusive; what is beyond is a 422 that names the field."""
    for good in (low, high, None):
        decode(prompt="x", **{field: good})
    for value in beyond:
        with pytest.raises(RouterError) as caught:
            decode(prompt="x", **{field: value})
        assert (caught.value.kind, caught.value.param) == (errors.INVALID_PARAMETER, field)
        assert SURFACE.error(caught.value, "r")[0] == 422


@pytest.mark.parametrize("prompt", [None, "", 7, ["x"], {"a": 1}, True])
def test_the_prompt_is_a_string(prompt: object) -> None:
    """Nothing else is sent to an engine."""
    with pytest.raises(RouterError) as caught:
        decode(prompt=prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("field", ["model", "model_id"])
def test_the_model_is_a_string(field: str) -> None:
    """A list or number names no model."""
    with pytest.raises(RouterError) as caught:
        decode(prompt="x", **{field: ["gpt-2"]})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("body", "absent", "samples"),
    [
        ({"temperature": 0}, {"temperature", "top_p"}, False),
        ({"temperature": 0, "top_p": 1}, {"temperature", "top_p"}, False),
        ({"top_p": 1}, {"top_p"}, True),
        ({"top_p": 0}, {"temperature", "top_p"}, False),
        ({}, set(), True),
    ],
)
def test_what_tgi_refuses_is_translated(body: dict[str, object], absent: set[str], samples: bool) -> None:
    """Values that the schema allows and TGI refuses reach it in its own way."""
    parameters = sent(prompt="x", **body)["parameters"]
    assert isinstance(parameters, dict)
    assert set(DEFAULTS) - set(parameters) == absent
    assert parameters["do_sample"] is samples


def test_other_fields_do_not_reach_the_engine() -> None:
    """Only the schema's fields are translated; whatever else a stranger adds stays here."""
    assert sent(prompt="x", adapter_id="a", parameters={"best_of": 9}, inputs2="y") == {
        "inputs": "x",
        "parameters": DEFAULTS,
    }


def test_the_answer_is_the_raw_continuation() -> None:
    """The engine's text without the prompt, to the last blank, and the model's id."""
    shape = decode(prompt="x").shape
    assert shape is not None
    answer = shape(Said(" שלום\n", Finish.LENGTH, Tokens(1, 3), "gpt-2", 0.5))
    assert answer == {"generated_text": " שלום\n", "model_id": "gpt-2"}


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
def test_each_error_has_a_string_detail(kind: ErrorKind) -> None:
    """Seed 003's page prints `detail`; bad bodies are 422, the rest has the table's status."""
    status, body = SURFACE.error(RouterError(kind), "r-1")
    told = json.loads(body)
    bad_body = {"invalid_parameter", "malformed_json", "unsupported_by_engine", "engine_rejected"}
    assert status == (422 if kind.code in bad_body else kind.status)
    assert (told["detail"], told["code"], told["request_id"]) == (kind.message, kind.code, "r-1")
    framed = json.loads(data(SURFACE.error_frame(RouterError(kind), "r-1")))
    assert framed == {"error": kind.message, **told}


def test_a_status_of_the_engine_stays() -> None:
    """A 413 that is passed on is not turned into a 422."""
    assert SURFACE.error(RouterError(errors.ENGINE_REJECTED, status=413), "r")[0] == 413
