"""What can be called: `/models` in seed 003's shape and `/v1/models` in OpenAI's."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from pointsman.condition import best, condition
from pointsman.errors import MODEL_NOT_FOUND, RouterError
from pointsman.registry import Model, Registry
from pointsman.replica import Replica


def router(
    registry: Registry, public_url: str | None, queued: Callable[[], Mapping[str, int]] = dict
) -> APIRouter:
    """The routes.

    Args:
        public_url: the router's own base URL; None: as the request addressed it.
        queued: how many calls wait for a slot, by model, where any do.
    """
    routes = APIRouter(tags=["models"])

    def find(name: str) -> Model:
        return find_model(registry, name)

    def base(request: Request) -> str:
        return (public_url or str(request.base_url)).rstrip("/")

    @routes.get("/models", summary="All models with their availability")
    async def models(request: Request) -> list[dict[str, Any]]:
        waiting, own = queued(), base(request)
        return [describe(model, own, request, waiting) for model in offered(registry, request)]

    @routes.get("/models/{model_id}", summary="One model")
    async def model(model_id: str, request: Request) -> dict[str, Any]:
        return describe(find(model_id), base(request), request, queued())

    @routes.get("/models/{model_id}/health", summary="Health of one model and its replicas")
    async def health(model_id: str, request: Request) -> dict[str, Any]:
        found = find(model_id)
        now = best(found.pool)
        return {
            "model_id": found.id,
            "endpoint": endpoint_of(found, base(request)),
            "healthy": found.available,
            "status": "available" if found.available else "unavailable",
            "state": now.standing.value,
            "reason": now.reason,
            "since": stamp(now.since),
            "queued": queued().get(found.id, 0),
            "replicas": [replica_view(replica, is_ops(request)) for replica in found.pool],
        }

    @routes.get("/v1/models", summary="All models, OpenAI's shape")
    async def openai_models(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [openai_view(model) for model in offered(registry, request)]}

    @routes.get("/v1/models/{name:path}", summary="One model, OpenAI's shape")
    async def openai_model(name: str) -> dict[str, Any]:
        return openai_view(find(name))

    @routes.get("/models/{model_id}/v1/models", summary="The model of a per-model base URL, OpenAI's shape")
    async def scoped_models(model_id: str) -> dict[str, Any]:
        return {"object": "list", "data": [openai_view(find(model_id))]}

    return routes


def find_model(registry: Registry, name: str) -> Model:
    """The model of that name.

    Raises:
        RouterError: MODEL_NOT_FOUND, which lists those that are known.
    """
    model = registry.find(name)
    if model is None:
        known = ", ".join(registry.models) or "none"
        shown = name if name.isprintable() else "(unprintable)"
        raise RouterError(MODEL_NOT_FOUND, f"Model {shown!r} not found; known models: {known}.")
    return model


def offered(registry: Registry, request: Request) -> list[Model]:
    """The models that the caller's key may use; without a key, or a list in it, all."""
    key = request.state.caller.key
    models = registry.models.values()
    return [model for model in models if key is None or not key.models or model.id in key.models]


def is_ops(request: Request) -> bool:
    """Whether the caller may see engine addresses."""
    return bool(request.state.caller.is_ops)


def endpoint_of(model: Model, base_url: str) -> str:
    """The router's own base URL of a model: what a TGI client takes for its endpoint."""
    return f"{base_url}/models/{model.id}"


def describe(model: Model, base_url: str, request: Request, queued: Mapping[str, int]) -> dict[str, Any]:
    """A model in seed 003's shape, ours beside it."""
    now = best(model.pool)
    return {
        "id": model.id,
        "name": model.config.name,
        "hf_name": model.config.hf_name,
        "endpoint": endpoint_of(model, base_url),
        "available": model.available,
        "state": now.standing.value,
        "reason": now.reason,
        "since": stamp(now.since),
        "engines": sorted(engine.value for engine in model.engines),
        "aliases": list(model.config.aliases),
        "fallbacks": list(model.config.fallbacks),
        "policy": model.config.policy,
        "queued": queued.get(model.id, 0),
        "replicas": [replica_view(replica, is_ops(request)) for replica in model.pool],
    }


def replica_view(replica: Replica, for_ops: bool) -> dict[str, Any]:
    """A replica; where it is, `upstream`, is for operators."""
    now = condition(replica)
    view: dict[str, Any] = {
        "id": replica.id,
        "engine": replica.engine.value,
        "state": now.standing.value,
        "reason": now.reason,
        "since": stamp(now.since),
        "in_flight": replica.in_flight,
        "slots": replica.slots,
        "weight": replica.weight,
        "serves": list(replica.facts.names),
        "max_total_tokens": replica.facts.max_total_tokens,
        "version": replica.facts.version,
    }
    if for_ops:
        view["upstream"] = replica.endpoint.url
    return view


def openai_view(model: Model) -> dict[str, Any]:
    """A model in OpenAI's shape; `max_model_len` (tokens) as vLLM tells it."""
    lengths = [r.facts.max_total_tokens for r in model.pool if r.facts.max_total_tokens is not None]
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "pointsman",
        "root": model.config.hf_name,
        "max_model_len": min(lengths, default=None),
    }


def stamp(seconds: float) -> str | None:
    """Wall-clock seconds as ISO 8601 in UTC; None before the first probe."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
