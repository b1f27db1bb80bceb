"""A Service Bus namespace: name, port, TLS, AMQP, and for each entity whether its key opens it. No lock is taken."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Final

from renewer.cli.doctor.credentials import accepted, examine_credential, permit, without_remedy
from renewer.cli.doctor.findings import CHECK_TIMEOUT_S, Examination, Outcome, fail, ok, warn
from renewer.core.states import LossReason
from renewer.daemon.buildnamespaces import namespace_options
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus import probe

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from renewer.config import Settings
    from renewer.ports import Clock
    from renewer.targets.servicebus import NamespaceOptions
    from renewer.targets.servicebus.credentials import TokenProvider
    from renewer.targets.servicebus.probe import ProbedConnection

CERTIFICATE_WARN_DAYS: Final = 14

_MAX_ENTITIES: Final = 20
_DAY_S: Final = 86_400


async def examine_namespace(examination: Examination, name: str, settings: Settings, clock: Clock) -> None:
    """Everything about ``[servicebus.NAME]``, as far as one step after the other succeeds."""
    options = namespace_options(name, settings.servicebus[name], os.environ)
    provider = probe.provider_of(options, clock)
    has_credential = await examine_credential(examination, name, options.credential, provider, clock)
    host, port = probe.first_hop(options)
    where = f"{host}:{port}"
    place = "proxy" if options.proxy is not None else "Endpoint" if _has_string(settings, name) else "namespace"
    found = await examination.check(
        "dns",
        functools.partial(_resolve, options),
        remedy=f"check the {place} of [servicebus.{name}] and this machine's name resolution (/etc/resolv.conf)",
    )
    if found is None:
        return
    reached = await examination.check(
        "tcp",
        functools.partial(_reach, options),
        remedy=f"let this machine reach {where}: firewall, private endpoint, proxy, the namespace's IP rules"
        if options.tls
        else f"start the broker at {where}, or correct the {place} of [servicebus.{name}]",
    )
    if not reached:
        return
    stream = await examination.check(
        "tls" if options.tls else "connection",
        functools.partial(_open, options, name, clock),
        remedy=f"make sure that {where} speaks {_protocol(options)}, and that no proxy in between ends TLS",
    )
    if stream is None:
        return
    if options.transport == "rest":
        await stream.aclose()
        examination.add("rest", ok("reached; no entity was tried, messages name theirs when they are registered"))
        return
    if options.transport == "amqp-websocket":
        stream = await examination.check(
            "websocket",
            functools.partial(_upgrade, stream, options),
            remedy=f"make sure that a Service Bus answers at {options.host}:{options.port}, and that whatever is in "
            "between lets WebSockets through",
        )
        if stream is None:
            return
    async with probe.connection_on(stream, options, clock, provider) as connection:
        entities = entities_of(settings, name)
        await _examine_amqp(examination, connection, options, provider, entities, may_enter=has_credential)


def entities_of(settings: Settings, name: str) -> list[str]:
    """The entities that configured sessions of this namespace are on, in the order of the configuration."""
    return list(
        dict.fromkeys(session.entity for session in settings.session if settings.servicebus_name(session) == name)
    )


def _protocol(options: NamespaceOptions) -> str:
    if options.transport == "rest":
        return "HTTPS" if options.tls else "HTTP"
    return "AMQP over TLS" if options.tls else "AMQP"


def _has_string(settings: Settings, name: str) -> bool:
    return settings.servicebus[name].fully_qualified_namespace is None


async def _resolve(options: NamespaceOptions) -> Outcome[list[str]]:
    found = await probe.resolve(options)
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    return ok(f"{probe.first_hop(options)[0]} is {', '.join(found[:2])}{more}", found)


async def _reach(options: NamespaceOptions) -> Outcome[bool]:
    await probe.reach(options)
    return ok(f"port {probe.first_hop(options)[1]} takes connections", True)


async def _open(options: NamespaceOptions, name: str, clock: Clock) -> Outcome[ByteStream]:
    try:
        stream = await probe.open_stream(options)
    except TransientError as error:
        if error.condition != probe.UNTRUSTED:
            raise
        return fail(
            str(error),
            f"if the broker's certificate is from a CA of your own, name it as ca_file in [servicebus.{name}]; if not, "
            "renew the certificate, or look for a proxy that ends TLS",
        )
    certificate = probe.certificate_of(stream)
    if certificate is None:
        way = " through the proxy" if options.proxy is not None else ""
        return ok(f"open{way}, without TLS (UseDevelopmentEmulator)", stream)
    if certificate.ends_at is None:
        return ok(f"{certificate.tls}, certificate trusted", stream)
    days = (certificate.ends_at - clock.utc_now().timestamp()) / _DAY_S
    seen = f"{certificate.tls}, certificate trusted and good for {days:.0f} days"
    if days < CERTIFICATE_WARN_DAYS:
        return warn(seen, "have the broker's certificate renewed", stream)
    return ok(seen, stream)


async def _upgrade(stream: ByteStream, options: NamespaceOptions) -> Outcome[ByteStream]:
    return ok("open", await probe.upgrade(stream, options))


async def _examine_amqp(
    examination: Examination,
    connection: ProbedConnection,
    options: NamespaceOptions,
    provider: TokenProvider,
    entities: list[str],
    *,
    may_enter: bool,
) -> None:
    let_in = await examination.check(
        "amqp",
        functools.partial(_wait_open, connection),
        remedy="make sure that a Service Bus, and not something else, answers there, and that the namespace is not "
        "disabled",
    )
    if not let_in or not may_enter:
        return
    if not entities:
        examination.add("entities", ok("no [[session]] is on it, so that no entity was tried"))
    for entity in entities[:_MAX_ENTITIES]:
        await _examine_entity(examination, connection, entity, options, provider)
    if len(entities) > _MAX_ENTITIES:
        examination.add("entities", ok(f"{len(entities) - _MAX_ENTITIES} more were not tried"))


async def _wait_open(connection: ProbedConnection) -> Outcome[bool]:
    await connection.wait_open(CHECK_TIMEOUT_S)
    return ok("the broker let us in", True)


async def _examine_entity(
    examination: Examination,
    connection: ProbedConnection,
    entity: str,
    options: NamespaceOptions,
    provider: TokenProvider,
) -> None:
    let_in = await examination.check(
        f"token {entity}",
        functools.partial(_authorize, connection, entity, options, provider),
        remedy="try again; if it stays, the broker's $cbs node does not answer",
    )
    if let_in:
        await examination.check(
            f"entity {entity}",
            functools.partial(_look, connection, entity, options, provider),
            remedy="try again; if it stays, the entity's $management node does not answer",
        )


async def _authorize(
    connection: ProbedConnection, entity: str, options: NamespaceOptions, provider: TokenProvider
) -> Outcome[bool]:
    try:
        await connection.authorize(entity)
    except LeaseLostError as error:
        if error.reason != LossReason.UNAUTHORIZED:
            raise
        return fail(without_remedy(error, provider), provider.remedy)
    return ok(accepted(options.credential), True)


async def _look(
    connection: ProbedConnection, entity: str, options: NamespaceOptions, provider: TokenProvider
) -> Outcome[None]:
    permission = permit(options.credential, provider, entity)
    try:
        has_some = await connection.look(entity)
    except LeaseLostError as error:
        return _refused(error, error.reason, entity, permission)
    except TransientError as error:
        return _refused(error, error.kind, entity, permission)
    return ok("may be listened to; " + ("there are sessions" if has_some else "no session has messages now"))


def _refused(error: LeaseLostError | TransientError, word: str, entity: str, permission: str) -> Outcome[None]:
    match word:
        case "unauthorized":
            return fail(str(error), permission)
        case "entity_gone" | "not_found":
            return fail(str(error), f"create {entity}, or correct its name in [[session]]")
        case _ if error.condition == "amqp:not-allowed":
            return fail(str(error), f"{entity} has no sessions: create it anew with sessions, or take its entry out")
        case _ if error.condition == "amqp:not-implemented":
            return ok("there; the broker cannot say which sessions it has")
        case _:
            return fail(str(error), "try again; if it stays, ask whoever runs the broker")
