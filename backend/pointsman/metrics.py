"""Counts exchanges and shows the counts to Prometheus. Per worker process.

The hot path adds to a list, and now and then its batch to plain dicts, which costs half of counting each by
itself; `labels().inc()` of prometheus_client costs a lock and several calls for each of a dozen series. The
page is written here too: its generator takes 90 ms for 200 replicas, this one 10.
Rules: `reliability.md` section 15. Every label value comes from a closed set; `other` stands for the rest.
"""

from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from platform import python_version
from threading import Lock
from types import MappingProxyType
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from pointsman import __version__
from pointsman.attempt import Verdict
from pointsman.conduct import Cause
from pointsman.exchange import Exchange
from pointsman.families import (
    ANSWER_BYTES,
    ATTEMPTS,
    BUILD_INFO,
    DURATION,
    EJECTIONS,
    ENDS,
    ENTRIES,
    FALLBACKS,
    GENERATED,
    HTTP_DURATION,
    HTTP_REQUESTS,
    IN_FLIGHT,
    LIMITED,
    LOG_DROPPED,
    OVERHEAD,
    PER_TOKEN,
    QUEUE_WAIT,
    QUEUED,
    REPLAYS,
    REPLICA_UP,
    REQUESTS,
    SLOTS,
    TOKENS,
    TTFT,
    Family,
)
from pointsman.replica import Replica, Standing

OTHER = "other"  # label of a model, replica or route that is not, or no longer, known
BATCH = 32  # exchanges that are counted together
_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")  # "none": the client was sent no status


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Whether `/metrics` is there."""

    enabled: bool = True


class View(Protocol):
    """What may become a label: the registry, as far as metrics look at it."""

    @property
    def models(self) -> Collection[str]: ...

    @property
    def replicas(self) -> list[Replica]: ...


class _Histogram:
    """Counts per bucket, not yet summed up, the last one without bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


_Key = tuple[str, ...]  # label values in the order of the family's labels


_Series = MutableMapping[_Key, float] | MutableMapping[_Key, _Histogram]


