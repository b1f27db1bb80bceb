"""From settings to parts: the targets that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import SystemRandom
from typing import TYPE_CHECKING

from renewer.config import ConnectionString, resolve_secret
from renewer.daemon.control import Account
from renewer.targets.fabric import FabricOptions, FabricTarget
from renewer.targets.servicebus import NamespaceOptions, ServiceBusTarget
from renewer.targets.tokens import AzureIdentityToken, EnvToken, FileToken, StaticToken

if TYPE_CHECKING:
    from renewer.config import FabricSettings, ServiceBusSettings, Settings
    from renewer.ports import Clock, ReportLoss
    from renewer.targets.tokens import TokenSource


def build_namespaces(
    settings: Settings, clock: Clock, report_loss: ReportLoss, environ: Mapping[str, str]
) -> dict[str, ServiceBusTarget]:
    """The Service Bus namespaces, by target name (``servicebus.main``)."""
    return {
        f"servicebus.{name}": ServiceBusTarget(
            _namespace(name, section, environ), clock, report_loss, rng=SystemRandom()
        )
        for name, section in settings.servicebus.items()
    }


def build_accounts(settings: Settings, clock: Clock) -> dict[str, Account]:
    """The accounts that operations can be followed on, by name (``fabric.main``)."""
    return {
        f"fabric.{name}": Account(
            FabricTarget(
                FabricOptions(name=name, base_url=section.base_url, max_result_bytes=section.max_result),
                _tokens(section, clock),
                clock,
            ),
            section.poll_policy(),
        )
        for name, section in settings.fabric.items()
    }


def read_gauges(namespaces: Mapping[str, ServiceBusTarget]) -> Callable[[], Iterator[tuple[str, dict[str, float]]]]:
    """What the metrics show of each namespace at scrape time."""

    def read() -> Iterator[tuple[str, dict[str, float]]]:
        for name, target in namespaces.items():
            readings: dict[str, float] = {"connections": target.connections, "links": target.links}
            if target.clock_skew_s is not None:
                readings["clock_skew_s"] = target.clock_skew_s
            yield name, readings

    return read


def _namespace(name: str, section: ServiceBusSettings, environ: Mapping[str, str]) -> NamespaceOptions:
    source = section.connection_string_source(name)
    parsed = ConnectionString.parse(resolve_secret(source, environ).get_secret_value())
    return NamespaceOptions(
        name=name,
        hostname=parsed.host,
        host=parsed.host,
        port=parsed.port,
        key_name=parsed.key_name,
        key=parsed.key.get_secret_value(),
        tls=parsed.tls,
        emulator=parsed.emulator,
        ca_file=None if section.ca_file is None else str(section.ca_file),
        lock_duration_s=None if section.lock_duration is None else section.lock_duration.total_seconds(),
        assumed_lock_duration_s=section.assumed_lock_duration.total_seconds(),
        sessions_per_connection=section.sessions_per_connection,
        spread_after=section.spread_after,
        links_per_session=section.links_per_session,
        connect_timeout_s=section.connect_timeout.total_seconds(),
        idle_timeout_s=section.idle_timeout.total_seconds(),
        next_session_timeout_s=section.next_session_timeout.total_seconds(),
    )


def _tokens(section: FabricSettings, clock: Clock) -> TokenSource:
    if section.token is not None:
        return StaticToken(section.token.get_secret_value())
    if section.token_file is not None:
        return FileToken(section.token_file)
    if section.token_env is not None:
        return EnvToken(section.token_env)
    return AzureIdentityToken(section.scope, clock=clock)
