"""Is the router well: `/health`, `/live`, `/ready`, `/`, `/model-info`, `/metrics`."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from pointsman import __version__
from pointsman.access import AccessConfig, Decision, client_address, verdict
from pointsman.attempt import RESTART_S
from pointsman.control.card import Card, card
from pointsman.control.catalog import stamp
from pointsman.errors import NO_REPLICA, SHUTTING_DOWN, RouterError
from pointsman.registry import Model, Registry
from pointsman.surfaces.distilgpt2 import DistilGpt2

SERVICE = "Pointsman"
_CARD = {
    "model_name": "distilgpt2",
    "model_type": "GPT-2",
    "architecture": "GPT2LMHeadModel",
    "model_size": "82M parameters",
    "parameters": "82M",
    "description": "DistilGPT-2 (distilbert/distilgpt2), served by remote engines and routed by Pointsman",
    "supported_endpoints": ["/generate", "/complete", "/chat/completions", "/model-info", "/health"],
    "optimized_for": ["text generation", "text completion", "chat"],
    "capabilities": ["text-generation", "text-completion", "chat", "streaming"],
    "max_length": 1024,
    "status": "loaded",
    "note": "The router loads no model itself; /models tells where it runs and how it is.",
}
_HEALTH = {
    "status": "healthy",
    "model_loaded": True,
    "model_name": "distilgpt2",
    "service": SERVICE,
    "timestamp": "2026-01-01T00:00:00Z",
    "security": {"access_control_enabled": True, "client_ip": "127.0.0.1"},
    "version": __version__,
    "models": {"distilgpt2": True, "gemma-3-12b": True},
}


def router(
    registry: Registry,
    access: AccessConfig,
    leaving: Callable[[], bool],
    render_metrics: Callable[[], Awaitable[bytes]] | None,
) -> APIRouter:
    """The routes. `/health`, `/live` and `/ready` are open to everybody and tell strangers little.

    Args:
        leaving: whether the process was told to end.
        render_metrics: None: there is no `/metrics`.
    """
    routes = APIRouter(tags=["status"])

    @routes.get(
        "/health", summary="Always 200: which models are available", responses={200: _example(_HEALTH)}
    )
    async def health(request: Request) -> dict[str, Any]:
        more = _more_for(request, registry, access)
        return {**_condition(registry), "security": {"access_control_enabled": not access.disabled}, **more}

    @routes.get("/live", summary="200 while the process turns")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/ready", summary="200 when at least one replica is up and the router does not end, else 503")
    async def ready() -> dict[str, str]:
        if leaving():
            raise RouterError(SHUTTING_DOWN, retry_after_s=round(RESTART_S))
        if not any(model.available for model in registry.models.values()):
            raise RouterError(NO_REPLICA, "No replica of any model is up.", retry_after_s=1)
        return {"status": "ready"}

    @routes.get("/", summary="What this is")
    async def root() -> dict[str, Any]:
        return _card_of_router(registry)

    @routes.get(
        "/model-info", summary="The default model, in seed 000's shape", responses={200: _example(_CARD)}
    )
    async def model_info() -> Card:
        model = _default(registry)
        if model is None:
            wanted = registry.wanted(DistilGpt2.name)
            known = "No model is configured." if wanted is None else f"No model is known as {wanted!r}."
            raise RouterError(NO_REPLICA, known, retry_after_s=1)
        return card(model)

    if render_metrics is not None:
        _add_metrics(routes, render_metrics)
    return routes


def _add_metrics(routes: APIRouter, render: Callable[[], Awaitable[bytes]]) -> None:
    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _example(body: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"example": body}}}


def _condition(registry: Registry) -> dict[str, Any]:
    """What strangers may know: the union of seeds 000's and 002's public fields."""
    model = _default(registry)
    well = any(found.available for found in registry.models.values())
    return {
        "status": "healthy" if well else "unhealthy",
        "model_loaded": model is not None and model.available,
        "model_name": model.id if model else None,
        "service": SERVICE,
        "timestamp": stamp(time.time()),
    }


def _more_for(request: Request, registry: Registry, access: AccessConfig) -> dict[str, Any]:
    """What callers whom the IP rules let in, and operators, may know beyond that."""
    peer = request.client.host if request.client else None
    client = client_address(peer, request.scope["headers"], access)
    if not verdict(client, access).allowed:
        return {}
    security: dict[str, Any] = {"access_control_enabled": not access.disabled, "client_ip": client.text}
    if verdict(client, access, ops=True) is Decision.ALLOWED:
        networks = [str(network) for network in access.allowed]
        security["allowed_networks"] = "disabled" if access.disabled else networks
    available = {found.id: found.available for found in registry.models.values()}
    return {"version": __version__, "models": available, "security": security}


def _card_of_router(registry: Registry) -> dict[str, Any]:
    model = _default(registry)
    return {
        "message": "Pointsman routes generate and chat calls to language model engines",
        "status": "healthy",
        "service": SERVICE,
        "version": __version__,
        "model": model.id if model else None,
        "models": list(registry.models),
        "docs": "/docs",
    }


def _default(registry: Registry) -> Model | None:
    """The model that answers `POST /generate` with a prompt alone, whose clients ask these routes."""
    return registry.default(lambda model: True, DistilGpt2.name)
