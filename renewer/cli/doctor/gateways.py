"""A gateway: its address, and, where one listens there, whether each of its keys lets a worker in. No lock is taken."""

from __future__ import annotations

import functools
import os
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
from anyio.streams.tls import TLSStream

from renewer.cli.doctor import doors
from renewer.cli.doctor.credentials import without_remedy
from renewer.cli.doctor.findings import CHECK_TIMEOUT_S, Examination, Outcome, Verdict, fail, ok, warn
from renewer.config import UnixListen
from renewer.daemon.build import gateway_options
from renewer.errors import LeaseLostError, RenewerError
from renewer.gateway.options import UnixAddress
from renewer.targets.servicebus import SharedAccessKey, probe

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from renewer.config import Settings, TcpListen
    from renewer.gateway.options import GatewayOptions, TcpAddress, WorkerKey
    from renewer.ports import Clock
    from renewer.targets.servicebus import NamespaceOptions
    from renewer.targets.servicebus.credentials import TokenProvider

_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is connected to
_STALE: Final = "restart the daemon if the key was changed since it began: it reads keys at its start"


async def examine_gateway(examination: Examination, number: int, settings: Settings, clock: Clock) -> None:
    """Everything about the gateway with this number."""
    options = gateway_options(settings, os.environ)[number]
    listen, setting = settings.gateway[number].listen, f"listen of gateway {options.name}"
    is_socket = isinstance(listen, UnixListen)
    peer = await examination.check(
        "socket" if is_socket else "port",
        functools.partial(_knock, listen, settings.api.listen, setting),
        remedy=f"choose another {setting}",
    )
    if peer is None:
        return
    for key in options.keys:
        await examination.check(
            f"key {key.name}",
            functools.partial(_log_in, options, key, clock),
            remedy=_remedy(options),
        )


async def _knock(listen: UnixListen | TcpListen, api: UnixListen | TcpListen, setting: str) -> Outcome[doors.Peer]:
    door = await _examine(listen, setting)
    if isinstance(listen, UnixListen) or door.value is None:
        return door
    daemon = await _examine(api, "api.listen")
    if daemon.value is None and daemon.verdict is Verdict.OK:
        # Whoever answers there, were it another gateway with the same keys, keeps ours from starting.
        remedy = f"end what uses it, or choose another {setting}; a start would fail with exit code 73"
        return warn(f"{door.seen}, and no daemon listens at {api}", remedy, door.value)
    return door


async def _examine(listen: UnixListen | TcpListen, setting: str) -> Outcome[doors.Peer]:
    if isinstance(listen, UnixListen):
        return await anyio.to_thread.run_sync(doors.examine_unix_door, listen, setting, abandon_on_cancel=True)
    return await anyio.to_thread.run_sync(doors.examine_tcp_door, listen, setting, abandon_on_cancel=True)


async def _log_in(options: GatewayOptions, key: WorkerKey, clock: Clock) -> Outcome[None]:
    """Come as a worker does: AMQP, and a token that is signed with the key."""
    as_worker = _as_worker(options, key)
    provider = probe.provider_of(as_worker, clock)
    try:
        stream = await _connect(options)
    except ssl.SSLCertVerificationError as error:
        return fail(f"the certificate would not be trusted: {error.verify_message}", "renew tls_cert_file, and restart")
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        return fail(f"cannot be connected to: {why}", "end what uses the address, or restart the daemon")
    async with probe.connection_on(stream, as_worker, clock, provider) as connection:
        # Whatever goes wrong is told from in here: outside, it would be one of a group.
        return await _show_key(connection, options, key, provider)


async def _show_key(
    connection: probe.ProbedConnection, options: GatewayOptions, key: WorkerKey, provider: TokenProvider
) -> Outcome[None]:
    entity = next((name for name in key.entities if "*" not in name), None)
    try:
        await connection.wait_open(CHECK_TIMEOUT_S)
    except RenewerError as error:
        return fail(f"no AMQP: {error}", _remedy(options))
    if entity is None:
        return ok("AMQP is spoken; the key was not tried, for it names patterns alone")
    try:
        await connection.authorize(entity)
    except LeaseLostError as error:
        return fail(f"not let in to {entity}: {without_remedy(error, provider)}", _STALE)
    except RenewerError as error:
        return fail(f"not let in to {entity}: {error}", _remedy(options))
    return ok(f"lets workers in to {entity}")


def _remedy(options: GatewayOptions) -> str:
    return (
        "make sure that the daemon's gateway, and not something else, listens there, and that "
        f"[servicebus.{options.namespace.name}] can be reached"
    )


def _as_worker(options: GatewayOptions, key: WorkerKey) -> NamespaceOptions:
    listen = options.listen
    host, port = ("localhost", 0) if isinstance(listen, UnixAddress) else (listen.host, listen.port)
    return replace(
        options.namespace,
        hostname=host,
        host=host,
        port=port,
        credential=SharedAccessKey(key.name, key.key),
        tls=False,
        emulator=True,
        transport="amqp",
        proxy=None,
        ca_file=None,
    )


async def _connect(options: GatewayOptions) -> ByteStream:
    listen = options.listen
    if isinstance(listen, UnixAddress):
        return await anyio.connect_unix(listen.path)
    stream = await anyio.connect_tcp(_WILDCARDS.get(listen.host, listen.host), listen.port)
    return stream if listen.tls_cert_file is None else await _with_tls(stream, listen)


async def _with_tls(stream: ByteStream, listen: TcpAddress) -> ByteStream:
    """TLS with whoever has the key to the gateway's own certificate, whatever name and issuer that has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(listen.tls_cert_file)
    try:
        return await TLSStream.wrap(stream, ssl_context=context, server_side=False, standard_compatible=False)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
