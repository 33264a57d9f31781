"""What a client does wrong, and how each surface says so."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from processes import Emulator, Router
from wire import KINDS, TGI, VLLM, Client, Incoming, call, check_error, check_stream, post, request

_JSON = "content-type: application/json"
_HELLO = [{"role": "user", "content": "Hello"}]
CHAT: dict[str, Any] = {"model": "gemma-3-12b", "messages": _HELLO, "max_tokens": 3}
GENERATE: dict[str, Any] = {"inputs": "Hello", "parameters": {"max_new_tokens": 3}}
SEED: dict[str, Any] = {"model_id": "distilgpt2", "prompt": "Hello", "max_new_tokens": 3}
MIB = 1 << 20


@pytest.fixture(scope="module")
def guarded(tgi: Emulator, vllm: Emulator) -> Iterator[Router]:
    """A router that one web page may call, and one network of clients named by the proxy at its side."""
    settings = {
        "ALLOWED_ORIGINS": "https://page.example",
        "PUBLIC_HOSTS": "router.example",
        "ALLOWED_NETWORKS": "127.0.0.0/8,198.51.100.0/24",
        "DENIED_NETWORKS": "198.51.100.66",
    }
    with Router(TGI_DISTILGPT2_ENDPOINT=tgi.url, VLLM_GEMMA3_ENDPOINT=vllm.url, **settings) as running:
        running.wait_until_up("distilgpt2", "gemma-3-12b")
        yield running


def check_headers(answer: Incoming) -> None:
    assert answer.header("x-request-id")
    assert float(answer.header("x-process-time") or "nan") >= 0
    assert answer.header("content-type") == "application/json"


def check_openai(answer: Incoming, status: int, code: str, param: str | None = None) -> None:
    """OpenAI's `error` object."""
    check_headers(answer)
    assert (answer.status, check_error(VLLM, answer.json(), answer.header("x-request-id"))) == (status, code)
    assert answer.json()["error"]["param"] == param


def check_tgi(answer: Incoming, status: int, code: str) -> None:
    """TGI's `error` and `error_type`."""
    check_headers(answer)
    assert (answer.status, check_error(TGI, answer.json(), answer.header("x-request-id"))) == (status, code)
    assert answer.json()["error_type"] == "validation"


def check_seed(answer: Incoming, status: int, code: str) -> None:
    """Seed 003's `detail`, a string."""
    check_headers(answer)
    body = answer.json()
    assert (answer.status, body["code"], body["request_id"]) == (status, code, answer.header("x-request-id"))
    assert isinstance(body["detail"], str)
    assert set(body) == {"detail", "code", "owner", "retryable", "request_id"}
    assert (body["owner"], body["retryable"]) == (KINDS[code].owner.value, KINDS[code].retryable)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, None),
        ({"model": 5}, "model"),
        ({"model": "x" * 300}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 1.5}, "best_of"),
        ({"seed": 1 << 70}, "seed"),
    ],
    ids=str,
)
def test_a_bad_field_is_named_in_openais_shape(
    router: Router, change: dict[str, Any], param: str | None
) -> None:
    """400, with the field as `param` and in the sentence."""
    body = {**CHAT, **change}
    if change == {"messages": None}:
        del body["messages"]
        param = "messages"
    answer = call(router.port, post("/v1/chat/completions", body))
    check_openai(answer, 400, "invalid_parameter", param)
    assert f"`{param}`" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/models/distilgpt2/generate_stream", "/generate_stream", "/"])
def test_a_missing_field_is_named_in_tgis_shape(router: Router, path: str) -> None:
    """422, as TGI answers it."""
    answer = call(router.port, post(path, {"parameters": {}}))
    check_tgi(answer, 422, "invalid_parameter")
    assert "`inputs`" in answer.json()["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": 5},
        {"prompt": None},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2049},
        {"max_new_tokens": 1.5},
        {"temperature": 2.1},
        {"temperature": "hot"},
        {"top_p": True},
        {"repetition_penalty": 0.5},
    ],
    ids=str,
)
def test_a_bad_field_is_named_in_seed_003s_shape(router: Router, change: dict[str, Any]) -> None:
    """422 with a sentence in `detail` that names the field."""
    answer = call(router.port, post("/generate", {**SEED, **change}))
    check_seed(answer, 422, "invalid_parameter")
    assert f"`{next(iter(change))}`" in answer.json()["detail"]


