"""What a broker has seen: for tests and for its admin API."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class BrokerCounters:
    """Counts since the broker was made."""

    connections: int = 0
    """Open now."""
    connections_max: int = 0
    connections_total: int = 0
    sessions_held: int = 0
    """Service Bus sessions locked by a link now."""
    sessions_held_max: int = 0
    sessions_per_connection_max: int = 0
    links_per_amqp_session_max: int = 0
    sessions_accepted: int = 0
    renewals: int = 0
    """Session locks renewed."""
    message_renewals: int = 0
    """Message locks renewed."""
    locks_expired: int = 0
    """Session locks that ran out while a link held them."""
    message_locks_expired: int = 0
    links_idled: int = 0
    """Links detached because they were silent."""
    replies_dropped: int = 0
    """Answers that found no link with room for them."""
    failures: int = 0
    """Connections that ended by a fault of the broker itself."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests, attaches and settlements refused, by condition."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        counts: dict[str, object] = {name: getattr(self, name) for name in self.__slots__ if name != "refused"}
        return {**counts, "refused": dict(self.refused)}
