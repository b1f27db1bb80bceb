"""What the broker says no with: an error condition, an HTTP-like status and a sentence for people.

The conditions are those of Service Bus over AMQP and of AMQP 1.0 part 2.8.15; the same one goes into a detach, a
rejected outcome or a management answer.
"""

from __future__ import annotations

from renewer.errors import RenewerError

MAX_TEXT_LENGTH = 500
"""Names come from clients; what is said about them must fit into a frame."""


class RefusedError(RenewerError):
    """The broker cannot do what was asked. `status` is what a management answer carries."""

    def __init__(self, condition: str, status: int, text: str) -> None:
        super().__init__(text)
        self.condition = condition
        self.status = status
        self.text = text[:MAX_TEXT_LENGTH]


def session_lock_lost(session_id: str) -> RefusedError:
    """Nobody holds the session, or not the link that asks."""
    return RefusedError(
        "com.microsoft:session-lock-lost", 410, f"The lock of session '{session_id}' is lost; accept the session again."
    )


def session_cannot_be_locked(session_id: str) -> RefusedError:
    """Another receiver holds the session."""
    return RefusedError(
        "com.microsoft:session-cannot-be-locked", 409, f"Session '{session_id}' is locked by another receiver."
    )


def no_session_available() -> RefusedError:
    """No session with messages came free in the time that the receiver was ready to wait."""
    return RefusedError("com.microsoft:timeout", 408, "No session was available in time.")


def message_lock_lost() -> RefusedError:
    """The lock token stands for no lock, or not any more. It is a secret and therefore not named."""
    return RefusedError(
        "com.microsoft:message-lock-lost", 410, "The lock is lost: it expired, or the message was settled before."
    )


def message_not_found(what: str = "No such message.") -> RefusedError:
    """No message of that sequence number is there to be had."""
    return RefusedError("com.microsoft:message-not-found", 404, what)


def entity_not_found(path: str) -> RefusedError:
    """No queue, topic or subscription has that name."""
    return RefusedError("amqp:not-found", 404, f"The messaging entity '{path}' could not be found.")


def not_allowed(text: str) -> RefusedError:
    """The entity cannot be used that way."""
    return RefusedError("amqp:not-allowed", 400, text)


def argument_error(text: str) -> RefusedError:
    """A request makes no sense."""
    return RefusedError("com.microsoft:argument-error", 400, text)


def unauthorized(text: str) -> RefusedError:
    """No valid token covers what was asked for."""
    return RefusedError("amqp:unauthorized-access", 401, text)


def server_busy(text: str = "The server is busy; try again later.") -> RefusedError:
    """Refused for now."""
    return RefusedError("com.microsoft:server-busy", 503, text)


def quota_exceeded(text: str) -> RefusedError:
    """The entity is full."""
    return RefusedError("amqp:resource-limit-exceeded", 403, text)
