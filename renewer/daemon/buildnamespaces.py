"""From settings to Service Bus namespaces. Imported where one is configured."""

from __future__ import annotations

from random import SystemRandom
from typing import TYPE_CHECKING, Final

from renewer.config import ConnectionString, resolve_secret, split_namespace
from renewer.daemon.build import identity_of
from renewer.targets.servicebus import NamespaceOptions, ReadySignature, ServiceBusTarget, SharedAccessKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.config import ServiceBusSettings
    from renewer.ports import Clock, ReportLoss
    from renewer.targets.servicebus import NamespaceCredential

_PORTS: Final = {
    ("amqp", True): 5671,
    ("amqp", False): 5672,
    ("amqp-websocket", True): 443,
    ("amqp-websocket", False): 80,
    ("rest", True): 443,
    ("rest", False): 80,
}
"""By transport, and whether there is TLS."""


def build_namespace(
    name: str, section: ServiceBusSettings, clock: Clock, report_loss: ReportLoss, environ: Mapping[str, str]
) -> ServiceBusTarget:
    """The namespace of this section. Raises `ConfigError` where its connection string cannot be had."""
    return ServiceBusTarget(namespace_options(name, section, environ), clock, report_loss, rng=SystemRandom())


def namespace_options(name: str, section: ServiceBusSettings, environ: Mapping[str, str]) -> NamespaceOptions:
    """How the namespace of this section is reached. Raises `ConfigError` where its connection string cannot be had."""
    credential: NamespaceCredential
    if section.fully_qualified_namespace is not None:
        host, port = split_namespace(section.fully_qualified_namespace)
        is_emulator = False
        credential = identity_of(f"servicebus.{name}", section, environ)
    else:
        source = section.connection_string_source(name)
        parsed = ConnectionString.parse(resolve_secret(source, environ).get_secret_value())
        host, port = parsed.host, parsed.port if parsed.is_port_given else None
        is_emulator = parsed.emulator
        credential = _shared_access(parsed)
    return NamespaceOptions(
        name=name,
        hostname=host,
        host=host,
        port=port or _PORTS[section.transport, not is_emulator],
        credential=credential,
        tls=not is_emulator,
        emulator=is_emulator,
        transport=section.transport,
        proxy=section.proxy,
        ca_file=None if section.ca_file is None else str(section.ca_file),
        lock_duration_s=None if section.lock_duration is None else section.lock_duration.total_seconds(),
        assumed_lock_duration_s=section.assumed_lock_duration.total_seconds(),
        sessions_per_connection=section.sessions_per_connection,
        spread_after=section.spread_after,
        message_batch=section.message_batch,
        max_connections=section.max_connections,
        links_per_session=section.links_per_session,
        connect_timeout_s=section.connect_timeout.total_seconds(),
        idle_timeout_s=section.idle_timeout.total_seconds(),
        next_session_timeout_s=section.next_session_timeout.total_seconds(),
        message_size_limit=section.message_size_limit,
    )


def _shared_access(parsed: ConnectionString) -> NamespaceCredential:
    if parsed.signature is not None:
        return ReadySignature(parsed.signature.get_secret_value(), parsed.key_name, parsed.signature_ends_at)
    key = "" if parsed.key is None else parsed.key.get_secret_value()
    return SharedAccessKey(parsed.key_name, key)
