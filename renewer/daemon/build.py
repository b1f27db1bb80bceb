"""From settings to parts: the targets that the configuration names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import SystemRandom
from typing import TYPE_CHECKING

from renewer.config import ConnectionString, resolve_secret
from renewer.daemon.callbacks import CallbackOptions
from renewer.daemon.registrar import Account, Namespace
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
            namespace_options(name, section, environ), clock, report_loss, rng=SystemRandom()
        )
        for name, section in settings.servicebus.items()
    }


def build_operation_targets(settings: Settings, clock: Clock) -> dict[str, FabricTarget]:
    """The accounts that operations can be followed on, by name (``fabric.main``)."""
    return {
        f"fabric.{name}": FabricTarget(
            FabricOptions(name=name, base_url=section.base_url, max_result_bytes=section.max_result),
            token_source(section, clock),
            clock,
        )
        for name, section in settings.fabric.items()
    }


def namespaces_of(settings: Settings, targets: Mapping[str, ServiceBusTarget]) -> dict[str, Namespace]:
    """The namespaces with how leases on them are kept now. They themselves are fixed at the start."""
    return {
        name: Namespace(target, settings.renewal_policy(name.partition(".")[2])) for name, target in targets.items()
    }


def accounts_of(settings: Settings, targets: Mapping[str, FabricTarget]) -> dict[str, Account]:
    """The accounts with how their operations are followed now. They themselves are fixed at the start."""
    return {
        name: Account(target, settings.fabric[name.partition(".")[2]].poll_policy()) for name, target in targets.items()
    }


def callback_options(settings: Settings, environ: Mapping[str, str]) -> CallbackOptions:
    """How callbacks are sent."""
    section = settings.callback
    source = section.key_source()
    return CallbackOptions(
        allow_hosts=section.allow_hosts,
        key=None if source is None else resolve_secret(source, environ).get_secret_value(),
        timeout_s=section.timeout.total_seconds(),
        give_up_s=section.give_up.total_seconds(),
    )


def read_gauges(namespaces: Mapping[str, ServiceBusTarget]) -> Callable[[], Iterator[tuple[str, dict[str, float]]]]:
    """What the metrics show of each namespace at scrape time."""

    def read() -> Iterator[tuple[str, dict[str, float]]]:
        for name, target in namespaces.items():
            readings: dict[str, float] = {"connections": target.connections, "links": target.links}
            if target.clock_skew_s is not None:
                readings["clock_skew_s"] = target.clock_skew_s
            yield name, readings

    return read


def namespace_options(name: str, section: ServiceBusSettings, environ: Mapping[str, str]) -> NamespaceOptions:
    """How the namespace of this section is reached. Raises `ConfigError` where its connection string cannot be had."""
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


def token_source(section: FabricSettings, clock: Clock) -> TokenSource:
    """Where the bearer tokens of this account come from."""
    if section.token is not None:
        return StaticToken(section.token.get_secret_value())
    if section.token_file is not None:
        return FileToken(section.token_file)
    if section.token_env is not None:
        return EnvToken(section.token_env)
    return AzureIdentityToken(section.scope, clock=clock)
