"""What is asked of a management node, and what its answers say.

Bodies are maps with string keys ("AMQP 1.0 in Azure Service Bus: request-response-based operations"; azure-servicebus
7.15 behaviour). What is asked for a session names the link that holds it: the broker checks that, and takes the link
for active, where one without activity is detached after ten minutes. A message lock belongs to its token alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from renewer.amqp import AmqpArray, Int, Uint
from renewer.errors import TransientError
from renewer.targets.servicebus.envelope import Reply, Template
from renewer.targets.servicebus.lockclock import from_milliseconds
from renewer.targets.servicebus.options import management_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.ports import Settlement

RENEW_SESSION_LOCK: Final = "com.microsoft:renew-session-lock"
RENEW_LOCK: Final = "com.microsoft:renew-lock"
GET_SESSION_STATE: Final = "com.microsoft:get-session-state"
SET_SESSION_STATE: Final = "com.microsoft:set-session-state"
UPDATE_DISPOSITION: Final = "com.microsoft:update-disposition"
RECEIVE_BY_SEQUENCE_NUMBER: Final = "com.microsoft:receive-by-sequence-number"
PEEK_MESSAGE: Final = "com.microsoft:peek-message"

_SHORTEST_SERVER_TIMEOUT_S: Final = 1.0
_LONGEST_SERVER_TIMEOUT_S: Final = 60.0


def renew_session_lock(entity: str, *, link_name: str, session_id: str, lock_s: float) -> Template:
    """Renew the lock of the session on that link; the broker may take a lock's time for it."""
    body: dict[str, object] = {"session-id": session_id}
    return _ask(entity, RENEW_SESSION_LOCK, body, timeout_s=lock_s, link_name=link_name, is_settled=True)


def renew_message_locks(
    entity: str, tokens: Sequence[UUID], *, lock_s: float, link_name: str | None = None
) -> Template:
    """Renew the locks of these messages, on behalf of the link that they came over if it is there. One that is lost
    fails all of them.
    """
    body: dict[str, object] = {"lock-tokens": AmqpArray([*tokens], UUID)}
    return _ask(entity, RENEW_LOCK, body, timeout_s=lock_s, link_name=link_name, is_settled=True)


def get_session_state(entity: str, *, link_name: str, session_id: str, timeout_s: float) -> Template:
    """Read the state of the session on that link."""
    return _ask(entity, GET_SESSION_STATE, {"session-id": session_id}, timeout_s=timeout_s, link_name=link_name)


def set_session_state(
    entity: str, state: bytes | None, *, link_name: str, session_id: str, timeout_s: float
) -> Template:
    """Replace the state of the session on that link; None clears it, empty bytes are a state."""
    body: dict[str, object] = {"session-id": session_id, "session-state": state}
    return _ask(entity, SET_SESSION_STATE, body, timeout_s=timeout_s, link_name=link_name)


def settle_message(
    entity: str,
    token: UUID,
    settlement: Settlement,
    *,
    timeout_s: float,
    session_id: str | None = None,
    link_name: str | None = None,
) -> Template:
    """Settle the message with that lock, in a session by whoever holds it. AmqpProtocolError for odd properties."""
    body: dict[str, object] = {
        "disposition-status": _DISPOSITIONS[settlement.how],
        "lock-tokens": AmqpArray([token], UUID),
    }
    if settlement.properties:
        body["properties-to-modify"] = dict(settlement.properties)
    for name, text in (("reason", settlement.reason), ("description", settlement.description)):
        if settlement.how == "dead-letter" and text is not None:
            body[f"deadletter-{name}"] = text
    if session_id is not None:
        body["session-id"] = session_id
    return _ask(entity, UPDATE_DISPOSITION, body, timeout_s=timeout_s, link_name=link_name)


