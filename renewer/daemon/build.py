"""From settings to parts: the targets that the configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Final

from renewer.config import (
    AzureSettings,
    ConnectionString,
    FabricSettings,
    UnixListen,
    resolve_secret,
    split_namespace,
)
from renewer.daemon.callbacks import CallbackOptions
from renewer.daemon.registrar import Account, Namespace, Room
from renewer.errors import UsageError
from renewer.gateway.options import EntityPolicy, GatewayOptions, TcpAddress, UnixAddress, WorkerKey
from renewer.targets.azure import AzureTarget
from renewer.targets.fabric import FabricTarget
from renewer.targets.identity import Identity
from renewer.targets.rest import AccountOptions
from renewer.targets.servicebus import NamespaceOptions, ReadySignature, ServiceBusTarget, SharedAccessKey
from renewer.targets.tokens import AzureIdentityToken, EnvToken, FileToken, StaticToken

if TYPE_CHECKING:
    from renewer.config import AccountSettings, GatewaySettings, IdentitySettings, ServiceBusSettings, Settings
    from renewer.ports import Clock, OperationTarget, ReportLoss
    from renewer.targets.servicebus import NamespaceCredential
    from renewer.targets.spool import Spool
    from renewer.targets.tokens import TokenSource

_Account = FabricSettings | AzureSettings


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


def build_operation_targets(
    settings: Settings, clock: Clock, environ: Mapping[str, str] = os.environ, *, spool: Spool | None = None
) -> dict[str, OperationTarget]:
    """The accounts that operations can be followed on, by name (``fabric.main``). `spool` takes large results.

    Accounts whose tokens come from the same place share what gets them, so that one refresh serves all.
    """
    options = account_options(settings)
    sources: dict[tuple[object, ...], TokenSource] = {}
    targets: dict[str, OperationTarget] = {}
    for name, section in settings.accounts():
        key = section.token_key()
        if key not in sources:
            sources[key] = token_source(name, section, clock, environ)
        target = AzureTarget if isinstance(section, AzureSettings) else FabricTarget
        targets[name] = target(options[name], sources[key], clock, spool=spool)
    return targets


def account_options(settings: Settings) -> dict[str, AccountOptions]:
    """How each account is reached, by name. Those that are one identity at one host have one set of quotas.

    Each is called after the first of them, and its quotas are as whichever of them says.
    """
    alike: dict[tuple[object, ...], list[tuple[str, FabricSettings | AzureSettings]]] = {}
    for name, section in settings.accounts():
        alike.setdefault(section.identity_key(), []).append((name, section))
    options: dict[str, AccountOptions] = {}
    for group in alike.values():
        sections = [section for _, section in group]
        limits = _who_says("limits", sections).limits.by_bucket()
        at_once = _who_says("concurrency", sections).concurrency
        for name, section in group:
            options[name] = AccountOptions(
                name,
                section.base_url,
                section.allow_hosts,
                identity=group[0][0],
                max_result_bytes=section.max_result,
                max_connections=at_once,
                limits=limits,
            )
    return options


def namespaces_of(settings: Settings, targets: Mapping[str, ServiceBusTarget]) -> dict[str, Namespace]:
    """The namespaces with how leases on them are kept now. They themselves are fixed at the start."""
    return {
        name: Namespace(
            target, settings.renewal_policy(name.partition(".")[2]), partial(_room, name, target), target.check
        )
        for name, target in targets.items()
    }


def _room(name: str, target: ServiceBusTarget) -> Room:
    keys = "max_connections and sessions_per_connection"
    if target.options.sessions_that_share < target.options.sessions_per_connection:
        keys = "max_connections and message_size_limit"
    return Room(target.session_room, f"{keys} of [{name}]{' and its broker' if target.is_limited else ''}")


def accounts_of(settings: Settings, targets: Mapping[str, OperationTarget]) -> dict[str, Account]:
    """The accounts with how their operations are followed now. They themselves are fixed at the start."""
    sections = dict(settings.accounts())
    return {name: Account(target, sections[name].poll_policy()) for name, target in targets.items()}


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


def gateway_options(settings: Settings, environ: Mapping[str, str]) -> list[GatewayOptions]:
    """The gateways that the configuration names, with the keys that let workers in.

    Raises `ConfigError` where a key, or the connection string of the namespace, cannot be had.
    """
    return [
        _gateway_options(f"gateway[{number}]", section, settings, environ)
        for number, section in enumerate(settings.gateway)
    ]


def read_gauges(
    namespaces: Mapping[str, ServiceBusTarget],
    accounts: Mapping[str, OperationTarget],
    gateway_token_failures: Callable[[], Iterable[tuple[str, int]]] = tuple,
) -> Callable[[], Iterator[tuple[str, dict[str, float]]]]:
    """What the metrics show of each namespace and account at scrape time."""

    def read() -> Iterator[tuple[str, dict[str, float]]]:
        for name, target in namespaces.items():
            readings: dict[str, float] = {
                "connections": target.connections,
                "links": target.links,
                "in_trouble": target.trouble is not None,
                "token_failures": target.token_failures,
            }
            if target.clock_skew_s is not None:
                readings["clock_skew_s"] = target.clock_skew_s
            yield name, readings
        for name, account in accounts.items():
            yield name, {"token_failures": account.token_failures}
        for name, failures in gateway_token_failures():
            yield name, {"token_failures": failures}

    return read


_PORTS: Final = {
    ("amqp", True): 5671,
    ("amqp", False): 5672,
    ("amqp-websocket", True): 443,
    ("amqp-websocket", False): 80,
    ("rest", True): 443,
    ("rest", False): 80,
}
"""By transport, and whether there is TLS."""


def identity_of(where: str, section: IdentitySettings, environ: Mapping[str, str]) -> Identity:
    """The Microsoft Entra identity that the section called `where` (``servicebus.main``) describes."""
    source = section.client_secret_source(where)
    return Identity(
        section.credential,
        tenant_id=section.tenant_id,
        client_id=section.client_id,
        # Read for each token: a secret that was replaced is used without a restart.
        client_secret=None if source is None else lambda: resolve_secret(source, environ).get_secret_value(),
        certificate_file=None if section.certificate_file is None else str(section.certificate_file),
    )


def _shared_access(parsed: ConnectionString) -> NamespaceCredential:
    if parsed.signature is not None:
        return ReadySignature(parsed.signature.get_secret_value(), parsed.key_name, parsed.signature_ends_at)
    key = "" if parsed.key is None else parsed.key.get_secret_value()
    return SharedAccessKey(parsed.key_name, key)


def _gateway_options(
    here: str, section: GatewaySettings, settings: Settings, environ: Mapping[str, str]
) -> GatewayOptions:
    servicebus, name = settings.servicebus_name(section), settings.gateway_name(section)
    if servicebus is None or name is None:
        raise UsageError(f"{here} is on no namespace")
    # A lock that was lost is for the worker's SDK to take again, over a link of its own.
    renewal = replace(settings.renewal_policy(servicebus), reacquire=False)
    return GatewayOptions(
        name=name,
        listen=_gateway_address(section),
        namespace=namespace_options(servicebus, settings.servicebus[servicebus], environ),
        keys=gateway_keys(here, section, environ),
        policies=_gateway_policies(section, renewal.max_duration_s),
        renewal=renewal,
        max_connections=section.max_connections,
        login_timeout_s=section.login_timeout.total_seconds(),
    )


def gateway_keys(here: str, section: GatewaySettings, environ: Mapping[str, str]) -> tuple[WorkerKey, ...]:
    """The keys of the section at `here` (``gateway[0]``). Raises `ConfigError` where one cannot be had."""
    keys: list[WorkerKey] = []
    for number, key in enumerate(section.key):
        source = key.key_source(f"{here}.key[{number}]")
        if source is not None:
            keys.append(WorkerKey(key.name, resolve_secret(source, environ).get_secret_value(), key.entities))
    return tuple(keys)


def _gateway_address(section: GatewaySettings) -> TcpAddress | UnixAddress:
    listen = section.listen
    if isinstance(listen, UnixListen):
        return UnixAddress(str(listen.path), section.socket_mode, section.socket_group)
    certificate, key = section.tls_cert_file, section.tls_key_file
    return TcpAddress(
        listen.host,
        listen.port,
        None if certificate is None else str(certificate),
        None if key is None else str(key),
    )


def _gateway_policies(section: GatewaySettings, max_duration_s: float | None) -> tuple[EntityPolicy, ...]:
    renew = section.renew
    all_others = EntityPolicy(
        "*",
        sessions=renew.sessions,
        messages=renew.messages,
        max_duration_s=max_duration_s if renew.max_duration is None else renew.max_duration.total_seconds(),
        show_lock_until=section.show_lock_until,
    )
    special = (
        EntityPolicy(
            rule.entity,
            sessions=all_others.sessions if rule.sessions is None else rule.sessions,
            messages=all_others.messages if rule.messages is None else rule.messages,
            max_duration_s=all_others.max_duration_s
            if rule.max_duration is None
            else rule.max_duration.total_seconds(),
            show_lock_until=all_others.show_lock_until if rule.show_lock_until is None else rule.show_lock_until,
        )
        for rule in section.entity
    )
    return (*special, all_others)


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


def token_source(name: str, section: AccountSettings, clock: Clock, environ: Mapping[str, str]) -> TokenSource:
    """Where the bearer tokens of the account called `name` (``fabric.main``) come from."""
    if section.token is not None:
        return StaticToken(section.token.get_secret_value())
    if section.token_file is not None:
        return FileToken(section.token_file)
    if section.token_env is not None:
        return EnvToken(section.token_env)
    return AzureIdentityToken(section.scope, identity_of(name, section, environ), clock=clock)


def _who_says(key: str, sections: Sequence[_Account]) -> _Account:
    """The section that sets this, or the first one."""
    return next((section for section in sections if key in section.model_fields_set), sections[0])
