"""What is asked of a management node, and what its answers say.

Bodies are maps with string keys ("AMQP 1.0 in Azure Service Bus: request-response-based operations"; azure-servicebus
7.15 behaviour). What is asked for a session names the link that holds it: the broker checks that, and takes the link
for active, where one without activity is detached after ten minutes. A message lock belongs to its token alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import UUID

from renewer.amqp import AmqpArray, Uint
from renewer.errors import TransientError
from renewer.targets.servicebus.envelope import Reply, Template
from renewer.targets.servicebus.lockclock import from_milliseconds
from renewer.targets.servicebus.options import management_address

if TYPE_CHECKING:
    from collections.abc import Sequence

RENEW_SESSION_LOCK: Final = "com.microsoft:renew-session-lock"
RENEW_LOCK: Final = "com.microsoft:renew-lock"
GET_SESSION_STATE: Final = "com.microsoft:get-session-state"
SET_SESSION_STATE: Final = "com.microsoft:set-session-state"

_SHORTEST_SERVER_TIMEOUT_S: Final = 1.0
_LONGEST_SERVER_TIMEOUT_S: Final = 60.0


def renew_session_lock(entity: str, *, link_name: str, session_id: str, lock_s: float) -> Template:
    """Renew the lock of the session on that link; the broker may take a lock's time for it."""
    return _ask(entity, RENEW_SESSION_LOCK, {"session-id": session_id}, timeout_s=lock_s, link_name=link_name)


def renew_message_locks(entity: str, tokens: Sequence[UUID], *, lock_s: float) -> Template:
    """Renew the locks of these messages. One that is lost fails all of them."""
    return _ask(entity, RENEW_LOCK, {"lock-tokens": AmqpArray([*tokens], UUID)}, timeout_s=lock_s)


def get_session_state(entity: str, *, link_name: str, session_id: str, timeout_s: float) -> Template:
    """Read the state of the session on that link."""
    return _ask(entity, GET_SESSION_STATE, {"session-id": session_id}, timeout_s=timeout_s, link_name=link_name)


def set_session_state(
    entity: str, state: bytes | None, *, link_name: str, session_id: str, timeout_s: float
) -> Template:
    """Replace the state of the session on that link; None clears it, empty bytes are a state."""
    body: dict[str, object] = {"session-id": session_id, "session-state": state}
    return _ask(entity, SET_SESSION_STATE, body, timeout_s=timeout_s, link_name=link_name)


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


_NO_CONTENT: Final = 204


def _ask(
    entity: str, operation: str, body: dict[str, object], *, timeout_s: float, link_name: str | None = None
) -> Template:
    timeout_s = min(max(timeout_s, _SHORTEST_SERVER_TIMEOUT_S), _LONGEST_SERVER_TIMEOUT_S)
    fields: dict[str, object] = {"operation": operation, "com.microsoft:server-timeout": Uint(1000 * timeout_s)}
    if link_name is not None:
        fields["associated-link-name"] = link_name
    return Template.of(body, fields, reply_to=management_address(entity))
