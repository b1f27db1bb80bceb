"""What `curl -i` prints, read as an answer."""

from __future__ import annotations

import pytest

from renewer.cli.curl import RawAnswer, parse_answer
from renewer.cli.exitcodes import CommandError, ExitCode


def test_an_answer_with_a_json_body_is_read() -> None:
    raw = b'HTTP/1.1 202 Accepted\r\nLocation: https://x/operations/1\r\nRetry-After: 20\r\n\r\n{"a": [1]}'
    headers = {"Location": "https://x/operations/1", "Retry-After": "20"}
    assert parse_answer(raw, "f") == RawAnswer(202, headers, {"a": [1]})


def test_the_last_answer_counts_and_not_those_of_proxies_or_redirects() -> None:
    raw = (
        b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/2 202 \r\nx-ms-operation-id: 1\r\nx-two: a\r\nx-two: b\r\n\r\n"
    )
    assert parse_answer(raw, "f") == RawAnswer(202, {"x-ms-operation-id": "1", "x-two": "a, b"}, None)


@pytest.mark.parametrize("raw", [b"HTTP/2 202\nA: b\n\n", b"HTTP/2 202\nA: b\n", b"HTTP/2 202\nA: b\n\n  \n"])
def test_line_feeds_alone_will_do_and_so_will_an_answer_without_a_body(raw: bytes) -> None:
    assert parse_answer(raw, "f") == RawAnswer(202, {"A": "b"}, None)


def test_a_body_that_is_not_json_is_text() -> None:
    assert parse_answer(b"HTTP/1.1 202 A\r\n\r\nplain", "f").body == "plain"


@pytest.mark.parametrize(
    ("raw", "remedy"),
    [
        (b"", "status line"),
        (b"{}", "status line"),
        (b"HTTP/1.1 abc\r\n\r\n", "status line"),
        (b"HTTP/1.1 202 A\r\nno header\r\n\r\n", "line 2"),
        (b"HTTP/1.1 202 A\r\n\r\n\xff\xfe", "not text"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_would_be_one(raw: bytes, remedy: str) -> None:
    with pytest.raises(CommandError, match=remedy) as caught:
        parse_answer(raw, "answer.txt")
    assert caught.value.code is ExitCode.DATA
    assert "answer.txt" in str(caught.value)
