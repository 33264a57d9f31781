"""Seed 004's `/api/health`, `/api/metrics` and `/ping` (`contracts/seeds.md` 5.1 and 5.5).

They tell of the model that answers its chat. Sessions and requests are counted over all workers that share a
store, else by this worker process; running and waiting requests are the engines'.
"""

import time
from dataclasses import dataclass, field
from time import monotonic

from fastapi import APIRouter

from pointsman.availability import Availability
from pointsman.census import WINDOW_S, Census
from pointsman.control.catalog import stamp
from pointsman.control.footprint import Footprint
from pointsman.gauges import Load, total
from pointsman.load import LoadReader
from pointsman.registry import Model, Registry
from pointsman.replica import State
from pointsman.surfaces.plg import Plg

_GB = 1 << 30
# How exporters call the memory in use on a GPU, and in which unit: NVIDIA's DCGM, nvidia_gpu_exporter.
_GPU_GAUGES = ((b"DCGM_FI_DEV_FB_USED", 1 << 20), (b"nvidia_smi_memory_used_bytes", 1))


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of `/api/health`. Counts that no engine tells are null; `uptime` is in seconds."""

    status: str
    vllm_healthy: bool
    active_sessions: int
    uptime: float
    vllm_running_requests: int | None
    vllm_waiting_requests: int | None
    timestamp: str | None


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """What this process takes, and the GPUs that `GPU_METRICS_URL` tells of."""

    memory: str
    gpu_memory: str | None
    cpu_percent: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """The answer of `/api/metrics`. `uptime` is the percentage of the time in which a replica was up.

    `average_response_time` (seconds) and `error_rate` (0 to 1) are of the last `window_s` seconds.
    """

    active_sessions: int
    total_requests_24h: int
    average_response_time: float
    error_rate: float
    uptime: float
    window_s: int
    resource_usage: ResourceUsage


@dataclass(frozen=True, slots=True)
class Sources:
    """What the figures are taken from."""

    registry: Registry
    census: Census
    loads: LoadReader
    availability: Availability
    gpu_metrics_url: str | None
    started_at: float = field(default_factory=monotonic)


def router(sources: Sources) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["status"])
    footprint = Footprint()

    @routes.get("/ping", summary="That somebody is there")
    async def ping() -> dict[str, str]:
        return {"ping": "pong"}

    @routes.get("/api/health", summary="Always 200: how the chat's model and its engines are")
    async def health() -> Health:
        model = chat_model(sources.registry)
        replicas = [] if model is None else model.pool
        load = await sources.loads.read([one for one in replicas if one.health.state is State.UP])
        now = monotonic()
        counted = await sources.census.read(now)
        return _health(sources, model, load, counted.sessions, now)

    @routes.get("/api/metrics", summary="Figures of all workers that share a store")
    async def metrics() -> Metrics:
        now = monotonic()
        counted = await sources.census.read(now)
        return Metrics(
            active_sessions=counted.sessions,
            total_requests_24h=counted.day.requests,
            average_response_time=round(counted.hour.mean_s, 3),
            error_rate=round(counted.hour.error_rate, 4),
            uptime=round(sources.availability.percent(now), 2),
            window_s=WINDOW_S,
            resource_usage=ResourceUsage(
                memory=gigabytes(footprint.memory_bytes()),
                gpu_memory=await _gpu_memory(sources),
                cpu_percent=round(footprint.cpu_percent(), 1),
            ),
        )

    return routes


def chat_model(registry: Registry) -> Model | None:
    """The model that answers a chat that names none."""
    return registry.default(lambda model: True, Plg.name, chat=True)


def _health(sources: Sources, model: Model | None, load: Load, sessions: int, now: float) -> Health:
    well = model is not None and model.available
    return Health(
        status="healthy" if well else "unhealthy",
        vllm_healthy=well,
        active_sessions=sessions,
        uptime=round(now - sources.started_at, 3),
        vllm_running_requests=load.running,
        vllm_waiting_requests=load.waiting,
        timestamp=stamp(time.time()),
    )


async def _gpu_memory(sources: Sources) -> str | None:
    if sources.gpu_metrics_url is None:
        return None
    page = await sources.loads.page(sources.gpu_metrics_url) or b""
    used = [(total(page, name), unit) for name, unit in _GPU_GAUGES]
    return next((gigabytes(value * unit) for value, unit in used if value is not None), None)


def gigabytes(size: float) -> str:
    """Bytes as the README of the source system writes them: `12.4GB`."""
    return f"{size / _GB:.1f}GB"
