"""The byte stream to a broker: TCP, with TLS where the namespace has it."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from anyio.abc import SocketAttribute

from renewer.amqp import connect as connect_stream
from renewer.errors import UsageError

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from renewer.targets.servicebus.options import NamespaceOptions

USER_TIMEOUT_MS: Final = 10_000
"""How long sent data may go without acknowledgement before the kernel gives the connection up."""


class TcpConnector:
    """Connects over TCP, with TLS where the options say so. Raises UsageError if the CA file cannot be used."""

    def __init__(self, options: NamespaceOptions) -> None:
        try:
            self._tls = ssl.create_default_context(cafile=options.ca_file) if options.tls else None
        except OSError as error:
            raise UsageError(f"ca_file {options.ca_file}: {error}; name a file of PEM certificates") from error

    async def __call__(self, options: NamespaceOptions) -> ByteStream:
        """A stream to the broker. Raises OSError."""
        stream = await connect_stream(
            options.host, options.port, ssl_context=self._tls, server_hostname=options.hostname
        )
        raw_socket: Any = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - a stream's attribute
        if raw_socket is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        return stream
