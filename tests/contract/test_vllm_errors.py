"""vLLM: what is refused, with which status and in which words a router may rely on."""

from typing import Any

import httpx
import pytest

from .process import ALIAS, CONTEXT, KEY, NAME, Engine
from .schema import check
from .test_vllm_answers import CHAT, COMPLETIONS, HI

SCHEMA, MEANING = "Bad Request", "BadRequestError"  # the two types of a 400


def error_of(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The inner object of a well-formed error body of this status."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    check("vllm", "Error", body)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert body["error"]["code"] == status
    found: dict[str, Any] = body["error"]
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "prompt"), [(CHAT, {"messages": HI}), (COMPLETIONS, {"prompt": "Hi"})])
def test_unknown_model(client: httpx.Client, path: str, prompt: dict[str, Any], *, stream: bool) -> None:
    """A name that is not served is a 404 that lists the served ones, before a stream opens."""
    error = error_of(client.post(path, json=prompt | {"model": "no/such", "stream": stream}), 404)
    assert error["message"] == f"The model `no/such` does not exist. Valid aliases: {NAME}, {ALIAS}."
    assert (error["type"], error["param"]) == ("NotFoundError", "model")


@pytest.mark.parametrize(
    ("path", "body", "kind", "param"),
    [
        (CHAT, {}, SCHEMA, "body.messages"),
        (CHAT, {"messages": "Hi"}, SCHEMA, None),
        (CHAT, {"messages": HI, "temperature": "warm"}, SCHEMA, "body.temperature"),
        (CHAT, {"messages": HI, "stop": list("abcde")}, SCHEMA, "body.stop"),
        (CHAT, {"messages": [{"role": "user", "content": "Hi", "name": None}]}, SCHEMA, None),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, SCHEMA, None),
        (CHAT, {"messages": HI, "ignore_eos": None}, SCHEMA, "body.ignore_eos"),
        (CHAT, {"messages": HI, "min_tokens": None}, SCHEMA, "body.min_tokens"),
        (COMPLETIONS, {"prompt": "Hi", "n": None}, SCHEMA, "body.n"),
        (CHAT, [], SCHEMA, "body"),
        ("/tokenize", {}, SCHEMA, "body.prompt"),
        ("/detokenize", {}, SCHEMA, "body.tokens"),
        (CHAT, {"messages": []}, MEANING, None),
        (CHAT, {"messages": HI, "temperature": -1}, MEANING, "temperature"),
        (CHAT, {"messages": HI, "top_p": 0}, MEANING, "top_p"),
        (CHAT, {"messages": HI, "top_p": 2}, MEANING, "top_p"),
        (CHAT, {"messages": HI, "max_tokens": 0}, MEANING, "max_tokens"),
        (CHAT, {"messages": HI, "max_tokens": CONTEXT + 1}, MEANING, "max_tokens"),
        (CHAT, {"messages": HI, "n": 0}, MEANING, None),
        (CHAT, {"messages": HI, "n": 2, "temperature": 0}, MEANING, None),
        (CHAT, {"messages": HI, "tools": []}, MEANING, "tools"),
        (CHAT, {"messages": HI, "stream_options": {"include_usage": True}}, MEANING, "stream_options"),
        (CHAT, {"messages": HI, "chat_template": "{{ x }}"}, MEANING, None),
        (COMPLETIONS, {}, MEANING, "prompt"),
        (COMPLETIONS, {"prompt": ""}, MEANING, "prompt"),
        (COMPLETIONS, {"prompt": None}, MEANING, "prompt"),
        (COMPLETIONS, {"prompt": "Hi", "max_tokens": -1}, MEANING, "max_tokens"),
        (COMPLETIONS, {"prompt": [1] * (CONTEXT + 1)}, MEANING, "input_tokens"),
    ],
)
def test_bad_requests(client: httpx.Client, path: str, body: object, kind: str, param: str | None) -> None:
    """A body of the wrong shape and a value that makes no sense are 400, never 422; `param` says where."""
    error = error_of(client.post(path, json=body))
    assert error["type"] == kind
    if kind is SCHEMA:
        assert " validation error" in error["message"]
    if param is not None or kind is MEANING:
        assert error["param"] == param


NULLS_OF_BOTH = """temperature top_p stream seed presence_penalty frequency_penalty logit_bias logprobs user
top_k min_p repetition_penalty stop stream_options response_format model"""
NULLS_OF_CHAT = "n top_logprobs tools tool_choice max_completion_tokens parallel_tool_calls"


