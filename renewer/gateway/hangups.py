"""The other side's end, noticed also where nothing is read: a worker that dies must not keep its locks for it.

An event loop looks at a socket for as long as it reads from it, or writes. Here sockets that are not read are looked at
for nothing but their end, which shows even behind bytes that nobody has read yet. Linux only; elsewhere the end is seen
when reading goes on.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Hangups:
    """Of all sockets of one event loop. `close` it on that loop, for good."""

    __slots__ = ("_callbacks", "_epoll", "_is_closed", "_loop")

    def __init__(self) -> None:
        self._is_closed = False
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back, once, when the other side has ended; `forget` before the descriptor is closed.

        Nothing once all was closed: workers that are on their way out then are read no longer.
        """
        if self._is_closed or not hasattr(select, "epoll"):
            return
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._look)
        if descriptor not in self._callbacks:
            # What ends a connection in any other way than a FIN is always told.
            self._epoll.register(descriptor, select.EPOLLRDHUP)
        self._callbacks[descriptor] = callback

    def forget(self, descriptor: int) -> None:
        """Watch it no longer."""
        if self._callbacks.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        """Watch nothing any longer."""
        self._is_closed = True
        if self._epoll is not None and self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._epoll = self._loop = None
        self._callbacks.clear()

    def _look(self) -> None:
        if self._epoll is None:
            return
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            self.forget(descriptor)
            if callback is not None:
                callback()
