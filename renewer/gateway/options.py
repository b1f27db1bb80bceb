"""What one gateway is: where workers come in, who may, and what is done with the locks that they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from renewer.core.timing import RenewalPolicy

if TYPE_CHECKING:
    from renewer.targets.servicebus import NamespaceOptions

LONGEST_SHOWN_S: Final = 7 * 86_400.0
"""How far in the future the end of a lock is shown to a worker; 32-bit millisecond timers end after 24.8 days."""


LENIENCY_S: Final = 300.0
"""How far the clock of a worker may be behind, unless configured otherwise: those of containers differ."""


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """A key that lets workers in, and the entities that they may use: names and patterns, where * stands for a part."""

    name: str
    key: str = field(repr=False)
    entities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntityPolicy:
    """What is done with the locks of the entities that `entity`, a name or a pattern, covers.

    With neither sessions nor messages renewed, frames pass and nothing more. `max_duration_s` counts from when a lock
    was first seen. `show_lock_until` is what workers are shown as the end of a lock that is renewed.
    """

    entity: str = "*"
    sessions: bool = True
    messages: bool = True
    max_duration_s: float | None = None
    show_lock_until: Literal["extended", "true"] = "extended"

    @property
    def shown_for_s(self) -> float:
        """How far in the future the end of a lock is shown, where it is extended."""
        return LONGEST_SHOWN_S if self.max_duration_s is None else min(self.max_duration_s, LONGEST_SHOWN_S)


PASSED: Final = EntityPolicy(sessions=False, messages=False, show_lock_until="true")
"""Nothing is done with locks."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen; inside TLS if there is a certificate, for SDKs that take a `custom_endpoint_address`."""

    host: str
    port: int
    tls_cert_file: str | None = None
    tls_key_file: str | None = None


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket to listen on."""

    path: str
    mode: int = 0o660
    group: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """One gateway. Spans in seconds.

    `policies` are tried in order, the last one covers everything. `max_connections` bounds the workers' connections,
    `login_timeout_s` the time that one has to prove a key, and `token_leniency_s` is for how long after its end a token
    still proves one. `lock_duration_s` of the namespace counts here too.
    """

    name: str
    listen: TcpAddress | UnixAddress
    namespace: NamespaceOptions
    keys: tuple[WorkerKey, ...]
    policies: tuple[EntityPolicy, ...] = (EntityPolicy(),)
    renewal: RenewalPolicy = field(default_factory=RenewalPolicy)
    max_connections: int = 1000
    login_timeout_s: float = 20.0
    token_leniency_s: float = LENIENCY_S

    @property
    def target_name(self) -> str:
        """What leases of this gateway name as their target."""
        return f"gateway.{self.name}"
