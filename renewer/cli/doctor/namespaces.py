"""A Service Bus namespace: name, port, TLS, AMQP, and for each entity whether its key opens it. No lock is taken."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Final

from renewer.cli.doctor.findings import CHECK_TIMEOUT_S, Examination, Outcome, fail, ok, warn
from renewer.core.states import LossReason
from renewer.daemon.build import namespace_options
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus import probe

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from renewer.config import Settings
    from renewer.ports import Clock
    from renewer.targets.servicebus import NamespaceOptions
    from renewer.targets.servicebus.probe import ProbedConnection

CERTIFICATE_WARN_DAYS: Final = 14

_MAX_ENTITIES: Final = 20
_DAY_S: Final = 86_400


async def examine_namespace(examination: Examination, name: str, settings: Settings, clock: Clock) -> None:
    """Everything about ``[servicebus.NAME]``, as far as one step after the other succeeds."""
    options = namespace_options(name, settings.servicebus[name], os.environ)
    where = f"{options.host}:{options.port}"
    found = await examination.check(
        "dns",
        functools.partial(_resolve, options),
        remedy=f"check the Endpoint of [servicebus.{name}] and this machine's name resolution (/etc/resolv.conf)",
    )
    if found is None:
        return
    reached = await examination.check(
        "tcp",
        functools.partial(_reach, options),
        remedy=f"let this machine reach {where}: firewall, private endpoint, proxy, the namespace's IP rules"
        if options.tls
        else f"start the broker at {where}, or correct the Endpoint of [servicebus.{name}]",
    )
    if not reached:
        return
    stream = await examination.check(
        "tls" if options.tls else "connection",
        functools.partial(_open, options, name, clock),
        remedy=f"make sure that {where} speaks {'AMQP over TLS' if options.tls else 'AMQP'}, "
        "and that no proxy in between ends TLS",
    )
    if stream is None:
        return
    await _examine_amqp(examination, stream, options, entities_of(settings, name), clock)


def entities_of(settings: Settings, name: str) -> list[str]:
    """The entities that configured sessions of this namespace are on, in the order of the configuration."""
    return list(
        dict.fromkeys(session.entity for session in settings.session if settings.servicebus_name(session) == name)
    )


async def _resolve(options: NamespaceOptions) -> Outcome[list[str]]:
    found = await probe.resolve(options)
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    return ok(f"{options.host} is {', '.join(found[:2])}{more}", found)


async def _reach(options: NamespaceOptions) -> Outcome[bool]:
    await probe.reach(options)
    return ok(f"port {options.port} takes connections", True)


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
        return ok("open, without TLS (UseDevelopmentEmulator)", stream)
    if certificate.ends_at is None:
        return ok(f"{certificate.tls}, certificate trusted", stream)
    days = (certificate.ends_at - clock.utc_now().timestamp()) / _DAY_S
    seen = f"{certificate.tls}, certificate trusted and good for {days:.0f} days"
    if days < CERTIFICATE_WARN_DAYS:
        return warn(seen, "have the broker's certificate renewed", stream)
    return ok(seen, stream)


async def _examine_amqp(
    examination: Examination, stream: ByteStream, options: NamespaceOptions, entities: list[str], clock: Clock
) -> None:
    async with probe.connection_on(stream, options, clock) as connection:
        let_in = await examination.check(
            "amqp",
            functools.partial(_wait_open, connection),
            remedy="make sure that a Service Bus, and not something else, answers there, and that the namespace is not "
            "disabled",
        )
        if not let_in:
            return
        if not entities:
            examination.add("entities", ok("no [[session]] is on it, so that no entity was tried"))
        for entity in entities[:_MAX_ENTITIES]:
            await _examine_entity(examination, connection, entity, options)
        if len(entities) > _MAX_ENTITIES:
            examination.add("entities", ok(f"{len(entities) - _MAX_ENTITIES} more were not tried"))


async def _wait_open(connection: ProbedConnection) -> Outcome[bool]:
    await connection.wait_open(CHECK_TIMEOUT_S)
    return ok("the broker let us in", True)


async def _examine_entity(
    examination: Examination, connection: ProbedConnection, entity: str, options: NamespaceOptions
) -> None:
    let_in = await examination.check(
        f"token {entity}",
        functools.partial(_authorize, connection, entity, options),
        remedy="try again; if it stays, the broker's $cbs node does not answer",
    )
    if let_in:
        await examination.check(
            f"entity {entity}",
            functools.partial(_look, connection, entity, options),
            remedy="try again; if it stays, the entity's $management node does not answer",
        )


async def _authorize(connection: ProbedConnection, entity: str, options: NamespaceOptions) -> Outcome[bool]:
    try:
        await connection.authorize(entity)
    except LeaseLostError as error:
        if error.reason != LossReason.UNAUTHORIZED:
            raise
        return fail(
            str(error),
            f"check that the key of the policy {options.key_name!r} is the present one, that the policy is for this "
            "namespace or entity and has the right Listen, and that this machine's clock is right",
        )
    return ok(f"the key of {options.key_name!r} is accepted", True)


async def _look(connection: ProbedConnection, entity: str, options: NamespaceOptions) -> Outcome[None]:
    try:
        has_some = await connection.look(entity)
    except LeaseLostError as error:
        return _refused(error, error.reason, entity, options)
    except TransientError as error:
        return _refused(error, error.kind, entity, options)
    return ok("may be listened to; " + ("there are sessions" if has_some else "no session has messages now"))


def _refused(
    error: LeaseLostError | TransientError, word: str, entity: str, options: NamespaceOptions
) -> Outcome[None]:
    match word:
        case "unauthorized":
            return fail(str(error), f"give the policy {options.key_name!r} the right Listen on {entity}")
        case "entity_gone" | "not_found":
            return fail(str(error), f"create {entity}, or correct its name in [[session]]")
        case _ if error.condition == "amqp:not-allowed":
            return fail(str(error), f"{entity} has no sessions: create it anew with sessions, or take its entry out")
        case _ if error.condition == "amqp:not-implemented":
            return ok("there; the broker cannot say which sessions it has")
        case _:
            return fail(str(error), "try again; if it stays, ask whoever runs the broker")
