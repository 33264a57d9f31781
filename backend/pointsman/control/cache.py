"""What is remembered, for operators: seed 002's `/status`, and `/cache`."""

from typing import Any

from fastapi import APIRouter, Request

from pointsman import __version__
from pointsman.cache import ResponseCache
from pointsman.control.catalog import is_ops
from pointsman.control.operator import audited
from pointsman.errors import ADDRESS_FORBIDDEN, STORE_AWAY, RouterError
from pointsman.kept import Kept
from pointsman.recall import AnswerCacheConfig
from pointsman.registry import Registry
from pointsman.single_flight import SingleFlight
from pointsman.store.base import Unavailable
from pointsman.surfaces.llm_service import LlmService

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
}


def router(
    registry: Registry,
    cache: ResponseCache,
    flights: SingleFlight[Kept | None],
    config: AnswerCacheConfig,
    *,
    rate_limited: bool,
) -> APIRouter:
    """The routes.

    Args:
        flights: of the calls that share an answer.
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
            "cache_stats": await _statistics(cache) if config.enabled else _OFF,
            "rate_limit_enabled": rate_limited,
        }

    @routes.get("/cache", summary="How the cache does; for operators", responses={200: _example(_CACHE)})
    async def show(request: Request) -> dict[str, Any]:
        _check(request)
        own = {"enabled": config.enabled, "on_request": config.on_request, "shared": flights.shared}
        return {**await _statistics(cache), **own}

    @routes.delete(
        "/cache",
        summary="Forgets all kept answers; for operators",
        responses={200: _example({"removed": 12})},
    )
    async def clear(request: Request) -> dict[str, int]:
        with audited(request, "cache") as action:
            _check(request)
            try:
                removed = await cache.clear()
            except Unavailable:
                raise RouterError(STORE_AWAY, retry_after_s=_RETRY_AFTER_S) from None
            action.outcome = f"ok: {removed} answers removed"
        return {"removed": removed}

    return routes


def _example(body: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"example": body}}}


def _check(request: Request) -> None:
    if not is_ops(request):
        raise RouterError(ADDRESS_FORBIDDEN)


async def _statistics(cache: ResponseCache) -> dict[str, Any]:
    """Hits and misses are this worker's; sizes are null while the store does not answer."""
    asked = cache.hits + cache.misses
    told: dict[str, Any] = {
        "enabled": True,
        "size": None,
        "max_size": cache.config.entries,
        "hits": cache.hits,
        "misses": cache.misses,
        "hit_rate_percent": round(100 * cache.hits / asked, 2) if asked else 0.0,
    }
    try:
        found = await cache.statistics()
    except Unavailable:
        return told
    return {**told, "size": found.size, "bytes": found.bytes, "unavailable": found.unavailable}
