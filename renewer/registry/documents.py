"""What entries and results look like as text, for every registry: plain JSON in ASCII, read back as it was given.

Writing raises `UnstorableError` for what is not JSON. Reading raises `UnreadableError`, because a row that cannot be
read is damage, and each registry has its own way to deal with that.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic_core import from_json

from renewer.core.model import Result
from renewer.errors import UnstorableError
from renewer.ports import Entry, EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterable

_KIND_ORDER: dict[str, int] = {kind: place for place, kind in enumerate(EntryKind)}
_KINDS: dict[str, EntryKind] = {kind.value: kind for kind in EntryKind}
_MAX_NUMBER = 2**63 - 1
_DOCUMENT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class UnreadableError(Exception):
    """A stored row does not hold what was ever written."""


def document_text(entry: Entry) -> str:
    """The document of `entry`, once it is certain that the whole entry can be stored and read back."""
    if not is_text(entry.id):
        raise UnstorableError(f"{entry.kind} {entry.id!r} cannot be stored: its id is not text", key=entry.id)
    try:
        if not -_MAX_NUMBER <= entry.number <= _MAX_NUMBER:
            raise ValueError("its number does not fit into 64 bits")
        return _DOCUMENT.encode(dict(entry.document))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnstorableError(f"{entry.kind} {entry.id} cannot be stored: {error}", key=entry.id) from error


def is_text(id_: str) -> bool:
    """Whether there can be anything stored under `id_`: half a surrogate pair is not text."""
    try:
        id_.encode()
    except UnicodeEncodeError:
        return False
    return True


def entry_from(kind: object, id_: object, number: object, text: object) -> Entry:
    """The entry that these columns stand for."""
    return Entry(*_key(kind, id_, number), _object(text, f"{kind} {id_}"))


def head_text(result: Result) -> str:
    """All of a result but its body."""
    head = {"kind": result.kind, "content_type": result.content_type, "problem": result.problem}
    return json.dumps(head, separators=(",", ":"))


def result_from(head: object, body: bytes) -> Result:
    """The result of which `head_text` made `head`."""
    values = _object(head, "a result")
    kind, content_type, problem = values.get("kind"), values.get("content_type"), values.get("problem")
    if kind not in {"json", "bytes", "none"} or not isinstance(content_type, str | None):
        raise UnreadableError("a result is of a kind that was never written")
    if not isinstance(problem, str | None):
        raise UnreadableError("a result has a problem that is not text")
    return Result(cast("Literal['json', 'bytes', 'none']", kind), content_type, body, problem)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Kind by kind, each in order of its numbers."""
    return sorted(entries, key=lambda entry: (_KIND_ORDER[entry.kind], entry.number, entry.id))


def _key(kind: object, id_: object, number: object) -> tuple[EntryKind, str, int]:
    if not (isinstance(kind, str) and isinstance(id_, str) and isinstance(number, int)):
        raise UnreadableError("an entry has no kind, id or number")
    known = _KINDS.get(kind)
    if known is None or not is_text(id_):
        raise UnreadableError("an entry has a kind or an id that was never written")
    return known, id_, number


def _object(text: object, whose: str) -> dict[str, Any]:
    if not isinstance(text, str):
        raise UnreadableError(f"the document of {whose} is not text")
    try:
        values = _values(text)
    except (ValueError, RecursionError):
        raise UnreadableError(f"the document of {whose} is not JSON") from None
    if not isinstance(values, dict):
        raise UnreadableError(f"the document of {whose} is not a JSON object")
    return values


def _values(text: str) -> object:
    with suppress(ValueError, TypeError):
        # In half of the time that the standard library takes, and thousands are read at a start.
        return from_json(text, cache_strings="keys")
    # It reads no half of a surrogate pair, and nothing that is nested 200 deep; both may have been stored.
    if not text.isascii():
        text.encode()
    return json.loads(text)