def test_a_body_of_no_known_form_is_told_the_forms(router: Router) -> None:
    """`/generate` serves three APIs; who fits none hears of all, in a body all of them can read."""
    answer = call(router.port, post("/generate", {"text": "Hello"}))
    body = answer.json()
    assert (answer.status, body["code"]) == (422, "unknown_form")
    assert {"error", "detail"} <= set(body)
    assert all(word in body["detail"] for word in ("inputs", "model_id", "prompt"))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xef\xbb\xbf{}"], ids=repr)  # more in corpus.py
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate_stream", "/generate"])
def test_what_is_no_json_object_is_a_400(router: Router, path: str, body: bytes) -> None:
    """On every surface, whatever is wrong with it."""
    answer = call(router.port, request("POST", path, body, _JSON))
    assert answer.status == 400
    check_headers(answer)
    payload = answer.json()
    assert (payload["error"] if path.startswith("/v1") else payload)["code"] == "malformed_json"


@pytest.mark.parametrize(
    "field", ["priority", "kv_transfer_params", "request_id", "chat_template", "cache_salt"]
)
def test_fields_that_steer_the_engine_are_refused(router: Router, vllm: Emulator, field: str) -> None:
    """400 naming the field; the engine hears nothing."""
    vllm.reset()
    answer = call(router.port, post("/v1/chat/completions", {**CHAT, field: 1}))
    check_openai(answer, 400, "control_field_refused", field)
    assert vllm.sent() == []


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "https://example.org/a.png", "file:///etc/passwd", "//host/a", 5]
)
def test_remote_media_is_refused(router: Router, vllm: Emulator, url: object) -> None:
    """An engine would fetch whatever address a stranger names."""
    vllm.reset()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    for text in (json.dumps, lambda value: json.dumps(value).replace("image_url", "im\\u0061ge_url")):
        body = text({**CHAT, "messages": [{"role": "user", "content": content}]}).encode()
        answer = call(router.port, request("POST", "/v1/chat/completions", body, _JSON))
        assert (answer.status, answer.json()["error"]["code"]) == (400, "remote_media_refused")
    assert vllm.sent() == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate_stream", "/generate", "/tokenize"])
@pytest.mark.parametrize(
    "lines",
    [
        ("content-type: text/plain",),
        ("content-type: application/x-www-form-urlencoded",),
        (),
        (_JSON, "content-encoding: gzip"),
        (_JSON, "content-encoding: identity, gzip"),
    ],
    ids=str,
)
def test_a_body_of_another_type_is_a_415(router: Router, path: str, lines: tuple[str, ...]) -> None:
    """JSON without coding only, so that a foreign web page needs a preflight."""
    answer = call(router.port, request("POST", path, b"{}", *lines))
    check_headers(answer)
    assert (answer.status, b"unsupported_media_type" in answer.body) == (415, True)


def test_a_body_may_name_its_charset(router: Router) -> None:
    """Parameters of the media type do not matter."""
    line = "content-type: Application/JSON; charset=utf-8"
    assert call(router.port, request("POST", "/generate", json.dumps(GENERATE).encode(), line)).status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_over_8_mib_is_a_413(router: Router, vllm: Emulator, chunked: bool) -> None:
    """Refused by its declared length before it is read, else as soon as the limit is passed."""
    vllm.reset()
    with Client(router.port) as client:
        if chunked:
            client.send(
                request(
                    "POST", "/v1/chat/completions", b"", _JSON, "transfer-encoding: chunked", length=False
                )
            )
            block = b"%x\r\n%b\r\n" % (MIB, b" " * MIB)
            try:
                for _ in range(10):
                    client.send(block)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it need not take all of it
        else:
            client.send(
                request(
                    "POST", "/v1/chat/completions", b"", _JSON, f"content-length: {8 * MIB + 1}", length=False
                )
            )
        answer = client.read()
    check_openai(answer, 413, "body_too_large")
    assert answer.header("connection") == "close"
    assert f"{8 * MIB:,}" in answer.json()["error"]["message"]
    assert vllm.sent() == []


