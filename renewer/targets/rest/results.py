"""What an operation left behind, out of the answer that carries it: JSON of any type, bytes, or nothing.

A result in a file is the result's from here on: whoever stores it takes the file over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from renewer.core.model import NO_RESULT, Result
from renewer.errors import TransientError
from renewer.targets.http import is_json, parse_json
from renewer.targets.spool import SpoolError

if TYPE_CHECKING:
    from renewer.targets.http import Answer

_CHECKED_JSON_MAX = 1024 * 1024
_END = 64
_AROUND_JSON = b"\xef\xbb\xbf\xfe\xff\x00 \t\r\n"
"""Blanks and byte order marks, and the second half of a character in UTF-16."""


def result_of(answer: Answer, what: str) -> Result:
    """The result that `answer`, a success, carries; `what` is how an error calls the request.

    Raises `TransientError` of kind garbage for JSON that is not whole, `SpoolError` if its file cannot be read.
    """
    if not answer.size:
        return NO_RESULT
    if not is_json(answer.header("content-type")):
        return _taken_over(answer, "bytes")
    if not _seems_whole(answer):
        if answer.spooled is not None:
            answer.spooled.remove()
        raise TransientError(f"{what}: the answer is no whole JSON document", kind="garbage")
    return _taken_over(answer, "json")


def first_result_of(answer: Answer) -> Result:
    """The result in the answer to a first request; JSON that is not whole is bytes.

    The request was carried out, whatever the body: to ask again is not ours. Raises `SpoolError` if its file cannot be
    read.
    """
    if not answer.size:
        return NO_RESULT
    whole = is_json(answer.header("content-type")) and _seems_whole(answer)
    return _taken_over(answer, "json" if whole else "bytes")


def result_too_large(limit: int, account: str) -> Result:
    """The service has a result, and it is not fetched; `account` is the section whose setting would allow it."""
    return Result(
        kind="none",
        problem=f"it is larger than {limit} bytes; raise max_result of [{account}], or fetch it from the service",
        problem_code="result_too_large",
    )


def _taken_over(answer: Answer, kind: Literal["json", "bytes"]) -> Result:
    content_type = answer.header("content-type")
    if answer.spooled is None:
        return Result(kind, content_type, answer.body)
    path = answer.spooled.take_over()
    return Result(kind, content_type, stored_size=answer.size, file=str(path))


def _seems_whole(answer: Answer) -> bool:
    """Whether JSON is whole; a large one is judged by its ends, for reading it would hold up everybody else."""
    if answer.size > _CHECKED_JSON_MAX:
        begin, end = _part(answer, 0, _END), _part(answer, answer.size - _END, _END)
        return begin.lstrip(_AROUND_JSON)[:1] + end.rstrip(_AROUND_JSON)[-1:] in {b"{}", b"[]", b'""'}
    try:
        parse_json(_part(answer, 0, answer.size))
    except ValueError:
        return False
    return True


def _part(answer: Answer, begin: int, count: int) -> bytes:
    if answer.file is None:
        return answer.body[begin : begin + count]
    try:
        # It was written a moment ago, so the disk is not asked.
        with answer.file.open("rb") as file:
            file.seek(begin)
            return file.read(count)
    except OSError as error:
        raise SpoolError(answer.file.parent, error) from error