def receive_deferred_messages(
    entity: str, numbers: Sequence[int], *, timeout_s: float, session_id: str, link_name: str
) -> Template:
    """Lock deferred messages of the session on that link: all of these or none."""
    body = {
        "sequence-numbers": AmqpArray([*numbers], int),
        "receiver-settle-mode": Uint(_PEEK_LOCK),
        "session-id": session_id,
    }
    return _ask(entity, RECEIVE_BY_SEQUENCE_NUMBER, body, timeout_s=timeout_s, link_name=link_name)


def peek_messages(
    entity: str,
    *,
    from_number: int,
    count: int,
    timeout_s: float,
    session_id: str | None = None,
    link_name: str | None = None,
) -> Template:
    """Look at messages from that sequence number on, of one session or of all."""
    body: dict[str, object] = {"from-sequence-number": from_number, "message-count": Int(count)}
    if session_id is not None:
        body["session-id"] = session_id
    return _ask(entity, PEEK_MESSAGE, body, timeout_s=timeout_s, link_name=link_name)


def read_expiration(reply: Reply) -> float:
    """Until when a session lock is held, in epoch seconds. TransientError if the answer does not say."""
    expiration = from_milliseconds(reply.body.get("expiration")) if isinstance(reply.body, dict) else None
    if expiration is None:
        raise TransientError("a reply without expiration", kind="garbage")
    return expiration


def read_expirations(reply: Reply, count: int) -> list[float]:
    """Until when `count` message locks are held, in the order asked. TransientError if the answer does not say."""
    answer = reply.body.get("expirations") if isinstance(reply.body, dict) else None
    items = [from_milliseconds(item) for item in answer] if isinstance(answer, (AmqpArray, list)) else []
    expirations = [item for item in items if item is not None]
    if len(expirations) != count or len(items) != count:
        raise TransientError("a reply without an expiration for each lock", kind="garbage")
    return expirations


def read_session_state(reply: Reply) -> bytes | None:
    """The state of a session; None if it has none. TransientError if the answer does not say."""
    if reply.body is None and reply.status == _NO_CONTENT:
        return None
    if isinstance(reply.body, dict) and "session-state" in reply.body:
        state = reply.body["session-state"]
        if state is None or isinstance(state, bytes):
            return state
    raise TransientError("a reply without session state", kind="garbage")


def read_messages(reply: Reply) -> list[tuple[bytes, UUID | None]]:
    """Encoded messages with their lock tokens (None: peeked at). TransientError if the answer does not make sense."""
    if reply.status in (_ACCEPTED, _NO_CONTENT):
        return []
    items = reply.body.get("messages") if isinstance(reply.body, dict) else None
    if not isinstance(items, (AmqpArray, list)):
        raise TransientError("a reply without messages", kind="garbage")
    found: list[tuple[bytes, UUID | None]] = []
    for item in items:
        payload, token = (item.get("message"), item.get("lock-token")) if isinstance(item, dict) else (None, None)
        if not isinstance(payload, bytes) or not (token is None or isinstance(token, UUID)):
            raise TransientError("a reply with something that is no message", kind="garbage")
        found.append((payload, token))
    return found


_ACCEPTED: Final = 202
_NO_CONTENT: Final = 204
_PEEK_LOCK: Final = 1
"""The receiver-settle-mode of who settles later (azure-servicebus 7.15 behaviour)."""
_DISPOSITIONS: Final = {
    "complete": "completed",
    "abandon": "abandoned",
    "defer": "defered",
    "dead-letter": "suspended",
}


def _ask(
    entity: str,
    operation: str,
    body: dict[str, object],
    *,
    timeout_s: float,
    link_name: str | None = None,
    is_settled: bool = False,
) -> Template:
    timeout_s = min(max(timeout_s, _SHORTEST_SERVER_TIMEOUT_S), _LONGEST_SERVER_TIMEOUT_S)
    fields: dict[str, object] = {"operation": operation, "com.microsoft:server-timeout": Uint(1000 * timeout_s)}
    if link_name is not None:
        fields["associated-link-name"] = link_name
    return Template.of(body, fields, reply_to=management_address(entity), is_settled=is_settled)
