"""Results out of answers, from memory and from files: of which kind they are, and whether they are whole."""

import gc
import json

import httpx
import pytest

from renewer.core.model import NO_RESULT, Result
from renewer.errors import TransientError
from renewer.targets.http import Answer
from renewer.targets.rest.results import first_result_of, result_of, result_too_large
from renewer.targets.spool import SpooledFile, SpoolError

JSON = "application/json"
LONG = 1_500_000


@pytest.fixture(params=["memory", "file"])
def answered(request, tmp_path):
    """Makes an answer with this body, in memory or in a file."""

    def make(body, content_type=JSON):
        headers = httpx.Headers({} if content_type is None else {"Content-Type": content_type})
        if request.param == "memory" or not body:
            return Answer(200, headers, body)
        file = SpooledFile(tmp_path)
        file.path.write_bytes(body)
        file.size = len(body)
        return Answer(200, headers, b"", file)

    make.directory = tmp_path
    return make


def content(result):
    if result.file is None:
        return result.body
    with open(result.file, "rb") as file:
        return file.read()


@pytest.mark.parametrize(
    "body", [b"{}", b"[1, 2]", b"null", b"false", b"0", b'"text"', b" \r\n-1.5e3\n", b"\xef\xbb\xbf{}"]
)
@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8", "application/problem+json"])
def test_json_of_any_type_is_a_result(answered, body, content_type):
    result = result_of(answered(body, content_type), "GET /x")
    assert (result.kind, result.content_type, content(result), result.size) == ("json", content_type, body, len(body))


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/html", None, "application/jsonp"])
def test_everything_else_is_bytes(answered, content_type):
    result = result_of(answered(b"{", content_type), "GET /x")
    assert (result.kind, result.content_type, content(result)) == ("bytes", content_type, b"{")


def test_no_body_is_no_result(answered):
    assert result_of(answered(b""), "GET /x") == NO_RESULT
    assert first_result_of(answered(b"")) == NO_RESULT


@pytest.mark.parametrize("body", [b"{", b'{"a": [1, 2}', b"nul", b"{} {}", b"<html>", b"\xff", b"NaN", b"[" * 100_000])
def test_json_that_is_not_whole_is_garbage_and_leaves_no_file(answered, body):
    with pytest.raises(TransientError, match="GET /x: the answer is no whole JSON document") as caught:
        result_of(answered(body), "GET /x")
    assert caught.value.kind == "garbage"
    assert list(answered.directory.iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"a": "x" * LONG}).encode(),
        json.dumps(["x" * LONG]).encode(),
        json.dumps("x" * LONG).encode(),
        b" " * 10 + json.dumps({"a": "x" * LONG}).encode() + b"\r\n",
        json.dumps({"a": "x" * LONG}).encode("utf-16"),
        json.dumps({"a": "x" * LONG}).encode("utf-16-le"),
        json.dumps(["x" * LONG]).encode("utf-8-sig"),
        b"{" + b"," * LONG + b"}",  # judged by its ends
    ],
)
def test_large_json_is_judged_by_its_ends(answered, body):
    result = result_of(answered(body), "GET /x")
    assert (result.kind, content(result)) == ("json", body)


@pytest.mark.parametrize(
    "body", [json.dumps({"a": "x" * LONG}).encode()[:-1], b"x" * LONG, b"{" * LONG, b'"' + b"x" * LONG]
)
def test_large_json_whose_ends_do_not_match_is_garbage_and_leaves_no_file(answered, body):
    with pytest.raises(TransientError, match="no whole JSON document"):
        result_of(answered(body), "GET /x")
    assert list(answered.directory.iterdir()) == []


def test_the_first_answer_is_the_result_whole_or_not(answered):
    for body, kind in ((b"{}", "json"), (b"{", "bytes")):
        result = first_result_of(answered(body))
        assert (result.kind, result.content_type, content(result)) == (kind, JSON, body)


def test_a_file_is_the_results_once_there_is_one(answered):
    answer = answered(b"{}")
    result = result_of(answer, "GET /x")
    is_file = answer.file is not None
    del answer
    gc.collect()
    assert content(result) == b"{}"
    assert len(list(answered.directory.iterdir())) == is_file
    assert (result.file is not None, result.is_elsewhere) == (is_file, False)


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    file = SpooledFile(tmp_path)
    file.size = 2
    answer = Answer(200, httpx.Headers({"Content-Type": JSON}), b"", file)
    for read in (lambda: result_of(answer, "GET /x"), lambda: first_result_of(answer)):
        with pytest.raises(SpoolError, match=f"{tmp_path} .No such file or directory"):
            read()


def test_a_result_that_is_too_large_names_the_setting():
    assert result_too_large(1024, "azure.main") == Result(
        kind="none",
        problem="it is larger than 1024 bytes; raise max_result of [azure.main], or fetch it from the service",
        problem_code="result_too_large",
    )
