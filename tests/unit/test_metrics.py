"""Metrics: what is counted, under which labels, and how the page looks."""

from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pointsman import attempt
from pointsman.exchange import AttemptRecord, Exchange
from pointsman.families import (
    BUFFERED,
    CONNECTIONS,
    FAMILIES,
    LIMITS_LOCAL,
    LOCALLY_LIMITED,
    RELOAD_OK,
    RELOADED_AT,
    TURNED_AWAY,
    Kind,
)
from pointsman.metrics import Metrics
from pointsman.replica import Endpoint, Engine, Health, Replica, Standing, State

CHAT, GENERATE = "/v1/chat/completions", "/generate"
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Pools:
    """A registry, as far as metrics look at it."""

    replicas: list[Replica] = field(default_factory=list)
    spare: tuple[str, ...] = ()

    @property
    def models(self) -> set[str]:
        return {replica.model_id for replica in self.replicas} | set(self.spare)


def replica(replica_id: str, model_id: str = "gemma") -> Replica:
    return Replica(replica_id, model_id, Engine.VLLM, Endpoint("http", "127.0.0.1", 9))


def pools() -> Pools:
    return Pools([replica("gemma-0"), replica("gemma-1"), replica("gpt2-0", "gpt2")], ("empty",))


def streamed(**facts: object) -> Exchange:
    """A good stream: 2 ms of ours, first event at 0.3 s, 50 tokens in all after 2.75 s."""
    good = Exchange(
        "id",
        CHAT,
        "POST",
        100.0,
        model_id="gemma",
        replica_id="gemma-1",
        stream=True,
        status=200,
        sent_at=100.002,
        first_event_at=100.3,
        ended_at=102.75,
        answer_bytes=9000,
        events=53,
        prompt_tokens=20,
        completion_tokens=50,
        attempts=[AttemptRecord("gemma-1", attempt.OK)],
    )
    return msgspec.structs.replace(good, **facts)


def read(page: bytes) -> Page:
    """The samples of a page by name and labels."""
    samples: Page = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} is there twice"
            samples[key] = sample.value
    return samples


def value(page: Page, name: str, **labels: str) -> float | None:
    return page.get((name, frozenset(labels.items())))


def counted(*exchanges: Exchange) -> Page:
    metrics = Metrics(pools(), (CHAT, GENERATE))
    for exchange in exchanges:
        metrics.observe(exchange)
    return read(metrics.render())


def test_a_good_stream_is_counted_everywhere() -> None:
    """One stream adds to each family that speaks of streams, under its model, replica and route."""
    page = counted(streamed())
    who = {"model": "gemma", "replica": "gemma-1"}
    assert value(page, "pointsman_requests_total", model="gemma", route=CHAT, status="2xx") == 1
    assert value(page, "pointsman_request_end_total", model="gemma", end="ok") == 1
    assert value(page, "pointsman_attempts_total", **who, end="ok") == 1
    assert value(page, "pointsman_tokens_total", **who, kind="prompt") == 20
    assert value(page, "pointsman_tokens_total", **who, kind="completion") == 50
    assert value(page, "pointsman_answer_bytes_total", model="gemma") == 9000
    assert value(page, "pointsman_ttft_seconds_sum", **who) == pytest.approx(0.3)
    assert value(page, "pointsman_time_per_output_token_seconds_sum", **who) == pytest.approx(0.05)
    assert value(page, "pointsman_overhead_seconds_sum", model="gemma") == pytest.approx(0.002)
    assert value(page, "pointsman_request_duration_seconds_sum", model="gemma", route=CHAT) == pytest.approx(
        2.75
    )


