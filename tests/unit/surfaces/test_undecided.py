"""`POST /generate`: the body says whose request it is, and until then errors speak to all."""

import json

import pytest

from pointsman import errors
from pointsman.errors import ALL_KINDS, ErrorKind, RouterError
from pointsman.sse import data
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.tgi import Tgi
from pointsman.surfaces.undecided import Undecided

SHAPE = Undecided(Tgi(), BackendApi(), DistilGpt2())


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"inputs":"x"}', "tgi"),
        (b'{"inputs":"x","parameters":{}}', "tgi"),
        (b'{"inp\\u0075ts":"x"}', "tgi"),
        (b'{"inputs":"x","prompt":"y","model_id":"m"}', "tgi"),
        (b'{"prompt":"x","model_id":"m"}', "backend_api"),
        (b'{"prompt":"x","model":"m"}', "backend_api"),
        (b'{"prompt":"x"}', "distilgpt2"),
        (b'{"prompt":"x","max_length":50}', "distilgpt2"),
    ],
)
def test_the_body_names_the_api(body: bytes, name: str) -> None:
    """`inputs` is TGI's; `prompt` with a model is seed 003's, alone seed 000's."""
    assert SHAPE.surface_of(read_fields(body)).name == name


@pytest.mark.parametrize(
    "body", [b"{}", b'{"model_id":"m"}', b'{"messages":[]}', b'{"Inputs":"x"}', b'{"input":"x"}']
)
def test_anything_else_is_told_the_forms(body: bytes) -> None:
    """422, with the forms that are known."""
    with pytest.raises(RouterError) as caught:
        SHAPE.surface_of(read_fields(body))
    assert caught.value.kind is errors.UNKNOWN_FORM
    status, told = SHAPE.error(caught.value, "r-1")
    assert status == 422
    for word in ("`inputs`", "`model_id`", "`prompt`"):
        assert word in json.loads(told)["detail"]


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
def test_each_error_speaks_to_both(kind: ErrorKind) -> None:
    """TGI's `error` and seed 003's `detail` say the same sentence, under the table's status."""
    status, body = SHAPE.error(RouterError(kind), "r-1")
    told = json.loads(body)
    assert status == kind.status
    assert told["error"] == told["detail"] == kind.message
    assert told["code"] == kind.code
    assert json.loads(data(SHAPE.error_frame(RouterError(kind), "r-1")))["error"] == kind.message
