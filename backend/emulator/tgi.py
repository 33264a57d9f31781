"""TGI 3.3.7: routes, headers, error bodies, native generation. The OpenAI routes are in `tgi_openai`."""

from collections.abc import AsyncGenerator
from typing import Any, ClassVar

from emulator import tgi_openai
from emulator.answer import Headers
from emulator.dialect import Exchange, Whole, as_json
from emulator.faults import Plan, Scope
from emulator.message import Request
from emulator.schedule import Engine
from emulator.settings import Settings
from emulator.stream import frame, relay
from emulator.text import GPT2
from emulator.tgi_checks import Job, Limits, Refused, check_parameters, invalid, job_of, parse, plain
from emulator.tgi_jobs import Jobs, reply_headers, stream_headers
from emulator.tgi_metrics import render

_GET, _POST = frozenset({"GET"}), frozenset({"POST"})
_GENERATE = ("/", "/generate", "/generate_stream", "/v1/chat/completions", "/v1/completions")
_HEALTH = ("/health", "/ping")
_OPEN = ("/chat_tokenize",)  # a POST route that asks for no key
_TEXTS = {
    "overloaded": (429, "overloaded", "Model is overloaded"),
    "unavailable": (429, "overloaded", "Model is overloaded"),
    "internal": (500, "incomplete_generation", "Incomplete generation"),
    "generation": (
        424,
        "generation",
        "Request failed during generation: Server error: emulated CUDA failure",
    ),
    "validation": (422, "validation", "Input validation error: `inputs` cannot be empty"),
}
_BY_STATUS = {
    422: _TEXTS["validation"],
    424: _TEXTS["generation"],
    429: _TEXTS["overloaded"],
    500: _TEXTS["internal"],
    503: (503, "healthcheck", "unhealthy"),
}


