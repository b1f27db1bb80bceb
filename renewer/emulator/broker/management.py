"""The operations of `$management`: a request in, an answer out, the model changed.

Request and answer bodies are maps with string keys (azure-servicebus 7.15 behaviour; "AMQP 1.0 in Azure Service Bus:
request-response-based operations").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

from renewer.amqp import AmqpArray, Int, Timestamp
from renewer.emulator.broker import refusals
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.messages import Outcome
from renewer.emulator.broker.wire import read_transfer, write_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.emulator.broker.messages import Incoming
    from renewer.emulator.broker.namespace import Topic
    from renewer.emulator.broker.sessions import SessionLock

PREFIX: Final = "com.microsoft:"
RENEW_SESSION_LOCK: Final = PREFIX + "renew-session-lock"
RENEW_LOCK: Final = PREFIX + "renew-lock"

ALL_SESSIONS_MS: Final = 253_402_300_800_000
"""As last-updated-time: not a moment, but the wish for all sessions with messages or state (DateTime.MaxValue)."""

MAX_PEEKED: Final = 1000
MAX_ANSWER_BYTES: Final = 256 * 1024
"""Messages are left out of an answer beyond that; the first is always in."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: who asks (the connection, and the receiver link that it names), what, and when."""

    operation: str
    body: dict[Any, Any] = field(repr=False)
    connection: int
    link: str | None
    now: float
    utc_ms: int

    def utc_at(self, at: float | None) -> Timestamp:
        """The UTC milliseconds of a monotonic moment (None: now), as the broker's clock has them."""
        if at is None:
            return Timestamp(self.utc_ms)
        return Timestamp(round(self.utc_ms + (at - self.now) * 1000))


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: 200 with a body, or 204 with the condition that says what there is none of."""

    status: int
    body: dict[str, Any] | None = field(repr=False)
    condition: str | None = None
    text: str = "OK"


def answer(node: Entity | Topic, request: Request) -> Answer:
    """Carry out a request at an entity. Raises `RefusedError`."""
    if not isinstance(node, Entity):
        topic_operation = _TOPIC_OPERATIONS.get(request.operation)
        if topic_operation is None:
            raise refusals.not_allowed("A topic takes messages and schedules them, no more.")
        return topic_operation(node, request)
    operation = _OPERATIONS.get(request.operation)
    if operation is None:
        raise refusals.RefusedError("amqp:not-implemented", 501, f"There is no operation {request.operation[:100]!r}.")
    return operation(node, request)


# Sessions -----------------------------------------------------------------------------------------------------------


def _renew_session_lock(entity: Entity, request: Request) -> Answer:
    lock = _held(entity, request)
    entity.sessions.renew(lock, request.now)
    return Answer(200, {"expiration": request.utc_at(request.now + entity.lock_duration_s)})


def _get_session_state(entity: Entity, request: Request) -> Answer:
    return Answer(200, {"session-state": _held(entity, request).session.state})


def _set_session_state(entity: Entity, request: Request) -> Answer:
    lock = _held(entity, request)
    state = _field(request, "session-state", bytes, none=True)
    entity.sessions.set_state(lock.session, state, request.now, request.utc_ms)
    return Answer(200, {})


def _get_message_sessions(entity: Entity, request: Request) -> Answer:
    if not entity.requires_session:
        raise refusals.not_allowed("The entity has no sessions.")
    since = _field(request, "last-updated-time", int)
    skip = max(0, _field(request, "skip", int, default=0))
    top = max(0, min(_field(request, "top", int, default=100), MAX_PEEKED))
    ids = entity.sessions.ids(updated_after_ms=None if since >= ALL_SESSIONS_MS else since)[skip : skip + top]
    if not ids:
        return Answer(204, None, PREFIX + "session-not-found", "There are no such sessions.")
    return Answer(200, {"skip": Int(skip), "sessions-ids": AmqpArray(ids, str)})


# Messages -----------------------------------------------------------------------------------------------------------


def _renew_lock(entity: Entity, request: Request) -> Answer:
    tokens = _tokens(request)
    entity.renew(tokens, request.now)
    until = request.utc_at(request.now + entity.lock_duration_s)
    return Answer(200, {"expirations": AmqpArray([until] * len(tokens), Timestamp)})


def _update_disposition(entity: Entity, request: Request) -> Answer:
    outcome = _DISPOSITIONS.get(_field(request, "disposition-status", str))
    if outcome is None:
        raise refusals.argument_error(f"disposition-status must be one of {', '.join(_DISPOSITIONS)}.")
    if entity.requires_session:
        _held(entity, request)
    locks = entity.locks_of(_tokens(request), request.now)
    changes = _field(request, "properties-to-modify", dict, none=True)
    for lock in locks:
        entity.settle(
            lock,
            outcome,
            request.now,
            changes=changes,
            reason=_field(request, "deadletter-reason", str, none=True),
            description=_field(request, "deadletter-description", str, none=True),
        )
    return Answer(200, {})


def _peek_message(entity: Entity, request: Request) -> Answer:
    limit = min(max(0, _field(request, "message-count", int)), MAX_PEEKED)
    session_id = _field(request, "session-id", str, none=True)
    messages = entity.peek(_field(request, "from-sequence-number", int), limit, session_id)
    if not messages:
        return Answer(204, None, PREFIX + "message-not-found", "There are no such messages.")
    return Answer(200, {"messages": _fitting([{"message": write_message(message)} for message in messages])})


def _receive_by_sequence_number(entity: Entity, request: Request) -> Answer:
    numbers = _integers(request, "sequence-numbers")
    session = _held(entity, request) if entity.requires_session else None
    if _field(request, "receiver-settle-mode", int) == 0:
        deleted = entity.take_deferred(numbers, request.now, session)
        return Answer(200, {"messages": [{"message": write_message(message)} for message in deleted]})
    locks = entity.lock_deferred(numbers, request.now, session)
    return Answer(
        200,
        {
            "messages": [
                {
                    "message": write_message(lock.message, locked_until_ms=request.utc_at(lock.lasts_until)),
                    "lock-token": lock.token,
                }
                for lock in locks
            ]
        },
    )


def _schedule_message(node: Entity | Topic, request: Request) -> Answer:
    batch: list[Incoming] = []
    for item in _field(request, "messages", list):
        payload = item.get("message") if isinstance(item, dict) else None
        if not isinstance(payload, bytes):
            raise refusals.argument_error("messages must be a list of maps, each with the encoded message in it.")
        batch += read_transfer(payload, 0)
    numbers = node.schedule_messages(batch, request.now, request.utc_ms)
    return Answer(200, {"sequence-numbers": AmqpArray(numbers, int)})


def _cancel_scheduled_message(node: Entity | Topic, request: Request) -> Answer:
    node.schedule.cancel(_integers(request, "sequence-numbers"))
    return Answer(200, {})


_Operation: TypeAlias = "Callable[[Entity, Request], Answer]"
_OPERATIONS: Final[dict[str, _Operation]] = {
    RENEW_SESSION_LOCK: _renew_session_lock,
    PREFIX + "get-session-state": _get_session_state,
    PREFIX + "set-session-state": _set_session_state,
    PREFIX + "get-message-sessions": _get_message_sessions,
    RENEW_LOCK: _renew_lock,
    PREFIX + "update-disposition": _update_disposition,
    PREFIX + "peek-message": _peek_message,
    PREFIX + "receive-by-sequence-number": _receive_by_sequence_number,
    PREFIX + "schedule-message": _schedule_message,
    PREFIX + "cancel-scheduled-message": _cancel_scheduled_message,
}
_TOPIC_OPERATIONS: Final[dict[str, Callable[[Topic, Request], Answer]]] = {
    PREFIX + "schedule-message": _schedule_message,
    PREFIX + "cancel-scheduled-message": _cancel_scheduled_message,
}
_DISPOSITIONS: Final = {
    "completed": Outcome.COMPLETE,
    "abandoned": Outcome.ABANDON,
    "defered": Outcome.DEFER,  # codespell:ignore
    "suspended": Outcome.DEAD_LETTER,
}


# Fields of a request ------------------------------------------------------------------------------------------------


def _held(entity: Entity, request: Request) -> SessionLock:
    """The lock on the session that the request names, if the asking connection holds it."""
    session_id = _field(request, "session-id", str)
    return entity.sessions.check_held(session_id, request.connection, request.link, request.now)


def _field(request: Request, name: str, kind: type, *, none: bool = False, default: Any = None) -> Any:
    value = request.body.get(name, default)
    if value is None and none:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise refusals.argument_error(f"{name} must be a {kind.__name__}.")
    return value


def _tokens(request: Request) -> list[UUID]:
    return _items(request, "lock-tokens", UUID)


def _integers(request: Request, name: str) -> list[int]:
    return _items(request, name, int)


def _items(request: Request, name: str, kind: type) -> list[Any]:
    value = request.body.get(name)
    if not isinstance(value, (AmqpArray, list)) or not len(value) or not all(isinstance(item, kind) for item in value):
        raise refusals.argument_error(f"{name} must be an array of {kind.__name__}, and not empty.")
    return [*value]


def _fitting(messages: list[dict[str, bytes]]) -> list[dict[str, bytes]]:
    """As many messages as one answer has room for, and at least one."""
    size = 0
    fitting: list[dict[str, bytes]] = []
    for message in messages:
        size += len(message["message"])
        if fitting and size > MAX_ANSWER_BYTES:
            break
        fitting.append(message)
    return fitting
