"""A namespace looked at step by step, without holding anything there: for `renewer doctor`.

The steps are those by which a session is acquired, up to the attach that would take its lock; in its place the entity
is asked which sessions it has, which takes the same right (Listen) and changes nothing.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from anyio.streams.tls import TLSAttribute

from renewer.amqp import Int, Timestamp
from renewer.errors import TransientError
from renewer.targets.servicebus.cbs import Tokens
from renewer.targets.servicebus.connection import BrokerConnection
from renewer.targets.servicebus.credentials import TokenProvider, token_provider
from renewer.targets.servicebus.envelope import Template
from renewer.targets.servicebus.options import NamespaceOptions, management_address
from renewer.targets.servicebus.requests import RequestPair
from renewer.targets.servicebus.tcp import TcpConnector
from renewer.targets.servicebus.transports import upgrade as upgrade_stream
from renewer.targets.servicebus.verdicts import renewal_refused, shorten

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from renewer.ports import Clock

UNTRUSTED: Final = "untrusted"
"""The `condition` of the error for a certificate that cannot be verified."""

_GET_SESSIONS: Final = "com.microsoft:get-message-sessions"
_ALL_SESSIONS_MS: Final = 253_402_300_800_000
"""As last-updated-time: not a moment, but the wish for all sessions with messages or state (DateTime.MaxValue)."""

_TOKEN_LIFETIME_S: Final = 300
_FAREWELL_S: Final = 1.0
_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the broker showed of itself: the TLS version, and when its certificate ends (seconds since the epoch)."""

    tls: str
    ends_at: float | None


def provider_of(options: NamespaceOptions, clock: Clock) -> TokenProvider:
    """The tokens with which the target would come, but short-lived ones where it makes them itself."""
    short = replace(options, token_lifetime_s=_TOKEN_LIFETIME_S)
    return token_provider(short, clock, audience=options.audience)


def first_hop(options: NamespaceOptions) -> tuple[str, int]:
    """Host and port that are connected to: the broker's, or those of the proxy that leads there."""
    if options.proxy is None:
        return options.host, options.port
    url = urlsplit(options.proxy)
    return url.hostname or "", url.port or 80


async def resolve(options: NamespaceOptions) -> list[str]:
    """The addresses behind the host's name. TransientError if there are none."""
    host, port = first_hop(options)
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransientError(f"{host}: {error.strerror or 'cannot be resolved'}", kind="network") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def reach(options: NamespaceOptions) -> None:
    """Connect over TCP, no more. TransientError if that cannot be done."""
    try:
        stream = await anyio.connect_tcp(*first_hop(options))
    except OSError as error:
        raise TransientError(_words(error), kind="network") from error
    await stream.aclose()


async def open_stream(options: NamespaceOptions) -> ByteStream:
    """Connect as the target does, with TLS where it is used; no WebSocket yet. TransientError if it cannot be done."""
    try:
        return await TcpConnector(options)(options)
    except ssl.SSLCertVerificationError as error:
        raise TransientError(
            f"the certificate is not trusted: {shorten(error.verify_message)}", kind="network", condition=UNTRUSTED
        ) from error
    except (OSError, *_GONE) as error:
        raise TransientError(_words(error), kind="network") from error


async def upgrade(stream: ByteStream, options: NamespaceOptions) -> ByteStream:
    """Open the WebSocket on it. TransientError if that cannot be done."""
    try:
        return await upgrade_stream(stream, options)
    except (OSError, *_GONE) as error:
        raise TransientError(_words(error), kind="network") from error


def certificate_of(stream: ByteStream) -> Certificate | None:
    """What is known of the other side of this stream; None without TLS."""
    version = stream.extra(TLSAttribute.tls_version, None)  # noqa: S610 - a stream's attribute
    if version is None:
        return None
    shown: Any = stream.extra(TLSAttribute.peer_certificate, None)  # noqa: S610
    ends = shown.get("notAfter") if isinstance(shown, dict) else None
    return Certificate(version, ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None)


class ProbedConnection:
    """A connection on which nothing is held."""

    def __init__(self, connection: BrokerConnection, options: NamespaceOptions, provider: TokenProvider) -> None:
        self._connection = connection
        self._tokens = Tokens(connection, provider, options.audience)

    async def wait_open(self, timeout_s: float) -> None:
        """Return when the broker has let us in. TransientError if it does not."""
        await self._connection.wait_open(timeout_s)

    async def authorize(self, entity: str) -> None:
        """Put a token for the entity. LeaseLostError (unauthorized) if the broker refuses it."""
        await self._tokens.ensure(entity)

    async def look(self, entity: str) -> bool:
        """Whether the entity, which must have sessions, has some now. RemoteError with the broker's word otherwise."""
        pair = RequestPair(self._connection, management_address(entity), window=1)
        fields = {"operation": _GET_SESSIONS}
        body = {"last-updated-time": Timestamp(_ALL_SESSIONS_MS), "skip": Int(0), "top": Int(1)}
        try:
            reply = await pair.request(Template.of(body, fields, reply_to=pair.address))
        finally:
            pair.close(TransientError("the look is over", kind="network"))
        if reply.status is None:
            raise TransientError("a reply without status", kind="garbage")
        if not reply.is_success:
            raise renewal_refused(reply.status, reply.condition, reply.description)
        return reply.status == 200

    def close(self) -> None:
        """No further questions."""
        self._tokens.close(TransientError("the probe is over", kind="network"))


@asynccontextmanager
async def connection_on(
    stream: ByteStream, options: NamespaceOptions, clock: Clock, provider: TokenProvider
) -> AsyncIterator[ProbedConnection]:
    """An AMQP connection on `stream`, which is closed in the end. Await its `wait_open` before anything else."""
    connection = BrokerConnection(
        stream, options, clock, SystemRandom(), provider, lambda _link, _reason, _detail: None
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run)
        probed = ProbedConnection(connection, options, provider)
        try:
            yield probed
        finally:
            probed.close()
            with anyio.move_on_after(_FAREWELL_S, shield=True):
                await connection.aclose()
            tasks.cancel_scope.cancel()


def _words(error: Exception) -> str:
    """What went wrong, without the wrapping of asyncio and anyio."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {shorten(error.reason or str(error))}"
    # Of those, anyio's alone has the plain type; others say in their own words what happened.
    cause = error.__cause__ if type(error) is OSError else None
    first = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause or error
    if isinstance(first, OSError) and first.errno is not None and first.errno > 0:
        return os.strerror(first.errno)
    return shorten(getattr(first, "strerror", None) or str(first)) or type(first).__name__
