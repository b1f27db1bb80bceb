"""What can go wrong between a worker and the daemon, as one tree of exceptions.

*Ours to fix*: `BadRequest`, `AddressError`, `NotAllowed`, `NotFound`, `Conflict`. *Wait, or look at the daemon*:
`Refused`, `Unavailable`, `Timeout`, `RemoteFailed`, `ServerError`, `ProtocolError`. *Stop, and settle nothing*:
`LockError`, which is `LockLost` when the lock is gone for good and `LockAtRisk` when it may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class RenewerApiError(Exception):
    """Base of everything that this package raises on purpose.

    `status` is the HTTP status and `problem` the problem document (RFC 9457), where an answer was the cause.
    """

    def __init__(self, message: str, *, status: int | None = None, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem

    @property
    def outcome(self) -> str | None:
        """Where a message was to be settled: ``not_done`` if it is known that it was not, else ``unknown``."""
        outcome = (self.problem or {}).get("outcome")
        return outcome if isinstance(outcome, str) else None


class AddressError(RenewerApiError, ValueError):
    """This is no address of a daemon; the message says what one looks like."""


class BadRequest(RenewerApiError):
    """The request is wrong as it stands; the message names the field."""


class NotAllowed(RenewerApiError):
    """The key is missing or wrong, or the socket's permissions keep this user out."""


class NotFound(RenewerApiError):
    """No lease or operation has this id, or none any more."""


class Conflict(RenewerApiError):
    """What was asked for does not fit the state of the lease or operation, or somebody else has the lock."""

    @property
    def lease_id(self) -> str | None:
        """The lease that keeps the lock for somebody else, where that is the matter."""
        lease_id = (self.problem or {}).get("lease")
        return lease_id if isinstance(lease_id, str) else None


class MessageSettled(Conflict):
    """The message is settled already: `settled` says how, as far as the daemon knows."""

    @property
    def settled(self) -> str:
        """completed, abandoned, deferred, dead-lettered, or settled elsewhere."""
        return str((self.problem or {}).get("settled") or "settled elsewhere")


class Refused(RenewerApiError):
    """The daemon takes no more work now, because of a limit or because it is draining; try after `retry_after_s`."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, status=status, problem=problem)
        self.retry_after_s = retry_after_s


class Unavailable(RenewerApiError):
    """The daemon cannot be reached, or cannot do its work now (503)."""


class Timeout(RenewerApiError):
    """It did not happen in time; it may still."""


class RemoteFailed(RenewerApiError):
    """The broker or the service behind the daemon refused it for now."""


class ServerError(RenewerApiError):
    """The daemon has a bug; its log has more."""


class ProtocolError(RenewerApiError):
    """What answered does not speak this API."""


class LockError(RenewerApiError):
    """The lock cannot be relied on: stop, and settle nothing. `reason` is one word, `detail` is for people."""

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        detail: str = "",
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, status=status, problem=problem)
        self.reason = reason
        self.detail = detail


class LockAtRisk(LockError):
    """The lock may be gone: do nothing now that must not be done twice. A later `check` passes if it has recovered."""


class LockLost(LockError):
    """The lock is no longer ours, and will not be again."""


class SessionLost(LockLost):
    """The session of a block is no longer ours, or could not be had."""