class Metrics:
    """Counts since the process began.

    Args:
        view: names the models and replicas that may be labels; asked anew each time, since they change.
        routes: the route templates that may be labels.
    """

    def __init__(self, view: View, routes: Iterable[str]) -> None:
        self._view = view
        self._routes = frozenset(routes)
        self._replica_ids: frozenset[str] = frozenset()
        self._ended: deque[Exchange] = deque()
        self._settling = Lock()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self.counts: dict[Family, defaultdict[_Key, float]] = {
            family: defaultdict(int)
            for family in (
                EJECTIONS,
                *(REQUESTS, ENDS, ATTEMPTS, TOKENS, ANSWER_BYTES, HTTP_REQUESTS, GENERATED),
                *(LIMITED, FALLBACKS, REPLAYS),
            )
        }
        self.histograms: dict[Family, _Histograms] = {
            family: _Histograms(family.buckets)
            for family in (TTFT, PER_TOKEN, DURATION, OVERHEAD, HTTP_DURATION, QUEUE_WAIT)
        }
        # A family's hash is that of all its text: too slow for each exchange.
        self._requests, self._ends = self.counts[REQUESTS], self.counts[ENDS]
        self._attempts, self._tokens = self.counts[ATTEMPTS], self.counts[TOKENS]
        self._answer_bytes = self.counts[ANSWER_BYTES]
        self._ttft, self._per_token = self.histograms[TTFT], self.histograms[PER_TOKEN]
        self._duration, self._overhead = self.histograms[DURATION], self.histograms[OVERHEAD]
        self._http, self._generated = self.counts[HTTP_REQUESTS], self.counts[GENERATED]
        self._http_duration = self.histograms[HTTP_DURATION]

    def observe(self, exchange: Exchange) -> None:
        """Take an exchange that ended; to be called once for each. It is counted together with others."""
        self._ended.append(exchange)
        if len(self._ended) >= BATCH:
            self._settle()

    def _settle(self) -> None:
        """Count what has ended; here and there on two threads."""
        with self._settling:
            while self._ended:
                self._count(self._ended.popleft())

    def _count(self, exchange: Exchange) -> None:
        model = self._model(exchange.model_id)
        route = exchange.route if exchange.route in self._routes else OTHER
        status = _CLASSES[exchange.status // 100] if exchange.status < 600 else "none"
        self._requests[model, route, status] += 1
        self._ends[model, exchange.end.label] += 1
        spent_s = exchange.ended_at - exchange.started_at
        self._duration[model, route].add(spent_s)
        self._http[exchange.method, route, str(exchange.status)] += 1
        self._http_duration[exchange.method, route].add(spent_s)
        if exchange.answer_bytes:
            self._answer_bytes[model,] += exchange.answer_bytes
        if exchange.wanted_id:
            self.counts[FALLBACKS][self._model(exchange.wanted_id), model] += 1
        if exchange.cache:
            self.counts[REPLAYS][model, exchange.cache.partition(";")[0]] += 1
        for tried in exchange.attempts:
            own = model if tried.model_id in ("", exchange.model_id) else self._model(tried.model_id)
            self._attempts[own, self._replica(tried.replica_id), tried.end.label] += 1
        if exchange.queued_s:
            self.histograms[QUEUE_WAIT][model,].add(exchange.queued_s)
        if exchange.sent_at:
            self._observe_answer(exchange, model)

    def _observe_answer(self, exchange: Exchange, model: str) -> None:
        replica = self._replica(exchange.replica_id)
        if len(exchange.attempts) == 1 and not exchange.queued_s:
            self._overhead[model,].add(exchange.sent_at - exchange.started_at)
        if exchange.prompt_tokens:
            self._tokens[model, replica, "prompt"] += exchange.prompt_tokens
        if exchange.completion_tokens:
            self._tokens[model, replica, "completion"] += exchange.completion_tokens
            self._generated[model,] += exchange.completion_tokens
        if exchange.stream and exchange.first_event_at:
            self._ttft[model, replica].add(exchange.first_event_at - exchange.started_at)
            pieces = exchange.completion_tokens or exchange.events
            if pieces > 1 and exchange.end.verdict is Verdict.SUCCESS:
                spent_s = exchange.ended_at - exchange.first_event_at
                self._per_token[model, replica].add(spent_s / (pieces - 1))

    def _model(self, model_id: str) -> str:
        return model_id if model_id in self._view.models else OTHER

    def _replica(self, replica_id: str) -> str:
        if replica_id in self._replica_ids:
            return replica_id
        self._replica_ids = frozenset(replica.id for replica in self._view.replicas)
        return replica_id if replica_id in self._replica_ids else OTHER

    def note_limited(self, limit: str) -> None:
        """Count a request beyond a limit."""
        self.counts[LIMITED][(limit,)] += 1

    def note_ejected(self, replica: Replica, cause: Cause) -> None:
        """Count an ejection."""
        self.counts[EJECTIONS][replica.model_id, replica.id, cause.value] += 1

    def render(
        self,
        log_dropped: int = 0,
        tables: Mapping[str, int] = MappingProxyType({}),
        queued: Mapping[str, int] = MappingProxyType({}),
        figures: Mapping[Family, float] = MappingProxyType({}),
    ) -> bytes:
        """Everything in Prometheus' text format 0.0.4.

        May be called from another thread than `observe`.

        Args:
            log_dropped: log lines lost so far, as the log counted them.
            tables: entries of the tables that callers fill, by name.
            queued: how many wait, by model, where any do.
            figures: further values, of families without labels.
        """
        self._settle()
        replicas = self._view.replicas
        self._forget_gone(replicas)
        states = [
            ((replica.model_id, replica.id, standing.value), int(replica.standing is standing))
            for replica in replicas
            for standing in Standing
        ]
        page = [_plain(family, list(series.items())) for family, series in self.counts.items()]
        page += [_buckets(family, list(series.items())) for family, series in self.histograms.items()]
        page.append(_plain(IN_FLIGHT, [((r.model_id, r.id), r.in_flight) for r in replicas]))
        page.append(_plain(SLOTS, [((r.model_id, r.id), r.slots) for r in replicas]))
        waiting = {r.model_id: queued.get(r.model_id, 0) for r in replicas}
        page.append(_plain(QUEUED, [((model,), count) for model, count in waiting.items()]))
        page.append(_plain(REPLICA_UP, states))
        page.append(_plain(ENTRIES, [((table,), n) for table, n in tables.items()]))
        page.append(_plain(LOG_DROPPED, [((), log_dropped)]))
        page += [_plain(family, [((), value)]) for family, value in figures.items()]
        page.append(_plain(BUILD_INFO, [((__version__, python_version()), 1)]))
        return "".join(page).encode() + generate_latest(self._process)

    def _forget_gone(self, replicas: Iterable[Replica]) -> None:
        """Drop the series of models and replicas that are known no longer; they would pile up for ever."""
        self._replica_ids = frozenset(replica.id for replica in replicas)
        models = {*self._view.models, OTHER}
        allowed = {"model": models, "fallback": models, "replica": {*self._replica_ids, OTHER}}
        stores: list[tuple[Family, _Series]] = [
            *self.counts.items(),
            *self.histograms.items(),
        ]
        for family, series in stores:
            places = [
                (place, allowed[label]) for place, label in enumerate(family.labels) if label in allowed
            ]
            for key in list(series):
                if any(key[place] not in names for place, names in places):
                    series.pop(key)


class _Histograms(dict[_Key, _Histogram]):
    """Histograms of one family by label values; a missing one is made empty."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, key: _Key) -> _Histogram:
        self[key] = made = _Histogram(self._bounds)
        return made


def _plain(family: Family, series: Iterable[tuple[_Key, float]]) -> str:
    lines = [_head(family)]
    for key, value in series:
        labels = _labels(family, key)
        lines.append(f"{family.name}{{{labels}}} {value}\n" if labels else f"{family.name} {value}\n")
    return "".join(lines)


def _buckets(family: Family, series: Iterable[tuple[_Key, _Histogram]]) -> str:
    lines = [_head(family)]
    name = family.name
    bounds = [*map(str, family.buckets), "+Inf"]
    for key, histogram in series:
        labels = _labels(family, key)
        below = 0
        for bound, count in zip(bounds, histogram.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {below}\n')
        lines.append(f"{name}_sum{{{labels}}} {histogram.total}\n{name}_count{{{labels}}} {below}\n")
    return "".join(lines)


def _head(family: Family) -> str:
    return f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"


def _labels(family: Family, key: _Key) -> str:
    escaped = [value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in key]
    return ",".join(f'{label}="{value}"' for label, value in zip(family.labels, escaped, strict=True))
