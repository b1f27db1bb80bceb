"""From settings to parts: the targets that the configuration names.

What only some daemons need is imported where it is configured: to load Service Bus, AMQP and the gateway takes 60 ms of
the 700 that a start takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from renewer.config import AzureSettings, FabricSettings, resolve_secret
from renewer.daemon.callbacks import CallbackOptions
from renewer.daemon.registrar import Account, Namespace, Room
from renewer.targets.identity import Identity
from renewer.targets.rest import AccountOptions
from renewer.targets.tokens import AzureIdentityToken, EnvToken, FileToken, StaticToken

if TYPE_CHECKING:
    from renewer.config import AccountSettings, IdentitySettings, Settings
    from renewer.gateway import GatewayOptions
    from renewer.ports import Clock, OperationTarget, ReportLoss
    from renewer.targets.azure import AzureTarget
    from renewer.targets.fabric import FabricTarget
    from renewer.targets.servicebus import ServiceBusTarget
    from renewer.targets.spool import Spool
    from renewer.targets.tokens import TokenSource

_Account = FabricSettings | AzureSettings


def build_namespaces(
    settings: Settings, clock: Clock, report_loss: ReportLoss, environ: Mapping[str, str]
) -> dict[str, ServiceBusTarget]:
    """The Service Bus namespaces, by target name (``servicebus.main``)."""
    if not settings.servicebus:
        return {}
    from renewer.daemon.buildnamespaces import build_namespace

    return {
        f"servicebus.{name}": build_namespace(name, section, clock, report_loss, environ)
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
        targets[name] = _target_of(section)(options[name], sources[key], clock, spool=spool)
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
    if not settings.gateway:
        return []
    from renewer.daemon.buildgateways import gateway_of

    return [
        gateway_of(f"gateway[{number}]", section, settings, environ) for number, section in enumerate(settings.gateway)
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


def token_source(name: str, section: AccountSettings, clock: Clock, environ: Mapping[str, str]) -> TokenSource:
    """Where the bearer tokens of the account called `name` (``fabric.main``) come from."""
    if section.token is not None:
        return StaticToken(section.token.get_secret_value())
    if section.token_file is not None:
        return FileToken(section.token_file)
    if section.token_env is not None:
        return EnvToken(section.token_env)
    return AzureIdentityToken(section.scope, identity_of(name, section, environ), clock=clock)


def _target_of(section: _Account) -> type[AzureTarget | FabricTarget]:
    if isinstance(section, AzureSettings):
        from renewer.targets.azure import AzureTarget

        return AzureTarget
    from renewer.targets.fabric import FabricTarget

    return FabricTarget


def _who_says(key: str, sections: Sequence[_Account]) -> _Account:
    """The section that sets this, or the first one."""
    return next((section for section in sections if key in section.model_fields_set), sections[0])
