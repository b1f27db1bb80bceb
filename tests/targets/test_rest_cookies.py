"""The cookies of one operation."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.targets.http import Answer
from renewer.targets.origins import split_url
from renewer.targets.rest import Place
from renewer.targets.rest.cookies import MAX_COOKIES, MAX_SIZE, NO_COOKIES, Cookies, header, updated
from tests.targets.fabric_rig import FixedClock

CLOCK = FixedClock()


def place(url: str) -> Place:
    origin, path, query = split_url(url)
    return Place(origin, path + query)


HERE = place("https://h.example/v1/operations/1?sig=x")


def after(*set_cookies: str, cookies: Cookies = NO_COOKIES, at: Place = HERE, clock: FixedClock = CLOCK) -> Cookies:
    headers = httpx.Headers([(b"Set-Cookie", text.encode("latin-1")) for text in set_cookies])
    return updated(cookies, Answer(200, headers, b""), at, clock)


def sent(cookies: Cookies, at: Place = HERE, clock: FixedClock = CLOCK) -> str | None:
    return header(cookies, at, clock)


def test_without_cookies_there_is_no_header() -> None:
    assert after() is NO_COOKIES
    assert sent(NO_COOKIES) is None


@pytest.mark.parametrize(
    ("set_cookie", "expected"),
    [
        ("a=1", "a=1"),
        ("a=1; Path=/; HttpOnly; Secure; SameSite=None", "a=1"),
        (' a = "1 2" ;path=/v1', 'a="1 2"'),
        ("a=", "a="),
        ("a=1=2", "a=1=2"),
        ("a=1; Max-Age=60", "a=1"),
        ("a=1; Max-Age=soon", "a=1"),
        ("a=1; Expires=Wed, 21 Oct 2099 07:28:00 GMT", "a=1"),
        ("a=1; Expires=Wed, 21-Oct-2099 07:28:00 GMT", "a=1"),
        ("a=1; Expires=never", "a=1"),
        ("a=1; Max-Age=60; Expires=Wed, 21 Oct 2015 07:28:00 GMT", "a=1"),
        ("a=1; Expires=Wed, 21 Oct 2015 07:28:00 GMT; Max-Age=60", "a=1"),
        ("a=1; Domain=evil.example", "a=1"),
        ("a=1; Path=nonsense", "a=1"),
        ("a=1; Max-Age=0", None),
        ("a=1; Max-Age=-5", None),
        ("a=1; Expires=Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("a=1; Path=/v2", None),
        ("a=1; Path=/v1/operations/10", None),
        ("a=1; Path=/v1/oper", None),
        ("=1", None),
        ("a", None),
        ("a b=1", None),
        ("a=1\r\nX: y", None),
        ("a=\x00", None),
        ("a=\xe4", None),
        ("", None),
    ],
)
def test_a_cookie_goes_back_where_and_while_it_may(set_cookie: str, expected: str | None) -> None:
    assert sent(after(set_cookie)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://sub.h.example/v1/operations/1",
        "https://example/v1/operations/1",
        "https://h.example:8443/v1/operations/1",
        "http://h.example:443/v1/operations/1",
    ],
)
def test_a_cookie_goes_to_no_other_server(url: str) -> None:
    assert sent(after("a=1; Path=/; Domain=example"), place(url)) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/operations/2", "b=2; c=3; a=1"),
        ("/v1/operations/2/result?x=/", "b=2; c=3; a=1"),
        ("/v1/operations", "b=2; a=1"),
        ("/v1", "a=1"),
        ("/", "a=1"),
    ],
)
def test_paths_decide_and_longer_ones_come_first(path: str, expected: str) -> None:
    cookies = after("a=1; Path=/", "b=2; Path=/v1/operations", "c=3; Path=/v1/operations/")
    pairs = sent(cookies, place(f"https://h.example{path}"))
    assert pairs is not None
    assert set(pairs.split("; ")) == set(expected.split("; "))
    assert pairs.endswith("a=1")


def test_a_cookie_is_replaced_and_deleted_by_its_name_and_path() -> None:
    first = after("a=1; Path=/", "b=2; Path=/")
    second = after("a=3; Path=/", cookies=first)
    assert sent(second) == "b=2; a=3"
    assert sent(after("a=; Path=/; Max-Age=0", cookies=second)) == "b=2"
    assert after(cookies=second) == second


def test_a_cookie_ends_when_its_time_has_come() -> None:
    clock = FixedClock()
    cookies = after("a=1; Max-Age=60", "b=2", clock=clock)
    clock.pass_s(59)
    assert sent(cookies, clock=clock) == "a=1; b=2"
    clock.pass_s(1)
    assert sent(cookies, clock=clock) == "b=2"
    assert len(after("c=3", cookies=cookies, clock=clock)) == 2


def test_there_are_never_too_many() -> None:
    cookies = NO_COOKIES
    for number in range(3 * MAX_COOKIES):
        cookies = after(f"c{number}=1", cookies=cookies)
    assert [cookie.name for cookie in cookies] == [f"c{n}" for n in range(2 * MAX_COOKIES, 3 * MAX_COOKIES)]
    for number in range(10):
        cookies = after(f"large{number}={'x' * 4000}", cookies=cookies)
    assert sum(cookie.size for cookie in cookies) <= MAX_SIZE
    assert cookies[-1].name == "large9"
    assert after(f"a={'x' * 5000}") == NO_COOKIES


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=80), max_size=5))
def test_whatever_is_set_the_header_stays_one_line(texts: list[str]) -> None:
    pairs = sent(after(*texts))
    assert pairs is None or (pairs.isascii() and pairs.isprintable())