def test_a_body_tgi_would_not_take_is_a_413(router: Router, tgi: Emulator) -> None:
    """TGI's own limit is 2,000,000 bytes; one more is refused before it is sent."""
    empty = json.dumps({"inputs": "", "parameters": {"max_new_tokens": 1}})
    for size, status in ((2_000_000, None), (2_000_001, 413)):
        tgi.reset()
        text = "x" * (size - len(empty))
        body = json.dumps({"inputs": text, "parameters": {"max_new_tokens": 1}}).encode()
        assert len(body) == size
        answer = call(router.port, request("POST", "/models/distilgpt2/generate_stream", body, _JSON))
        if status is None:  # too long for the model, which is TGI's to say
            assert (answer.status, answer.json()["code"]) == (422, "engine_rejected")
            assert tgi.sent()[-1]["body_bytes"] == size
        else:
            check_tgi(answer, status, "body_too_large")
            assert tgi.sent() == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/generate_stream", "POST"),
        ("DELETE", "/models/distilgpt2/generate", "POST"),
        ("POST", "/models", "GET"),
        ("POST", "/health", "GET"),
        ("PATCH", "/v1/models", "GET"),
    ],
)
def test_a_wrong_method_is_a_405_that_names_the_right_ones(
    router: Router, method: str, path: str, allowed: str
) -> None:
    """As JSON, with Allow."""
    answer = call(router.port, request(method, path, b"{}" if method != "GET" else b"", _JSON))
    check_headers(answer)
    assert answer.status == 405
    assert allowed in (answer.header("allow") or "").split(", ")
    assert b"method_not_allowed" in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1/nothing",
        "/invocations",
        "/pause",
        "/v1/load_lora_adapter",
        "/models/x/y/z",
        "/docs/../metrics",
    ],
)
def test_an_unknown_path_is_a_404(router: Router, path: str) -> None:
    """As JSON in the shape of its neighbours; engines' own other routes are not reachable."""
    for method in ("GET", "POST"):
        answer = call(router.port, request(method, path, b"{}" if method == "POST" else b"", _JSON))
        check_headers(answer)
        assert (answer.status, b"route_not_found" in answer.body) == (404, True)
        assert ("error" in answer.json() and "code" in answer.json()["error"]) == path.startswith("/v1/")


def test_an_unknown_model_is_a_404_that_lists_the_known(router: Router) -> None:
    """On every surface and route, in its own shape."""
    known = "known models: distilgpt2, gemma-3-12b"
    openai = call(router.port, post("/v1/chat/completions", {**CHAT, "model": "gpt-9"}))
    check_openai(openai, 404, "model_not_found", "model")
    assert known in openai.json()["error"]["message"]
    seed = call(router.port, post("/generate", {**SEED, "model_id": "gpt-9"}))
    check_seed(seed, 404, "model_not_found")
    assert known in seed.json()["detail"]
    tgi = call(router.port, post("/models/gpt-9/generate_stream", GENERATE))
    assert (tgi.status, tgi.json()["code"]) == (404, "model_not_found")
    assert known in tgi.json()["error"]
    for path in ("/models/gpt-9", "/models/gpt-9/health", "/v1/models/gpt-9"):
        answer = call(router.port, request("GET", path))
        assert (answer.status, known.encode() in answer.body) == (404, True), path


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-1._X", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("a/b", False),
        ("<x>", False),
    ],
)
def test_a_request_id_is_kept_if_it_is_fit_for_logs(router: Router, sent: str, kept: bool) -> None:
    """On both planes, errors included; otherwise a new one takes its place."""
    line = f"x-request-id: {sent}"
    for data in (
        request("GET", "/models", b"", line),
        request("GET", "/nothing", b"", line),
        post("/generate", GENERATE, line),
        post("/generate", {}, line),
        request("GET", "/live", b"", line, "host: twice"),
    ):
        answer = call(router.port, data)
        assert (answer.header("x-request-id") == sent) is kept, data[:40]
        assert answer.header("x-request-id")
        assert answer.header("x-process-time")


def test_a_listed_page_gets_its_cors_headers_everywhere(guarded: Router) -> None:
    """On answers, errors, streams and both planes, with a preflight that allows it."""
    origin = "origin: https://page.example"
    for data in (
        request("GET", "/models", b"", origin),
        request("GET", "/nothing", b"", origin),
        post("/v1/chat/completions", CHAT, origin),
        post("/v1/chat/completions", {**CHAT, "stream": True}, origin),
        post("/v1/chat/completions", {}, origin),
        post("/generate", {}, origin),
    ):
        answer = call(guarded.port, data)
        assert answer.header("access-control-allow-origin") == "https://page.example", data[:40]
        assert "x-request-id" in (answer.header("access-control-expose-headers") or "").lower()
        assert answer.header("vary") == "Origin"
    asked = ("access-control-request-method: POST", "access-control-request-headers: content-type")
    preflight = call(guarded.port, request("OPTIONS", "/v1/chat/completions", b"", origin, *asked))
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.header("access-control-allow-origin") == "https://page.example"
    assert "POST" in (preflight.header("access-control-allow-methods") or "")
    assert "Content-Type" in (preflight.header("access-control-allow-headers") or "")


