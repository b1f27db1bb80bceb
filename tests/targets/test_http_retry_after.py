from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.targets.retryafter import retry_after_s
from tests.targets.fabric_rig import FixedClock

DATE = "Mon, 20 Jul 2026 10:22:19 GMT"


def asked(*headers, wall=None):
    clock = FixedClock()
    if wall is not None:
        clock.wall = wall
    return retry_after_s(httpx.Headers([(name.encode(), value.encode()) for name, value in headers]), clock)


@pytest.mark.parametrize(
    ("value", "span_s"),
    [("20", 20.0), ("0", 0.0), ("00007", 7.0), ("1.5", 1.5), ("2.", 2.0), (" 30 ", 30.0), ("9999999999", 315360000.0)],
)
def test_seconds_are_read_whole_and_decimal(value, span_s):
    assert asked(("Retry-After", value)) == span_s


def test_a_number_too_large_for_a_float_still_means_very_long():
    assert asked(("Retry-After", "9" * 400)) == asked(("Retry-After", "9" * 12))


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 20 Jul 2026 10:22:39 GMT",
        "Monday, 20-Jul-26 10:22:39 GMT",
        "Mon Jul 20 10:22:39 2026",
        "mon, 20 jul 2026 10:22:39 gmt",
    ],
)
def test_the_three_forms_of_a_date_are_read_against_the_answers_own_date(date):
    skewed = datetime(2031, 1, 1, tzinfo=UTC)
    assert asked(("Retry-After", date), ("Date", DATE), wall=skewed) == 20.0


def test_an_asctime_date_has_a_blank_before_a_one_digit_day():
    assert asked(("Retry-After", "Mon Jul  6 10:22:20 2026"), ("Date", "Mon Jul  6 10:22:19 2026")) == 1.0


def test_without_a_date_the_wall_clock_stands_in_cut_to_whole_seconds():
    wall = datetime(2026, 7, 20, 10, 22, 19, 999_999, tzinfo=UTC)
    assert asked(("Retry-After", "Mon, 20 Jul 2026 10:22:39 GMT"), wall=wall) == 20.0


def test_a_date_that_cannot_be_read_counts_as_none():
    assert asked(("Retry-After", "Mon, 20 Jul 2026 10:22:39 GMT"), ("Date", "yesterday")) == 20.0


def test_a_moment_that_has_passed_is_zero():
    assert asked(("Retry-After", "Mon, 20 Jul 2026 10:00:00 GMT"), ("Date", DATE)) == 0.0


def test_a_leap_second_is_the_second_after_59():
    assert asked(("Retry-After", "Sat, 31 Dec 2016 23:59:60 GMT"), ("Date", "Sat, 31 Dec 2016 23:59:59 GMT")) == 1.0


def test_a_year_of_two_digits_more_than_fifty_years_ahead_lies_in_the_past():
    assert asked(("Retry-After", "Sunday, 06-Nov-94 08:49:37 GMT"), ("Date", DATE)) == 0.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "+5",
        "1e3",
        "inf",
        "nan",
        "0x10",
        "1,5",
        "5 seconds",
        "٢٠",
        "Mon, 32 Jul 2026 10:22:39 GMT",
        "Mon, 20 Foo 2026 10:22:39 GMT",
        "Mon, 20 Jul 2026 25:22:39 GMT",
        "Mon, 20 Jul 2026 10:22:39 +0200",
        "2026-07-20T10:22:39Z",
        "Mon, 00 Jul 0000 10:22:39 GMT",
    ],
)
def test_garbage_asks_for_nothing(value):
    assert asked(("Retry-After", value)) is None


def test_no_header_asks_for_nothing():
    assert asked() is None


@pytest.mark.parametrize("name", ["retry-after-ms", "x-ms-retry-after-ms"])
def test_milliseconds_are_read_as_well(name):
    assert asked((name, "1500")) == 1.5
    assert asked((name, "soon")) is None


@pytest.mark.parametrize("line", ["120, 120", "1, 120", "120 ,  1.5"])
def test_several_that_were_joined_on_the_way_are_still_several(line):
    assert asked(("Retry-After", line)) == 120.0


def test_of_several_the_longest_counts():
    assert asked(("Retry-After", "1"), ("retry-after-ms", "1500")) == 1.5
    assert asked(("Retry-After", "soon"), ("x-ms-retry-after-ms", "250")) == 0.25
    assert asked(("Retry-After", "2"), ("Retry-After", "7")) == 7.0


@given(st.text(max_size=60))
def test_no_text_whatever_raises(value):
    header = value.encode("utf-8", "surrogatepass")
    span_s = retry_after_s(httpx.Headers([(b"retry-after", header), (b"date", header)]), FixedClock())
    assert span_s is None or 0.0 <= span_s < float("inf")


@given(st.integers(0, 2**32), st.integers(0, 10**6), st.floats(0, 0.999))
def test_a_date_is_never_read_as_less_than_the_service_meant(sent_at, span_s, fraction):
    moments = (sent_at + fraction, sent_at + fraction + span_s)
    text = [datetime.fromtimestamp(int(at), UTC).strftime("%a, %d %b %Y %H:%M:%S GMT") for at in moments]
    assert asked(("Date", text[0]), ("Retry-After", text[1])) >= span_s
