"""What the control plane's GET routes tell, as examples: by route template."""

from typing import Any

_SINCE = "2026-01-05T10:15:00Z"
_MODEL: dict[str, Any] = {
    "id": "distilgpt2",
    "name": "DistilGPT-2",
    "hf_name": "distilbert/distilgpt2",
    "endpoint": "http://router.example.com:8000/models/distilgpt2",
    "available": True,
    "state": "up",
    "reason": "answers its health checks",
    "since": _SINCE,
    "engines": ["tgi"],
    "aliases": [],
    "fallbacks": [],
    "policy": "least_in_flight",
    "replicas": [
        {
            "id": "distilgpt2-0",
            "engine": "tgi",
            "state": "up",
            "reason": "answers its health checks",
            "since": _SINCE,
            "in_flight": 2,
            "slots": 128,
            "weight": 1,
            "serves": ["distilbert/distilgpt2"],
            "max_total_tokens": 1024,
            "version": "3.3.5",
        }
    ],
}
_OPENAI = {
    "id": "distilgpt2",
    "object": "model",
    "created": 0,
    "owned_by": "pointsman",
    "root": "distilbert/distilgpt2",
    "max_model_len": 1024,
}
_LIST = {"object": "list", "data": [_OPENAI]}
EXAMPLES: dict[str, Any] = {
    "/": {
        "message": "Pointsman routes generate and chat calls to language model engines",
        "status": "healthy",
        "service": "Pointsman",
        "version": "0.1.0",
        "model": "distilgpt2",
        "models": ["distilgpt2", "gemma-3-12b"],
        "docs": "/docs",
    },
    "/live": {"status": "alive"},
    "/ready": {"status": "ready"},
    "/ping": {"ping": "pong"},
    "/models": [_MODEL],
    "/models/{model_id}": _MODEL,
    "/models/{model_id}/health": {
        "model_id": "distilgpt2",
        "endpoint": "http://router.example.com:8000/models/distilgpt2",
        "healthy": True,
        "status": "available",
        **{name: _MODEL[name] for name in ("state", "reason", "since", "replicas")},
    },
    "/v1/models": _LIST,
    "/models/{model_id}/v1/models": _LIST,
    "/v1/models/{name}": _OPENAI,
    "/usage": {
        "key": "1af33261",
        "tenant": "search",
        "scopes": ["generate"],
        "models": None,
        "expires": "2026-04-05T10:15:00+00:00",
        "limits": {"requests_per_minute": 60.0, "tokens_per_minute": 20000.0, "concurrency": None},
        "remaining": {"requests": 58, "tokens": 19312},
        "surfaces": {"llm_service": {"limits": {"requests_per_minute": 10.0}, "remaining": {"requests": 13}}},
        "used": {
            "since": "2026-01-05T10:15:00+00:00",
            "requests": 412,
            "errors": 1,
            "prompt_tokens": 90412,
            "completion_tokens": 51877,
        },
    },
    "/api/health": {
        "status": "healthy",
        "vllm_healthy": True,
        "active_sessions": 12,
        "uptime": 86400.512,
        "vllm_running_requests": 3,
        "vllm_waiting_requests": 0,
        "timestamp": _SINCE,
    },
    "/api/metrics": {
        "active_sessions": 12,
        "total_requests_24h": 1530,
        "average_response_time": 4.218,
        "error_rate": 0.0013,
        "uptime": 99.97,
        "window_s": 3600,
        "resource_usage": {"memory": "0.1GB", "gpu_memory": None, "cpu_percent": 3.4},
    },
}
METRICS = """\
# HELP pointsman_in_flight Exchanges with an engine now.
# TYPE pointsman_in_flight gauge
pointsman_in_flight{model="distilgpt2",replica="distilgpt2-0"} 2.0
"""
