"""Calls made up from our own OpenAPI document, fit and unfit ones, at a router before two engines.

None is answered by a 5xx, or by a status or a kind of content that the document does not name.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from pointsman.app import build
from pointsman.cli import main
from pointsman.settings import load
from processes import Emulator, Router

# Whose good calls change which replicas there are; tests/flow/test_replicas.py makes these.
LEFT_OUT = {
    "POST /admin/replicas": "a made-up address would be called",
    "DELETE /admin/replicas/{replica_id}": "the calls that follow would miss the replica",
    "POST /admin/replicas/{replica_id}/drain": "likewise",
}
MODELS = ("gemma-3-12b", "distilgpt2")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
SCHEMA = schemathesis.openapi.from_dict(build(load({}, None, None)).openapi())
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)}
# What is unfit is in the body; hardly any other parameter is so narrow that something else could be sent.
ASKED = [
    (label, mode)
    for label, operation in OPERATIONS.items()
    for mode in GenerationMode
    if label not in LEFT_OUT and (mode is GenerationMode.POSITIVE or operation.body)
]
EXAMPLES = 5  # of each
_PHASES = [Phase.explicit, Phase.generate]


@pytest.fixture(scope="module")
def opened(
    tgi: Emulator, vllm: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Router, dict[str, str]]]:
    """A router of these tests' own, and headers with a key that opens all of it."""
    keys = tmp_path_factory.mktemp("fuzz") / "keys.json"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        scopes = [word for scope in ("generate", "ops", "admin", "trusted") for word in ("--scope", scope)]
        assert main(["keys", "create", "--file", str(keys), *scopes]) == 0
    key = {"x-api-key": said.getvalue().splitlines()[0]}
    urls = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": vllm.url}
    with Router(KEYS_FILE=str(keys), **urls) as router:
        router.wait_until_up(*MODELS)
        yield router, key
        errors = [line for line in router.output().splitlines() if '"level":"ERROR"' in line]
        assert not errors


def aimed(case: Case[Any], model: str | None) -> Case[Any]:
    """The call, at a model that is there: made-up names alone would come no further than to 404."""
    if model is not None:
        for name in ("model_id", "name"):
            if name in case.path_parameters:
                case.path_parameters[name] = model
        if isinstance(case.body, dict):
            case.body.update({name: model for name in ("model", "model_id") if name in case.body})
    # To be late is the router's right where a client gives it no time; it would be a 504.
    case.headers.pop("X-Request-Timeout", None)
    return case


@pytest.mark.parametrize(("label", "mode"), ASKED)
def test_each_operation_keeps_what_it_promises(
    opened: tuple[Router, dict[str, str]], label: str, mode: GenerationMode
) -> None:
    """Whatever fits the document, and what does not."""
    router, key = opened

    @settings(max_examples=EXAMPLES, phases=_PHASES, suppress_health_check=list(HealthCheck))
    @given(case=OPERATIONS[label].as_strategy(mode), model=st.sampled_from((None, *MODELS)))
    def ask(case: Case[Any], model: str | None) -> None:
        answer = aimed(case, model).call(router.url, headers=key, timeout=30)
        case.validate_response(answer, checks=CHECKS)

    ask()


def test_what_is_left_out_is_there() -> None:
    """Every operation could be read, and the list of those not tried here is no longer than it must be."""
    assert all(isinstance(found, Ok) for found in SCHEMA.get_all_operations())
    assert set(LEFT_OUT) < set(OPERATIONS)