@pytest.mark.parametrize(
    ("path", "prompt", "more"),
    [(CHAT, {"messages": HI}, NULLS_OF_CHAT), (COMPLETIONS, {"prompt": "Hi"}, "echo suffix")],
)
def test_nulls_that_are_accepted(client: httpx.Client, path: str, prompt: dict[str, Any], more: str) -> None:
    """These fields may be null, as clients that send every parameter do."""
    nulls = dict.fromkeys(f"{NULLS_OF_BOTH} {more}".split())
    assert client.post(path, json=prompt | nulls | {"max_tokens": 1}).status_code == 200


def test_fields_that_are_accepted(client: httpx.Client) -> None:
    """Limits of the ranges pass, and fields that nobody knows, `guided_choice` of old among them."""
    limits = {"temperature": 0, "top_p": 1, "max_tokens": 1, "stop": list("abcd")}
    unknown = {"guided_choice": ["a"], "wobble": {"x": 1}}
    assert client.post(CHAT, json={"messages": HI} | limits | unknown).status_code == 200


@pytest.mark.parametrize("roles", [("user", "user"), ("assistant",), ("user", "assistant", "assistant")])
def test_roles_alternate(client: httpx.Client, roles: tuple[str, ...]) -> None:
    """Gemma's template refuses roles that do not alternate from `user` on."""
    messages = [{"role": role, "content": "x"} for role in roles]
    error = error_of(client.post(CHAT, json={"messages": messages, "max_tokens": 1}))
    assert error["type"] == MEANING
    assert error["message"].startswith("Conversation roles must alternate")


def test_system_message_opens(client: httpx.Client) -> None:
    """A system message before the first user turn is fine, and so are parts of text."""
    system = {"role": "system", "content": "Be short."}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert client.post(CHAT, json={"messages": [system, parts], "max_tokens": 1}).status_code == 200


def test_tools_need_a_flag(client: httpx.Client) -> None:
    """Without the server's tool flags, tools are a 400 that names them."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    error = error_of(client.post(CHAT, json={"messages": HI, "tools": tools}))
    assert "--enable-auto-tool-choice" in error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_content_type(client: httpx.Client, kind: str | None) -> None:
    """Anything but application/json is a 400; parameters after it are fine."""
    body = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":1}'
    headers = {"content-type": kind} if kind else {}
    error = error_of(client.post(CHAT, content=body, headers=headers))
    assert error["type"] == SCHEMA
    assert error["message"].endswith("Unsupported Media Type: Only 'application/json' is allowed")
    good = {"content-type": "application/json; charset=utf-8"}
    assert client.post(CHAT, content=body, headers=good).status_code == 200


@pytest.mark.parametrize(("body", "param"), [(b"{oops", "body.1"), (b"", "body")])
def test_broken_json(client: httpx.Client, body: bytes, param: str) -> None:
    """Text that is no JSON is a 400 of the same envelope."""
    error = error_of(client.post(CHAT, content=body, headers={"content-type": "application/json"}))
    assert (error["type"], error["param"]) == (SCHEMA, param)


def test_broken_utf8(client: httpx.Client) -> None:
    """Bytes that are no UTF-8 are a 400 of another shape: FastAPI's own."""
    answer = client.post(CHAT, content=b'{"messages":"\xff"}', headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json() == {"detail": "There was an error parsing the body"}


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    """Routing errors have FastAPI's shape; pooling routes do not exist for a model that writes."""
    for method, path in (
        ("GET", "/"),
        ("GET", "/nope"),
        ("GET", f"/v1/models/{NAME}"),
        ("POST", "/v1/embeddings"),
        ("POST", "/rerank"),
    ):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    for method, path, allowed in (("GET", CHAT, "POST"), ("DELETE", "/health", "GET")):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
        assert answer.headers["allow"] == allowed


def test_render_is_forbidden(client: httpx.Client) -> None:
    """Routes of scale-out are there, but answer 403."""
    error = error_of(client.post("/v1/chat/completions/render", json={"messages": HI}), 403)
    assert error["type"] == "PermissionDeniedError"


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {KEY}", KEY])
def test_key(engine: Engine, header: str | None) -> None:
    """Without the right bearer key every path under /v1 is a 401 whose `error` is a string."""
    headers = {"authorization": header} if header else {}
    for path in ("/v1/models", "/v1/nope"):
        answer = httpx.get(engine.url + path, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})


def test_key_is_not_asked_elsewhere(engine: Engine) -> None:
    """Health, metrics, version and even /tokenize are open; the scheme's name is not case-sensitive."""
    for path in ("/health", "/metrics", "/version", "/load"):
        assert httpx.get(engine.url + path, trust_env=False).status_code == 200
    assert httpx.post(f"{engine.url}/tokenize", json={"prompt": "Hi"}, trust_env=False).status_code == 200
    lower = {"authorization": f"bearer {KEY}"}
    assert httpx.get(f"{engine.url}/v1/models", headers=lower, trust_env=False).status_code == 200
