"""The control plane's outer layer: preflight, address rules, and the headers that every answer carries.

Pure ASGI, so that it neither buffers nor hides a disconnect.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from pointsman import browser
from pointsman.body import Body
from pointsman.call import Api, Call, Operation
from pointsman.errors import ClientGone, RouterError
from pointsman.guard import Caller, Guard, check_body
from pointsman.guard_classes import OPEN_PATHS, control_class, control_needs
from pointsman.keys import Need
from pointsman.limits import FREE, Limiter
from pointsman.origin import CorsConfig, preflight
from pointsman.plane import request_id
from pointsman.running import Asked, Running
from pointsman.signature import Signed
from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.base import ErrorShape
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.llm_service import LlmService
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.tgi import Tgi
from pointsman.surfaces.undecided import Undecided
from pointsman.watch import Clock, Watch

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SIGNED_MAX_BYTES = 64 * 1024  # of a signed body, where a route takes no larger one
_UNCOUNTED = Call(Api.PLAIN, Operation.INFO, None)  # stands for a call that costs nothing
_OPENAI = OpenAI()
_PLAIN = Undecided(Tgi(), BackendApi(), DistilGpt2())
_SEED_002 = {path: LlmService(path) for path in ("/v1/generate", "/v1/chat", "/status", "/cache")}


def shape_of(path: str) -> ErrorShape:
    """The error shape that callers of a path expect."""
    if path in _SEED_002:
        return _SEED_002[path]
    return _OPENAI if path.startswith("/v1/") or "/v1/" in path else _PLAIN


class ControlFront:
    """Wraps the FastAPI app. Puts `caller` and `request_id` into the scope's state.

    Args:
        rules: what guard classes need other than usual.
        largest: the bytes of a signed body, by path, where those are more than `SIGNED_MAX_BYTES`.
        root_path: what paths may begin with before that of the route.
    """

    def __init__(
        self,
        app: App,
        guard: Guard,
        limiter: Limiter,
        cors: CorsConfig,
        rules: Mapping[str, Need],
        largest: Mapping[str, int],
        running: Running,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._guard = guard
        self._limiter = limiter
        self._cors = cors
        self._needs = control_needs(rules)
        self._root_path = root_path.rstrip("/")
        self._largest = largest
        self._clock: Clock | None = None
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = asyncio.get_running_loop().time()
        headers = dict(scope["headers"])
        own_id = request_id(headers.get(b"x-request-id"))
        cors = self._guard.cors(headers.get(b"origin"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                elapsed = asyncio.get_running_loop().time() - started
                message["headers"] = [
                    *_safe(message["status"], message.get("headers", [])),
                    (b"x-request-id", own_id.encode("ascii")),
                    (b"x-process-time", b"%.3f" % elapsed),
                    *cors,
                ]
            await send(message)

        if scope["method"] == "OPTIONS":
            answer = preflight(scope["headers"], self._cors)
            if answer is not None:
                await send(
                    {
                        "type": "http.response.start",
                        "status": answer.status,
                        "headers": [
                            *_safe(answer.status, answer.headers),
                            (b"x-request-id", own_id.encode("ascii")),
                            (b"x-process-time", b"0.000"),
                            *([] if answer.status == 204 else [(b"content-length", b"0")]),
                        ],
                    }
                )
                await send({"type": "http.response.body", "body": b""})
                return
        asked = Asked(own_id, scope, started)
        watch = self._running.requests[asked] = self._watch()
        try:
            with watch:
                await self._serve(asked, headers, receive, send_with_headers)
        except RouterError as error:
            await send_error(error, scope["path"], own_id, send_with_headers)
        except ClientGone:
            return
        finally:
            del self._running.requests[asked]

    def _watch(self) -> Watch:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - ASGI servers run us in a task
        if self._clock is None or self._clock.loop is not loop:  # a test client may bring a loop per request
            self._clock = Clock(loop)
        return Watch(self._clock, task)

    async def _serve(self, asked: Asked, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        scope = asked.scope
        caller, signed = self._identify(scope, headers)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._guard.check_origin(headers.get(b"origin"), headers.get(b"host"))
        if signed is not None:
            receive = await self._check_signed(signed, scope["path"], headers, receive)
        scope["state"] = {**scope.get("state", {}), "caller": caller, "request_id": asked.request_id}
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope, headers: dict[bytes, bytes]) -> tuple[Caller, Signed | None]:
        """Who calls; a signature is good so far, but for the body and the nonce."""
        peer, signed = scope["client"][0] if scope["client"] else None, None
        if scope["path"] in OPEN_PATHS:
            return self._guard.caller(peer, scope["headers"]), None
        caller = self._guard.admit(peer, scope["headers"])
        if b"x-signature" in headers:
            query = scope["query_string"].decode("latin-1")
            caller, signed = self._guard.verify(caller, headers, scope["method"], scope["path"], query)
        path = scope["path"]
        if self._root_path and path.startswith(self._root_path):
            path = path[len(self._root_path) :]
        asked = control_class(scope["method"], path) or ""
        need = self._needs.get(asked, Need.NEVER)
        return self._guard.authenticate(caller, headers, need, asked, scope=None), signed

    async def _check_signed(
        self, signed: Signed, path: str, headers: dict[bytes, bytes], receive: Receive
    ) -> Receive:
        """Read the body, hold it against the signature and take the nonce; gives what receives it again."""
        content = await Body(receive, headers).read(self._largest.get(path, SIGNED_MAX_BYTES))
        once = check_body(signed, content)
        grant = await self._limiter.admit(FREE, _UNCOUNTED, 0, 0.0, once)
        if grant.refusal is not None:
            raise grant.refusal
        return _received(content, receive)


def _received(content: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what else comes."""
    first: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


def _safe(status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with what browsers are to know; pages are the documentation's."""
    told = list(headers)
    page = any(name == b"content-type" and value.startswith(b"text/html") for name, value in told)
    policy = (browser.POLICY[0], browser.PAGE_POLICY) if page else browser.POLICY
    return [*told, *browser.HEADERS, policy, *([browser.NO_STORE] if status >= 400 else [])]


async def send_error(error: RouterError, path: str, own_id: str, send: Send) -> None:
    """Answer an error in the shape of its path and close the connection, whose body nobody reads."""
    status, body = shape_of(path).error(error, own_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