def test_buckets_are_cumulative_and_inclusive() -> None:
    """A value on a bound counts in that bucket and all above; the last bucket is the count."""
    late = streamed(first_event_at=100.0 + 500.0, ended_at=700.0)
    on_bound = streamed(started_at=0.0, first_event_at=0.5, ended_at=1.0)
    page = counted(streamed(), on_bound, late)
    who = {"model": "gemma", "replica": "gemma-1"}
    name = "pointsman_ttft_seconds"
    assert value(page, f"{name}_bucket", **who, le="0.25") == 0
    assert value(page, f"{name}_bucket", **who, le="0.5") == 2
    assert value(page, f"{name}_bucket", **who, le="120.0") == 2
    assert value(page, f"{name}_bucket", **who, le="+Inf") == 3
    assert value(page, f"{name}_count", **who) == 3


def test_what_never_happened_is_not_measured() -> None:
    """No TTFT without a stream, no pace without a good end, no overhead of ours where a retry was in it."""
    name = "pointsman_time_per_output_token_seconds_count"
    who = {"model": "gemma", "replica": "gemma-1"}
    plain = counted(streamed(stream=False))
    assert value(plain, "pointsman_ttft_seconds_count", **who) is None
    assert value(plain, name, **who) is None
    cut = counted(streamed(end=attempt.IDLE))
    assert value(cut, "pointsman_ttft_seconds_count", **who) == 1
    assert value(cut, name, **who) is None
    first, second = AttemptRecord("gemma-0", attempt.CONNECT), AttemptRecord("gemma-1", attempt.OK)
    retried = counted(streamed(attempts=[first, second]))
    assert value(retried, "pointsman_overhead_seconds_count", model="gemma") is None
    assert value(retried, "pointsman_attempts_total", model="gemma", replica="gemma-0", end="connect") == 1
    refused = counted(Exchange("id", CHAT, "POST", 1.0, status=429, ended_at=1.1))
    assert value(refused, "pointsman_requests_total", model="other", route=CHAT, status="4xx") == 1
    assert not any(key[0].startswith(("pointsman_ttft", "pointsman_attempts")) for key in refused)


def test_what_the_cache_did_is_counted_without_why() -> None:
    """Of those that asked alone; a reason is no label."""
    page = counted(
        streamed(), streamed(cache="hit"), streamed(cache="bypass;sampled"), streamed(cache="bypass;off")
    )
    assert value(page, "pointsman_replays_total", model="gemma", result="hit") == 1
    assert value(page, "pointsman_replays_total", model="gemma", result="bypass") == 2
    assert sum(key[0] == "pointsman_replays_total" for key in page) == 2


def test_a_fallback_is_counted_for_the_model_that_was_asked_for() -> None:
    """The exchange is the one's that answered; an attempt is that of its replica's model."""
    tried = [
        AttemptRecord("gpt2-0", attempt.CONNECT, model_id="gpt2"),
        AttemptRecord("gemma-1", attempt.OK, model_id="gemma"),
    ]
    page = counted(
        streamed(wanted_id="gpt2", attempts=tried), streamed(wanted_id="no such model", attempts=[])
    )
    assert value(page, "pointsman_fallbacks_total", model="gpt2", fallback="gemma") == 1
    assert value(page, "pointsman_fallbacks_total", model="other", fallback="gemma") == 1
    assert value(page, "pointsman_attempts_total", model="gpt2", replica="gpt2-0", end="connect") == 1
    assert value(page, "pointsman_attempts_total", model="gemma", replica="gemma-1", end="ok") == 1


def test_pace_falls_back_to_events() -> None:
    """Where the engine told no token count, events are taken; one event alone has no pace."""
    who = {"model": "gemma", "replica": "gemma-1"}
    name = "pointsman_time_per_output_token_seconds"
    assert value(counted(streamed(completion_tokens=0)), f"{name}_sum", **who) == pytest.approx(2.45 / 52)
    assert value(counted(streamed(completion_tokens=0, events=1)), f"{name}_count", **who) is None


@pytest.mark.parametrize(
    ("status", "label"), [(0, "none"), (200, "2xx"), (307, "3xx"), (499, "4xx"), (503, "5xx"), (999, "none")]
)
def test_statuses_are_counted_by_class(status: int, label: str) -> None:
    """Each status falls into one of six classes."""
    page = counted(streamed(status=status))
    assert value(page, "pointsman_requests_total", model="gemma", route=CHAT, status=label) == 1