class Tgi:
    """The dialect of TGI."""

    common: Headers = (
        ("x-emulated", "true"),
        ("access-control-allow-origin", "*"),
        ("vary", "origin, access-control-request-method, access-control-request-headers"),
    )
    malformed = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    body_limit = 2_000_000
    routes: ClassVar[dict[str, frozenset[str]]] = {
        "/": _GET | _POST, "/generate": _POST, "/generate_stream": _POST, "/v1/chat/completions": _POST,
        "/v1/completions": _POST, "/tokenize": _POST, "/chat_tokenize": _POST, "/health": _GET, "/ping": _GET,
        "/info": _GET, "/v1/models": _GET, "/metrics": _GET,
    }  # fmt: skip

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """One engine behind all routes."""
        self._settings = settings
        self._engine = engine
        self._jobs = Jobs(settings, engine, Limits(settings.max_total_tokens))
        self._frozen: bytes | None = None

    def scope(self, path: str, method: str) -> Scope:
        """Generation, health or metrics."""
        if path in _HEALTH or (path == "/" and method == "GET"):
            return Scope.HEALTH
        if path == "/metrics":
            return Scope.METRICS
        return Scope.GENERATE if path in _GENERATE else Scope.ERRORS

    async def handle(self, exchange: Exchange) -> None:
        """Answer a request."""
        request = exchange.request
        methods = self.routes.get(request.path)
        if methods is None:
            await exchange.reply(Whole(404))
        elif request.method not in methods and not (request.method == "HEAD" and "GET" in methods):
            allow = ",".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
            await exchange.reply(Whole(405, headers=(("allow", allow),)))
        elif request.method == "POST" and request.path not in _OPEN and not self._allowed(request):
            await exchange.reply(Whole(401))
        elif request.method == "POST":
            try:
                await self._post(exchange)
            except Refused as refused:
                await exchange.reply(self._refused(refused))
        else:
            await exchange.reply(self._get(exchange))

    def refusal(self, status: int, plan: Plan) -> Whole:
        """TGI's body for a status: JSON where it has an error type, else plain text or nothing."""
        if status in _BY_STATUS:
            return _error(*_BY_STATUS[status])
        if status == 400:
            text = b"Failed to parse the request body as JSON: expected value at line 1 column 1"
            return Whole(400, text, "text/plain; charset=utf-8")
        if status in (502, 504):  # never TGI's own: what a proxy before it says
            return Whole(status, b"<html><h1>Bad Gateway</h1></html>", "text/html")
        return Whole(status)

    def error_frames(self, path: str, kind: str) -> list[bytes]:
        """Native: one frame; OpenAI routes: a frame with status 422 whatever happened, and `[DONE]`."""
        _, error_type, message = _TEXTS[kind]
        if path.startswith("/v1/"):
            return tgi_openai.error_frames(message)
        return [frame({"error": message, "error_type": error_type})]

    def error_answer(self, kind: str, plan: Plan) -> Whole:
        """As JSON with its own status."""
        return _error(*_TEXTS[kind])

    def _allowed(self, request: Request) -> bool:
        keys = self._settings.api_keys
        given = (request.header("authorization") or "").lower()
        return not keys or given in [f"bearer {key}".lower() for key in keys]

    def _refused(self, refused: Refused) -> Whole:
        if refused.status != 429:
            self._engine.meters.failures[refused.kind or "validation"] += 1
        return refused.whole or _error(refused.status, refused.kind, refused.message)

    def _get(self, exchange: Exchange) -> Whole:
        match exchange.request.path:
            case "/info":
                return as_json(self._info())
            case "/v1/models":
                model = self._settings.model
                entry = {"id": model, "object": "model", "created": 0, "owned_by": model}
                return as_json({"object": "list", "data": [entry]})
            case "/metrics":
                text = render(self._engine, hidden="metrics_missing" in exchange.plan).encode()
                self._frozen = (self._frozen or text) if "metrics_stale" in exchange.plan else None
                return Whole(200, self._frozen or text, "text/plain; charset=utf-8")
        return Whole(200)

    def _info(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "model_id": settings.model,
            "model_sha": "2290a62682d06624634c1f46a6ad5be0f47f38aa",
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.max_concurrent,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": settings.max_total_tokens - 1,
            "max_total_tokens": settings.max_total_tokens,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": settings.version,
            "sha": "emulated",
            "docker_label": "emulated",
        }

    async def _post(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.oversized:
            raise plain(413, "Failed to buffer the request body: length limit exceeded")
        value = parse(request.body, request.header("content-type"))
        match request.path:
            case "/":
                if value.get("stream"):
                    await self._stream(exchange, value, full_text=True)
                else:
                    await self._whole(exchange, value, full_text=True)
            case "/generate":
                await self._whole(exchange, value, full_text=None)
            case "/generate_stream":
                await self._stream(exchange, value, full_text=None)
            case "/v1/chat/completions":
                await tgi_openai.chat(exchange, value, self._jobs, self)
            case "/v1/completions":
                await tgi_openai.completions(exchange, value, self._jobs, self)
            case "/tokenize":
                await exchange.reply(as_json(_tokens(job_of(value, request.body).inputs)))
            case _:
                text = tgi_openai.templated(value, self._settings, request.body)
                await exchange.reply(as_json({"tokenize_response": _tokens(text), "templated_text": text}))

    async def _whole(self, exchange: Exchange, value: dict[str, Any], full_text: bool | None) -> None:
        job = job_of(value, exchange.request.body)
        self._jobs.refuse_by_fault(exchange, self)
        self._jobs.permit(max(1, job.best_of))
        check_parameters(value.get("parameters") or {}, job, self._jobs.limits, stream=False)
        async with self._jobs.run(exchange, [job]) as run:
            await run.finish()
            end = run.ends[0]
            shown = _prefix(job, full_text) + end.text
            answer: dict[str, Any] = {"generated_text": shown}
            if job.details or job.decoder_input_details:
                answer["details"] = end.details(job)
            body = [answer] if exchange.request.path == "/" else answer
            headers = reply_headers(run, characters=len(job.inputs))
            await exchange.reply(as_json(body, headers=headers))

    async def _stream(self, exchange: Exchange, value: dict[str, Any], full_text: bool | None) -> None:
        job = job_of(value, exchange.request.body)
        headers = stream_headers(len(job.inputs))
        await exchange.outlet.start(200, headers)
        await relay(self._frames(exchange, value, job, full_text), exchange, self)

    async def _frames(
        self, exchange: Exchange, value: dict[str, Any], job: Job, full_text: bool | None
    ) -> AsyncGenerator[bytes, None]:
        """Everything that may fail happens here, under status 200."""
        try:
            self._jobs.permit(1)
            check_parameters(value.get("parameters") or {}, job, self._jobs.limits, stream=True)
            async with self._jobs.run(exchange, [job]) as run:
                async for end, step in run.steps():
                    if step is None:
                        yield b":\n\n"
                        continue
                    if step.token is None:
                        message = "Incomplete generation stream"
                        yield frame({"error": message, "error_type": "incomplete_generation_stream"})
                        return
                    shown: dict[str, Any] = {"index": step.count, "token": end.token(step)}
                    if job.top_n:
                        shown["top_tokens"] = [end.token(step)]
                    last = step.finish is not None
                    shown["generated_text"] = _prefix(job, full_text) + end.text if last else None
                    shown["details"] = end.stream_details() if last and job.details else None
                    yield frame(shown)
        except Refused as refused:
            self._refused(refused)
            yield frame({"error": refused.message, "error_type": refused.kind})


def _prefix(job: Job, full_text: bool | None) -> str:
    wanted = full_text if job.return_full_text is None else job.return_full_text
    return job.inputs if wanted else ""


def _tokens(text: str) -> list[dict[str, Any]]:
    if not text:
        raise invalid("`inputs` cannot be empty")
    shown, place = [], 0
    for token in GPT2.encode(text):
        end = place + len(token.data)
        shown.append(
            {"id": token.id, "text": token.data.decode("utf-8", "replace"), "start": place, "stop": end}
        )
        place = end
    return shown


def _error(status: int, kind: str, message: str) -> Whole:
    return as_json({"error": message, "error_type": kind}, status)
