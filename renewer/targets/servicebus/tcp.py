"""The byte stream to a broker: TCP, with TLS where the namespace has it, through a proxy where it must be."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from anyio.abc import SocketAttribute

from renewer.amqp import connect as connect_stream
from renewer.amqp import secure
from renewer.errors import UsageError
from renewer.targets.servicebus.tunnel import open_tunnel
from renewer.targets.servicebus.unhurried import UnhurriedStream

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from renewer.targets.servicebus.options import NamespaceOptions

USER_TIMEOUT_MS: Final = 10_000
"""How long sent data may go without acknowledgement before the kernel gives the connection up."""


class TcpConnector:
    """Connects over TCP, with TLS where the options say so. Raises UsageError if the CA file cannot be used."""

    def __init__(self, options: NamespaceOptions) -> None:
        self._tls = tls_context(options.ca_file) if options.tls else None

    async def __call__(self, options: NamespaceOptions) -> ByteStream:
        """A stream to the broker. Raises OSError."""
        if options.proxy is None:
            stream = await connect_stream(options.host, options.port)
        else:
            stream = await open_tunnel(options.proxy, options.host, options.port)
        stream = UnhurriedStream(stream)
        if self._tls is not None:
            stream = await secure(stream, self._tls, options.hostname)
        raw_socket: Any = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - a stream's attribute
        if raw_socket is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):  # That the stream has gone already shows where it is read.
                raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        return stream


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS for a client that trusts these certificates, or the system's. UsageError if they cannot be used."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(f"ca_file {ca_file}: {error}; name a file of PEM certificates") from error
    # Whatever OpenSSL is configured to allow. Names and chains are checked by default.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