def test_ends_come_from_the_closed_set() -> None:
    """Every end of the table gives one series of its own."""
    page = counted(*(streamed(end=end) for end in attempt.ALL_ENDS))
    for end in attempt.ALL_ENDS:
        assert value(page, "pointsman_request_end_total", model="gemma", end=end.label) == 1


def test_random_names_leave_the_series_count_constant() -> None:
    """10,000 exchanges with models, replicas and routes that nobody knows make no series but `other`."""
    rng = Random(5)
    metrics = Metrics(pools(), (CHAT, GENERATE))

    def noise() -> str:
        return rng.choice(["gemma", "gpt2", CHAT, ""]) + "".join(
            rng.choices('aé"\\\n{}/', k=rng.randrange(1, 9))
        )

    def observe() -> None:
        attempts = [AttemptRecord(noise(), rng.choice(attempt.ALL_ENDS))]
        names = {"model_id": noise(), "replica_id": noise(), "route": noise()}
        metrics.observe(streamed(**names, attempts=attempts, end=rng.choice(attempt.ALL_ENDS)))

    metrics.observe(streamed())
    for _ in range(2000):
        observe()
    before = read(metrics.render()).keys()
    for _ in range(10_000):
        observe()
    after = read(metrics.render())
    assert after.keys() == before
    own = {label for name, labels in after for label in labels if name.startswith("pointsman_")}
    assert {text for name, text in own if name == "model"} == {"gemma", "gpt2", "other"}
    assert {text for name, text in own if name == "route"} == {CHAT, "other"}


def test_gauges_are_read_when_somebody_looks() -> None:
    """In-flight and health are those of the moment of the scrape, one series per state."""
    view = pools()
    metrics = Metrics(view, (CHAT,))
    view.replicas[0].in_flight = 7
    view.replicas[0].health = Health(State.UP)
    page = read(metrics.render())
    assert value(page, "pointsman_in_flight", model="gemma", replica="gemma-0") == 7
    assert value(page, "pointsman_in_flight", model="gpt2", replica="gpt2-0") == 0
    for state in Standing:
        shown = value(page, "pointsman_replica_up", model="gemma", replica="gemma-0", state=state.value)
        assert shown == (state is Standing.UP)


def test_queues_and_slots_are_read_when_somebody_looks() -> None:
    """How many wait for each model that has replicas, 0 where nobody does, and what each replica may have."""
    view = pools()
    view.replicas[1].slots = 7
    page = read(Metrics(view, (CHAT,)).render(queued={"gemma": 3}))
    assert value(page, "pointsman_queue_length", model="gemma") == 3
    assert value(page, "pointsman_queue_length", model="gpt2") == 0
    assert value(page, "pointsman_slots", model="gemma", replica="gemma-0") == 128
    assert value(page, "pointsman_slots", model="gemma", replica="gemma-1") == 7


def test_a_wait_for_a_slot_is_measured_by_itself() -> None:
    """Of those that waited, whatever came of it; it is no overhead of ours."""
    refused = streamed(queued_s=15.01, status=503, end=attempt.QUEUE_TIMEOUT, attempts=[], sent_at=0.0)
    page = counted(streamed(), streamed(queued_s=0.2), refused)
    assert value(page, "pointsman_queue_wait_seconds_count", model="gemma") == 2
    assert value(page, "pointsman_queue_wait_seconds_bucket", model="gemma", le="0.25") == 1
    assert value(page, "pointsman_overhead_seconds_count", model="gemma") == 1
    assert value(page, "pointsman_request_end_total", model="gemma", end="queue_timeout") == 1


