"""What Prometheus is told of the gateways."""

from __future__ import annotations

from types import SimpleNamespace

import prometheus_client

from renewer.observe import Metrics


def test_each_gateway_shows_what_it_counted_and_every_reason_from_the_start():
    now = SimpleNamespace(
        name="main",
        connections=3,
        refusals={"key": 2, "full": 1},
        upstream_failures=4,
        messages=500,
        buffered_bytes=65536,
    )
    metrics = Metrics(prometheus_client.CollectorRegistry())
    metrics.watch_gateways(lambda: [now])

    def value(name, **labels):
        return metrics.registry.get_sample_value(name, {"gateway": "main", **labels})

    assert value("renewer_gateway_connections") == 3
    assert value("renewer_gateway_upstream_failures_total") == 4
    assert value("renewer_gateway_messages_total") == 500
    assert value("renewer_gateway_buffered_bytes") == 65536
    reasons = ("key", "entity", "protocol", "timeout", "full")
    assert [value("renewer_gateway_refusals_total", why=why) for why in reasons] == [2, 0, 0, 0, 1]


def test_without_a_gateway_there_is_no_metric_of_one():
    metrics = Metrics(prometheus_client.CollectorRegistry())
    metrics.watch_gateways(list)
    assert b"renewer_gateway" not in metrics.exposition()
