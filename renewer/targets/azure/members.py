"""Parts of a JSON object without reading the whole: for documents that are large, or must stay byte for byte.

Some services put the result of hours of work into the document that tells how the operation stands.
"""

from __future__ import annotations

import json
import mmap
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.targets.http import STATE_BODY_MAX, parse_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

Span = tuple[int, int]

# One match takes no more than some hundred KiB, for nobody else runs meanwhile. A string that is longer is left at its
# quote, and skipped with find.
_STRING = rb'"[^"\\]{0,4096}+(?:\\.[^"\\]{0,4096}+){0,32}+"'
_TOKEN = re.compile(rb'[^"{}\[\],:]{0,65536}+(?P<token>' + _STRING + rb'|["{}\[\],:])?', re.DOTALL)
_BRACKET = re.compile(rb'(?:[^"{}\[\]]{1,4096}+|' + _STRING + rb'){0,64}+(?P<token>["{}\[\]])?', re.DOTALL)
_BLANK = re.compile(rb"[ \t\r\n]*+")
_BOM = b"\xef\xbb\xbf"
_SMALL = 64 * 1024
_PROPERTIES = "properties"
_RESULT = "result"
_ERROR = "error"


def spans(
    document: bytes | mmap.mmap, names: Collection[str], start: int = 0, end: int | None = None
) -> dict[str, Span]:
    """Where the values of these members of a JSON object in UTF-8 stand, those of its top level alone.

    Nothing but strings and brackets is looked at. Raises ValueError if these do not make one whole object.
    """
    end = len(document) if end is None else end
    if document[start : start + len(_BOM)] == _BOM:
        start += len(_BOM)
    found: dict[str, Span] = {}
    depth = 0
    key: str | None = None
    value_at: int | None = None
    at = start
    while True:
        # Inside of a value only its brackets matter; that is twice as fast as token by token.
        begin, at = _next(document, at, end, _TOKEN if depth < 2 else _BRACKET)
        token = document[begin : begin + 1]
        if depth == 0 and (token != b"{" or _BLANK.fullmatch(document, start, begin) is None):
            raise ValueError("is no object")
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        if depth > 1 or (depth == 1 and token in b"{[]}"):
            continue
        if token in (b"}", b",") and key is not None and value_at is not None:
            found[key] = _trimmed(document, value_at, begin)
        if depth == 0:
            if token != b"}" or _BLANK.fullmatch(document, at, end) is None:
                raise ValueError("does not end where the object does")
            return found
        if token == b",":
            key = value_at = None
        elif token == b":":
            value_at = at
        elif value_at is None:
            name = _name(document[begin:at])
            key = name if name in names else None


def member_of(document: bytes, name: str) -> bytes | None:
    """The JSON text of one member of an object, byte for byte; None if it is not to be had so."""
    try:
        span = spans(document, (name,)).get(name)
    except ValueError:
        return None
    return None if span is None else document[slice(*span)]


@dataclass(frozen=True, slots=True)
class Outline:
    """The small members of a large object, and its `error`; of its `properties`, if these are not small, the same.

    `result` is where the member of that name stands, if there is one that is not null.
    """

    members: Mapping[str, object]
    result: Span | None


def outline(path: Path, names: Collection[str]) -> Outline:
    """What the object in a file says by these members. It is read in place, however large it is.

    Raises ValueError if it is no whole object, OSError.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as document:
        found = spans(document, {*names, _PROPERTIES, _RESULT})
        read = _small(document, found, {*names, _PROPERTIES})
        if _PROPERTIES in found and _PROPERTIES not in read and document[found[_PROPERTIES][0]] == ord("{"):
            read[_PROPERTIES] = _small(document, spans(document, names, *found[_PROPERTIES]), names)
        result = found.get(_RESULT)
        is_null = result is not None and document[result[0] : min(result[0] + 5, result[1])] == b"null"
        return Outline(read, None if is_null else result)


def _small(document: mmap.mmap, found: Mapping[str, Span], names: Collection[str]) -> dict[str, object]:
    return {
        name: parse_json(document[begin:end])
        for name, (begin, end) in found.items()
        if name in names and end - begin <= (STATE_BODY_MAX if name == _ERROR else _SMALL)
    }


def _next(document: bytes | mmap.mmap, at: int, end: int, pattern: re.Pattern[bytes]) -> Span:
    """Where the next token stands; strings are passed over where `pattern` looks for brackets alone."""
    while True:
        match = pattern.match(document, at, end)
        if match is None or match.end() == at:
            raise ValueError("is not whole")
        at = match.end()
        begin = match.start("token")
        if begin < 0:
            continue
        if match["token"] != b'"':
            return begin, at
        at = _string_end(document, at, end)
        if pattern is _TOKEN:
            return begin, at


def _string_end(document: bytes | mmap.mmap, at: int, end: int) -> int:
    """Where the string ends whose text begins, or goes on, at `at`."""
    while True:
        quote = document.find(b'"', at, end)
        if quote < 0:
            raise ValueError("breaks off in a string")
        before = quote
        while before > at and document[before - 1 : before] == b"\\":
            before -= 1
        at = quote + 1
        if (quote - before) % 2 == 0:
            return at


def _trimmed(document: bytes | mmap.mmap, begin: int, end: int) -> Span:
    while begin < end and document[begin] in b" \t\r\n":
        begin += 1
    while end > begin and document[end - 1] in b" \t\r\n":
        end -= 1
    return begin, end


def _name(token: bytes) -> str | None:
    try:
        name: object = json.loads(token)
    except ValueError:
        return None
    return name if isinstance(name, str) else None
