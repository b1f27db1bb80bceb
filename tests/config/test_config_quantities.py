"""Durations, sizes and bounded numbers."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from renewer.config.quantities import (
    count_between,
    duration_between,
    format_duration,
    number_between,
    parse_duration,
    parse_size,
    size_between,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("4m", 240),
        ("1h", 3600),
        ("1d", 86_400),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (" 10 s ", 10),
        ("0s", 0),
        (10, 10),
        (0.25, 0.25),
        ("10", 10),
        ("0.5", 0.5),
    ],
)
def test_a_duration_is_text_with_a_unit_or_a_number_of_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "s",
        "10 parsecs",
        "-1s",
        "10S",
        "1m1h",
        "1s1s",
        "1e3",
        "1_000s",
        "ten",
        "10s!",
        "PT10S",
        "9" * 40 + "s",
        -1,
        float("nan"),
        float("inf"),
        10**400,
        True,
        None,
        [],
        {},
        b"10s",
        1e15,
        "99999999999d",
    ],
)
def test_what_is_no_duration_is_refused_with_the_forms_that_are(written: object) -> None:
    with pytest.raises(ValueError, match='must be a duration such as "500ms"'):
        parse_duration(written)


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**15))
def test_a_duration_is_written_as_it_is_read(millis: int) -> None:
    span = timedelta(milliseconds=millis)
    assert parse_duration(format_duration(span)) == span


@pytest.mark.parametrize(("seconds", "written"), [(240, "4m"), (90, "90s"), (0.25, "250ms"), (86_400, "1d"), (0, "0s")])
def test_a_duration_is_written_in_the_largest_whole_unit(seconds: float, written: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == written


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("64MiB", 64 * 1024**2),
        ("512KiB", 512 * 1024),
        ("10MB", 10_000_000),
        ("1.5KiB", 1536),
        ("7B", 7),
        (7, 7),
        ("7", 7),
    ],
)
def test_a_size_is_text_with_a_unit_or_a_number_of_bytes(written: object, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "64mib", "64 Mi", "-1B", "0.5B", "MiB", True, None, [], -1, 1.5, float("inf")])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match='must be a size such as "512KiB"'):
        parse_size(written)


@pytest.mark.parametrize(
    ("validator", "low", "high", "below", "above"),
    [
        (number_between(0.1, 0.8), 0.1, 0.8, 0.09, 0.81),
        (count_between(1, 255), 1, 255, 0, 256),
        (duration_between("1s", "1m"), "1s", "1m", "999ms", "60001ms"),
        (size_between("1KiB", "1MiB"), "1KiB", "1MiB", 1023, 1024**2 + 1),
    ],
)
def test_bounds_are_included_and_named_when_they_are_passed(
    validator: BeforeValidator, low: object, high: object, below: object, above: object
) -> None:
    adapter = TypeAdapter[Any](Annotated[Any, validator])
    adapter.validate_python(low)
    adapter.validate_python(high)
    for wrong in (below, above):
        with pytest.raises(ValidationError, match=f"from {low} to {high}"):
            adapter.validate_python(wrong)


@pytest.mark.parametrize("wrong", [True, "x", None, [], float("nan"), 1.5, "1.5"])
def test_a_count_is_a_whole_number_and_nothing_else(wrong: object) -> None:
    with pytest.raises(ValidationError, match="must be a whole number from 1 to 5"):
        TypeAdapter[Any](Annotated[int, count_between(1, 5)]).validate_python(wrong)
