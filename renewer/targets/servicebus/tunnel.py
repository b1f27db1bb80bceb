"""A way through an HTTP proxy: CONNECT (RFC 9110 9.3.6), after which the stream is one to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
import h11

from renewer.amqp import connect

if TYPE_CHECKING:
    from anyio.abc import ByteStream

_READ_SIZE: Final = 4096
_MAX_ANSWER: Final = 16 * 1024


async def open_tunnel(proxy: str, host: str, port: int) -> ByteStream:
    """A stream to the host by way of the proxy (``http://HOST:PORT``). Raises OSError that says who is at fault."""
    url = urlsplit(proxy)
    try:
        stream = await connect(url.hostname or "", url.port or 80)
    except OSError as error:
        raise ConnectionError(f"the proxy {proxy} cannot be reached: {error}") from error
    try:
        await _ask(stream, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy)
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, (anyio.EndOfStream, anyio.BrokenResourceError)):
            raise ConnectionError(f"the proxy {proxy} closed the connection") from error
        if isinstance(error, h11.ProtocolError):
            raise ConnectionError(f"the proxy {proxy} does not speak HTTP") from error
        raise
    return stream


async def _ask(stream: ByteStream, authority: str, proxy: str) -> None:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER)
    request = http.send(h11.Request(method="CONNECT", target=authority, headers=[("Host", authority)]))
    await stream.send((request or b"") + (http.send(h11.EndOfMessage()) or b""))
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive(_READ_SIZE))
        elif isinstance(event, h11.Response):
            break
    if not 200 <= event.status_code < 300:
        hint = ", for it wants a password, which is not supported" if event.status_code == 407 else ""
        raise ConnectionError(
            f"the proxy {proxy} refused a way to {authority} with HTTP status {event.status_code}{hint}"
        )
    if http.trailing_data[0]:
        # The broker waits for us to begin; whatever this is, it is not the broker's.
        raise ConnectionError(f"the proxy {proxy} says more than it was asked")
