"""A stream that may be left unread for a moment, so that more is read at once.

A broker that takes requests one after the other writes each answer by itself, and to wake up for one costs more than to
read it. The rest is had below TLS: above it what is there already would come record by record, with a rest before each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import ByteStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _no_rest() -> float:
    return 0.0


class UnhurriedStream(ByteStream):
    """What `stream` is, but before each read `rest_s` says for how many seconds that is put off."""

    def __init__(self, stream: ByteStream) -> None:
        self.rest_s: Callable[[], float] = _no_rest
        self._stream = stream

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream, and this one itself for whoever has it inside others."""
        return {**self._stream.extra_attributes, Unhurried.stream: lambda: self}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """See `ByteReceiveStream`."""
        rest_s = self.rest_s()
        if rest_s > 0:
            await anyio.sleep(rest_s)
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """See `ByteSendStream`."""
        await self._stream.send(item)

    async def send_eof(self) -> None:
        """See `ByteStream`."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """See `AsyncResource`."""
        self.rest_s = _no_rest
        await self._stream.aclose()


class Unhurried(TypedAttributeSet):
    """What such a stream is known by."""

    stream: UnhurriedStream = typed_attribute()
