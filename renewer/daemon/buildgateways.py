"""From settings to what gateways are. Imported where one is configured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from renewer.config import UnixListen, resolve_secret
from renewer.daemon.buildnamespaces import namespace_options
from renewer.errors import UsageError
from renewer.gateway import EntityPolicy, GatewayOptions, TcpAddress, UnixAddress, WorkerKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from renewer.config import GatewaySettings, Settings


def gateway_of(here: str, section: GatewaySettings, settings: Settings, environ: Mapping[str, str]) -> GatewayOptions:
    """The gateway of the section at `here` (``gateway[0]``), with the keys that let workers in.

    Raises `ConfigError` where a key, or the connection string of its namespace, cannot be had.
    """
    servicebus, name = settings.servicebus_name(section), settings.gateway_name(section)
    if servicebus is None or name is None:
        raise UsageError(f"{here} is on no namespace")
    # A lock that was lost is for the worker's SDK to take again, over a link of its own.
    renewal = replace(settings.renewal_policy(servicebus), reacquire=False)
    return GatewayOptions(
        name=name,
        listen=_address(section),
        namespace=namespace_options(servicebus, settings.servicebus[servicebus], environ),
        keys=gateway_keys(here, section, environ),
        policies=_policies(section, renewal.max_duration_s),
        renewal=renewal,
        max_connections=section.max_connections,
        login_timeout_s=section.login_timeout.total_seconds(),
        token_leniency_s=section.token_leniency.total_seconds(),
    )


def gateway_keys(here: str, section: GatewaySettings, environ: Mapping[str, str]) -> tuple[WorkerKey, ...]:
    """The keys of the section at `here` (``gateway[0]``). Raises `ConfigError` where one cannot be had."""
    keys: list[WorkerKey] = []
    for number, key in enumerate(section.key):
        source = key.key_source(f"{here}.key[{number}]")
        if source is not None:
            keys.append(WorkerKey(key.name, resolve_secret(source, environ).get_secret_value(), key.entities))
    return tuple(keys)


def _address(section: GatewaySettings) -> TcpAddress | UnixAddress:
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


def _policies(section: GatewaySettings, max_duration_s: float | None) -> tuple[EntityPolicy, ...]:
    renew = section.renew
    all_others = EntityPolicy(
        "*",
        sessions=renew.sessions,
        messages=renew.messages,
        max_duration_s=_longest_s(renew.max_duration, max_duration_s),
        show_lock_until=section.show_lock_until,
    )
    special = (
        EntityPolicy(
            rule.entity,
            sessions=all_others.sessions if rule.sessions is None else rule.sessions,
            messages=all_others.messages if rule.messages is None else rule.messages,
            max_duration_s=_longest_s(rule.max_duration, all_others.max_duration_s),
            show_lock_until=all_others.show_lock_until if rule.show_lock_until is None else rule.show_lock_until,
        )
        for rule in section.entity
    )
    return (*special, all_others)


def _longest_s(said: timedelta | Literal["off"] | None, otherwise_s: float | None) -> float | None:
    """What is said counts, be it more or less than what would be otherwise."""
    match said:
        case None:
            return otherwise_s
        case "off":
            return None
        case span:
            return span.total_seconds()
