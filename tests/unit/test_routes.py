"""The route table: exact paths only, at the root and below a model."""

from contextlib import nullcontext

import pytest

from pointsman.call import Operation
from pointsman.errors import RouterError
from pointsman.routes import Match, Routes
from pointsman.surfaces.base import read_fields

ROUTES = Routes()


def decode(match: Match, body: bytes) -> None:
    fields = read_fields(body)
    match.route.surface_of(fields).decode(match.route.operation, fields, body, stream=False)


PATHS = {
    ("POST", "/v1/chat/completions"): Operation.CHAT,
    ("POST", "/v1/completions"): Operation.COMPLETION,
    ("POST", "/v1/embeddings"): Operation.EMBEDDING,
    ("POST", "/generate"): Operation.GENERATE,
    ("POST", "/generate_stream"): Operation.GENERATE,
    ("POST", "/"): Operation.COMPAT,
    ("POST", "/tokenize"): Operation.TOKENIZE,
    ("POST", "/chat_tokenize"): Operation.CHAT_TOKENIZE,
    ("GET", "/info"): Operation.INFO,
    ("POST", "/complete"): Operation.COMPLETION,
    ("POST", "/chat/completions"): Operation.CHAT,
    ("POST", "/v1/generate"): Operation.GENERATE,
    ("POST", "/v1/chat"): Operation.CHAT,
    ("POST", "/api/chat/stream"): Operation.CHAT,
    ("POST", "/api/tasks/extract"): Operation.CHAT,
    ("POST", "/api/summarization/summarize"): Operation.CHAT,
    ("POST", "/api/title/generate"): Operation.CHAT,
}


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_each_route_exists_twice(method: str, path: str) -> None:
    """At the root the body names the model; below `/models/{id}` the path does."""
    root, scoped = ROUTES.find(method, path), ROUTES.find(method, "/models/gpt-2" + path)
    assert root is not None
    assert scoped is not None
    assert (root.route.operation, root.model_id) == (PATHS[method, path], None)
    assert (scoped.route.operation, scoped.model_id) == (PATHS[method, path], "gpt-2")
    assert root.route.template == path
    assert scoped.route.template == ("/models/{model_id}" + path).rstrip("/")


def test_the_table_has_no_other_routes() -> None:
    """Only listed operations of an engine can be reached."""
    assert {(route.method, route.path) for route in ROUTES.table} == set(PATHS)
    assert len({(route.method, route.template) for route in ROUTES.table}) == len(ROUTES.table)


def test_a_model_itself_is_tgis_root() -> None:
    """Clients of huggingface_hub post to `/models/<id>`."""
    for path in ("/models/gpt-2", "/models/gpt-2/"):
        match = ROUTES.find("POST", path)
        assert match is not None
        assert (match.route.operation, match.model_id) == (Operation.COMPAT, "gpt-2")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/generate"),
        ("POST", "/info"),
        ("HEAD", "/info"),
        ("post", "/generate"),
        ("POST", "/generate/"),
        ("POST", "//generate"),
        ("POST", "/Generate"),
        ("POST", "/generate "),
        ("POST", "/models/"),
        ("POST", "/models//generate"),
        ("POST", "/models/a//generate"),
        ("POST", "/models/a/b/generate"),
        ("POST", "/models/{model_id}/models/{model_id}/generate"),
        ("POST", "/models/a/../generate"),
        ("GET", "/models/a"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/chat/completions/render"),
        ("POST", "/invocations"),
        ("POST", "/pause"),
        ("POST", "/v1/load_lora_adapter"),
        ("GET", "/metrics"),
        ("POST", ""),
        ("POST", "generate"),
    ],
)
def test_nothing_else_is_a_generation_route(method: str, path: str) -> None:
    """No other spelling and no other engine route reaches an engine."""
    assert ROUTES.find(method, path) is None


def test_the_templates_placeholder_is_no_way_in() -> None:
    """A model called like the placeholder is a name like any other."""
    match = ROUTES.find("POST", "/models/{model_id}/generate")
    assert match is not None
    assert match.model_id == "{model_id}"


def test_only_generate_stream_streams_by_itself() -> None:
    """Everywhere else the body decides."""
    assert {route.path for route in ROUTES.table if route.stream} == {"/generate_stream"}


@pytest.mark.parametrize(
    ("path", "body", "surface"),
    [
        ("/generate", b'{"inputs":"x"}', "tgi"),
        ("/generate", b'{"prompt":"x"}', "distilgpt2"),
        ("/v1/completions", b'{"prompt":"x"}', "openai"),
        ("/v1/embeddings", b'{"inputs":"x"}', "openai"),
        ("/", b'{"prompt":"x"}', "tgi"),
    ],
)
def test_only_generate_asks_the_body_whose_it_is(path: str, body: bytes, surface: str) -> None:
    """The surface belongs to the route; on `/generate` alone to the body."""
    match = ROUTES.find("POST", path)
    assert match is not None
    assert match.route.surface_of(read_fields(body)).name == surface


def test_media_hosts_reach_every_surface_that_takes_messages() -> None:
    """The allowed hosts hold for chat and for TGI's chat_tokenize alike."""
    body = b'{"messages":[{"role":"user","content":[{"image_url":{"url":"https://img.example/a"}}]}]}'
    for path in ("/v1/chat/completions", "/chat_tokenize"):
        for hosts, passes in (((), False), (("img.example",), True)):
            match = Routes(hosts).find("POST", path)
            assert match is not None
            refused = pytest.raises(RouterError, match="data: URL")
            with nullcontext() if passes else refused:
                decode(match, body)
