"""The ways to a broker: AMQP over TCP, or over WebSocket where nothing but HTTPS gets through."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

from renewer.targets.servicebus.tcp import TcpConnector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from renewer.targets.servicebus.options import NamespaceOptions

    Connect: TypeAlias = Callable[[NamespaceOptions], Awaitable[ByteStream]]


class WebSocketConnector:
    """Connects as `TcpConnector` does, and asks for a WebSocket then."""

    def __init__(self, options: NamespaceOptions) -> None:
        self._tcp = TcpConnector(options)

    async def __call__(self, options: NamespaceOptions) -> ByteStream:
        """A stream to the broker. Raises OSError."""
        return await upgrade(await self._tcp(options), options)


def connector_for(options: NamespaceOptions) -> Connect:
    """What connects as the options say. Raises UsageError if the CA file cannot be used."""
    match options.transport:
        case "amqp" | "rest":
            # Over REST there is no stream, and nobody who asks for one.
            return TcpConnector(options)
        case "amqp-websocket":
            return WebSocketConnector(options)
        case _:
            assert_never(options.transport)


async def upgrade(stream: ByteStream, options: NamespaceOptions) -> ByteStream:
    """Ask for a WebSocket on a fresh stream. Raises OSError; the stream is closed then."""
    # Imported by those alone who use it.
    from renewer.amqp.websocket import open_websocket

    return await open_websocket(stream, host=options.hostname, port=options.port, secure=options.tls)
