"""What a broker's "no" means: one table from AMQP error conditions and management status codes to our errors.

The conditions are those that azure-servicebus 7.15 knows; status codes without a known condition are read as the
official .NET client reads them. What is not listed is the server's trouble, and worth another try.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.channels import NoRoomError

if TYPE_CHECKING:
    from renewer.amqp import AmqpError
    from renewer.errors import TransientKind

NO_SESSION_FREE: Final = "com.microsoft:timeout"
LOCK_LOST: Final = "com.microsoft:session-lock-lost"
MESSAGE_LOCK_LOST: Final = "com.microsoft:message-lock-lost"
MESSAGE_NOT_FOUND: Final = "com.microsoft:message-not-found"
TOO_LARGE: Final = "amqp:link:message-size-exceeded"


def attach_refused(error: AmqpError | None, *, any_session: bool) -> RemoteError:
    """What to raise when the broker would not attach a session receiver; `any_session`: for the next available one."""
    condition = str(error.condition) if error else None
    meaning = _TABLE.get(condition or "", _UNKNOWN).attach
    if condition == NO_SESSION_FREE and any_session:
        meaning = "empty"
    return _as_error("the session was not granted", condition, error.description if error else None, meaning)


def renewal_refused(status: int, condition: str | None, description: str | None) -> RemoteError:
    """What to raise when a management request was answered with something other than success."""
    row = _TABLE.get(condition or "")
    meaning = row.renew if row else _by_status(status)
    return _as_error(f"the request was answered with {status}", condition, description, meaning)


def settling_refused(error: AmqpError) -> RemoteError:
    """What to raise when the broker refused the settlement of a message over its link."""
    condition = str(error.condition)
    meaning = _TABLE.get(condition, _UNKNOWN).renew
    return _as_error("the message was not settled", condition, error.description, meaning)


def pair_refused(error: AmqpError | None, what: str) -> RemoteError:
    """What to raise for requests that wait on a link pair which was detached: says nothing about any lock."""
    condition = str(error.condition) if error else None
    kind: TransientKind = "server"
    if is_unauthorized(condition):
        kind = "unauthorized"
    elif condition in ("com.microsoft:server-busy", "amqp:resource-limit-exceeded"):
        kind = "busy"
    elif condition == "amqp:not-found":
        kind = "not_found"
    return _as_error(f"{what} was detached", condition, error.description if error else None, kind)


def loss_of(error: AmqpError | None) -> LossReason:
    """Why a lease is lost whose link, or AMQP session, the broker has closed with `error`."""
    return _TABLE.get(str(error.condition) if error else "", _UNKNOWN).detach


def is_unauthorized(condition: str | None, status: int | None = None) -> bool:
    """Whether a new token may change the answer."""
    return condition in ("amqp:unauthorized-access", "com.microsoft:auth-failed") or (status == 401 and not condition)


def is_unusable(condition: str | None) -> bool:
    """Whether the broker says that what was asked for is not done there, or makes no sense to it."""
    return _TABLE.get(condition or "") is _UNUSABLE


def passing(error: LeaseLostError) -> TransientError:
    """The same refusal where it says nothing about a lock."""
    kind: TransientKind = "server"
    if error.reason == LossReason.UNAUTHORIZED:
        kind = "unauthorized"
    elif error.reason == LossReason.ENTITY_GONE:
        kind = "not_found"
    return TransientError(str(error), kind=kind, condition=error.condition)


def copy_of(error: RemoteError, *, text: str | None = None, is_unknown: bool = False) -> RemoteError:
    """The same error for one more of those who wait: raised twice, one exception would gather everybody's traceback.

    With `text` it says that instead; with `is_unknown`, a transient one says that it may have been done.
    """
    if isinstance(error, NoRoomError):
        return NoRoomError()
    text = str(error) if text is None else text
    if isinstance(error, TransientError):
        return TransientError(
            text,
            kind=error.kind,
            retry_after_s=error.retry_after_s,
            condition=error.condition,
            is_unknown=error.is_unknown or is_unknown,
        )
    if isinstance(error, LeaseLostError):
        return LeaseLostError(text, reason=error.reason, condition=error.condition)
    return RemoteError(text, condition=error.condition)


def describe(error: AmqpError | None, otherwise: str) -> str:
    """The broker's words as one short line for a person, without anything that may be a signature."""
    if error is None:
        return otherwise
    return _join(str(error.condition), error.description)


