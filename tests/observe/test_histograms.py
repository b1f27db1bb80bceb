"""Our histograms look to Prometheus like those of its own library."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.observe.histograms import Histogram

BOUNDS = (0.0, 0.5, 1.0, 2.5, 1000.0)
on_a_bound = st.sampled_from(BOUNDS)


@given(st.lists(st.tuples(st.sampled_from(["poll", "renew"]), on_a_bound | st.floats(-10, 1e6)), max_size=20))
def test_the_text_is_that_of_the_library(values: list[tuple[str, float]]) -> None:
    ours, theirs = prometheus_client.CollectorRegistry(), prometheus_client.CollectorRegistry()
    mine = Histogram("late_seconds", "How late.", buckets=BOUNDS, registry=ours, label="kind", values=["poll", "renew"])
    other = prometheus_client.Histogram("late_seconds", "How late.", ["kind"], buckets=BOUNDS, registry=theirs)
    for kind in ("poll", "renew"):
        other.labels(kind)
    for kind, value in values:
        mine.of(kind).observe(value)
        other.labels(kind).observe(value)
    assert _text(ours) == _text(theirs)


def test_without_a_label_too() -> None:
    ours, theirs = prometheus_client.CollectorRegistry(), prometheus_client.CollectorRegistry()
    Histogram("late_seconds", "How late.", buckets=BOUNDS, registry=ours).of().observe(0.7)
    prometheus_client.Histogram("late_seconds", "How late.", buckets=BOUNDS, registry=theirs).observe(0.7)
    assert _text(ours) == _text(theirs)


def test_a_label_value_that_was_not_named_is_a_mistake_of_ours() -> None:
    one = Histogram(
        "late", "Late.", buckets=BOUNDS, registry=prometheus_client.CollectorRegistry(), label="kind", values=["poll"]
    )
    with pytest.raises(KeyError):
        one.of("pole")


def test_a_name_is_registered_once() -> None:
    registry = prometheus_client.CollectorRegistry()
    Histogram("late_seconds", "How late.", buckets=BOUNDS, registry=registry)
    with pytest.raises(ValueError, match="late_seconds"):
        Histogram("late_seconds", "How late.", buckets=BOUNDS, registry=registry)


def _text(registry: prometheus_client.CollectorRegistry) -> list[str]:
    lines = prometheus_client.generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]
