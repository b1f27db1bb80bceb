"""What a broker is made of: its queues and subscriptions, and the settings that shape how it behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from renewer.errors import UsageError


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue, or a subscription named by its path `topic/Subscriptions/name` (its topic comes into being with it).

    Raises `UsageError` if it makes no sense.
    """

    name: str
    requires_session: bool = False
    lock_duration_s: float | None = None
    """How long a lock lasts; None: as the broker says."""
    max_delivery_count: int = 10
    """After so many failed deliveries a message is dead-lettered."""

    def __post_init__(self) -> None:
        segments = self.name.split("/")
        if not all(segments) or "$" in self.name or len(self.name) > 260:
            raise UsageError(f"queue {self.name!r}: a name is 1 to 260 characters without $, parted by single slashes")
        if self.lock_duration_s is not None:
            check_lock_duration(f"queue {self.name}", self.lock_duration_s)
        if not 1 <= self.max_delivery_count <= 2000:
            raise UsageError(f"queue {self.name}: max_delivery_count must be between 1 and 2000")


class Linger(StrEnum):
    """Whether the lock of a session stays until its end when its link has gone. Both is seen with Service Bus."""

    NEVER = "never"
    """The session is free at once."""
    CONNECTION_LOSS = "connection-loss"
    """It stays if the connection broke, it goes if the link was detached."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """Settings with the values of the real service (azure-servicebus 7.15 behaviour, public documentation).

    Spans are seconds. Raises `UsageError` if one makes no sense.
    """

    key_name: str | None = None
    key: str | None = field(default=None, repr=False)
    """With both set, tokens and PLAIN passwords are verified: signature, expiry, audience. Else any will do but a token
    that has expired."""
    auth_deadline_s: float = 20.0
    """A connection that has shown no valid token by then is closed."""
    link_idle_s: float = 600.0
    """A link to an entity that was silent for so long is detached, unless requests named it."""
    idle_timeout_s: float = 240.0
    """What we announce: a peer that is silent for longer is cut off."""
    next_session_wait_s: float = 65.0
    """How long a receiver waits for the next session if it does not say."""
    handle_max: int = 255
    """The highest link handle in an AMQP session."""
    max_frame_size: int = 65536
    max_message_size: int = 1024 * 1024
    linger: Linger = Linger.NEVER
    max_connections: int = 5000

    def __post_init__(self) -> None:
        if (self.key_name is None) != (self.key is None):
            raise UsageError("key_name and key belong together: set both to verify tokens, or neither")
        for name in ("auth_deadline_s", "link_idle_s", "idle_timeout_s", "next_session_wait_s"):
            if not 0 < getattr(self, name) <= 86400:
                raise UsageError(f"{name} must be more than 0 and at most 86400 seconds")
        if not 1 <= self.handle_max <= 0xFFFFFFFF:
            raise UsageError("handle_max must be between 1 and 4294967295")
        if not 512 <= self.max_frame_size <= 16 * 1024 * 1024:
            raise UsageError("max_frame_size must be between 512 and 16777216 bytes")
        if not 1024 <= self.max_message_size <= 100 * 1024 * 1024:
            raise UsageError("max_message_size must be between 1024 and 104857600 bytes")
        if self.max_connections < 1:
            raise UsageError("max_connections must be 1 or more")


def check_lock_duration(who: str, lock_duration_s: float) -> None:
    """Raise `UsageError` unless a lock can last so long; the service allows 5 minutes, tests want less than 5 s."""
    if not 0.05 <= lock_duration_s <= 300:
        raise UsageError(f"{who}: lock_duration_s must be between 0.05 and 300 seconds")