def test_replicas_that_left_take_their_series_with_them() -> None:
    """After a replica and a model are gone their series are too; others keep their counts; new ones count."""
    view = pools()
    metrics = Metrics(view, (CHAT,))
    gone = [AttemptRecord("gpt2-0", attempt.OK)]
    metrics.observe(streamed())
    metrics.observe(streamed(model_id="gpt2", replica_id="gpt2-0", attempts=gone))
    assert (
        value(read(metrics.render()), "pointsman_attempts_total", model="gpt2", replica="gpt2-0", end="ok")
        == 1
    )
    view.replicas = [view.replicas[1], replica("gemma-9")]
    page = read(metrics.render())
    assert not any("gpt2" in text for _, labels in page for _, text in labels)
    assert value(page, "pointsman_attempts_total", model="gemma", replica="gemma-1", end="ok") == 1
    new = [AttemptRecord("gemma-9", attempt.OK)]
    metrics.observe(streamed(replica_id="gemma-9", attempts=new))
    metrics.observe(streamed(model_id="gpt2", replica_id="gpt2-0", attempts=gone))
    page = read(metrics.render())
    assert value(page, "pointsman_attempts_total", model="gemma", replica="gemma-9", end="ok") == 1
    assert value(page, "pointsman_attempts_total", model="other", replica="other", end="ok") == 1


def test_a_model_without_replicas_has_its_name() -> None:
    """A known model whose pool is empty is not `other`."""
    page = counted(streamed(model_id="empty", status=503, end=attempt.NO_ENDPOINT, attempts=[], sent_at=0.0))
    assert value(page, "pointsman_requests_total", model="empty", route=CHAT, status="5xx") == 1


def test_every_family_is_on_the_page_and_no_other() -> None:
    """`FAMILIES` and the page hold the same names, kinds and help texts."""
    metrics = Metrics(pools(), (CHAT,))
    metrics.observe(streamed())
    front = (BUFFERED, CONNECTIONS, TURNED_AWAY, LIMITS_LOCAL, LOCALLY_LIMITED)
    figures = dict.fromkeys((*front, RELOAD_OK, RELOADED_AT), 1.0)
    page = metrics.render(log_dropped=3, figures=figures).decode()
    others = ("process_", "python_")
    shown = {f.name: f for f in text_string_to_metric_families(page) if not f.name.startswith(others)}
    for family in FAMILIES:
        parsed = shown.pop(family.name.removesuffix("_total") if family.kind is Kind.COUNTER else family.name)
        assert (parsed.type, parsed.documentation) == (family.kind.value, family.help)
        assert all(set(family.labels) <= set(sample.labels) for sample in parsed.samples)
        assert family.help.endswith(".")
    assert shown == {}
    assert value(read(page.encode()), "pointsman_log_dropped_total") == 3
    assert "process_cpu_seconds_total" in page


def test_seed_002s_names_are_there_beside_ours() -> None:
    """By method, route template and status, with true token counts; an unknown route is `other`."""
    metrics = Metrics(pools(), (CHAT,))
    for exchange in (streamed(), streamed(), streamed(status=401, completion_tokens=0), streamed(route="/x")):
        metrics.observe(exchange)
    page = read(metrics.render())
    assert value(page, "http_requests_total", method="POST", endpoint=CHAT, status="200") == 2
    assert value(page, "http_requests_total", method="POST", endpoint=CHAT, status="401") == 1
    assert value(page, "http_requests_total", method="POST", endpoint="other", status="200") == 1
    assert value(page, "tokens_generated_total", model="gemma") == 150
    assert value(page, "http_request_duration_seconds_count", method="POST", endpoint=CHAT) == 3
    assert value(page, "http_request_duration_seconds_bucket", method="POST", endpoint=CHAT, le="60.0") == 3


def test_labels_are_escaped() -> None:
    """A label with quotes, backslashes or line ends is read back as it was."""
    odd = 'a"b\\c\nd'
    metrics = Metrics(Pools([replica("r", odd)]), (CHAT,))
    metrics.observe(streamed(model_id=odd, replica_id="r"))
    assert value(read(metrics.render()), "pointsman_request_end_total", model=odd, end="ok") == 1
