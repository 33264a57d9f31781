"""vLLM 0.33: routes, headers, error bodies. Chat and completions are in `vllm_generate`."""

import hashlib
import json
import time
import uuid
from typing import Any, ClassVar

from emulator.answer import Headers
from emulator.dialect import Exchange, Whole, as_json
from emulator.faults import Plan, Scope
from emulator.message import Request
from emulator.schedule import Engine
from emulator.settings import Settings
from emulator.stream import DONE
from emulator.template import TemplateError, check_alternation, prompt_of
from emulator.text import GEMMA
from emulator.vllm_checks import check_messages
from emulator.vllm_generate import Generation
from emulator.vllm_metrics import render
from emulator.vllm_refusals import NO_TEMPLATE, Refused, bad, invalid, parse

_GET, _POST = frozenset({"GET"}), frozenset({"POST"})
_GENERATE = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_TOKENIZED = (*_GENERATE, "/tokenize")  # what asks the tokenizer, the first part of vLLM to stop
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")
_BUSY = "The engine is currently busy and cannot accept new requests. Please try again later."
_PAUSED = "Generation is paused. Please retry after it resumes."
_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_ENDING = "cannot schedule new futures after shutdown"
_ERRORS = {
    "overloaded": (503, "Service Unavailable", _BUSY),
    "unavailable": (503, "ServiceUnavailableError", _PAUSED),
    "internal": (500, "InternalServerError", _DEAD),
    "generation": (500, "InternalServerError", "Internal server error"),
    "validation": (400, "BadRequestError", "This request is refused by an emulated fault."),
}
_BY_STATUS = {
    400: _ERRORS["validation"],
    404: (404, "NotFoundError", "The model `emulated-fault` does not exist."),
    422: (422, "UnprocessableEntityError", "An image cannot be loaded (emulated fault)."),
    500: _ERRORS["internal"],
    501: (501, "NotImplementedError", "This model does not support that (emulated fault)."),
    503: _ERRORS["overloaded"],
}


_PERMISSION = {
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}
_SCALE_OUT = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."


class _Crashed(Exception):
    """A request that comes while vLLM ends."""


