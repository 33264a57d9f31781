"""`GET /usage`: what a key may, and what it has used."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from pointsman.control.together import Together
from pointsman.errors import KEY_MISSING, RouterError
from pointsman.limits import Limiter, Rules


def router(limiter: Limiter, together: Together) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["keys"])

    @routes.get("/usage", summary="What your API key may, and what it has used")
    async def of_key(request: Request) -> dict[str, Any]:
        """`surfaces` has the limits that hold on single surfaces instead; none for a key with its own."""
        key = request.state.caller.key
        if key is None:
            raise RouterError(KEY_MISSING)
        used, since = await together.used(key.name)
        rules = limiter.rules(request.state.caller.address, key, "")
        apart = limiter.apart(request.state.caller.address, key)
        return {
            "key": key.name,
            "tenant": key.tenant,
            "scopes": sorted(key.scopes),
            "models": sorted(key.models) or None,
            "expires": None
            if key.expires is None
            else datetime.fromtimestamp(key.expires, UTC).isoformat(timespec="seconds"),
            "limits": {
                **_requests(rules),
                "tokens_per_minute": None if rules.tokens is None else rules.tokens.rate.per_minute,
                "concurrency": rules.at_once,
            },
            "remaining": await limiter.levels(rules),
            "surfaces": {
                name: {"limits": _requests(of_surface), "remaining": await _left(limiter, of_surface)}
                for name, of_surface in apart.items()
            },
            "used": {
                "since": datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
                "requests": used.requests,
                "errors": used.errors,
                "prompt_tokens": used.prompt_tokens,
                "completion_tokens": used.completion_tokens,
            },
        }

    return routes


def _requests(rules: Rules) -> dict[str, float | None]:
    return {"requests_per_minute": None if rules.requests is None else rules.requests.rate.per_minute}


async def _left(limiter: Limiter, rules: Rules) -> dict[str, int | None]:
    return {"requests": (await limiter.levels(rules))["requests"]}
