"""What one namespace is: where to connect, how it is called, and how its sessions are spread over connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

Transport: TypeAlias = Literal["amqp", "amqp-websocket", "rest"]
"""AMQP over TCP, or over WebSocket; or HTTPS, for message locks alone."""

if TYPE_CHECKING:
    from renewer.targets.servicebus.credentials import NamespaceCredential

MAX_UNFINISHED_BYTES: Final = 256 * 1024 * 1024
"""Bytes of messages that are not complete yet that one connection may hold; a broker that sends more is cut off."""


@dataclass(frozen=True, slots=True)
class NamespaceOptions:
    """One Service Bus namespace. Spans in seconds.

    `hostname` is what the broker is called (the `hostname` of the AMQP open, the token's audience), `host` and `port`
    where to connect. `credential` is what lets us in. `emulator` is the `UseDevelopmentEmulator` of connection
    strings: the port is part of every address. `proxy`, a URL, is whom to ask for a tunnel to the broker where it is
    reached over WebSocket. `lock_duration_s` is the entities' lock duration where it is known; without it, it is
    estimated from the broker's answers, and is taken to be `assumed_lock_duration_s` where clocks are too far apart for
    that. `message_size_limit` is how many bytes a message or a session's state may have.
    """

    hostname: str
    host: str
    port: int
    credential: NamespaceCredential
    name: str = "main"
    tls: bool = True
    ca_file: str | None = None
    emulator: bool = False
    transport: Transport = "amqp"
    proxy: str | None = None
    lock_duration_s: float | None = None
    assumed_lock_duration_s: float = 5.0
    sessions_per_connection: int = 1000
    spread_after: int = 250
    max_connections: int = 50
    links_per_session: int = 200
    connect_timeout_s: float = 15.0
    request_window: int = 256
    message_batch: int = 100
    max_frame_size: int = 65536
    idle_timeout_s: float = 60.0
    token_lifetime_s: float = 3600.0
    next_session_timeout_s: float = 60.0
    message_size_limit: int = 256 * 1024

    @property
    def max_receive_size(self) -> int:
        """How many bytes a message may have as it comes: the broker has written its annotations into it.

        Never less than what azure-servicebus 7.15 takes: a larger one costs the session.
        """
        return max(1024 * 1024, self.message_size_limit + 64 * 1024)

    @property
    def sessions_that_share(self) -> int:
        """How many sessions one connection may hold: all of them may have a message of the full size on its way."""
        return max(1, min(self.sessions_per_connection, MAX_UNFINISHED_BYTES // (self.message_size_limit + 4096)))

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

    @property
    def rest_url(self) -> str:
        """Where entities are over HTTP; plain HTTP for an emulator."""
        scheme, usual = ("https", 443) if self.tls else ("http", 80)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}" if self.port == usual else f"{scheme}://{host}:{self.port}"

    def audience(self, entity: str) -> str:
        """What a token for the entity is for; covers its management node too."""
        scheme = "http" if self.transport == "rest" else "sb"
        return f"{scheme}://{self.authority}/{entity}"


def management_address(entity: str) -> str:
    """The node that answers management requests for the entity."""
    return f"{entity}/$management"