def test_another_page_gets_no_cors_headers_and_no_preflight(guarded: Router, router: Router) -> None:
    """The browser then refuses; without ALLOWED_ORIGINS nobody is let in."""
    for one, origin in ((guarded, "origin: https://evil.example"), (router, "origin: https://page.example")):
        answer = call(one.port, request("GET", "/models", b"", origin))
        assert (answer.status, answer.header("access-control-allow-origin")) == (200, None)
        asked = "access-control-request-method: POST"
        preflight = call(one.port, request("OPTIONS", "/generate", b"", origin, asked))
        assert (preflight.status, preflight.header("access-control-allow-origin")) == (403, None)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate_stream", "/nothing"])
def test_a_post_of_a_page_that_rebinds_its_name_is_a_403(guarded: Router, path: str) -> None:
    """An unlisted Origin may only post under a Host that no foreign DNS can hold."""
    body, origin = json.dumps({**CHAT, **GENERATE}).encode(), "origin: https://evil.example"
    for host, status in (
        ("evil.example", 403),
        ("127.0.0.1", 200),
        ("localhost:80", 200),
        ("router.example", 200),
    ):
        answer = call(guarded.port, request("POST", path, body, _JSON, origin, host=host))
        expected = 404 if status == 200 and path == "/nothing" else status
        assert answer.status == expected, host
        if status == 403:
            assert b"origin_forbidden" in answer.body
            check_headers(answer)
    assert call(guarded.port, request("POST", path, body, _JSON, host="evil.example")).status != 403


ADDRESSES = [
    ("198.51.100.7", True),
    ("198.51.100.66", False),
    ("203.0.113.9", False),
    ("6.6.6.6, 198.51.100.7", True),
    ("198.51.100.7, 203.0.113.9", False),
    ("unknown", False),
    ("", False),
]


@pytest.mark.parametrize(("forwarded", "allowed"), ADDRESSES)
def test_address_rules_hold_on_every_surface(guarded: Router, forwarded: str, allowed: bool) -> None:
    """Who is not allowed gets 403 in the surface's shape before the body is looked at."""
    line = f"x-forwarded-for: {forwarded}"
    calls = {
        "openai": post("/v1/chat/completions", CHAT, line),
        "tgi": post("/models/distilgpt2/generate_stream", GENERATE, line),
        "seed": post("/generate", SEED, line),
        "control": request("GET", "/models", b"", line),
        "metrics": request("GET", "/metrics", b"", line),
    }
    for name, data in calls.items():
        answer = call(guarded.port, data)
        assert answer.status == (200 if allowed else 403), name
        if not allowed:
            check_headers(answer)
            error = answer.json()["error"] if name == "openai" else answer.json()
            assert (error["code"], error["owner"]) == ("address_forbidden", "policy"), name
    for path in ("/health", "/live", "/ready"):
        assert call(guarded.port, request("GET", path, b"", line)).status == 200


def test_a_refused_address_is_logged(guarded: Router) -> None:
    """The operator reads who was refused and why; the access log has the exchange."""
    own_id = "refused-address-1"
    lines = ("x-forwarded-for: 203.0.113.77", f"x-request-id: {own_id}")
    assert call(guarded.port, post("/v1/chat/completions", CHAT, *lines)).status == 403
    assert "203.0.113.77" in guarded.read_until(r"refused address 203\.0\.113\.77: [^\n]*")
    line = guarded.access_line(own_id)
    assert (line["status"], line["error_code"], line["end"]) == (403, "address_forbidden", "rejected")


def test_no_answer_of_ours_lacks_its_stamps(router: Router) -> None:
    """X-Request-ID and X-Process-Time are on streams, whole answers, documents, metrics and errors."""
    for path in (
        "/",
        "/health",
        "/live",
        "/ready",
        "/models",
        "/v1/models",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/x",
    ):
        answer = call(router.port, request("GET", path))
        assert answer.header("x-request-id"), path
        assert float(answer.header("x-process-time") or "nan") >= 0, path
    answer = call(router.port, VLLM.request(stream=True))
    assert check_stream(VLLM, answer) is None
    assert float(answer.header("x-process-time") or "nan") >= 0