class Vllm:
    """The dialect of vLLM."""

    common: Headers = (("server", "uvicorn"), ("x-emulated", "true"), ("vary", "Origin"))
    malformed = (
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 30\r\nconnection: close\r\n\r\nInvalid HTTP request received."
    )
    body_limit = 64 << 20  # vLLM has none; this one keeps the emulator small
    routes: ClassVar[dict[str, frozenset[str]]] = {
        **dict.fromkeys((*_TOKENIZED, "/detokenize"), _POST), "/ping": _GET | _POST,
        "/v1/chat/completions/render": _POST, "/v1/completions/render": _POST,
        **dict.fromkeys(("/health", "/version", "/load", "/v1/models", "/metrics"), _GET),
    }  # fmt: skip

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """One engine behind all routes."""
        self._settings = settings
        self._engine = engine
        self._generation = Generation(settings, engine, self)
        self._frozen: bytes | None = None
        self._load = 0

    def scope(self, path: str, method: str) -> Scope:
        """Generation, health or metrics."""
        if path in ("/health", "/ping"):
            return Scope.HEALTH
        if path == "/metrics":
            return Scope.METRICS
        return Scope.GENERATE if path in _GENERATE else Scope.ERRORS

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request."""
        request = exchange.request
        methods = self.routes.get(request.path)
        if self._settings.request_id_headers:
            exchange.outlet.add("x-request-id", request.header("x-request-id") or uuid.uuid4().hex)
        if request.path.startswith(_GUARDED) and not self._allowed(request):
            await exchange.reply(as_json({"error": "Unauthorized"}, 401))
        elif methods is None or (request.path == "/v1/embeddings" and not self._settings.embedding):
            await exchange.reply(as_json({"detail": "Not Found"}, 404))
        elif request.method not in methods:
            whole = as_json({"detail": "Method Not Allowed"}, 405)
            await exchange.reply(
                Whole(405, whole.body, whole.media, (("allow", ", ".join(sorted(methods))),))
            )
        elif request.method == "POST":
            try:
                await self._post(exchange)
            except _Crashed:
                # Answered outside all middleware, after which uvicorn closes without having said so.
                exchange.outlet.drop("vary", "x-request-id")
                await exchange.reply(
                    self.refused(Refused(500, "InternalServerError", _ENDING), exchange.plan)
                )
                exchange.outlet.keep_alive = False
            except Refused as refused:
                await exchange.reply(self.refused(refused, exchange.plan))
        else:
            await exchange.reply(self._get(exchange))

    def refusal(self, status: int, plan: Plan) -> Whole:
        """vLLM's body for a status; of those it never sends, what a proxy before it says."""
        if status == 401:
            return as_json({"error": "Unauthorized"}, 401)
        if status == 503 and "health_status" in plan:
            return Whole(503)
        if status in _BY_STATUS:
            return self.refused(Refused(*_BY_STATUS[status]), plan)
        if status in (502, 504):
            return Whole(status, b"<html><h1>Bad Gateway</h1></html>", "text/html")
        return as_json({"detail": f"Emulated status {status}"}, status)

    def error_frames(self, path: str, kind: str) -> list[bytes]:
        """One frame and `[DONE]`. Unlike all its other frames, vLLM writes this one by plain json.dumps."""
        return [b"data: %b\n\n" % json.dumps(_error_of(Refused(*_ERRORS[kind]))).encode(), DONE]

    def error_answer(self, kind: str, plan: Plan) -> Whole:
        """The same error as an answer."""
        return self.refused(Refused(*_ERRORS[kind]), plan)

    def refused(self, refused: Refused, plan: Plan) -> Whole:
        """A refusal as an answer, nested, or flat as up to 0.10.0."""
        if not refused.kind:
            return as_json({"detail": refused.message}, refused.status)
        body = _error_of(refused)
        return as_json({"object": "error"} | body["error"] if "flat_errors" in plan else body, refused.status)

    def _allowed(self, request: Request) -> bool:
        keys = self._settings.api_keys
        scheme, _, key = (request.header("authorization") or "").partition(" ")
        return not keys or (scheme.lower() == "bearer" and key in keys)

    def _get(self, exchange: Exchange) -> Whole:
        settings = self._settings
        match exchange.request.path:
            case "/version":
                return as_json({"version": settings.version})
            case "/load":
                return as_json({"server_load": self._load if settings.load_tracking else 0})
            case "/v1/models":
                return as_json(
                    {"object": "list", "data": [_model(name, settings) for name in settings.served_names]}
                )
            case "/metrics":
                plan = exchange.plan
                text = render(
                    self._engine,
                    settings.name,
                    hidden="metrics_missing" in plan,
                    old_names="metrics_old_names" in plan,
                ).encode()
                self._frozen = (self._frozen or text) if "metrics_stale" in plan else None
                return Whole(200, self._frozen or text, "text/plain; version=1.0.0; charset=utf-8")
        return Whole(200)

    async def _post(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path == "/ping":
            await exchange.reply(Whole(200))
            return
        value = parse(request.body, request.header("content-type"))
        self.check_model(value)
        if self._engine.ending and request.path in _TOKENIZED:
            raise _Crashed
        match request.path:
            case "/tokenize":
                await exchange.reply(as_json(_tokenized(value, self._settings)))
            case "/v1/chat/completions/render" | "/v1/completions/render":
                raise Refused(403, "PermissionDeniedError", _SCALE_OUT)
            case "/detokenize":
                if not isinstance(value.get("tokens"), list):
                    raise invalid("body.tokens", "missing", "Field required", value)
                await exchange.reply(as_json({"prompt": GEMMA.decode(list(value.get("tokens") or []))}))
            case "/v1/embeddings":
                await exchange.reply(as_json(_embeddings(value, self._settings.name)))
            case path:
                self._load += 1
                try:
                    await self._generation.answer(exchange, value, chat=path == "/v1/chat/completions")
                finally:
                    self._load -= 1

    def check_model(self, value: dict[str, Any]) -> None:
        """A name that is not served is a 404."""
        model = value.get("model")
        if model and model not in self._settings.served_names:
            names = ", ".join(self._settings.served_names)
            message = f"The model `{model}` does not exist. Valid aliases: {names}."
            raise Refused(404, "NotFoundError", message, "model")


def _model(name: str, settings: Settings) -> dict[str, Any]:
    now = int(time.time())
    permission = {"id": f"modelperm-{uuid.uuid4().hex[:16]}", "object": "model_permission", "created": now}
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": settings.model,
        "parent": None,
        "max_model_len": settings.max_total_tokens,
        "permission": [permission | _PERMISSION],
    }


def _tokenized(value: dict[str, Any], settings: Settings) -> dict[str, Any]:
    if isinstance(value.get("messages"), list):
        if not settings.chat_template:
            raise bad(NO_TEMPLATE)
        check_messages(value)
        try:
            check_alternation(value["messages"])
        except TemplateError as error:
            raise bad(str(error)) from None
        text = prompt_of(value["messages"], False, answer=value.get("add_generation_prompt", True))
    elif isinstance(value.get("prompt"), str):
        text = ("<bos>" if value.get("add_special_tokens", True) else "") + value["prompt"]
    else:
        raise invalid("body.prompt", "missing", "Field required", value)
    tokens = GEMMA.encode(text)
    ids, context = [token.id for token in tokens], settings.max_total_tokens
    strings = [_piece(token.data) for token in tokens] if value.get("return_token_strs") else None
    return {"count": len(ids), "max_model_len": context, "tokens": ids, "token_strs": strings}


def _piece(data: bytes) -> str:
    """A token as Gemma's tokenizer keeps it."""
    try:
        return data.decode().replace(" ", "▁")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)


def _embeddings(value: dict[str, Any], model: str) -> dict[str, Any]:
    given = value.get("input")
    texts = given if isinstance(given, list) else [given]
    data = []
    for index, text in enumerate(texts):
        digest = hashlib.sha256(str(text).encode("utf-8", "replace")).digest()
        vector = [round(byte / 127.5 - 1, 6) for byte in digest[:8]]
        data.append({"index": index, "object": "embedding", "embedding": vector})
    tokens = sum(GEMMA.count(str(text)) for text in texts)
    usage = {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    return {
        "id": "embd-emulated",
        "object": "list",
        "created": 1767000000,
        "model": model,
        "data": data,
        "usage": usage,
    }


def _error_of(refused: Refused) -> dict[str, Any]:
    return {
        "error": {
            "message": refused.message,
            "type": refused.kind,
            "param": refused.param,
            "code": refused.status,
        }
    }
