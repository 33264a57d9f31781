"""The documentation shows the routes that are served, no more and no fewer."""

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import jsonschema
import pytest

from pointsman import answer
from pointsman.apis import wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.app import Router, build
from pointsman.call import Call
from pointsman.control.forms import FORMS, headers
from pointsman.control.forms.told import EXAMPLES
from pointsman.errors import RouterError
from pointsman.generation import Delta, Tokens
from pointsman.guard_classes import OPEN_PATHS
from pointsman.keys import Key, digest_of
from pointsman.settings import load
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import Surface, read_fields
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.llm_service import LlmService
from unit.control.conftest import Client

pytestmark = pytest.mark.anyio


def test_every_generation_route_is_described(app: Router) -> None:
    """Each route of the data plane is in OpenAPI with a schema and an example, and finds itself."""
    paths = app.openapi()["paths"]
    for route in app.routes_table.table:
        described = paths[route.template][route.method.lower()]
        found = app.routes_table.find(route.method, route.template.replace("{model_id}", "m"))
        assert found is not None
        assert found.route is route
        answers = described["responses"]["200"]["content"]
        asked = [described["requestBody"]["content"]["application/json"]] if route.method == "POST" else []
        for content in (*asked, *answers.values()):
            assert content["schema"]
            assert "example" in content or "examples" in content


def test_every_described_generation_route_is_served_by_the_data_plane(app: Router) -> None:
    """What OpenAPI files under `generate` is the data plane's."""
    table = {(route.method, route.template) for route in app.routes_table.table}
    described = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method, entry in methods.items()
        if entry["tags"] == ["generate"]
    }
    assert described == table


def test_every_operation_is_told_whole(app: Router) -> None:
    """Summary, an example of the body and of the answer, and the errors that it can have, with examples."""
    for path, methods in app.openapi()["paths"].items():
        for method, told in methods.items():
            name, answers = f"{method.upper()} {path}", told["responses"]
            assert told["summary"], name
            contents = [*answers["200"]["content"].values()]
            body = told.get("requestBody")
            if body is not None:
                contents.append(body["content"]["application/json"])
            failures = {status for status in answers if status not in ("200", "default")}
            contents += [answers[status]["content"]["application/json"] for status in failures]
            for content in contents:
                assert "schema" in content, name
                assert "example" in content or "examples" in content, name
            assert "ValidationError" not in json.dumps(answers), name
            wanted = set() if path in OPEN_PATHS else {"403"}
            wanted |= {"413", "415"} if body is not None else set()
            wanted |= {"404"} if "{model_id}" in path else set()
            wanted |= {"429", "502", "503", "504"} if told["tags"] == ["generate"] else set()
            wanted |= {"401"} if told["tags"] == ["admin"] else set()
            assert wanted <= failures, name
            assert body is None or failures & {"400", "422"}, name


def holds(told: object, example: object) -> bool:
    """Whether all that an example names is in what is told."""
    if isinstance(example, dict):
        return isinstance(told, dict) and all(
            name in told and holds(told[name], example[name]) for name in example
        )
    if isinstance(example, list) and example and isinstance(told, list) and told:
        return holds(told[0], example[0])
    return isinstance(told, list) is isinstance(example, list)


@pytest.mark.parametrize("path", EXAMPLES)
async def test_examples_are_of_what_is_told(app: Router, client: Client, path: str) -> None:
    """Nothing in an example is made up."""
    async with client(app, "10.1.2.3") as http:
        key = Key(b"k" * 32, signs_with=None)
        app.keyring.table = type(app.keyring.table)([replace(key, digest=digest_of("a-key-for-the-docs"))])
        named = path.replace("{model_id}", "distilgpt2").replace("{name}", "distilgpt2")
        answer = await http.get(named, headers={"x-api-key": "a-key-for-the-docs"})
    assert answer.status_code == 200
    assert holds(answer.json(), EXAMPLES[path])


@pytest.mark.parametrize("path", FORMS)
def test_examples_fit_their_schemas(path: str) -> None:
    """What is asked and answered is valid, and the last frame of a plain stream is the whole answer."""
    for form in FORMS[path]:
        asked = {"type": "object", "properties": form.takes, "required": list(form.needs)}
        for schema in (asked, form.gives):
            jsonschema.Draft202012Validator.check_schema(schema)  # which OpenAPI 3.1 says them in
        jsonschema.validate(form.example, {**asked, "additionalProperties": False})
        if form.answer:
            jsonschema.validate(form.answer, form.gives)
        if '"type":"done"' in form.frames:
            *_, done, last = [frame[6:] for frame in form.frames.split("\n\n") if frame]
            told = json.loads(done)
            named = ["session_id"] if path == "/api/chat/stream" else form.answer
            assert told == {"type": "done", **{name: form.answer[name] for name in named}}
            assert last == "[DONE]"


