"""What Prometheus is told of pools."""

from __future__ import annotations

import prometheus_client

from renewer.api.control import PoolReading
from renewer.observe import Metrics


def test_the_pools_of_a_namespace_are_shown_together_and_no_entity_becomes_a_label() -> None:
    pools = [
        PoolReading("servicebus.main", "orders", 8, 2, 1, 5),
        PoolReading("servicebus.main", "shipments", 3, 0, 0, 3),
        PoolReading("servicebus.east", "orders", 4, 0, 4, 0),
    ]
    metrics = Metrics(prometheus_client.CollectorRegistry())
    metrics.watch_pools(lambda: pools)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    states = ("free", "acquiring", "taken")
    main = [value("renewer_pool_sessions", target="servicebus.main", state=state) for state in states]
    east = [value("renewer_pool_sessions", target="servicebus.east", state=state) for state in states]
    assert (main, east) == ([2, 1, 8], [0, 4, 0])
    assert value("renewer_pool_size", target="servicebus.main") == 11
    # One whose sessions are on their way is not full: whoever takes one gets it when it is there.
    assert [value("renewer_pools_full", target=f"servicebus.{name}") for name in ("main", "east")] == [1, 0]
    assert b"orders" not in metrics.exposition()


def test_a_pool_that_nobody_took_from_is_not_full_though_it_has_nothing_to_give() -> None:
    pools = [
        PoolReading("servicebus.drained", "orders", 4, 0, 0, 0),
        PoolReading("servicebus.risky", "orders", 4, 0, 0, 3),
        PoolReading("servicebus.shrunk", "orders", 1, 0, 0, 3),
    ]
    metrics = Metrics(prometheus_client.CollectorRegistry())
    metrics.watch_pools(lambda: pools)
    full = [
        metrics.registry.get_sample_value("renewer_pools_full", {"target": f"servicebus.{name}"})
        for name in ("drained", "risky", "shrunk")
    ]
    assert full == [0, 0, 1]


def test_without_a_pool_there_is_no_metric_of_one() -> None:
    metrics = Metrics(prometheus_client.CollectorRegistry())
    metrics.watch_pools(list)
    assert b"renewer_pool" not in metrics.exposition()
