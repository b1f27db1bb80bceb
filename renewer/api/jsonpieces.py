"""JSON written piece by piece, so that an answer of many megabytes holds the loop that renews for no longer than one.

Beside what JSON knows, a document may hold bytes (written as base64), iterators (as lists) and `Members` (as an
object): what is large is made while it is written, and never whole.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from anyio.lowlevel import checkpoint
from starlette.responses import Response, StreamingResponse

PIECE = 64 * 1024
"""Characters in a piece, more or less."""

_PARTS = 2000
"""What a piece is made of at most: however short its parts are, each takes its time."""

_SLICE = 48 * 1024  # A multiple of three: so many bytes are base64 without padding.


@dataclass(frozen=True, slots=True)
class Members:
    """What an object is made of."""

    items: Iterable[tuple[str, object]]


def json_pieces(document: object, *, piece: int = PIECE) -> Iterator[bytes]:
    """The document in UTF-8, in pieces. A number that JSON has no word for becomes null."""
    parts: list[str] = []
    length = 0
    stack: list[Iterator[Any]] = [iter((document,))]
    while stack:
        for item in stack[-1]:
            if type(item) is not _Written:
                opened = _opened(item)
                if opened is not None:
                    stack.append(opened)
                    break
            text = item if type(item) is _Written else _scalar(item)
            parts.append(text)
            length += len(text)
            if length >= piece or len(parts) >= _PARTS:
                yield "".join(parts).encode("utf-8", "replace")
                parts.clear()
                length = 0
        else:
            stack.pop()
    if parts:
        yield "".join(parts).encode("utf-8", "replace")


def json_response(document: object) -> Response:
    """An answer with this document: in one piece if it is small, else the loop gets its turn between the pieces."""
    pieces = json_pieces(document)
    first = next(pieces)
    second = next(pieces, None)
    if second is None:
        return Response(first, media_type="application/json")
    return StreamingResponse(_in_turns(first, second, pieces), media_type="application/json")


async def _in_turns(first: bytes, second: bytes, others: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    yield second
    while True:
        await checkpoint()
        piece = next(others, None)
        if piece is None:
            return
        yield piece


class _Written(str):
    """A part of the document as it is to stand there."""

    __slots__ = ()


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_FEW = 4
_SHORT = 1000

_COMMA = _Written(",")
_BEGIN_LIST = _Written("[")
_END_LIST = _Written("]")
_BEGIN_OBJECT = _Written("{")
_END_OBJECT = _Written("}")
_QUOTE = _Written('"')


def _opened(value: Any) -> Iterator[Any] | None:
    """What it is written as, part for part; None for what is written at once."""
    match value:
        case str():
            return _text(value) if len(value) > _SLICE else None
        case bytes():
            return _base64(value)
        case dict():
            return None if _is_plain(value) else _object(value.items())
        case Members(items):
            return _object(items)
        case list() | tuple() | Iterator():
            return _list(value)
        case _:
            return None


def _is_plain(value: dict[str, Any]) -> bool:
    """Whether it can be written at once, as most values that name their type can."""
    if len(value) > _FEW:
        return False
    return all(
        (kind := type(item)) is int or kind is bool or item is None or (kind is str and len(item) <= _SHORT)
        for item in value.values()
    )


def _object(items: Iterable[tuple[str, object]]) -> Iterator[Any]:
    yield _BEGIN_OBJECT
    is_first = True
    for name, value in items:
        if not is_first:
            yield _COMMA
        is_first = False
        yield name
        yield _Written(":")
        yield value
    yield _END_OBJECT


def _list(items: Iterable[object]) -> Iterator[Any]:
    yield _BEGIN_LIST
    is_first = True
    for value in items:
        if not is_first:
            yield _COMMA
        is_first = False
        yield value
    yield _END_LIST


def _text(value: str) -> Iterator[_Written]:
    yield _QUOTE
    for begin in range(0, len(value), _SLICE):
        yield _Written(_scalar(value[begin : begin + _SLICE])[1:-1])
    yield _QUOTE


def _base64(value: bytes) -> Iterator[_Written]:
    yield _QUOTE
    for begin in range(0, len(value), _SLICE):
        yield _Written(base64.b64encode(value[begin : begin + _SLICE]).decode("ascii"))
    yield _QUOTE


def _scalar(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    return _encode(value)
