"""Gauges in Prometheus' text format."""

from pathlib import Path

import pytest

from pointsman.engines import DIALECTS
from pointsman.gauges import Load, count, total
from pointsman.replica import Engine

RECORDED = (Path(__file__).parents[1] / "contract" / "data" / "recorded" / "metrics.txt").read_bytes()
PAGE = b"""# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a}b \\"c"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0 1754212345000
vllm:num_requests_waiting{engine="0"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
other_vllm:num_requests_waiting 5
plain 7
bad{a="b"} NaN
worse{a="b"} x
infinite +Inf
last 1"""


@pytest.mark.parametrize(
    ("name", "sum_"),
    [
        (b"vllm:num_requests_running", 7),
        (b"vllm:num_requests_waiting", 2),
        (b"plain", 7),
        (b"bad", None),
        (b"worse", None),
        (b"infinite", None),
        (b"last", 1),
        (b"gone", None),
    ],
)
def test_a_gauge_is_summed_over_its_labels(name: bytes, sum_: float | None) -> None:
    """Comments, longer names and names within lines are others'; what is no number is none."""
    assert total(PAGE, name) == sum_
    assert count(PAGE, name) == sum_


@pytest.mark.parametrize(
    ("engine", "page", "progress"),
    [
        (Engine.VLLM, b'vllm:generation_tokens_total{a="b"} 7.0\nvllm:prompt_tokens_total 3\n', 10.0),
        (Engine.VLLM, b"vllm:prompt_tokens_total 3\n", 3.0),
        (Engine.VLLM, RECORDED, 104.0 + 188.0),
        (Engine.VLLM, b"vllm:num_requests_running 1\n", None),
        (Engine.VLLM, b"<html>", None),
        (Engine.TGI, b'tgi_batch_inference_count{method="prefill"} 2\ntgi_batch_inference_success 1\n', 3.0),
        (Engine.TGI, b"tgi_queue_size 1\n", 0.0),
        (Engine.TGI, b"", 0.0),
        (Engine.TGI, b"<html>", None),
    ],
)
def test_the_work_of_an_engine(engine: Engine, page: bytes, progress: float | None) -> None:
    """Tokens with vLLM, steps with TGI, which tells of none before the first."""
    assert DIALECTS[engine].read_progress(page) == progress


@pytest.mark.parametrize(
    ("engine", "page", "load"),
    [
        (Engine.VLLM, PAGE, Load(7, 2)),
        (Engine.VLLM, b"", Load()),
        (Engine.VLLM, b"<html>", Load()),
        (Engine.TGI, b"tgi_queue_size 2\ntgi_batch_current_size 5\n", Load(5, 2)),
        (Engine.TGI, b"tgi_request_count 1\n", Load(0, 0)),
        (Engine.TGI, b"\n", Load(0, 0)),
        (Engine.TGI, b"<html>", Load()),
    ],
)
def test_the_load_of_an_engine(engine: Engine, page: bytes, load: Load) -> None:
    """vLLM tells its gauges from the start; TGI only after its first request, until when they are 0."""
    assert DIALECTS[engine].read_load(page) == load