@pytest.mark.parametrize(
    ("path", "index", "surface"),
    [
        ("/complete", 0, DistilGpt2()),
        ("/chat/completions", 0, DistilGpt2()),
        ("/generate", 1, BackendApi()),
        ("/generate", 2, DistilGpt2()),
        ("/v1/generate", 0, LlmService()),
        ("/v1/chat", 0, LlmService()),
    ],
)
def test_bounds_and_answers_are_the_surfaces(app: Router, path: str, index: int, surface: Surface) -> None:
    """What our own APIs take and give is what is said of them: bounds, defaults, fields of the answer."""
    form, found = FORMS[path][index], app.routes_table.find("POST", path)
    assert found is not None

    def decode(**more: object) -> Call:
        body = json.dumps({name: form.example[name] for name in form.needs} | more).encode()
        return surface.decode(found.route.operation, read_fields(body), body, stream=False)

    usual = {name: schema["default"] for name, schema in form.takes.items() if "default" in schema}
    assert wish_of(decode(**usual)) == wish_of(decode())
    for name, schema in form.takes.items():
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                decode(**{name: schema[bound]})
                with pytest.raises(RouterError, match=name):
                    decode(**{name: schema[bound] + step})
    whole = writer_of(decode(), Reply("id", "m", "m", 0, lambda: 0.5)).whole(Delta("x"), Tokens(1, 1))
    assert set(json.loads(whole)) == set(form.gives["properties"]) == set(form.answer)


async def test_examples_of_the_status_are_what_is_told(app: Router, client: Client) -> None:
    """`/model-info` word for word, `/health` field by field."""
    paths = app.openapi()["paths"]
    told = [
        paths[path]["get"]["responses"]["200"]["content"]["application/json"]["example"]
        for path in ("/model-info", "/health")
    ]
    async with client(app) as http:
        card, health = (await http.get("/model-info")).json(), (await http.get("/health")).json()
    assert told[0] == card
    assert {**told[1], "timestamp": ""} == {**health, "timestamp": "", "security": told[1]["security"]}
    assert set(told[1]["security"]) < set(health["security"])


def test_every_generation_route_tells_its_headers(app: Router) -> None:
    """What a request may have and an answer has, and when to come again; `answer.py` writes no others."""
    paths = app.openapi()["paths"]
    for route in app.routes_table.table:
        described = paths[route.template][route.method.lower()]
        taken = [one["name"] for one in described["parameters"] if one["in"] == "header"]
        assert taken == list(headers.TAKEN)
        assert set(described["responses"]["200"]["headers"]) == set(headers.GIVEN)
        assert "Retry-After" in described["responses"]["503"]["headers"]
        assert "headers" not in described["responses"]["502"]
    written = re.findall(r"x-pointsman-[a-z]+(?=: \{)", Path(answer.__file__).read_text(encoding="utf-8"))
    assert set(written) <= {name.lower() for name in headers.GIVEN}


@pytest.mark.parametrize("path", ["/models/compare", "/models/{model_id}/warm"])
def test_routes_of_several_parts_tell_how_long_one_waits(app: Router, path: str) -> None:
    """The header, beside what FastAPI tells of the path, and what is answered to a bad one."""
    told = app.openapi()["paths"][path]["post"]
    names = [(one["in"], one["name"]) for one in told["parameters"]]
    assert ("header", "X-Request-Timeout") in names
    assert (("path", "model_id") in names) is ("{model_id}" in path)
    assert "400" in told["responses"]


async def test_docs_can_be_hidden(client: Client) -> None:
    """`DOCS=off` takes the three pages away."""
    hidden = build(load({"DOCS": "off"}, None, None))
    shown = build(load({}, None, None))
    for app, status in ((hidden, 404), (shown, 200)):
        async with client(app) as http:
            for path in ("/docs", "/redoc", "/openapi.json"):
                answer: httpx.Response = await http.get(path)
                assert answer.status_code == status
                assert re.fullmatch(r"[A-Za-z0-9._-]+", answer.headers["x-request-id"])
