"""What workers ask of management nodes and what they are answered, as far as locks are concerned.

Bodies are maps with string keys ("AMQP 1.0 in Azure Service Bus: request-response-based operations"). Everything passes
as it is, but for the ends of locks, which are found here to be changed in place. What is odd is not ours to judge.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar, assert_never
from uuid import UUID

from renewer.amqp.decoder import decode
from renewer.amqp.spans import array_of_fixed, items, pairs, text_at
from renewer.core.states import MessageFate
from renewer.errors import AmqpProtocolError
from renewer.gateway import sections
from renewer.gateway.transfers import find_locked_until, find_sequence_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from renewer.amqp.spans import Span

T = TypeVar("T")


class Operation(StrEnum):
    """The operations that concern locks."""

    RENEW_SESSION = "com.microsoft:renew-session-lock"
    RENEW_MESSAGES = "com.microsoft:renew-lock"
    SETTLE = "com.microsoft:update-disposition"
    RECEIVE_DEFERRED = "com.microsoft:receive-by-sequence-number"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request about locks. `key` is its message-id in a form to compare with `answer_key`."""

    operation: Operation
    key: bytes
    tokens: tuple[UUID, ...] = field(default=(), repr=False)
    session_id: str | None = None
    link_name: str | None = None
    disposition: MessageFate | None = None
    sequence_numbers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LockedMessage:
    """A message that came with its lock. `locked_until` is in epoch seconds, `offset` says where, or is -1."""

    token: UUID = field(repr=False)
    locked_until: float | None
    offset: int
    sequence_number: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    `expirations` are the ends of locks, in order: where the 8 bytes of each are in the payload, and epoch seconds.
    """

    status: int | None
    condition: str | None
    expirations: tuple[tuple[int, float], ...] = ()
    locked: tuple[LockedMessage, ...] = ()


def read_ask(payload: bytes) -> Ask | None:
    """The request, if it renews, settles or takes locks; None for any other, and for one that makes no sense."""
    if b"com.microsoft:re" not in payload and b"com.microsoft:update-disposition" not in payload:
        return None
    try:
        return _read_ask(payload)
    except AmqpProtocolError:
        return None


def read_answer(payload: bytes, ask: Ask) -> Answer | None:
    """The answer to that request; None if it cannot be read."""
    try:
        return _read_answer(payload, ask)
    except AmqpProtocolError:
        return None


def answer_key(payload: bytes) -> bytes | None:
    """Which request this answers, comparable with `Ask.key` whatever type the broker has given it."""
    try:
        return sections.correlation_id(payload, sections.find_sections(payload))
    except AmqpProtocolError:
        return None


_OPERATIONS: Final = {operation.value: operation for operation in Operation}
_FATES: Final = {
    "completed": MessageFate.COMPLETED,
    "abandoned": MessageFate.ABANDONED,
    "defered": MessageFate.DEFERRED,
    "suspended": MessageFate.DEAD_LETTERED,
}
_TIMESTAMP: Final = 0x83
_I64: Final = struct.Struct(">q")


def _read_ask(payload: bytes) -> Ask | None:
    found = sections.find_sections(payload)
    fields = sections.read_map(payload, found, sections.APPLICATION_PROPERTIES)
    operation = _OPERATIONS.get(_text(fields.get("operation")) or "")
    if operation is None:
        return None
    key, body = sections.message_id(payload, found), found.get(sections.VALUE)
    if key is None or body is None:
        return None
    asked = decode(payload, body[0])[0]
    if not isinstance(asked, dict):
        return None
    return Ask(
        operation=operation,
        key=key,
        tokens=_several(asked.get("lock-tokens"), UUID),
        session_id=_text(asked.get("session-id")),
        link_name=_text(fields.get("associated-link-name")),
        disposition=_FATES.get(_text(asked.get("disposition-status")) or ""),
        sequence_numbers=tuple(map(int, _several(asked.get("sequence-numbers"), int))),
    )


def _read_answer(payload: bytes, ask: Ask) -> Answer:
    found = sections.find_sections(payload)
    fields = sections.read_map(payload, found, sections.APPLICATION_PROPERTIES)
    condition = _text(fields.get("errorCondition", fields.get("error-condition")))
    answer = Answer(_status(fields), condition)
    body = found.get(sections.VALUE)
    if answer.status is None or not 200 <= answer.status < 300 or body is None or payload[body[0]] not in _MAPS:
        return answer
    match ask.operation:
        case Operation.RENEW_SESSION:
            value = _entry(payload, body, b"expiration")
            return Answer(answer.status, condition, tuple(_timestamps(payload, [] if value is None else [value])))
        case Operation.RENEW_MESSAGES:
            value = _entry(payload, body, b"expirations")
            return Answer(answer.status, condition, () if value is None else tuple(_expirations(payload, value)))
        case Operation.RECEIVE_DEFERRED:
            value = _entry(payload, body, b"messages")
            return Answer(answer.status, condition, locked=() if value is None else tuple(_messages(payload, value)))
        case Operation.SETTLE:
            return answer
        case _:
            assert_never(ask.operation)


def _status(fields: dict[Any, Any]) -> int | None:
    status = fields.get("statusCode", fields.get("status-code"))
    return int(status) if isinstance(status, int) and not isinstance(status, bool) else None


def _entry(payload: bytes, body: Span, name: bytes) -> Span | None:
    return next((value for key, value in pairs(payload, *body) if text_at(payload, key) == name), None)


def _timestamps(payload: bytes, spans: list[Span]) -> Iterator[tuple[int, float]]:
    for start, _ in spans:
        if payload[start] == _TIMESTAMP:
            yield start + 1, _moment(payload, start + 1)


def _expirations(payload: bytes, span: Span) -> Iterator[tuple[int, float]]:
    """An array of timestamps, as the service writes it, or a list of them."""
    if payload[span[0]] in _LISTS:
        yield from _timestamps(payload, list(items(payload, *span)))
        return
    code, first, width, count = array_of_fixed(payload, *span)
    if code == _TIMESTAMP:
        for offset in range(first, first + count * width, width):
            yield offset, _moment(payload, offset)


def _messages(payload: bytes, span: Span) -> Iterator[LockedMessage]:
    for item in items(payload, *span):
        entries = {text_at(payload, key): value for key, value in pairs(payload, *item)}
        message, token = entries.get(b"message"), entries.get(b"lock-token")
        if message is None or token is None or payload[token[0]] != 0x98:
            continue
        raw = text_at(payload, message)
        if raw is None:
            continue
        start, end = message[1] - len(raw), message[1]
        offset = find_locked_until(payload, start, end)
        yield LockedMessage(
            token=UUID(bytes=payload[token[0] + 1 : token[1]]),
            locked_until=None if offset < 0 else _moment(payload, offset),
            offset=offset,
            sequence_number=find_sequence_number(payload, start, end),
        )


def _moment(payload: bytes, offset: int) -> float:
    milliseconds: int = _I64.unpack_from(payload, offset)[0]
    return milliseconds / 1000


def _several(value: Any, kind: type[T]) -> tuple[T, ...]:
    """The items of an array or a list, those that are of the kind."""
    try:
        return tuple(item for item in value if isinstance(item, kind))
    except TypeError:
        return ()


def _text(value: object) -> str | None:
    """Clients write names as strings, symbols, or binaries."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else None


_LISTS: Final = (0x45, 0xC0, 0xD0)
_MAPS: Final = (0xC1, 0xD1)
