"""`/metrics` of vLLM: names and labels of 0.33, or those of 0.8."""

from collections.abc import Iterable

from emulator.meters import Meters, sample
from emulator.schedule import Engine

_FINISHED = {"eos": "stop", "stop": "stop", "length": "length", "abort": "abort"}


def render(engine: Engine, model: str, *, hidden: bool, old_names: bool) -> str:
    """Text format. `hidden` leaves the gauges out; `old_names`: as vLLM up to 0.8.5."""
    meters = engine.meters
    labels = f'engine="0",model_name="{model}"'
    lines: list[str] = []
    if not hidden:
        lines += sample("gauge", "vllm:num_requests_running", float(len(engine.running)), labels)
        lines += sample("gauge", "vllm:num_requests_waiting", float(len(engine.waiting)), labels)
        used = min(1.0, engine.kv_tokens_used / engine.pace.kv_tokens)
        name = "vllm:gpu_cache_usage_perc" if old_names else "vllm:kv_cache_usage_perc"
        lines += sample("gauge", name, used, labels)
        if not old_names:
            lines += sample(
                "gauge",
                "vllm:num_requests_waiting_by_reason",
                float(len(engine.waiting)),
                f'{labels},reason="capacity"',
            )
    prefix = "vllm:gpu_prefix_cache" if old_names else "vllm:prefix_cache"
    counters = {
        f"{prefix}_queries_total": meters.prompt_tokens,
        f"{prefix}_hits_total": meters.cached_tokens,
        "vllm:num_preemptions_total": 0,
        "vllm:prompt_tokens_total": meters.prompt_tokens,
        "vllm:prompt_tokens_cached_total": meters.cached_tokens,
        "vllm:generation_tokens_total": meters.generated_tokens,
    }
    for name, value in counters.items():
        lines += sample("counter", name, float(value), labels)
    lines.append("# TYPE vllm:request_success_total counter")
    for reason in ("stop", "length", "abort", "error", "repetition"):
        count = sum(n for name, n in meters.finished.items() if _FINISHED.get(name, name) == reason)
        lines.append(
            f'vllm:request_success_total{{engine="0",finished_reason="{reason}",model_name="{model}"}} '
            f"{float(count)}"
        )
    if not old_names:
        lines += sample(
            "counter",
            "vllm:admission_rejections_total",
            float(meters.rejected),
            f'model_name="{model}",reason="max_num_queued_reqs"',
        )
    return "\n".join([*lines, *_histograms(meters, f"{labels},", old_names)]) + "\n"


def _histograms(meters: Meters, labels: str, old_names: bool) -> Iterable[str]:
    itl = "vllm:time_per_output_token_seconds" if old_names else "vllm:inter_token_latency_seconds"
    for name, histogram in (
        ("vllm:time_to_first_token_seconds", meters.ttft_s),
        (itl, meters.itl_s),
        ("vllm:e2e_request_latency_seconds", meters.total_s),
        ("vllm:request_queue_time_seconds", meters.queue_s),
        ("vllm:request_inference_time_seconds", meters.inference_s),
        ("vllm:request_prompt_tokens", meters.input_tokens),
        ("vllm:request_generation_tokens", meters.output_tokens),
    ):
        yield from histogram.lines(name, labels)
