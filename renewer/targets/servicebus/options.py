"""What one namespace is: where to connect, how it is called, and how its sessions are spread over connections."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NamespaceOptions:
    """One Service Bus namespace. Spans in seconds.

    `hostname` is what the broker is called (the `hostname` of the AMQP open, the token's audience), `host` and `port`
    where to connect. `emulator` is the `UseDevelopmentEmulator` of connection strings: the port is part of every
    address. `lock_duration_s` is the entities' lock duration where it is known; without it, it is estimated from the
    broker's answers, and is taken to be `assumed_lock_duration_s` where clocks are too far apart for that.
    """

    hostname: str
    host: str
    port: int
    key_name: str
    key: str = field(repr=False)
    name: str = "main"
    tls: bool = True
    ca_file: str | None = None
    emulator: bool = False
    lock_duration_s: float | None = None
    assumed_lock_duration_s: float = 5.0
    sessions_per_connection: int = 1000
    spread_after: int = 250
    links_per_session: int = 200
    connect_timeout_s: float = 15.0
    request_window: int = 256
    max_frame_size: int = 65536
    idle_timeout_s: float = 60.0
    token_lifetime_s: float = 3600.0
    next_session_timeout_s: float = 60.0

    @property
    def target_name(self) -> str:
        """What leases of this namespace name as their target."""
        return f"servicebus.{self.name}"

    @property
    def authority(self) -> str:
        """Host and, for an emulator, port, as addresses and audiences have them (azure-servicebus 7.15 behaviour)."""
        return f"{self.hostname}:{self.port}" if self.emulator else self.hostname

    def source_address(self, entity: str) -> str:
        """Where a session receiver attaches to; `amqps` also over plain TCP (azure-servicebus 7.15 behaviour)."""
        return f"amqps://{self.authority}/{entity}"

    def audience(self, entity: str) -> str:
        """What a token for the entity is for; covers its management node too."""
        return f"sb://{self.authority}/{entity}"


def management_address(entity: str) -> str:
    """The node that answers management requests for the entity."""
    return f"{entity}/$management"
