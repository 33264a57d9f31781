"""What is remembered, for operators: seed 002's `/status`, and `/cache`."""

from typing import Any

from fastapi import APIRouter, Request

from pointsman import __version__
from pointsman.condition import best
from pointsman.control.catalog import stamp
from pointsman.control.operator import Desk
from pointsman.control.together import Together
from pointsman.errors import STORE_AWAY, RouterError
from pointsman.recall import AnswerCacheConfig
from pointsman.registry import Model, Registry
from pointsman.store.base import Unavailable
from pointsman.surfaces.llm_service import LlmService

_PATH = "/cache"
_RETRY_AFTER_S = 1
_OFF = {"enabled": False, "size": 0, "max_size": 0, "hits": 0, "misses": 0, "hit_rate_percent": 0.0}

_STATS = {
    "enabled": True,
    "size": 12,
    "max_size": 100,
    "hits": 30,
    "misses": 90,
    "hit_rate_percent": 25.0,
    "bytes": 40960,
    "unavailable": 0,
}
_CACHE = {**_STATS, "on_request": True, "shared": 4}
_STATUS = {
    "service_name": "Pointsman",
    "version": __version__,
    "model_name": "gemma-3-12b",
    "model_device": "remote",
    "cache_stats": _STATS,
    "rate_limit_enabled": True,
    "state": "up",
    "reason": "answers its health checks",
    "since": "2026-01-05T10:15:00Z",
}


def router(
    registry: Registry,
    together: Together,
    config: AnswerCacheConfig,
    desk: Desk,
    *,
    rate_limited: bool,
) -> APIRouter:
    """The routes.

    Args:
        together: the figures of all workers.
        rate_limited: whether seed 002's routes have a limit.
    """
    routes = APIRouter(tags=["cache"])

    @routes.get(
        "/status",
        summary="What this is and how its cache does, in seed 002's shape",
        responses={200: _example(_STATUS)},
    )
    async def status() -> dict[str, Any]:
        model = registry.default(lambda found: True, LlmService.name, chat=True)
        return {
            "service_name": "Pointsman",
            "version": __version__,
            "model_name": model.id if model else None,
            "model_device": "remote",
            "cache_stats": _seeds(await together.cache()) if config.enabled else _OFF,
            "rate_limit_enabled": rate_limited,
            **_condition(model),
        }

    @routes.get(_PATH, summary="How the cache does; for operators", responses={200: _example(_CACHE)})
    async def show(request: Request) -> dict[str, Any]:
        desk.check(request, f"GET {_PATH}", changes=False)
        told = await together.cache()
        own = {"enabled": config.enabled, "on_request": config.on_request, "shared": told["shared"]}
        return {**_seeds(told), **own}

    @routes.delete(
        _PATH,
        summary="Forgets all kept answers; for operators",
        responses={200: _example({"removed": 12})},
    )
    async def clear(request: Request) -> dict[str, int]:
        with desk.action(request, f"DELETE {_PATH}", "cache", changes=True) as action:
            removed = await _cleared(together)
            action.outcome = f"ok: {removed} answers removed"
        return {"removed": removed}

    return routes


def _condition(model: Model | None) -> dict[str, str | None]:
    now = best(model.pool if model else ())
    return {"state": now.standing.value, "reason": now.reason, "since": stamp(now.since)}


def _example(body: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"example": body}}}


async def _cleared(together: Together) -> int:
    """Forget all kept answers; how many those were."""
    try:
        return await together.clear()
    except Unavailable:
        raise RouterError(STORE_AWAY, retry_after_s=_RETRY_AFTER_S) from None


def _seeds(told: dict[str, Any]) -> dict[str, Any]:
    """In the order of seed 002's fields; without what the store does not tell."""
    names = ("size", "max_size", "hits", "misses", "hit_rate_percent")
    more = ("bytes", "unavailable") if told["size"] is not None else ()
    return {"enabled": True, **{name: told[name] for name in (*names, *more)}}