def describe_end(error: AmqpError | None, reason: str) -> str:
    """Why a connection is over, in one line."""
    return f"{_ENDS[reason]}: {describe(error, '')}" if error is not None else _ENDS[reason]


def shorten(text: str) -> str:
    """A stranger's text, fit for a log line."""
    text = _SECRET.sub("<redacted>", text)
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


class _Row(NamedTuple):
    """What a condition means where it answers an attach, a renewal, and where it comes with a detach."""

    attach: TransientKind | LossReason
    renew: TransientKind | LossReason
    detach: LossReason


_ENDS: Final = {
    "closed": "the connection was closed",
    "eof": "the connection broke",
    "protocol-error": "the broker and we do not understand each other",
    "idle": "the broker fell silent",
    "sasl": "the broker did not let us in",
}
_LONGEST_TEXT: Final = 300
_SECRET: Final = re.compile(
    r"SharedAccessSignature\s[^\s,;]*|\bsig=[^\s&,;]*|\beyJ[\w-]+\.[\w-]+\.[\w-]*", re.IGNORECASE
)
_UNKNOWN: Final = _Row("server", "server", LossReason.DETACHED)
_UNUSABLE: Final = _Row(LossReason.REFUSED, "server", LossReason.DETACHED)
_BUSY: Final = _Row("busy", "busy", LossReason.DETACHED)
_UNAUTHORIZED: Final = _Row(LossReason.UNAUTHORIZED, LossReason.UNAUTHORIZED, LossReason.UNAUTHORIZED)
_GONE: Final = _Row(LossReason.ENTITY_GONE, LossReason.ENTITY_GONE, LossReason.ENTITY_GONE)
_TABLE: Final[dict[str, _Row]] = {
    LOCK_LOST: _Row("busy", LossReason.EXPIRED, LossReason.EXPIRED),
    MESSAGE_LOCK_LOST: _Row("busy", LossReason.EXPIRED, LossReason.EXPIRED),
    # The message is gone, and its lock with it.
    MESSAGE_NOT_FOUND: _Row("server", LossReason.EXPIRED, LossReason.DETACHED),
    "com.microsoft:session-cannot-be-locked": _Row("busy", "busy", LossReason.SUPERSEDED),
    NO_SESSION_FREE: _Row("timeout", "timeout", LossReason.DETACHED),
    "com.microsoft:server-busy": _BUSY,
    "amqp:resource-limit-exceeded": _BUSY,
    "com.microsoft:quota-exceeded": _BUSY,
    "amqp:unauthorized-access": _UNAUTHORIZED,
    "com.microsoft:auth-failed": _UNAUTHORIZED,
    "amqp:not-found": _GONE,
    "com.microsoft:entity-disabled": _GONE,
    # A queue without sessions, or a filter that the broker does not know: asking again changes nothing.
    "amqp:not-allowed": _UNUSABLE,
    "amqp:not-implemented": _UNUSABLE,
    "amqp:invalid-field": _UNUSABLE,
    "com.microsoft:argument-error": _UNUSABLE,
    "com.microsoft:argument-out-of-range": _UNUSABLE,
    "amqp:link:stolen": _Row("server", "server", LossReason.SUPERSEDED),
}


def _by_status(status: int) -> TransientKind | LossReason:
    match status:
        case 401:
            return LossReason.UNAUTHORIZED
        case 403 | 503:
            return "busy"
        case 404:
            return "not_found"
        case 408:
            return "timeout"
        case 410:
            return LossReason.EXPIRED
        case 429:
            return "throttled"
        case _:
            return "server"


def _as_error(
    what: str, condition: str | None, description: str | None, meaning: TransientKind | LossReason
) -> RemoteError:
    words = _join(condition, description)
    text = f"{what}: {words}" if words else what
    if isinstance(meaning, LossReason):
        return LeaseLostError(text, reason=meaning, condition=condition)
    return TransientError(text, kind=meaning, condition=condition)


def _join(condition: str | None, description: str | None) -> str:
    return shorten(": ".join(part for part in (condition, description) if part))
