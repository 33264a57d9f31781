"""`/metrics` of TGI: counters without `_total`, gauges absent until first set."""

from emulator.meters import sample
from emulator.schedule import Engine


def render(engine: Engine, *, hidden: bool) -> str:
    """Text format; `hidden` leaves the gauges out."""
    meters = engine.meters
    lines = sample("counter", "tgi_request_count", meters.started) if meters.started else []
    done = sum(count for reason, count in meters.finished.items() if reason != "abort")
    if done:
        lines += sample("counter", "tgi_request_success", done)
    if meters.failures:
        lines.append("# TYPE tgi_request_failure counter")
        lines += [f'tgi_request_failure{{err="{err}"}} {count}' for err, count in meters.failures.items()]
    if meters.steps:
        lines.append("# TYPE tgi_batch_inference_count counter")
        lines += [
            f'tgi_batch_inference_count{{method="{name}"}} {count}' for name, count in meters.steps.items()
        ]
    if meters.started and not hidden:
        lines += sample("gauge", "tgi_queue_size", len(engine.waiting))
        lines += sample("gauge", "tgi_batch_current_size", len(engine.running))
        budget = sum(seq.wish.input_tokens + seq.wish.max_tokens for seq in engine.running)
        lines += sample("gauge", "tgi_batch_current_max_tokens", budget)
    if done:
        for name, histogram in (
            ("tgi_request_duration", meters.total_s),
            ("tgi_request_queue_duration", meters.queue_s),
            ("tgi_request_inference_duration", meters.inference_s),
            ("tgi_request_mean_time_per_token_duration", meters.itl_s),
            ("tgi_request_generated_tokens", meters.output_tokens),
            ("tgi_request_input_length", meters.input_tokens),
        ):
            lines += histogram.lines(name)
    return "\n".join(lines) + "\n"
