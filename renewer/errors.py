"""One tree of exceptions for the whole project.

Families: *the caller's to fix* (`ConfigError`, `UsageError`, `ConflictError`, `AdmissionError`), *the machine's*
(`RegistryError`), *theirs* (`RemoteError` and below: what a broker or a
service answered or failed to answer), and *the wire* (`AmqpProtocolError`: a peer sent something that AMQP 1.0 does
not allow). Adapters translate their library's errors into these at the edge and keep the cause with ``from``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TransientKind = Literal[
    "busy",
    "timeout",
    "network",
    "unreachable",
    "server",
    "throttled",
    "unauthorized",
    "no_token",
    "not_found",
    "refused",
    "storage",
    "garbage",
    "empty",
]
"""Why an attempt failed that may be tried again.

`unreachable`, `no_token`: not even the request was sent; `refused`: the remote says that it is wrong as asked, which
tells nothing of the thing that was asked about; `storage`: our own disk could not take the answer.
"""


class RenewerError(Exception):
    """Base of every exception that renewer raises on purpose."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in the configuration: where it stands, what stands there, and what would be right."""

    where: str
    key: str
    value: str | None
    remedy: str

    def __str__(self) -> str:
        """Render as one line for a person."""
        shown = f" = {self.value}" if self.value is not None else ""
        return f"{self.where}: {self.key}{shown}: {self.remedy}"


class ConfigError(RenewerError):
    """The configuration is wrong; carries every mistake found, not only the first."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class UsageError(RenewerError):
    """The caller asked for something that cannot be done as asked; the message says what would work."""


class UnknownHandleError(UsageError):
    """No message of that handle was received over the lease."""


class ConflictError(RenewerError):
    """What was asked for does not fit the state that things are in; the message says which, and what would fit.

    `lease` is the id of the lease that stands in the way, where one does; `state` the state that does not fit.
    """

    def __init__(self, message: str, *, lease: str | None = None, state: str | None = None) -> None:
        super().__init__(message)
        self.lease = lease
        self.state = state


class MessageSettledError(ConflictError):
    """The message is settled, and its lock over by that: there is nothing to keep, and nothing is lost.

    `fate` is a `MessageFate` value.
    """

    def __init__(self, message: str, *, fate: str) -> None:
        super().__init__(message)
        self.fate = fate


class AdmissionError(RenewerError):
    """No more can be taken on now; try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RegistryError(RenewerError):
    """What must survive the daemon cannot be stored or read; the message says where, why, and what to do."""


class UnstorableError(RegistryError):
    """One thing cannot be stored as it is, however often it is tried; all the others can. `key` is its id."""

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class AmqpProtocolError(RenewerError):
    """A peer broke AMQP 1.0, or we were asked to send what it does not allow.

    `condition` is the AMQP error condition that a close, end or detach carries for it (AMQP 1.0 part 2.8).
    """

    def __init__(self, message: str, *, condition: str = "amqp:decode-error") -> None:
        super().__init__(message)
        self.condition = condition


class RemoteError(RenewerError):
    """A remote system said no, or said nothing. `condition` is its own word for it, where it gave one."""

    def __init__(self, message: str, *, condition: str | None = None) -> None:
        super().__init__(message)
        self.condition = condition


class TransientError(RemoteError):
    """The attempt failed but the thing itself may be well: try again, not before `retry_after_s` where given.

    `is_unknown`: what was asked for may have been done all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: TransientKind,
        retry_after_s: float | None = None,
        condition: str | None = None,
        is_unknown: bool = False,
    ) -> None:
        super().__init__(message, condition=condition)
        self.kind: TransientKind = kind
        self.retry_after_s = retry_after_s
        self.is_unknown = is_unknown


class LeaseLostError(RemoteError):
    """The lock is gone, or cannot be had, by the remote's own word. `reason` is a `LossReason` value."""

    def __init__(self, message: str, *, reason: str, condition: str | None = None) -> None:
        super().__init__(message, condition=condition)
        self.reason = reason
