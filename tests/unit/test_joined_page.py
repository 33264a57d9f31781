"""Metrics pages of several workers in one: a parser of Prometheus' own reads it."""

import re
from ipaddress import ip_network

from prometheus_client.parser import text_string_to_metric_families

from pointsman.attempt import OK
from pointsman.exchange import Exchange
from pointsman.joined_page import join
from pointsman.metrics import Metrics
from pointsman.model import ModelConfig
from pointsman.registry import Registry
from pointsman.retry import RetryConfig

NETWORKS = (ip_network("10.0.0.0/8"),)


def page(calls: int) -> str:
    """A true page of a worker that served so many calls."""
    metrics = Metrics(Registry([ModelConfig("m", (), "m")], RetryConfig()), ["/v1/completions"])
    for _ in range(calls):
        exchange = Exchange("id", "/v1/completions", "POST", 1.0)
        exchange.model_id, exchange.status, exchange.ended_at, exchange.end = "m", 200, 1.5, OK
        metrics.observe(exchange)
    return metrics.render().decode()


def test_every_series_is_there_with_its_worker() -> None:
    """Values, labels and kinds are those of the single pages; heads stand once."""
    pages = {7: page(3), 8: page(5)}
    joined = join(pages)
    found = {family.name: family for family in text_string_to_metric_families(joined)}
    single = {family.name: family for family in text_string_to_metric_families(pages[7])}
    assert set(found) == set(single)
    for name, family in single.items():
        assert found[name].type == family.type
        assert found[name].documentation == family.documentation
        assert len(found[name].samples) == sum(
            len(one.samples)
            for text in pages.values()
            for one in text_string_to_metric_families(text)
            if one.name == name
        )
    ends = {
        s.labels["worker"]: s.value for s in found["pointsman_request_end"].samples if s.labels["end"] == "ok"
    }
    assert ends == {"7": 3.0, "8": 5.0}
    heads = re.findall(r"(?m)^# TYPE (\S+)", joined)
    assert len(heads) == len(set(heads))


def test_a_bare_name_and_a_value_with_signs_get_the_label() -> None:
    """Also where a label holds braces, blanks or quotes."""
    text = '# HELP a b\n# TYPE a gauge\na 1\na{x="{ \\" }"} 2e-05\na{} 3\n'
    assert join({1: text}).splitlines()[2:] == [
        'a{worker="1"} 1',
        'a{worker="1",x="{ \\" }"} 2e-05',
        'a{worker="1",} 3',
    ]


def test_nothing_is_nothing() -> None:
    """No worker, no page; a family that only one has is there."""
    assert join({}) == ""
    assert join({1: "", 2: "# TYPE a gauge\na 1\n"}) == '# TYPE a gauge\na{worker="2"} 1\n'
